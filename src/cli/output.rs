//! The only place that prints: answers to stdout, everything else to stderr.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use anstream::{AutoStream, ColorChoice};

use super::{
    failure::Failure,
    table::{Look, Tone},
};

/// How the program leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Exit {
    /// Done; allowed.
    #[default]
    Done,
    /// Failed; denied.
    Failed,
    /// A check that could not tell, or a change not yet known to be in force.
    Unknown,
    /// Wrong usage or configuration.
    Usage,
}

/// What a command has to say when it has done its work.
#[derive(Debug, Default)]
pub struct Report {
    /// All of it, for stdout.
    pub text: String,
    /// What to beware of, for stderr.
    pub warning: Option<String>,
    /// How the program leaves once it is said.
    pub exit: Exit,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Unknown => 2,
            Exit::Usage => 64,
        })
    }
}

/// Prints what came of a command, and says how to leave; `failed` is the exit code of a failure.
pub fn conclude(outcome: Result<Report, Failure>, failed: Exit) -> ExitCode {
    let failure = match outcome {
        Ok(Report { text, warning, exit }) => match write(&mut io::stdout().lock(), &text) {
            Ok(()) => {
                if let Some(warning) = warning {
                    let label = look(&io::stderr()).paint(Tone::Notice, "warning:");
                    // The exit code says it, too.
                    let _ = write(&mut io::stderr().lock(), &format!("{label} {warning}\n"));
                }
                return exit.into();
            }
            Err(error) => Failure::new(format!("the answer cannot be written: {error}")),
        },
        Err(failure) => failure,
    };
    // Nobody is left to tell if this does not work.
    let _ = write(&mut io::stderr().lock(), &failure.render(look(&io::stderr())));
    if failure.is_usage { Exit::Usage.into() } else { failed.into() }
}

/// Prints a part of an answer that is too long to be held. False: its reader has gone away, and had what it wanted.
pub(crate) fn part(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("the answer cannot be written: {error}"))),
    }
}

/// Prints a help text to stdout, or what is wrong with the command line to stderr.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell if this does not work.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// How answers should look on stdout.
pub(crate) fn look_of_stdout() -> Look {
    look(&io::stdout())
}

fn look<S: anstream::stream::RawStream>(stream: &S) -> Look {
    let colours = AutoStream::choice(stream) != ColorChoice::Never;
    Look { terminal: stream.is_terminal(), colours }
}

/// Writes all of `text`. A reader that has gone away, such as `head`, has what it wanted.
fn write(stream: &mut dyn Write, text: &str) -> io::Result<()> {
    match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

impl Failure {
    fn render(&self, look: Look) -> String {
        let error = look.paint(Tone::Bad, "error:");
        let problems = self.problems.iter().map(|problem| format!("{error} {problem}\n"));
        let hint = look.paint(Tone::Notice, "hint:");
        problems.chain(self.hint.iter().map(|text| format!("{hint} {text}\n"))).collect()
    }
}
