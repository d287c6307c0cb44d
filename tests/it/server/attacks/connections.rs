//! Floods of connections, and connections whose clients have silently disappeared.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::join_all;
use prost::Message;
use support_access::{
    api::proto::v1::support_access_client::SupportAccessClient, domain::Span,
    server::config::CallLimits,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use super::{
    BackgroundClient, accepts, assert_healthy, connect,
    frames::{
        Attacker, CHECK, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, call, frame,
        message,
    },
    limited, tcp, wait_for_connections,
};
use crate::server::{
    harness::{a_check, eventually, get},
    proxy::{Proxy, Target},
};

pub(super) const ATTACKER: [u8; 4] = [127, 0, 0, 2];

pub(super) async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the server has closed the connection. Reads what the server has sent.
fn is_closed(stream: &TcpStream) -> bool {
    loop {
        match stream.try_read(&mut [0; 512]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Opens `count` connections to a server that keeps `kept` of them, and sends `greeting` on each.
async fn flood(to: SocketAddr, greeting: &[u8], count: usize, kept: usize) -> Vec<TcpStream> {
    let connecting = (0..count).map(async |_| {
        let mut stream = connect_from(ATTACKER, to).await;
        // Fails if the server has already closed the connection.
        let _ = stream.write_all(greeting).await;
        stream
    });
    let streams = join_all(connecting).await;
    let closed = || streams.iter().filter(|stream| is_closed(stream)).count();
    eventually(async || closed() >= count - kept).await;
    assert_eq!(closed(), count - kept);
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connections_of_an_address_are_limited() {
    const PER_ADDRESS: usize = 50;
    let limits = CallLimits { connections_per_address: PER_ADDRESS, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    // Without a preface, the server would close the connections after ten seconds.
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut attackers = flood(address, &greeting, 100, PER_ADDRESS).await;
    for _ in 0..9 {
        attackers.extend(flood(address, &greeting, 100, 0).await);
    }
    assert!(accepts(address, PER_ADDRESS - 1).await, "other addresses have their own limit");
    drop(attackers);
    wait_for_connections(&running, 1).await;
    let again = flood(address, &greeting, PER_ADDRESS, PER_ADDRESS).await;
    wait_for_connections(&running, 1 + PER_ADDRESS).await;
    drop(again);
    println!("1000 connections; {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_occupy_the_metrics_endpoint() {
    let running = limited(CallLimits::default()).await;
    let gateway = BackgroundClient::connect(&running).await;
    let _attackers = flood(running.metrics, b"", 300, 64).await;
    assert_eq!(get(running.metrics, "/readyz").await.0, 200);
    gateway.stop().await;
    assert_healthy(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_addresses_cannot_occupy_the_metrics_endpoint() {
    let running = limited(CallLimits::default()).await;
    let mut attackers = Vec::new();
    for address in 2..10 {
        let connecting = (0..64).map(|_| connect_from([127, 0, 0, address], running.metrics));
        attackers.extend(join_all(connecting).await);
        assert_eq!(get(running.metrics, "/readyz").await.0, 200);
    }
    assert_healthy(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_of_several_addresses_keep_no_new_caller_out() {
    let running = limited(CallLimits::default()).await;
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut attackers = Vec::new();
    for address in 2..6 {
        let connecting = (0..200).map(|_| connect_from([127, 0, 0, address], tcp(&running)));
        for mut stream in join_all(connecting).await {
            // Fails if the server has already closed the connection.
            let _ = stream.write_all(&greeting).await;
            attackers.push(stream);
        }
        assert!(accepts(tcp(&running), 10).await);
    }
    let closed = || attackers.iter().filter(|stream| is_closed(stream)).count();
    eventually(async || closed() >= attackers.len() - 256).await;
    assert_healthy(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_connections_release_their_permits() {
    let limits = CallLimits { connections_per_address: 20, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    for round in 0..100 {
        join_all((0..30).map(async |number| {
            // A third of the connections sends a preface. Some are reset by the server.
            let Ok(mut attacker) = Attacker::silent(address).await else { return };
            if (number + round) % 3 == 0 {
                let _ = attacker.start(&[]).await;
            }
        }))
        .await;
    }
    wait_for_connections(&running, 1).await;
    assert!(accepts(address, 19).await);
    println!("3000 connections; {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(address).await).await;
}

/// The clients answer pings, so only the age of the unread bytes shows that they do not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_unread_responses_are_closed_after_a_minute() {
    const MINUTE: Duration = Duration::from_mins(1);
    let running = limited(CallLimits::default()).await;
    let gateway = BackgroundClient::connect(&running).await;
    let address = tcp(&running);
    let closed = [0, 1].map(async |window| {
        let mut client = Attacker::silent(address).await.unwrap();
        client.start(&[0, 4, 0, 0, 0, window]).await.unwrap();
        let check = message(a_check().encoded_len(), &a_check().encode_to_vec());
        let head = frame(HEADERS, END_HEADERS, 1, &call(CHECK, "mallory"));
        client.send(&[head, frame(DATA, END_STREAM, 1, &check)].concat()).await.unwrap();
        let called = Instant::now();
        let ended = timeout(2 * MINUTE, async { while client.next().await.is_some() {} }).await;
        (window, ended.is_ok(), called.elapsed())
    });
    for (window, is_closed, after) in join_all(closed).await {
        assert!(is_closed && after >= MINUTE, "window {window}: {is_closed} after {after:?}");
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_release_their_permits() {
    const PER_ADDRESS: usize = 10;
    let second = Span(Duration::from_secs(1));
    let running = limited(CallLimits {
        connections_per_address: PER_ADDRESS,
        keepalive_interval: second,
        keepalive_timeout: second,
        ..CallLimits::default()
    })
    .await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    let proxy = Proxy::start(Target::Tcp(address)).await;
    let mut clients = Vec::new();
    for _ in 1..PER_ADDRESS {
        let mut client = SupportAccessClient::new(connect(proxy.address).await);
        client.check_access(a_check()).await.unwrap();
        clients.push(client);
    }
    assert!(!accepts(address, 1).await, "every permit is taken");
    proxy.block();
    // The default keepalive would take longer than this wait.
    wait_for_connections(&running, 1).await;
    assert!(accepts(address, PER_ADDRESS - 1).await);
    println!("meanwhile {} checks were answered", gateway.stop().await);
    drop(clients);
    wait_for_connections(&running, 0).await;
    assert_healthy(&running, connect(address).await).await;
}
