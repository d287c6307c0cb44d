//! Whoever takes its time is hung up on in good time: in handshakes, heads, frames and messages.

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
    Bystander, assert_well, connect,
    frames::{
        Attacker, CHECK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FOLLOW, HEADERS, LIST_EVENTS,
        call, frame, message,
    },
    limited, tcp,
};
use crate::{
    harness::{access, channel, rpcs, wait_for_metric, with_timeout},
    identity::{GATEWAY, World},
};

/// What is said of handshakes, prefaces, heads and messages.
const TEN: Duration = Duration::from_secs(10);
/// A machine that is busy.
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

/// All at once: each ends within its time.
async fn ended_in_time(attacks: Vec<Attack>) {
    let count = attacks.len();
    let ended = join_all(
        attacks.into_iter().map(|(what, limit, attack)| async move { (what, limit, attack.await) }),
    );
    for (what, limit, took) in ended.await {
        let took = took.unwrap_or_else(|| panic!("{what}: not within {limit:?}"));
        assert!(took < limit + SLACK, "{what}: {took:?}, but should take {limit:?}");
    }
    println!("{count} slow connections were ended in time");
}

/// A connection that has begun, and these bytes, one at a time.
fn dribbling(
    address: SocketAddr,
    begin: bool,
    bytes: Vec<u8>,
) -> BoxFuture<'static, Option<Duration>> {
    Box::pin(async move {
        let mut attacker = Attacker::silent(address).await.unwrap();
        if begin {
            attacker.begin(&[]).await.unwrap();
        }
        attacker.dribble(&bytes, TEN + SLACK).await
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_frames_and_heads_end_their_connections() {
    let running = limited(limits()).await;
    let gateway = Bystander::at(&running).await;
    let (grpc, http) = (tcp(&running), running.http);
    let mut attacks: Vec<Attack> = Vec::new();
    for _ in 0..20 {
        attacks.push(("nothing at all", TEN, dribbling(grpc, false, vec![])));
        let preface = super::frames::PREFACE;
        attacks.push(("a preface, byte by byte", TEN, dribbling(grpc, false, vec![preface[0]])));
        attacks.push(("another", TEN, dribbling(grpc, false, [preface, preface].concat())));
        attacks.push(("a preface and nothing else", KEEPALIVE, dribbling(grpc, true, vec![])));
        let open = frame(HEADERS, 0, 1, &call(CHECK, "mallory"));
        attacks.push(("headers without an end", KEEPALIVE, dribbling(grpc, true, open.clone())));
        let more = frame(CONTINUATION, 0, 1, &[0; 4_000]);
        let stalling = [open, more].concat();
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
    // 180 connections: more than one address may have at the HTTP port is for another test.
    ended_in_time(attacks).await;
    println!("meanwhile {} checks were answered", gateway.end().await);
    assert_well(&running, connect(grpc).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_are_given_up() {
    let running = limited(limits()).await;
    let gateway = Bystander::at(&running).await;
    let address = tcp(&running);
    let unfinished = |path: &'static str, timeout: Option<&'static str>| async move {
        let mut attacker = Attacker::connect(address).await.unwrap();
        let mut block = call(path, "mallory");
        if let Some(timeout) = timeout {
            super::frames::header(&mut block, "grpc-timeout", timeout);
        }
        attacker.send(&frame(HEADERS, END_HEADERS, 1, &block)).await.unwrap();
        attacker.send(&frame(DATA, 0, 1, &message(1_000, b"not all"))).await.unwrap();
        let began = Instant::now();
        // It answers pings: its connection stays, the call does not.
        let is_end = |it: &super::frames::Frame| it.stream == 1 && it.flags & END_STREAM != 0;
        let ended = attacker.until(TEN + SLACK, is_end).await;
        assert!(ended.is_some(), "{path} goes on after {:?}", began.elapsed());
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
    println!("meanwhile {} checks were answered", gateway.end().await);
    assert_well(&running, connect(address).await).await;
}

#[tokio::test]
async fn a_read_of_a_database_that_hangs_has_a_deadline_though_nobody_gave_one() {
    let (running, store) = crate::harness::start(crate::harness::config()).await;
    store.are_reads_held.send_replace(true);
    let mut admin = crate::harness::admin(&running).await;
    let request = ListGrantsRequest { tenant_id: "acme".to_owned(), ..Default::default() };
    let began = Instant::now();
    let ended = with_timeout(admin.list_grants(request)).await.unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < TEN + SLACK);
    assert!(access(&running).await.check_access(crate::harness::a_check()).await.is_ok());
    store.are_reads_held.send_replace(false);
    assert_well(&running, channel(&running).await).await;
}

/// What a client says first.
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
async fn handshakes_that_stall_are_given_up_and_keep_nobody_waiting() {
    let world = World::limited(limits()).await;
    let gateway = Bystander::on(world.channel(Some(GATEWAY)).await);
    let address = tcp(&world.running);
    let hello = client_hello(&world);
    let mut attacks: Vec<Attack> = Vec::new();
    for length in [0, 1, 4, 5, 6, 40, hello.len() - 1, hello.len()].repeat(40) {
        let said = hello[..length].to_vec();
        attacks.push((
            "a handshake that stalls",
            TEN,
            Box::pin(async move {
                let mut attacker = Attacker::silent(address).await.unwrap();
                attacker.send(&said).await.unwrap();
                attacker.until_closed(TEN + SLACK).await
            }),
        ));
    }
    attacks.push(("a handshake, byte by byte", TEN, dribbling(address, false, hello)));
    let connector = TlsConnector::from(tls(&world));
    for _ in 0..20 {
        let connector = connector.clone();
        attacks.push((
            "a handshake and nothing else",
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
        // While they stall, others are let in.
        let begun = Instant::now();
        let mut client = world.checks(Some(GATEWAY)).await;
        client.check_access(crate::harness::a_check()).await.unwrap();
        assert!(begun.elapsed() < SLACK);
    };
    tokio::join!(ended_in_time(attacks), newcomer);
    println!("meanwhile {} checks were answered", gateway.end().await);
    assert_well(&world.running, world.channel(Some(GATEWAY)).await).await;
}
