//! Types commands into one `bash`, as a reader would into one terminal, and tells what each of them showed.

use std::{
    fmt::Write,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Long, since the machine may be busy.
const DEADLINE: Duration = Duration::from_mins(2);
/// Follows the output of each command. `$?` stays what the command left, so that the next one can look at it.
const MARK: &str = "--- that was one command ---";

/// What the whole session gets.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// Where it begins.
    pub(crate) directory: &'a Path,
    /// In front of `PATH`.
    pub(crate) programs: &'a Path,
    /// Beside `PATH`, all of its environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl Session<'_> {
    /// The lines that each command showed, on standard output and error as they came.
    pub(crate) fn run(&self, commands: &[&str]) -> Vec<Vec<String>> {
        let script = tempfile::NamedTempFile::new().expect("a place for the script");
        let output = tempfile::NamedTempFile::new().expect("a place for the output");
        fs::write(script.path(), Self::script(commands)).expect("writing the script");
        let inherited = std::env::var("PATH").expect("PATH is set");
        let mut shell = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .arg(script.path())
            .current_dir(self.directory)
            .env_clear()
            .env("PATH", format!("{}:{inherited}", self.programs.display()))
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().append(true).open(output.path()).expect("opening the output"))
            .spawn()
            .expect("bash is installed");
        let began = Instant::now();
        while shell.try_wait().expect("waiting for bash").is_none() {
            if began.elapsed() > DEADLINE {
                shell.kill().expect("ending bash");
                panic!("not done in {DEADLINE:?}:\n{}", read(output.path()));
            }
            sleep(Duration::from_millis(20)); // between two looks at whether it has ended
        }
        let text = read(output.path());
        let mut shown: Vec<Vec<String>> = text.split(&format!("{MARK}\n")).map(to_lines).collect();
        let rest = shown.pop().unwrap_or_default();
        assert_eq!(shown.len(), commands.len(), "bash ended early, and said: {rest:#?}\n{text}");
        shown
    }

    fn script(commands: &[&str]) -> String {
        let mut script = String::from(
            // As on a terminal, both outputs go to one place.
            "exec >&2\n\
             shown() { local left=$?; printf '\\n%s\\n' \"$1\"; return $left; }\n\
             trap 'jobs -p | xargs --no-run-if-empty kill' EXIT\n",
        );
        for command in commands {
            writeln!(script, "{command}\nshown '{MARK}'").expect("a String takes all");
        }
        script
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("reading the output")).into_owned()
}

/// The lines before a mark, which begins on a line of its own.
fn to_lines(text: &str) -> Vec<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.lines().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(commands: &[&str]) -> Vec<Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let environment = vec![("GREETING".into(), "hello".into())];
        let path = directory.path();
        Session { directory: path, programs: path, environment }.run(commands)
    }

    #[test]
    fn commands_share_one_shell_and_are_told_apart() {
        let shown = run(&[
            "ONE=$(echo $GREETING)",
            "echo \"$ONE\"; echo two >&2",
            "printf 'no line break'",
            "echo; echo",
            "(exit 3)",
            "echo $?",
            "cat",
            "echo a \\\n  b",
            "pwd > here; ls",
        ]);
        let expected: [&[&str]; 9] = [
            &[],
            &["hello", "two"],
            &["no line break"],
            &["", ""],
            &[],
            &["3"],
            &[],
            &["a b"],
            &["here"],
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    #[should_panic(expected = "bash ended early")]
    fn a_command_that_swallows_the_rest_is_noticed() {
        run(&["echo 'no end", "echo b"]);
    }

    #[test]
    fn what_was_left_running_is_ended() {
        let began = Instant::now();
        run(&["sleep 600 &", "echo a"]); // a child process, not a wait
        assert!(began.elapsed() < Duration::from_mins(1));
    }
}
