//! Timeouts of handshakes, heads, frames and messages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use support_access::{api::proto::v1::ListGrantsRequest, domain::Span, server::config::CallLimits};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject},
    },
};
use tonic::Code;

use super::{
    BackgroundClient, assert_healthy, connect,
    frames::{
        Attacker, CHECK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FOLLOW, HEADERS, LIST_EVENTS,
        call, frame, message,
    },
    limited, tcp, web,
};
use crate::server::{
    harness::{access, channel, rpcs, wait_for_metric, with_timeout},
    identity::{GATEWAY, World},
};

/// The timeout of handshakes, prefaces, heads and messages.
const TEN: Duration = Duration::from_secs(10);
/// The timeout of a head at the web listener, and of connections without an authenticated call.
const MINUTE: Duration = Duration::from_mins(1);
/// Tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(20);
const KEEPALIVE: Duration = Duration::from_millis(1_500);

fn limits() -> CallLimits {
    CallLimits {
        keepalive_interval: Span(KEEPALIVE / 2),
        keepalive_timeout: Span(KEEPALIVE / 2),
        ..CallLimits::default()
    }
}

type Attack = (&'static str, Duration, BoxFuture<'static, Option<Duration>>);

/// Runs the attacks concurrently. Each attack must end within the limit.
async fn assert_ended_in_time(attacks: Vec<Attack>) {
    let count = attacks.len();
    let ended = join_all(
        attacks.into_iter().map(|(name, limit, attack)| async move { (name, limit, attack.await) }),
    );
    for (name, limit, took) in ended.await {
        let took = took.unwrap_or_else(|| panic!("{name}: not within {limit:?}"));
        assert!(took < limit + SLACK, "{name}: {took:?}, but the limit is {limit:?}");
    }
    println!("{count} slow connections were ended in time");
}

/// A connection that sends `bytes` one at a time, after a preface if `has_preface`.
fn dribbling(
    address: SocketAddr,
    has_preface: bool,
    bytes: Vec<u8>,
) -> BoxFuture<'static, Option<Duration>> {
    Box::pin(async move {
        let mut attacker = Attacker::silent(address).await.unwrap();
        if has_preface {
            attacker.start(&[]).await.unwrap();
        }
        attacker.dribble(&bytes, TEN + SLACK).await
    })
}

/// As [`dribbling`], for as long as the web listener may wait.
fn dribbling_for_a_minute(
    address: SocketAddr,
    bytes: Vec<u8>,
) -> BoxFuture<'static, Option<Duration>> {
    Box::pin(async move {
        let mut attacker = Attacker::silent(address).await.unwrap();
        attacker.dribble(&bytes, MINUTE + SLACK).await
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_connections_are_closed() {
    let running = limited(limits()).await;
    let gateway = BackgroundClient::connect(&running).await;
    let (grpc, web, http) = (tcp(&running), web(&running), running.metrics);
    let mut attacks: Vec<Attack> = Vec::new();
    for _ in 0..20 {
        attacks.push(("silence", TEN, dribbling(grpc, false, vec![])));
        let preface = super::frames::PREFACE;
        attacks.push(("a preface, byte by byte", TEN, dribbling(grpc, false, vec![preface[0]])));
        attacks.push(("silence after a preface", KEEPALIVE, dribbling(grpc, true, vec![])));
        attacks.push(("silence at the web listener", TEN, dribbling(web, false, vec![])));
        attacks.push(("silence after a preface there", KEEPALIVE, dribbling(web, true, vec![])));
        let start = b"POST / HTTP/1.1\r\n".to_vec();
        attacks.push(("an unfinished line there", TEN, dribbling(web, false, start)));
        let open = frame(HEADERS, 0, 1, &call(CHECK, "mallory"));
        attacks.push(("headers without an end", KEEPALIVE, dribbling(grpc, true, open.clone())));
        let continuation = frame(CONTINUATION, 0, 1, &[0; 4_000]);
        let stalling = [open, continuation].concat();
        attacks.push(("a slow continuation", KEEPALIVE, dribbling(grpc, true, stalling)));
        let long = frame(DATA, 0, 1, &[0; 10_000]);
        attacks.push(("a slow frame", KEEPALIVE, dribbling(grpc, true, long)));
        let head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaa".to_vec();
        attacks.push(("an HTTP head, byte by byte", TEN, dribbling(http, false, head)));
        let whole = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        attacks.push((
            "silence after an HTTP request",
            TEN,
            Box::pin(async move {
                let mut attacker = Attacker::silent(http).await.unwrap();
                attacker.send(&whole).await.unwrap();
                attacker.until_closed(TEN + SLACK).await
            }),
        ));
    }
    assert_ended_in_time(attacks).await;
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(grpc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_and_idle_requests_at_the_web_listener_end_after_a_minute() {
    let running = limited(limits()).await;
    let web = web(&running);
    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nX-Slow: {}", "a".repeat(1_000));
    let whole = format!("GET /openapi.json HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", web.port());
    let mut attacks: Vec<Attack> = Vec::new();
    for _ in 0..20 {
        let head = head.clone().into_bytes();
        attacks.push(("a head, byte by byte", MINUTE, dribbling_for_a_minute(web, head)));
        let whole = whole.clone();
        attacks.push((
            "silence after a request",
            MINUTE,
            Box::pin(async move {
                let mut attacker = Attacker::silent(web).await.unwrap();
                attacker.send(whole.as_bytes()).await.unwrap();
                attacker.until_closed(MINUTE + SLACK).await
            }),
        ));
    }
    assert_ended_in_time(attacks).await;
    assert_healthy(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_time_out() {
    let running = limited(limits()).await;
    let gateway = BackgroundClient::connect(&running).await;
    let address = tcp(&running);
    let unfinished = |path: &'static str, timeout: Option<&'static str>| async move {
        let mut attacker = Attacker::connect(address).await.unwrap();
        let mut block = call(path, "mallory");
        if let Some(timeout) = timeout {
            super::frames::header(&mut block, "grpc-timeout", timeout);
        }
        attacker.send(&frame(HEADERS, END_HEADERS, 1, &block)).await.unwrap();
        attacker.send(&frame(DATA, 0, 1, &message(1_000, b"not all"))).await.unwrap();
        let started = Instant::now();
        // The attacker acknowledges pings, so that the connection stays open.
        let is_end =
            |frame: &super::frames::Frame| frame.stream == 1 && frame.flags & END_STREAM != 0;
        let ended = attacker.until(TEN + SLACK, is_end).await;
        assert!(ended.is_some(), "{path} continues after {:?}", started.elapsed());
    };
    let calls = [CHECK, LIST_EVENTS, FOLLOW]
        .into_iter()
        .flat_map(|path| [unfinished(path, None), unfinished(path, Some("99999999H"))]);
    join_all(calls).await;
    let late = |service: &str, method: &str| {
        rpcs(&format!("supportaccess.{service}"), method, "DEADLINE_EXCEEDED", 2)
    };
    wait_for_metric(&running, &late("v1.SupportAccess", "CheckAccess")).await;
    wait_for_metric(&running, &late("v1.SupportAccessAdmin", "ListEvents")).await;
    wait_for_metric(&running, &late("replication.v1.Replication", "Follow")).await;
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(address).await).await;
}

#[tokio::test]
async fn a_call_without_a_deadline_gets_one() {
    let (running, store) = crate::server::harness::start(crate::server::harness::config()).await;
    store.are_reads_held.send_replace(true);
    let mut admin = crate::server::harness::admin(&running).await;
    let request = ListGrantsRequest { tenant_id: "acme".to_owned(), ..Default::default() };
    let started = Instant::now();
    let ended = with_timeout(admin.list_grants(request)).await.unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < TEN + SLACK);
    assert!(access(&running).await.check_access(crate::server::harness::a_check()).await.is_ok());
    store.are_reads_held.send_replace(false);
    assert_healthy(&running, channel(&running).await).await;
}

/// The first message of a TLS client.
fn client_hello(world: &World) -> Vec<u8> {
    let mut hello = Vec::new();
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(tls(world), name).unwrap();
    client.write_tls(&mut hello).unwrap();
    hello
}

fn tls(world: &World) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.authority.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_handshakes_time_out_and_delay_no_other_client() {
    let world = World::limited(limits()).await;
    let gateway = BackgroundClient::on(world.channel(Some(GATEWAY)).await);
    let address = tcp(&world.running);
    let hello = client_hello(&world);
    let mut attacks: Vec<Attack> = Vec::new();
    for length in [0, 1, 4, 5, 6, 40, hello.len() - 1, hello.len()].repeat(40) {
        let bytes = hello[..length].to_vec();
        attacks.push((
            "a stalled handshake",
            TEN,
            Box::pin(async move {
                let mut attacker = Attacker::silent(address).await.unwrap();
                attacker.send(&bytes).await.unwrap();
                attacker.until_closed(TEN + SLACK).await
            }),
        ));
    }
    attacks.push(("a handshake, byte by byte", TEN, dribbling(address, false, hello)));
    let connector = TlsConnector::from(tls(&world));
    for _ in 0..20 {
        let connector = connector.clone();
        attacks.push((
            "silence after a handshake",
            TEN,
            Box::pin(async move {
                let stream = TcpStream::connect(address).await.unwrap();
                let stream =
                    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
                Attacker::on(stream).until_closed(TEN + SLACK).await
            }),
        ));
    }
    let newcomer = async {
        let started = Instant::now();
        let mut client = world.checks(Some(GATEWAY)).await;
        client.check_access(crate::server::harness::a_check()).await.unwrap();
        assert!(started.elapsed() < SLACK);
    };
    tokio::join!(assert_ended_in_time(attacks), newcomer);
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&world.running, world.channel(Some(GATEWAY)).await).await;
}
