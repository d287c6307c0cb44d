//! How a server starts, tells how it is, and ends.

use std::time::{Duration, Instant};

use futures::FutureExt;
use support_access::server::{
    ServeError,
    config::{Common, Config},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{
    TIMEOUT, a_grant, admin, channel, common, config, eventually, get, start, start_looked_at,
    start_on, stop, with_timeout,
};
use crate::slow_store::SlowStore;

/// Far longer than ending takes, far shorter than [`TIMEOUT`].
const SOON: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_server_is_ready_only_once_the_grants_are_loaded() {
    let store = SlowStore::new();
    let running = start_looked_at(&store, async |http| {
        let (status, _, body) = get(http, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "starting: the grants are not loaded yet\n"));
        assert_eq!(get(http, "/healthz").await.0, 200);
    })
    .await;
    let http = running.http;
    let (status, _, body) = get(http, "/readyz").await;
    assert_eq!((status, body.as_str()), (200, "serving\n"));
    assert_eq!(get(http, "/nowhere").await.0, 404);

    let mut health = HealthClient::new(channel(&running).await);
    for service in ["", "supportaccess.v1.SupportAccess", "supportaccess.v1.SupportAccessAdmin"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_watch_is_told_of_the_end_and_does_not_delay_it() {
    let (running, _store) = start(config()).await;
    let mut health = HealthClient::new(channel(&running).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    let begun = Instant::now();
    stop(running).await.unwrap();
    assert!(begun.elapsed() < SOON, "the drain timeout is {TIMEOUT:?}, but was not needed");
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    let end = watch.message().await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "the server is shutting down"));
}

#[tokio::test]
async fn calls_that_were_begun_are_answered_while_the_server_drains() {
    let (running, store) = start(config()).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let (http, grpc) = (running.http, running.grpc[0].clone());
    let stopper = running.stopper();

    let observing = async {
        eventually(async || store.waiting() == 1).await;
        stopper.stop();
        eventually(async || get(http, "/readyz").await.0 == 503).await;
        let (.., body) = get(http, "/readyz").await;
        assert_eq!(body, "stopping: ask another server\n");
        assert_eq!(get(http, "/healthz").await.0, 200);
        let address = grpc.to_string();
        eventually(async || TcpStream::connect(&address).await.is_err()).await;
        store.are_changes_held.send_replace(false);
    };
    let call = admin.grant_access(a_grant());
    let (ended, answer, ()) =
        with_timeout(async { tokio::join!(running.wait(), call, observing) }).await;
    answer.unwrap();
    ended.unwrap();
    assert_eq!(store.commits(), 1);
    TcpStream::connect(http).await.unwrap_err();
}

#[tokio::test]
async fn a_call_whose_caller_has_gone_is_followed_to_its_end() {
    let (running, store) = start(config()).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    tokio::select! {
        _ = admin.grant_access(a_grant()) => panic!("it is held"),
        () = eventually(async || store.waiting() == 1) => {}
    }
    drop(admin);
    let (http, grpc) = (running.http, running.grpc[0].to_string());
    let stopper = running.stopper();
    let releasing = async {
        stopper.stop();
        eventually(async || TcpStream::connect(&grpc).await.is_err()).await;
        assert_eq!(get(http, "/readyz").await.0, 503, "HTTP outlives the call");
        store.are_changes_held.send_replace(false);
        Instant::now()
    };
    let ending = async { (running.wait().await, Instant::now()) };
    let ((ended, end), release) = with_timeout(async { tokio::join!(ending, releasing) }).await;
    ended.unwrap();
    assert_eq!(store.commits(), 1);
    let took = end - release;
    assert!(took < SOON, "it waited for a follower that had ended: {took:?}");
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_when_the_drain_timeout_is_over() {
    let drain_timeout = Duration::from_millis(200);
    let config = Config { common: Common { drain_timeout, ..common() }, ..config() };
    let (running, store) = start(config).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let stopper = running.stopper();
    let stopping = async {
        eventually(async || store.waiting() == 1).await;
        stopper.stop();
        Instant::now()
    };
    let call = admin.grant_access(a_grant());
    let ending = async { (running.wait().await, Instant::now()) };
    let ((ended, end), answer, begin) =
        with_timeout(async { tokio::join!(ending, call, stopping) }).await;
    ended.unwrap();
    answer.unwrap_err();
    let took = end - begin;
    assert!(took >= drain_timeout && took < SOON, "{took:?}");
    assert_eq!(store.commits(), 0);
}

#[tokio::test]
async fn told_twice_a_server_does_not_wait() {
    let (running, store) = start(config()).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let stopper = running.stopper();
    let begun = Instant::now();
    let stopping = async {
        eventually(async || store.waiting() == 1).await;
        stopper.stop();
        stopper.cut();
    };
    let call = admin.grant_access(a_grant());
    let (ended, answer, ()) =
        with_timeout(async { tokio::join!(running.wait(), call, stopping) }).await;
    ended.unwrap();
    answer.unwrap_err();
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn connections_that_never_speak_do_not_hold_up_the_end() {
    let drain_timeout = Duration::from_millis(200);
    let config = Config { common: Common { drain_timeout, ..common() }, ..config() };
    let (running, _store) = start(config).await;
    let grpc = running.grpc[0].to_string();
    let mut silent = TcpStream::connect(&grpc).await.unwrap();
    let mut half = TcpStream::connect(&grpc).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut http = TcpStream::connect(running.http).await.unwrap();
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
    // A later connection that is answered proves that the earlier ones have been accepted.
    channel(&running).await;
    get(running.http, "/healthz").await;

    let begun = Instant::now();
    stop(running).await.unwrap();
    assert!(begun.elapsed() < SOON);
    for stream in [&mut silent, &mut half, &mut http] {
        let mut rest = Vec::new();
        let _ = with_timeout(stream.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_load_does_not_start() {
    let config = config();
    let mut store = SlowStore::new();
    store.is_broken = true;
    let error = with_timeout(start_on(config, &store)).await.unwrap_err();
    assert!(matches!(error, ServeError::Load(_)));
    assert_eq!(
        error.to_string(),
        "cannot load the grants: the database contains or returned invalid data"
    );
}

#[tokio::test]
async fn a_server_that_is_dropped_lets_go_of_its_ports() {
    let (running, _store) = start(config()).await;
    let (http, grpc) = (running.http, running.grpc[0].to_string());
    drop(running);
    eventually(async || {
        TcpStream::connect(http).await.is_err() && TcpStream::connect(&grpc).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_server_runs_until_it_is_stopped() {
    let (running, _store) = start(config()).await;
    let stopper = running.stopper();
    let mut ended = Box::pin(running.wait());
    assert!(ended.as_mut().now_or_never().is_none());
    stopper.stop();
    with_timeout(ended).await.unwrap();
}
