//! `support-access health`, as a container asks it: what it says of a server in each phase of its life.

use std::{
    io::Read,
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::{
    harness::{a_grant, admin, eventually, start_looked_at, with_timeout},
    process::Launch,
    slow_store::SlowStore,
};

/// Exit code, and what is printed, wherever it is.
async fn health(http: SocketAddr) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
    command.env_clear().env("SUPPORT_ACCESS_METRICS_LISTEN", http.to_string()).arg("health");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut ended = None;
    // The server may run on this very thread, so nothing here waits for the process.
    eventually(async || {
        ended = process.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    let mut printed = String::new();
    process.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    process.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
    (ended.unwrap().code().unwrap(), printed)
}

fn says(code: i32, text: &str) -> (i32, String) {
    (code, format!("{text}\n"))
}

#[tokio::test]
async fn only_a_server_that_serves_is_healthy() {
    let store = SlowStore::new();
    let running = start_looked_at(&store, async |http| {
        assert_eq!(health(http).await, says(1, "starting: the grants are not loaded yet"));
    })
    .await;
    let http = running.http;
    assert_eq!(health(http).await, says(0, "serving"));

    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let stopper = running.stopper();
    let observing = async {
        eventually(async || store.waiting() == 1).await;
        stopper.stop();
        eventually(async || health(http).await == says(1, "stopping: ask another server")).await;
        store.are_changes_held.send_replace(false);
    };
    let call = admin.grant_access(a_grant());
    let everything = Box::pin(async { tokio::join!(running.wait(), call, observing) });
    let (ended, answer, ()) = with_timeout(everything).await;
    answer.unwrap();
    ended.unwrap();
    let unreachable =
        format!("error: http://{http}/readyz cannot be read: Connection refused (os error 111)");
    assert_eq!(health(http).await, says(1, &unreachable));
}

#[tokio::test]
async fn a_sidecar_that_is_cut_off_is_not_healthy() {
    let mut replica = Launch::replica("memory:").start();
    replica.serving().await;
    let sidecar = Launch::sidecar(&[replica.url()]).start();
    sidecar.serving().await;
    assert_eq!(health(sidecar.http).await, says(0, "serving"));
    replica.kill();
    let stale = says(1, "stale: what is known here may be too old, so every check is denied");
    eventually(async || health(sidecar.http).await == stale).await;
}
