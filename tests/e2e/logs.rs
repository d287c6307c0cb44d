//! Log lines of real processes: a log that is not read, and lines that callers cause.

use std::{
    fs,
    io::{Write, pipe},
    net::TcpListener,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    sync::mpsc::{Sender, channel},
    time::{Duration, Instant},
};

use support_access::api::proto::v1::{
    CheckAccessRequest, Decision, EnforcementState, ListGrantsRequest, RevokeAccessRequest,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use crate::common::{
    requests::{check_request, grant_request},
    server::{Launch, Server, TIMEOUT, eventually, is_serving, wait},
};

/// Enough lines to fill the pipe and the queue with a few hundred calls.
const VERBOSE: [&str; 2] = ["--log", "info,h2=trace"];

/// The number of dropped lines.
async fn dropped(server: &Server) -> u64 {
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).await.unwrap();
    let name = "support_access_log_lines_dropped_total{reason=\"BACKLOG\"} ";
    metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// A server that has dropped lines, because nothing reads its log until the sender is dropped.
async fn unread(launch: Launch) -> (Server, Sender<()>) {
    let (reading, resumed) = channel();
    let server = launch.flags(&VERBOSE).log_unread_until(resumed).start();
    let mut access = server.access().await;
    eventually("the server drops lines", async || {
        for _ in 0..100 {
            let answered = timeout(TIMEOUT, access.check_access(check_request("acme", ""))).await;
            answered.expect("a check is answered").unwrap();
        }
        dropped(&server).await > 0
    })
    .await;
    (server, reading)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_read_delays_no_call() {
    let (mut server, reading) = unread(Launch::replica("memory:")).await;
    let work = async {
        let mut admin = server.admin().await;
        let granted =
            admin.grant_access(grant_request("acme")).await.unwrap().into_inner().grant.unwrap();
        let mut access = server.access().await;
        let allowed = access.check_access(check_request("acme", "")).await.unwrap().into_inner();
        assert_eq!(allowed.decision, i32::from(Decision::Allowed), "{allowed:?}");
        let revoke = RevokeAccessRequest {
            tenant_id: "acme".into(),
            grant_id: granted.grant_id,
            ..Default::default()
        };
        let revoked = admin.revoke_access(revoke).await.unwrap().into_inner();
        assert_eq!(revoked.enforcement.unwrap().state(), EnforcementState::Complete);
        assert!(is_serving(&server.connect().await).await);
        server.ready().await;
    };
    timeout(TIMEOUT, work).await.expect("no call waits for the log");

    let before = dropped(&server).await;
    drop(reading);
    server.wait_for_log("log lines were dropped, because the log was not read");
    assert!(before > 0);
    assert!(server.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_whose_logs_are_not_read_stop_on_sigterm() {
    let (mut replica, _reading) = unread(Launch::replica("memory:")).await;
    let url = replica.url().to_owned();
    let (mut sidecar, _also_reading) = unread(Launch::sidecar(&[&url])).await;
    for server in [&mut sidecar, &mut replica] {
        let started = Instant::now();
        assert!(server.stop().success());
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

#[test]
fn a_server_that_cannot_start_exits_although_its_error_is_not_read() {
    let (_reader, mut stderr) = pipe().unwrap();
    // The capacity of a pipe: https://man7.org/linux/man-pages/man7/pipe.7.html.
    stderr.write_all(&vec![b'x'; 65_536]).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
    command.args(["serve", "--database-url", "memory:", "--listen", &address]);
    command.args(["--metrics-listen", "127.0.0.1:0", "--web-listen", "off"]);
    command.stdin(Stdio::null()).stderr(stderr);
    let mut process = command.spawn().unwrap();
    let status = wait(&mut process);
    let _ = process.kill();
    assert_eq!(status.expect("the process ends").code(), Some(1));
}

/// The lines that contain `text`.
fn lines<'l>(log: &'l str, text: &str) -> Vec<&'l str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_can_cause_few_lines() {
    const CALLS: usize = 400;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let uid = fs::metadata(directory.path()).unwrap().uid();
    fs::write(path("access.toml"), format!("[users]\ngateway = [{uid}]\n")).unwrap();
    let config = path("access.toml").to_str().unwrap().to_owned();
    let launch = Launch::replica("memory:").flags(&["--config", &config]);
    let mut server = launch.on_socket(&path("check.sock")).start();
    let started = Instant::now();
    let (mut admin, mut access) = (server.admin().await, server.access().await);
    for _ in 0..CALLS {
        let list = ListGrantsRequest { tenant_id: "acme".into(), ..Default::default() };
        let rejected = admin.list_grants(list).await.unwrap_err();
        assert_eq!(rejected.code(), Code::PermissionDenied);
        let denied = access.check_access(check_request("acme", "")).await.unwrap().into_inner();
        assert_eq!(denied.decision, i32::from(Decision::Denied));
        let invalid = access.check_access(CheckAccessRequest::default()).await.unwrap_err();
        assert_eq!(invalid.code(), Code::InvalidArgument);
    }
    assert!(server.stop().success());
    // A burst of 10, then one line per second.
    let most = 12 + usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(most < CALLS / 2, "the machine is too slow to tell: {:?}", started.elapsed());

    let log = server.wait_for_end().stderr;
    for text in
        ["a call was rejected", "a check was denied", "PERMISSION_DENIED", "INVALID_ARGUMENT"]
    {
        let shown = lines(&log, text).iter().filter(|line| !line.contains("similar")).count();
        assert!((10..=most).contains(&shown), "{text}: {shown} of at most {most}");
    }
    let summaries = lines(&log, "similar lines were left out");
    let left_out: u64 = summaries
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["like"] == "a check was denied")
        .map(|line| line["lines"].as_u64().unwrap())
        .sum();
    let denied = lines(&log, "a check was denied").len() - lines(&log, "\"like\":\"a check").len();
    assert_eq!(usize::try_from(left_out).unwrap() + denied, CALLS, "every line is counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_denials_are_logged_and_allowed_checks_are_not() {
    let mut server = Server::start("memory:");
    let (mut admin, mut access) = (server.admin().await, server.access().await);
    access.check_access(check_request("acme", "")).await.unwrap();
    for _ in 0..50 {
        let granted = admin.grant_access(grant_request("acme")).await.unwrap().into_inner();
        let allowed = check_request("acme", &granted.consistency_token);
        let allowed = access.check_access(allowed).await.unwrap().into_inner();
        assert_eq!(allowed.decision, i32::from(Decision::Allowed), "{allowed:?}");
    }
    assert!(server.stop().success());
    let log = server.wait_for_end().stderr;
    assert_eq!(lines(&log, "a history has a new event").len(), 50, "{log}");
    let [denied] = lines(&log, "a check was denied")[..] else { panic!("not one line: {log}") };
    for part in ["\"tenant_id\":\"acme\"", "\"agent_id\":\"ada\"", "\"reason\":", "\"actor\":"] {
        assert!(denied.contains(part), "{part}: {denied}");
    }
    assert!(lines(&log, "RPC ended").is_empty(), "{log}");
}
