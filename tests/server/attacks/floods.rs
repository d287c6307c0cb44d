//! Floods of frames: each at most costs the connection that it comes on.

use std::{net::SocketAddr, time::Duration};

use support_access::server::config::CallLimits;
use tokio::time::Instant;

use super::{
    Bystander, MEGABYTE, assert_well, connect,
    frames::{
        Attacker, CHECK, CONTINUATION, DATA, END_HEADERS, FOLLOW, GO_AWAY, HEADERS, PING,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, call, frame,
    },
    limited, places_return, resident, tcp,
};

/// For how long one flood goes on.
const TIMEOUT: Duration = Duration::from_secs(6);
/// How many frames are tried of each.
const FRAMES: u32 = 50_000;
/// How many connections an attacker makes at most.
const CONNECTIONS: u32 = 200;
/// What a flood may cost, with all that the allocator keeps.
const MEMORY: usize = 64 * MEGABYTE;

/// Sends what `frames` makes of numbers, on new connections whenever the server has ended one. How many frames, connections.
async fn flood(address: SocketAddr, reads: bool, frames: impl Fn(u32) -> Vec<u8>) -> (u32, u32) {
    let deadline = Instant::now() + TIMEOUT;
    let (mut sent, mut connections) = (0, 0);
    while sent < FRAMES && connections < CONNECTIONS && Instant::now() < deadline {
        connections += 1;
        let Ok(mut attacker) = Attacker::connect(address).await else { continue };
        let mut number = 0;
        while sent < FRAMES {
            let bytes: Vec<u8> = (0..50).flat_map(|it| frames(number + it)).collect();
            if attacker.send_until(&bytes, deadline).await.is_err() {
                break;
            }
            (number, sent) = (number + 50, sent + 50);
            if reads
                && attacker
                    .until(Duration::from_micros(50), |it| it.kind == GO_AWAY)
                    .await
                    .is_some()
            {
                break;
            }
        }
    }
    (sent, connections)
}

/// What is sent, by number.
type Frames = Box<dyn Fn(u32) -> Vec<u8>>;

/// The identifier of a caller's stream.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

fn empty_messages(number: u32) -> Vec<u8> {
    let open = frame(HEADERS, END_HEADERS, 1, &call(FOLLOW, "mallory"));
    let nothing = frame(DATA, 0, 1, &[]);
    if number == 0 { [open, nothing].concat() } else { nothing }
}

fn continuations(number: u32) -> Vec<u8> {
    match number {
        0 => frame(HEADERS, 0, 1, &call(CHECK, "mallory")),
        _ => frame(CONTINUATION, 0, 1, &call(CHECK, "mallory")),
    }
}

fn window_updates(number: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, number % 2, &0x7fff_ffff_u32.to_be_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_harm_nobody_else() {
    const PER_ADDRESS: usize = 20;
    let limits = CallLimits { connections_per_address: PER_ADDRESS, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    let rapid_reset = |number: u32| {
        let open = frame(HEADERS, END_HEADERS, stream(number), &call(CHECK, "mallory"));
        [open, frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes())].concat()
    };
    let opened = |number: u32| frame(HEADERS, END_HEADERS, stream(number), &call(CHECK, "mallory"));
    let pings = |number: u32| frame(PING, 0, 0, &u64::from(number).to_be_bytes());
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]);
    let unknown = |_| frame(77, 255, 0, &[7; 100]);
    let resets = |number: u32| frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
    let floods: [(&str, Frames); 9] = [
        ("rapid resets", Box::new(rapid_reset)),
        ("streams that stay", Box::new(opened)),
        ("continuations", Box::new(continuations)),
        ("settings", Box::new(settings)),
        ("pings", Box::new(pings)),
        ("empty data", Box::new(empty_messages)),
        ("window updates", Box::new(window_updates)),
        ("frames of no kind", Box::new(unknown)),
        ("resets of nothing", Box::new(resets)),
    ];
    for (name, frames) in &floods {
        for reads in [true, false] {
            let before = resident();
            let (sent, connections) = flood(address, reads, frames).await;
            let grown = resident().saturating_sub(before);
            println!(
                "{name}, reading {reads}: {sent} on {connections} connections, {grown} bytes more"
            );
            assert!(sent > 0 && grown < MEMORY, "{name}: {sent} sent, {grown} bytes more");
        }
    }
    places_return(address, PER_ADDRESS - 1).await;
    println!("meanwhile {} checks were answered", gateway.end().await);
    assert_well(&running, connect(address).await).await;
}

/// The code of the `GOAWAY` that these bytes are answered with.
async fn verdict(address: SocketAddr, bytes: &[u8]) -> Option<u32> {
    let mut attacker = Attacker::connect(address).await.unwrap();
    attacker.send(bytes).await.unwrap();
    let found = attacker.until(TIMEOUT, |it| it.kind == GO_AWAY).await?;
    Some(u32::from_be_bytes(found.payload[4..8].try_into().unwrap()))
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_its_connection() {
    const PROTOCOL_ERROR: u32 = 1;
    const FLOW_CONTROL_ERROR: u32 = 3;
    const FRAME_SIZE_ERROR: u32 = 6;
    let running = limited(CallLimits::default()).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let cases = [
        (frame(WINDOW_UPDATE, 0, 0, &most).repeat(2), FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 2, &call(CHECK, "mallory")), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 0, &call(CHECK, "mallory")), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, &[0x80]), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, &[]), PROTOCOL_ERROR),
        (frame(PING, 0, 0, &[1, 2, 3]), PROTOCOL_ERROR),
        // Only its head: who says more may not hear the verdict.
        (frame(DATA, 0, 1, &vec![0; 70_000])[..9].to_vec(), FRAME_SIZE_ERROR),
    ];
    for (bytes, expected) in cases {
        let shown = bytes[..bytes.len().min(20)].to_vec();
        assert_eq!(verdict(address, &bytes).await, Some(expected), "{shown:?}");
    }
    gateway.end().await;
    assert_well(&running, connect(address).await).await;
}

#[tokio::test]
async fn one_connection_has_so_many_calls_at_a_time() {
    let limits = CallLimits { calls_per_connection: 10, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    let mut attacker = Attacker::connect(address).await.unwrap();
    let open = |number| frame(HEADERS, END_HEADERS, stream(number), &call(FOLLOW, "mallory"));
    attacker.send(&(0..11).flat_map(open).collect::<Vec<u8>>()).await.unwrap();
    let refused = attacker.until(TIMEOUT, |it| it.kind == RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.payload), (stream(10), 7_u32.to_be_bytes().to_vec()));
    gateway.end().await;
    assert_well(&running, connect(address).await).await;
}
