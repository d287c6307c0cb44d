//! A terminal, by `script` of util-linux.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// The longest time without output, on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// The process of the terminal. Ends with the owner, even if the process of the test is killed.
struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both calls fail only if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a shell command on a terminal with `columns`, and returns the output. `typed` is the input
/// of the person at the terminal.
pub fn run_on_terminal(
    columns: u16,
    command: &str,
    directory: &Path,
    environment: &[(String, String)],
    typed: &str,
) -> String {
    let command = format!("stty cols {columns} -onlcr; exec {command}");
    let mut process = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "script"])
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(directory)
        .env_clear()
        .envs(environment.iter().cloned())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv of util-linux is installed");
    // The input stays open, because the terminal would show its end.
    let mut stdin = process.stdin.take().expect("stdin is piped");
    let mut stdout = process.stdout.take().expect("stdout is piped");
    let _terminal = Terminal(process);
    stdin.write_all(typed.as_bytes()).expect("the terminal takes input");
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut part = vec![0; 4_096];
        while let Ok(length @ 1..) = stdout.read(&mut part) {
            if sender.send(part[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut output = Vec::new();
    loop {
        match receiver.recv_timeout(DEADLINE) {
            Ok(part) => output.extend(part),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no output within {DEADLINE:?}:\n{}", String::from_utf8_lossy(&output))
            }
        }
    }
    String::from_utf8_lossy(&output).replace('\r', "")
}
