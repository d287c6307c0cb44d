//! Ends the processes of a test that could not end them itself, since it was killed.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
};

use parking_lot::Mutex;

/// The pipe to its input is closed when the test's process ends, be it by `kill -9`. Then it kills what was named and not taken
/// back. In a process group of its own, so that what is meant for the test does not end it too.
const SCRIPT: &str = r#"
    pids=
    while read -r what pid; do
        case $what in
            began) pids="$pids $pid " ;;
            ended) case "$pids" in *" $pid "*) pids="${pids%% $pid *}${pids#* $pid }" ;; esac ;;
        esac
    done
    [ -z "$pids" ] || kill -KILL $pids 2> /dev/null
"#;

struct Watchdog {
    _process: Child,
    input: ChildStdin,
}

pub(super) fn began(pid: u32) {
    tell("began", pid);
}

pub(super) fn ended(pid: u32) {
    tell("ended", pid);
}

fn tell(what: &str, pid: u32) {
    static WATCHDOG: OnceLock<Mutex<Watchdog>> = OnceLock::new();
    let watchdog = WATCHDOG.get_or_init(|| Mutex::new(watch()));
    // If it is gone, the test itself ends what it has started, unless it is killed.
    let _ = writeln!(watchdog.lock().input, "{what} {pid}");
}

fn watch() -> Watchdog {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut process = command.spawn().expect("sh starts");
    let input = process.stdin.take().expect("stdin is piped");
    Watchdog { _process: process, input }
}
