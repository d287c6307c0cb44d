//! The only file that prints: results to stdout, everything else to stderr.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    os::fd::AsFd,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use rustix::termios::tcgetwinsize;

use super::{
    error::CliError,
    exit::Exit,
    json::{error_json, warning_json},
    table::{Highlight, Layout},
};

/// How long a message may wait for the reader of a pipe.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The result of a command that did not fail.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The text for stdout.
    pub(crate) text: String,
    /// The warnings for stderr.
    pub(crate) warnings: Vec<String>,
    /// The exit code.
    pub(crate) exit: Exit,
}

impl Report {
    /// A successful result.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// Prints the result of a command, and returns the exit code. Errors and warnings are JSON if the
/// user has requested JSON.
pub(crate) fn conclude(result: Result<Report, CliError>, is_json: bool) -> ExitCode {
    let printed = result.and_then(|report| {
        print_part(&report.text)?;
        Ok(report)
    });
    let (text, exit) = match printed {
        Ok(Report { warnings, exit, .. }) => (render_warnings(&warnings, is_json), exit),
        Err(error) => (render_error(&error, is_json), error.exit),
    };
    if !text.is_empty() {
        print_message(text);
    }
    exit.into()
}

/// Prints to stderr. A failed write cannot be reported. The exit code is still correct.
fn print_message(text: String) {
    let (written, wait) = mpsc::channel::<()>();
    let print = move || {
        let _ = io::stderr().lock().write_all(text.as_bytes());
        drop(written);
    };
    if io::stderr().is_terminal() {
        print();
    } else if thread::Builder::new().spawn(print).is_ok() {
        // A pipe that is not read must not keep a failed server alive.
        let _ = wait.recv_timeout(MESSAGE_TIMEOUT);
    }
}

/// Prints a part of a result. Returns false if the reader has closed the pipe, as `head` does.
pub(crate) fn print_part(text: &str) -> Result<bool, CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::new(format!("the output cannot be written: {error}"))),
    }
}

/// Prints a help text to stdout, or an error in the command line to stderr.
pub(crate) fn print_usage(error: &clap::Error, is_json: bool) -> ExitCode {
    if error.use_stderr() && is_json {
        return conclude(Err(error.into()), is_json);
    }
    // A failed write cannot be reported.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() }
}

/// The layout of tables on stdout. Tables in a pipe, and wide tables, have no maximum width.
pub(crate) fn stdout_layout(is_wide: bool) -> Layout {
    let stdout = io::stdout();
    let columns = tcgetwinsize(stdout.as_fd()).ok().map(|size| usize::from(size.ws_col));
    let width = columns.filter(|columns| *columns > 0 && !is_wide && stdout.is_terminal());
    Layout { width, has_colors: has_colors(&stdout) }
}

fn has_colors(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

fn stderr_layout() -> Layout {
    Layout { width: None, has_colors: has_colors(&io::stderr()) }
}

fn render_warnings(warnings: &[String], is_json: bool) -> String {
    if is_json {
        return warnings.iter().map(|warning| warning_json(warning)).collect();
    }
    let label = stderr_layout().paint(Highlight::Warning, "warning:");
    let lines = warnings.iter().map(|warning| format!("{label} {warning}\n"));
    lines.collect::<Vec<_>>().concat()
}

fn render_error(error: &CliError, is_json: bool) -> String {
    if is_json {
        return error_json(error);
    }
    let layout = stderr_layout();
    let label = layout.paint(Highlight::Bad, "error:");
    let lines = error.lines().map(|line| format!("{label} {line}\n"));
    let label = layout.paint(Highlight::Warning, "hint:");
    lines.chain(error.hint.iter().map(|hint| format!("{label} {hint}\n"))).collect()
}
