//! Random bytes on every listener cause no panic and no growth of memory.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use futures::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use support_access::{
    api::proto::v1::support_access_client::SupportAccessClient,
    server::config::{CallLimits, Common, Config, ListenAddress},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    BackgroundClient, MEGABYTE, accepts, assert_healthy, connect,
    frames::{CHECK, END_HEADERS, HEADERS, PREFACE, SETTINGS, call, frame},
    limited, resident, tcp, wait_for_connections, web,
};
use crate::server::{
    harness::{a_check, common, config, get, loopback, start},
    identity::{GATEWAY, World},
};

/// Number of connections to each listener.
const CONNECTIONS: usize = 3_000;
/// How long a connection waits for a response.
const WAIT: Duration = Duration::from_millis(50);
/// Maximum growth of memory.
const GROWTH_MAX: usize = 32 * MEGABYTE;

#[derive(Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The seed of every run, unless the variable `ATTACKS_SEED` contains another.
fn seed() -> u64 {
    let seed = std::env::var("ATTACKS_SEED").map_or(1, |text| text.parse().unwrap());
    println!("ATTACKS_SEED={seed}");
    seed
}

fn random_bytes(random: &mut StdRng, longest: usize) -> Vec<u8> {
    let length = random.random_range(0..longest);
    (0..length).map(|_| random.random()).collect()
}

/// Frames of any kind, half of the time after the start of a call.
fn random_frames(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    if random.random_bool(0.5) {
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &call(CHECK, "mallory")));
    }
    for _ in 0..random.random_range(1..20) {
        let (kind, flags) = (random.random_range(0..12), random.random());
        let stream = random.random_range(0..5);
        let payload = random_bytes(random, 200);
        bytes.extend(frame(kind, flags, stream, &payload));
    }
    bytes
}

/// A TLS record of a handshake with the start of a `ClientHello`.
fn random_hello(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![22, 3, 1];
    let rest = random_bytes(random, 600);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    if rest.len() > 4 {
        bytes.extend([1, 0]);
        bytes.extend(u16::try_from(rest.len() - 4).unwrap().to_be_bytes());
    }
    bytes.extend(rest);
    bytes
}

fn random_request(random: &mut StdRng) -> Vec<u8> {
    let method = ["GET", "POST", "PRI", "\0", "OPTIONS"][random.random_range(0..5)];
    let mut bytes =
        format!("{method} /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n").into_bytes();
    bytes.extend(random_bytes(random, 300));
    bytes.extend(b"\r\n\r\n");
    bytes
}

/// Bytes of one of these kinds.
fn random(random: &mut StdRng) -> Vec<u8> {
    match random.random_range(0..4) {
        0 => random_bytes(random, 1_000),
        1 => random_frames(random),
        2 => random_hello(random),
        _ => random_request(random),
    }
}

async fn send(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    let _ = io.write_all(bytes).await;
    let _ = timeout(WAIT, io.read(&mut [0; 512])).await;
}

/// Opens many connections, each of which sends random bytes and closes.
async fn attack(name: &str, target: Target) {
    let mut source = StdRng::seed_from_u64(seed());
    let attacks: Vec<Vec<u8>> = (0..CONNECTIONS).map(|_| random(&mut source)).collect();
    let before = resident();
    stream::iter(attacks)
        .for_each_concurrent(32, |bytes| {
            let target = target.clone();
            async move {
                match target {
                    Target::Tcp(address) => {
                        send(TcpStream::connect(address).await.unwrap(), &bytes).await;
                    }
                    Target::Unix(path) => {
                        send(UnixStream::connect(path).await.unwrap(), &bytes).await;
                    }
                }
            }
        })
        .await;
    let growth = resident().saturating_sub(before);
    println!("{name}: {CONNECTIONS} connections, +{growth} B");
    assert!(growth < GROWTH_MAX, "{name}: +{growth} B");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_listeners_survive_random_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("check.sock");
    let listen = vec![ListenAddress::Tcp(loopback()), ListenAddress::Unix(path.clone())];
    let (running, _store) =
        start(Config { common: Common { listen, ..common() }, ..config() }).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    attack("gRPC over TCP", Target::Tcp(address)).await;
    attack("gRPC over a Unix socket", Target::Unix(path)).await;
    wait_for_connections(&running, 1).await;
    assert!(accepts(address, 100).await);
    let mut on_socket =
        SupportAccessClient::new(crate::server::harness::connect(&running.grpc[1]).await);
    on_socket.check_access(a_check()).await.unwrap();
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_endpoint_survives_random_bytes() {
    let running = limited(CallLimits::default()).await;
    let gateway = BackgroundClient::connect(&running).await;
    attack("metrics", Target::Tcp(running.metrics)).await;
    assert_eq!(get(running.metrics, "/readyz").await.0, 200);
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_web_listener_survives_random_bytes() {
    let running = limited(CallLimits::default()).await;
    let gateway = BackgroundClient::connect(&running).await;
    attack("web", Target::Tcp(web(&running))).await;
    wait_for_connections(&running, 1).await;
    assert_eq!(get(web(&running), "/openapi.json").await.0, 200);
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_listeners_survive_random_bytes() {
    let world = World::new().await;
    let gateway = BackgroundClient::on(world.channel(Some(GATEWAY)).await);
    attack("gRPC over TLS", Target::Tcp(tcp(&world.running))).await;
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&world.running, world.channel(Some(GATEWAY)).await).await;
}
