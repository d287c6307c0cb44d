//! `support-access health` in each phase of a server, as a container runs it.

use std::{
    io::Read,
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::{
    harness::{a_grant, admin, eventually, start_observed, with_timeout},
    process::Launch,
    slow_store::SlowStore,
};

/// Exit code and output of the command.
async fn health(metrics: SocketAddr) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
    command
        .env_clear()
        .env("SUPPORT_ACCESS_METRICS_LISTEN", metrics.to_string())
        .args(["health", "check"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut ended = None;
    // The server may run on this thread, so waiting for the process must not block it.
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

fn output(code: i32, text: &str) -> (i32, String) {
    (code, format!("{text}\n"))
}

#[tokio::test]
async fn only_a_serving_server_is_healthy() {
    let store = SlowStore::new();
    let running = start_observed(&store, async |metrics| {
        assert_eq!(health(metrics).await, output(1, "starting: the grants are not loaded yet"));
    })
    .await;
    let metrics = running.metrics;
    assert_eq!(health(metrics).await, output(0, "serving"));

    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let shutdown = running.shutdown_handle();
    let observing = async {
        eventually(async || store.waiting() == 1).await;
        shutdown.shut_down();
        eventually(async || health(metrics).await == output(1, "stopping: use another server"))
            .await;
        store.are_changes_held.send_replace(false);
    };
    let call = admin.grant_access(a_grant());
    let everything = Box::pin(async { tokio::join!(running.wait(), call, observing) });
    let (ended, response, ()) = with_timeout(everything).await;
    response.unwrap();
    ended.unwrap();
    let unreachable =
        format!("error: http://{metrics}/readyz cannot be read: Connection refused (os error 111)");
    assert_eq!(health(metrics).await, output(1, &unreachable));
}

#[tokio::test]
async fn a_sidecar_without_an_upstream_is_not_healthy() {
    let mut replica = Launch::replica("memory:").start();
    replica.serving().await;
    let sidecar = Launch::sidecar(&[replica.url()]).start();
    sidecar.serving().await;
    assert_eq!(health(sidecar.http).await, output(0, "serving"));
    replica.kill();
    let stale = output(1, "stale: no valid lease, so every check is denied");
    eventually(async || health(sidecar.http).await == stale).await;
}
