//! Floods of HTTP/2 frames. A flood at most closes the attacker's connection.

use std::{net::SocketAddr, time::Duration};

use support_access::server::config::CallLimits;
use tokio::time::Instant;

use super::{
    BackgroundClient, MEGABYTE, accepts, assert_healthy, connect,
    frames::{
        Attacker, CHECK, CONTINUATION, DATA, END_HEADERS, FOLLOW, GO_AWAY, HEADERS, RST_STREAM,
        call, frame,
    },
    limited, resident, tcp, wait_for_connections,
};

/// Duration of a flood.
const FLOOD: Duration = Duration::from_secs(6);
/// Maximum number of frames of a flood.
const FRAMES: u32 = 50_000;
/// Maximum number of connections of a flood.
const CONNECTIONS: u32 = 200;
/// Maximum growth of memory during a flood, including memory that the allocator keeps.
const GROWTH_MAX: usize = 64 * MEGABYTE;

/// Sends frames by number, on a new connection whenever the server has closed one. Returns the
/// number of frames and connections.
async fn flood(address: SocketAddr, reads: bool, frames: impl Fn(u32) -> Vec<u8>) -> (u32, u32) {
    let deadline = Instant::now() + FLOOD;
    let (mut sent, mut connections) = (0, 0);
    while sent < FRAMES && connections < CONNECTIONS && Instant::now() < deadline {
        connections += 1;
        let Ok(mut attacker) = Attacker::connect(address).await else { continue };
        let mut number = 0;
        while sent < FRAMES {
            let bytes: Vec<u8> = (0..50).flat_map(|offset| frames(number + offset)).collect();
            if attacker.send_until(&bytes, deadline).await.is_err() {
                break;
            }
            (number, sent) = (number + 50, sent + 50);
            let is_go_away = |frame: &super::frames::Frame| frame.kind == GO_AWAY;
            if reads && attacker.until(Duration::from_micros(50), is_go_away).await.is_some() {
                break;
            }
        }
    }
    (sent, connections)
}

/// The identifier of a client's stream.
pub(super) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// CVE-2023-44487.
fn rapid_resets(number: u32) -> Vec<u8> {
    [open_streams(number), frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes())].concat()
}

fn open_streams(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(number), &call(CHECK, "mallory"))
}

/// CVE-2024-27316.
fn continuations(number: u32) -> Vec<u8> {
    match number {
        0 => frame(HEADERS, 0, 1, &call(CHECK, "mallory")),
        _ => frame(CONTINUATION, 0, 1, &call(CHECK, "mallory")),
    }
}

fn empty_messages(number: u32) -> Vec<u8> {
    let open = frame(HEADERS, END_HEADERS, 1, &call(FOLLOW, "mallory"));
    let empty = frame(DATA, 0, 1, &[]);
    if number == 0 { [open, empty].concat() } else { empty }
}

/// A name, and the frames of a number of repetitions.
type Flood = (&'static str, fn(u32) -> Vec<u8>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_affect_no_other_client() {
    const PER_ADDRESS: usize = 20;
    let limits = CallLimits { connections_per_address: PER_ADDRESS, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    let floods: [Flood; 4] = [
        ("rapid resets", rapid_resets),
        ("open streams", open_streams),
        ("continuations", continuations),
        ("empty messages", empty_messages),
    ];
    for (name, frames) in floods {
        for reads in [true, false] {
            let before = resident();
            let (sent, connections) = flood(address, reads, frames).await;
            let growth = resident().saturating_sub(before);
            println!("{name}, reading {reads}: {sent} on {connections} connections, +{growth} B");
            assert!(sent > 0 && growth < GROWTH_MAX, "{name}: {sent} sent, +{growth} B");
        }
    }
    wait_for_connections(&running, 1).await;
    assert!(accepts(address, PER_ADDRESS - 1).await);
    println!("meanwhile {} checks were answered", gateway.stop().await);
    wait_for_connections(&running, 0).await;
    assert_healthy(&running, connect(address).await).await;
}

#[tokio::test]
async fn the_concurrent_calls_of_a_connection_are_limited() {
    const REFUSED_STREAM: u32 = 7;
    let limits = CallLimits { calls_per_connection: 10, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    let mut attacker = Attacker::connect(address).await.unwrap();
    let open = |number| frame(HEADERS, END_HEADERS, stream(number), &call(FOLLOW, "mallory"));
    attacker.send(&(0..11).flat_map(open).collect::<Vec<u8>>()).await.unwrap();
    let reset = attacker.until(FLOOD, |frame| frame.kind == RST_STREAM).await.unwrap();
    let expected = (stream(10), REFUSED_STREAM.to_be_bytes().to_vec());
    assert_eq!((reset.stream, reset.payload), expected);
    gateway.stop().await;
    assert_healthy(&running, connect(address).await).await;
}
