//! Kills the server processes of a test that was itself killed.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
};

use parking_lot::Mutex;

/// Kills the started processes that have not been reported as ended.
///
/// The script's standard input closes when the test process ends, even after SIGKILL. The script
/// has a separate process group, so signals for the test do not reach it.
const SCRIPT: &str = r#"
    pids=
    while read -r event pid; do
        case $event in
            started) pids="$pids $pid " ;;
            ended) case "$pids" in *" $pid "*) pids="${pids%% $pid *}${pids#* $pid }" ;; esac ;;
        esac
    done
    [ -z "$pids" ] || kill -KILL $pids 2> /dev/null
"#;

struct Watchdog {
    _process: Child,
    input: ChildStdin,
}

pub(super) fn started(pid: u32) {
    report("started", pid);
}

pub(super) fn ended(pid: u32) {
    report("ended", pid);
}

fn report(event: &str, pid: u32) {
    static WATCHDOG: OnceLock<Mutex<Watchdog>> = OnceLock::new();
    let watchdog = WATCHDOG.get_or_init(|| Mutex::new(watch()));
    // The write fails only if the watchdog has ended. Then `Drop` still kills the processes, unless
    // the test process itself is killed.
    let _ = writeln!(watchdog.lock().input, "{event} {pid}");
}

fn watch() -> Watchdog {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut process = command.spawn().expect("sh starts");
    let input = process.stdin.take().expect("stdin is piped");
    Watchdog { _process: process, input }
}
