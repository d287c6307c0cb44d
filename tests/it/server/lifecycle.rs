//! Start, health and shutdown of a server.

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

use crate::server::harness::{
    TIMEOUT, a_grant, admin, channel, common, config, eventually, get, start, start_observed,
    start_on, stop, with_timeout,
};
use crate::server::slow_store::SlowStore;

/// Much longer than a shutdown takes, and much shorter than [`TIMEOUT`].
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_server_is_ready_only_once_the_grants_are_loaded() {
    let store = SlowStore::new();
    let running = start_observed(&store, async |metrics| {
        let (status, _, body) = get(metrics, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "starting: the grants are not loaded yet\n"));
        assert_eq!(get(metrics, "/healthz").await.0, 200);
    })
    .await;
    let metrics = running.metrics;
    let (status, _, body) = get(metrics, "/readyz").await;
    assert_eq!((status, body.as_str()), (200, "serving\n"));
    assert_eq!(get(metrics, "/nowhere").await.0, 404);

    let mut health = HealthClient::new(channel(&running).await);
    for service in ["", "supportaccess.v1.SupportAccess", "supportaccess.v1.SupportAccessAdmin"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_health_watch_reports_the_shutdown_and_does_not_delay_it() {
    let (running, _store) = start(config()).await;
    let mut health = HealthClient::new(channel(&running).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    let started = Instant::now();
    stop(running).await.unwrap();
    assert!(
        started.elapsed() < SOON,
        "an idle watch must not use up the drain timeout of {TIMEOUT:?}"
    );
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    let end = watch.message().await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "the server is shutting down"));
}

#[tokio::test]
async fn calls_in_progress_are_answered_while_the_server_drains() {
    let (running, store) = start(config()).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let (metrics, grpc) = (running.metrics, running.grpc[0].clone());
    let shutdown = running.shutdown_handle();

    let observing = async {
        eventually(async || store.waiting() == 1).await;
        shutdown.shut_down();
        eventually(async || get(metrics, "/readyz").await.0 == 503).await;
        let (.., body) = get(metrics, "/readyz").await;
        assert_eq!(body, "stopping: use another server\n");
        assert_eq!(get(metrics, "/healthz").await.0, 200);
        let address = grpc.to_string();
        eventually(async || TcpStream::connect(&address).await.is_err()).await;
        store.are_changes_held.send_replace(false);
    };
    let call = admin.grant_access(a_grant());
    let (ended, response, ()) =
        with_timeout(Box::pin(async { tokio::join!(running.wait(), call, observing) })).await;
    response.unwrap();
    ended.unwrap();
    assert_eq!(store.commits(), 1);
    TcpStream::connect(metrics).await.unwrap_err();
}

#[tokio::test]
async fn a_call_is_completed_after_its_caller_disconnects() {
    let (running, store) = start(config()).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    tokio::select! {
        _ = admin.grant_access(a_grant()) => panic!("the change is held"),
        () = eventually(async || store.waiting() == 1) => {}
    }
    drop(admin);
    let (metrics, grpc) = (running.metrics, running.grpc[0].to_string());
    let shutdown = running.shutdown_handle();
    let releasing = async {
        shutdown.shut_down();
        eventually(async || TcpStream::connect(&grpc).await.is_err()).await;
        assert_eq!(
            get(metrics, "/readyz").await.0,
            503,
            "the metrics endpoint ends after the calls"
        );
        store.are_changes_held.send_replace(false);
        Instant::now()
    };
    let ending = async { (running.wait().await, Instant::now()) };
    let ((ended, end), release) = with_timeout(async { tokio::join!(ending, releasing) }).await;
    ended.unwrap();
    assert_eq!(store.commits(), 1);
    let took = end - release;
    assert!(took < SOON, "the shutdown must not wait for anything else: {took:?}");
}

#[tokio::test]
async fn a_call_is_aborted_after_the_drain_timeout() {
    let drain_timeout = Duration::from_millis(200);
    let config = Config { common: Common { drain_timeout, ..common() }, ..config() };
    let (running, store) = start(config).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let shutdown = running.shutdown_handle();
    let stopping = async {
        eventually(async || store.waiting() == 1).await;
        shutdown.shut_down();
        Instant::now()
    };
    let call = admin.grant_access(a_grant());
    let ending = async { (running.wait().await, Instant::now()) };
    let ((ended, end), response, begin) =
        with_timeout(Box::pin(async { tokio::join!(ending, call, stopping) })).await;
    ended.unwrap();
    response.unwrap_err();
    let took = end - begin;
    assert!(took >= drain_timeout && took < SOON, "{took:?}");
    assert_eq!(store.commits(), 0);
}

#[tokio::test]
async fn a_second_request_aborts_the_shutdown() {
    let (running, store) = start(config()).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    let shutdown = running.shutdown_handle();
    let started = Instant::now();
    let stopping = async {
        eventually(async || store.waiting() == 1).await;
        shutdown.shut_down();
        shutdown.abort();
    };
    let call = admin.grant_access(a_grant());
    let (ended, response, ()) =
        with_timeout(async { tokio::join!(running.wait(), call, stopping) }).await;
    ended.unwrap();
    response.unwrap_err();
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn silent_connections_do_not_delay_the_shutdown() {
    let drain_timeout = Duration::from_millis(200);
    let config = Config { common: Common { drain_timeout, ..common() }, ..config() };
    let (running, _store) = start(config).await;
    let grpc = running.grpc[0].to_string();
    let mut silent = TcpStream::connect(&grpc).await.unwrap();
    let mut half = TcpStream::connect(&grpc).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut metrics = TcpStream::connect(running.metrics).await.unwrap();
    metrics.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
    // Listeners accept in order: a response on a later connection proves that the earlier ones were
    // accepted.
    channel(&running).await;
    get(running.metrics, "/healthz").await;

    let started = Instant::now();
    stop(running).await.unwrap();
    assert!(started.elapsed() < SOON);
    for stream in [&mut silent, &mut half, &mut metrics] {
        let mut rest = Vec::new();
        let _ = with_timeout(stream.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_load_the_grants_does_not_start() {
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
async fn a_dropped_server_closes_its_ports() {
    let (running, _store) = start(config()).await;
    let (metrics, grpc) = (running.metrics, running.grpc[0].to_string());
    drop(running);
    eventually(async || {
        TcpStream::connect(metrics).await.is_err() && TcpStream::connect(&grpc).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_server_runs_until_a_shutdown_is_requested() {
    let (running, _store) = start(config()).await;
    let shutdown = running.shutdown_handle();
    let mut ended = Box::pin(running.wait());
    assert!(ended.as_mut().now_or_never().is_none());
    shutdown.shut_down();
    with_timeout(ended).await.unwrap();
}
