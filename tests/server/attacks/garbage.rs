//! Bytes of no meaning, on every port.

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
    Bystander, MEGABYTE, assert_well, connect,
    frames::{CHECK, END_HEADERS, HEADERS, PREFACE, SETTINGS, call, frame},
    limited, places_return, resident, tcp,
};
use crate::{
    harness::{a_check, common, config, get, loopback, start},
    identity::{GATEWAY, World},
};

/// How many connections each port gets.
const CONNECTIONS: usize = 3_000;
/// How long one of them waits for what the server has to say.
const WAIT: Duration = Duration::from_millis(50);

fn seed() -> u64 {
    let seed = std::env::var("ATTACKS_SEED");
    let seed = seed.map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("ATTACKS_SEED={seed}");
    seed
}

fn random(random: &mut StdRng, longest: usize) -> Vec<u8> {
    let length = random.random_range(0..longest);
    (0..length).map(|_| random.random()).collect()
}

/// Frames of any kind, some of them on a call that was made.
fn random_frames(source: &mut StdRng) -> Vec<u8> {
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    if source.random_bool(0.5) {
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &call(CHECK, "mallory")));
    }
    for _ in 0..source.random_range(1..20) {
        let (kind, flags) = (source.random_range(0..12), source.random());
        let stream = source.random_range(0..5);
        let payload = random(source, 200);
        bytes.extend(frame(kind, flags, stream, &payload));
    }
    bytes
}

/// A record that says it is a handshake, with what looks like the beginning of one.
fn random_hello(source: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![22, 3, 1];
    let rest = random(source, 600);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    if rest.len() > 4 {
        bytes.extend([1, 0]);
        bytes.extend(u16::try_from(rest.len() - 4).unwrap().to_be_bytes());
    }
    bytes.extend(rest);
    bytes
}

fn random_request(source: &mut StdRng) -> Vec<u8> {
    let method = ["GET", "POST", "PRI", "\0", "OPTIONS"][source.random_range(0..5)];
    let mut bytes =
        format!("{method} /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n").into_bytes();
    bytes.extend(random(source, 300));
    bytes.extend(b"\r\n\r\n");
    bytes
}

async fn say(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    let _ = io.write_all(bytes).await;
    let _ = timeout(WAIT, io.read(&mut [0; 512])).await;
}

/// So many connections, each of which says one of these and goes.
async fn say_all(what: &str, bytes: Vec<Vec<u8>>, at: Target) {
    let before = resident();
    let count = bytes.len();
    stream::iter(bytes)
        .for_each_concurrent(32, |bytes| {
            let at = at.clone();
            async move {
                match at {
                    Target::Tcp(address) => {
                        say(TcpStream::connect(address).await.unwrap(), &bytes).await;
                    }
                    Target::Unix(path) => {
                        say(UnixStream::connect(path).await.unwrap(), &bytes).await;
                    }
                }
            }
        })
        .await;
    let grown = resident().saturating_sub(before);
    println!("{what}: {count} connections, {grown} bytes more");
    assert!(grown < 32 * MEGABYTE, "{what}: {grown} bytes more");
}

#[derive(Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

fn made(seed: u64, make: impl Fn(&mut StdRng) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut source = StdRng::seed_from_u64(seed);
    (0..CONNECTIONS).map(|_| make(&mut source)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_plain_ports_and_sockets_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("check.sock");
    let listen = vec![ListenAddress::Tcp(loopback()), ListenAddress::Unix(path.clone())];
    let (running, _store) =
        start(Config { common: Common { listen, ..common() }, ..config() }).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    let seed = seed();
    let anything = |source: &mut StdRng| random(source, 1_000);
    let (grpc, unix) = (Target::Tcp(address), Target::Unix(path));
    say_all("gRPC, bytes", made(seed, anything), grpc.clone()).await;
    say_all("gRPC, frames", made(seed, random_frames), grpc.clone()).await;
    say_all("gRPC, TLS", made(seed, random_hello), grpc).await;
    say_all("Unix, bytes", made(seed, anything), unix.clone()).await;
    say_all("Unix, frames", made(seed, random_frames), unix).await;
    let mut on_socket = SupportAccessClient::new(crate::harness::connect(&running.grpc[1]).await);
    on_socket.check_access(a_check()).await.unwrap();
    println!("meanwhile {} checks were answered", gateway.end().await);
    places_return(address, 100).await;
    assert_well(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_http_port_harms_nobody() {
    let running = limited(CallLimits::default()).await;
    let gateway = Bystander::at(&running).await;
    let seed = seed();
    let http = Target::Tcp(running.metrics);
    say_all("HTTP, bytes", made(seed, |source| random(source, 1_000)), http.clone()).await;
    say_all("HTTP, requests", made(seed, random_request), http.clone()).await;
    say_all("HTTP, frames", made(seed, random_frames), http).await;
    assert_eq!(get(running.metrics, "/readyz").await.0, 200);
    println!("meanwhile {} checks were answered", gateway.end().await);
    assert_well(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_tls_ports_harms_nobody() {
    let world = World::new().await;
    let address = Target::Tcp(tcp(&world.running));
    let gateway = Bystander::on(world.channel(Some(GATEWAY)).await);
    let seed = seed();
    say_all("TLS, bytes", made(seed, |source| random(source, 1_000)), address.clone()).await;
    say_all("TLS, hellos", made(seed, random_hello), address.clone()).await;
    say_all("TLS, plain frames", made(seed, random_frames), address).await;
    println!("meanwhile {} checks were answered", gateway.end().await);
    assert_well(&world.running, world.channel(Some(GATEWAY)).await).await;
}
