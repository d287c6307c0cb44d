//! Types commands into one `bash` on a terminal of 100 columns, as a reader would.

use std::{fmt::Write, fs, path::Path};

use crate::terminal::run_on_terminal;

/// The width of the terminal.
const COLUMNS: u16 = 100;
/// The line after the output of each command.
const MARK: &str = "--- end of the command ---";

/// A shell.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// The directory in which the shell starts.
    pub(crate) directory: &'a Path,
    /// The first directory of `PATH`.
    pub(crate) programs: &'a Path,
    /// The environment, besides `PATH`.
    pub(crate) environment: Vec<(String, String)>,
}

impl Session<'_> {
    /// Runs the commands, and returns the output lines of each: stdout and stderr in their order.
    pub(crate) fn run(&self, commands: &[&str]) -> Vec<Vec<String>> {
        let file = tempfile::NamedTempFile::new().expect("a file for the commands");
        fs::write(file.path(), script(commands)).expect("the file is writable");
        let inherited = std::env::var("PATH").expect("PATH is set");
        let path = format!("{}:{inherited}", self.programs.display());
        let environment = [&[("PATH".to_owned(), path)], self.environment.as_slice()].concat();
        let shell = format!("bash --noprofile --norc {}", file.path().display());
        let text = run_on_terminal(COLUMNS, &shell, self.directory, &environment, "");
        let mut outputs: Vec<Vec<String>> =
            text.split(&format!("{MARK}\n")).map(to_lines).collect();
        let rest = outputs.pop().unwrap_or_default();
        assert_eq!(outputs.len(), commands.len(), "bash ended early: {rest:#?}\n{text}");
        outputs
    }
}

/// The commands, each followed by the mark. `$?` stays that of the command, for the next one.
fn script(commands: &[&str]) -> String {
    let mut script = String::from(
        "exec < /dev/null\n\
         end_command() { local status=$?; printf '\\n%s\\n' \"$1\"; return $status; }\n\
         trap 'jobs -p | xargs --no-run-if-empty kill' EXIT\n",
    );
    for command in commands {
        writeln!(script, "{command}\nend_command '{MARK}'").expect("a String grows");
    }
    script
}

/// The lines before a mark, which begins on a line of its own.
fn to_lines(text: &str) -> Vec<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.lines().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn run(commands: &[&str]) -> Vec<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let environment = vec![("GREETING".into(), "hello".into())];
        let path = directory.path();
        Session { directory: path, programs: path, environment }.run(commands)
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
    fn a_command_that_swallows_the_following_ones_is_an_error() {
        run(&["echo 'no end", "echo b"]);
    }

    #[test]
    fn background_processes_end_with_the_shell() {
        let start = Instant::now();
        run(&["sleep 600 &", "echo a"]); // a child process, not a wait
        assert!(start.elapsed() < Duration::from_mins(1));
    }
}
