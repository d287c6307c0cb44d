//! Types commands into one `bash` on a terminal of 100 columns, as a reader would.
//!
//! The shell and the servers in the background share a terminal. When the shell or the terminal
//! ends, even if killed, the kernel sends SIGHUP to the servers.

use std::{fmt::Write, fs, path::Path};

use crate::docs::{backend::PROGRAM, terminal::run_on_terminal};

/// The width of the terminal.
const COLUMNS: u16 = 100;
/// The line after the output of each command.
const MARK: &str = "--- end of the command ---";

/// A shell.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// The directory in which the shell starts.
    pub(crate) directory: &'a Path,
    /// The environment, besides `PATH`.
    pub(crate) environment: Vec<(String, String)>,
}

impl Session<'_> {
    /// Runs the commands, and returns the output lines of each: stdout and stderr in order.
    pub(crate) fn run(&self, commands: &[&str]) -> Vec<Vec<String>> {
        let text = self.output(commands);
        let mut outputs: Vec<Vec<String>> =
            text.split(&format!("{MARK}\n")).map(to_lines).collect();
        let rest = outputs.pop().unwrap_or_default();
        assert_eq!(outputs.len(), commands.len(), "bash ended early: {rest:#?}\n{text}");
        outputs
    }

    /// The output of all commands, with the mark after each.
    fn output(&self, commands: &[&str]) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file for the commands");
        fs::write(file.path(), script(commands)).expect("the file is writable");
        let programs = Path::new(PROGRAM).parent().expect("the program is in a directory");
        let inherited = std::env::var("PATH").expect("PATH is set");
        let path = format!("{}:{inherited}", programs.display());
        let environment = [&[("PATH".to_owned(), path)], self.environment.as_slice()].concat();
        let shell = format!("bash --noprofile --norc {}", file.path().display());
        run_on_terminal(COLUMNS, &shell, self.directory, &environment, "")
    }
}

/// The commands, each followed by the mark. The next command still sees `$?` of the command.
fn script(commands: &[&str]) -> String {
    let mut script = String::from(
        "exec < /dev/null\n\
         end_command() { local status=$?; printf '\\n%s\\n' \"$1\"; return $status; }\n",
    );
    for command in commands {
        writeln!(script, "{command}\nend_command '{MARK}'").expect("a String accepts any text");
    }
    script
}

/// The lines before a mark. The mark begins on a new line.
fn to_lines(text: &str) -> Vec<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.lines().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::mpsc::channel, thread, time::Duration};

    use super::*;

    fn run(commands: &[&str]) -> Vec<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let environment = vec![("GREETING".into(), "hello".into())];
        Session { directory: directory.path(), environment }.run(commands)
    }

    #[test]
    fn commands_share_one_shell_and_have_separate_outputs() {
        let outputs = run(&[
            "ONE=$(echo $GREETING)",
            "echo \"$ONE\"; echo two >&2",
            "printf 'no line break'",
            "echo; echo",
            "(exit 3)",
            "echo $?",
            "cat",
            "echo a \\\n  b",
            "pwd > here; ls",
            "stty size -F /dev/tty | cut -d' ' -f2",
        ]);
        let expected: [&[&str]; 10] = [
            &[],
            &["hello", "two"],
            &["no line break"],
            &["", ""],
            &[],
            &["3"],
            &[],
            &["a b"],
            &["here"],
            &["100"],
        ];
        assert_eq!(outputs, expected);
    }

    #[test]
    #[should_panic(expected = "bash ended early")]
    fn a_command_that_consumes_later_commands_is_an_error() {
        run(&["echo 'no end", "echo b"]);
    }

    #[test]
    fn a_server_in_the_background_ends_with_the_shell_and_with_the_terminal() {
        // The parent of the shell is the terminal.
        for end in ["exit", "kill -KILL $$", "kill -KILL $PPID; cat /dev/tty"] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path();
            // The reader sees the end of the FIFO when the server ends.
            let fifo = path.join("fifo");
            assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
            let (sender, receiver) = channel();
            thread::spawn(move || sender.send(fs::read(fifo).is_ok()));
            Session { directory: path, environment: Vec::new() }.output(&[
                "support-access serve --database-url memory: --listen 127.0.0.1:0 \
                 --metrics-listen 127.0.0.1:0 --web-listen off > fifo 2> log &",
                "until grep -q listening log; do sleep 0.1; done",
                end,
            ]);
            let has_ended = receiver.recv_timeout(Duration::from_mins(1));
            assert_eq!(has_ended, Ok(true), "after {end}");
        }
    }
}
