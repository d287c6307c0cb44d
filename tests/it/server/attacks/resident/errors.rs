//! Errors that clients do not read.

use std::net::SocketAddr;

use futures::future::join_all;
use prost::Message;
use support_access::api::proto::v1::{GrantAccessRequest, NamedAgents};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use super::{
    super::{
        BackgroundClient,
        frames::{
            Attacker, CHECK, DATA, END_HEADERS, END_STREAM, Frame, GRANT, HEADERS, call, frame,
            message,
        },
        raw,
    },
    HEALTH, REPLICA, SENDING, Target, stream,
};
use crate::server::{
    harness::{TIMEOUT, a_check, a_grant, eventually, get},
    process::Launch,
};

/// Calls of each connection. The errors of the first ones fill the buffers of the sockets.
const CALLS: u32 = 300;

/// A connection with a small receive buffer.
async fn connect(source: [u8; 4], to: SocketAddr) -> Attacker<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    let mut attacker = Attacker::on(socket.connect(to).await.unwrap());
    attacker.start(&[]).await.unwrap();
    attacker
}

/// A whole call with `message`.
fn whole_call(path: &str, actor: &str, number: u32, message: &[u8]) -> Vec<u8> {
    let open = frame(HEADERS, END_HEADERS, stream(number), &call(path, actor));
    [open, frame(DATA, END_STREAM, stream(number), message)].concat()
}

/// Waits until a check was answered: the connection has an authenticated caller.
async fn authenticate(attacker: &mut Attacker<TcpStream>, actor: &str) {
    let check = raw::framed(&a_check().encode_to_vec());
    attacker.send(&whole_call(CHECK, actor, 0, &check)).await.unwrap();
    let is_end = |frame: &Frame| frame.stream == stream(0) && frame.flags & END_STREAM != 0;
    assert!(attacker.until(TIMEOUT, is_end).await.is_some());
}

/// Sends as many calls as possible, and reads nothing.
async fn flood(
    mut attacker: Attacker<TcpStream>,
    call: impl Fn(u32) -> Vec<u8>,
) -> Attacker<TcpStream> {
    let deadline = Instant::now() + SENDING;
    for number in 1..CALLS {
        // Fails once the server stops reading.
        if attacker.send_until(&call(number), deadline).await.is_err() {
            break;
        }
    }
    attacker
}

/// The number of connections.
async fn connections(target: &Target) -> usize {
    let metrics = get(target.server.http, "/metrics").await.2;
    let count = |line: &str| line.strip_prefix("support_access_connections ")?.parse().ok();
    metrics.lines().find_map(count).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_errors_do_not_exhaust_the_memory_of_a_replica() {
    /// Connections of each of two addresses: together, almost as many as the server accepts.
    const CONNECTIONS: usize = 180;
    let target = Target::start(Launch::replica("memory:"), REPLICA);
    let gateway = BackgroundClient::on(target.server.connect().await);
    // Each agent is a violation.
    let named_agents = Some(NamedAgents { agent_ids: vec![String::new(); 100] });
    let invalid = GrantAccessRequest { named_agents, ..a_grant() };
    let invalid = raw::framed(&invalid.encode_to_vec());
    let too_long = message(5_000_000, &[]);
    for round in 0..2 {
        for (name, path, body) in [
            ("violations", GRANT, &invalid),
            ("long messages", GRANT, &too_long),
            ("health checks", HEALTH, &too_long),
        ] {
            let mut attackers = Vec::new();
            for source in [[127, 0, 0, 2], [127, 0, 0, 3]] {
                let attacks = (0..CONNECTIONS).map(async |number| {
                    let actor = format!("mallory-{}", number % 4);
                    let mut attacker = connect(source, target.server.address()).await;
                    authenticate(&mut attacker, &actor).await;
                    flood(attacker, |number| whole_call(path, &actor, number, body)).await
                });
                attackers.extend(join_all(attacks).await);
            }
            target.report(&format!("round {round}, unread errors: {name}"));
            drop(attackers);
            eventually(async || connections(&target).await == 1).await;
        }
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}
