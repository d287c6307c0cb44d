//! Resident memory of server processes under attack, with the limits of small containers.

use std::{fs, io, net::SocketAddr, time::Duration};

use futures::future::join_all;
use prost::Message;
use support_access::api::proto::v1::{GrantAccessRequest, ListEventsRequest};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::Instant};
use tonic::Code;

use super::{
    BackgroundClient, MEGABYTE,
    connections::{ATTACKER, connect_from},
    frames::{Attacker, DATA, END_HEADERS, END_STREAM, HEADERS, LIST_EVENTS, call, frame, header},
    named, raw,
};
use crate::server::{
    harness::{a_grant, eventually, get},
    process::{Launch, Server},
};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The memory limits of the chart, in MiB.
const REPLICA: usize = 512;
const SIDECAR: usize = 256;

/// Starts a server with this memory limit.
fn start(launch: Launch, memory_mib: usize) -> (Server, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.toml");
    fs::write(&path, format!("[limits]\nmemory_mib = {memory_mib}\n")).unwrap();
    let flags = ["--config", path.to_str().unwrap(), "--log", "warn,support_access::server=info"];
    (launch.flags(&flags).start(), directory)
}

/// The highest resident memory of a server since the start, in bytes.
fn peak(server: &Server) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024
}

/// Opens a connection from another address, and 1,000 health checks with `fields` additional header
/// fields, but no message.
async fn hold_health_checks(address: SocketAddr, fields: usize) -> io::Result<Attacker<TcpStream>> {
    let mut block = call(HEALTH, "mallory");
    for _ in 0..fields {
        header(&mut block, "a", "");
    }
    let mut attacker = Attacker::on(connect_from(ATTACKER, address).await);
    attacker.start(&window(0)).await?;
    let deadline = Instant::now() + Duration::from_secs(2);
    for number in 0..1_000 {
        let open = frame(HEADERS, END_HEADERS, 2 * number + 1, &block);
        // Fails once the server has closed the connection, or stops reading.
        if attacker.send_until(&open, deadline).await.is_err() {
            break;
        }
    }
    Ok(attacker)
}

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
fn window(size: u8) -> [u8; 6] {
    [0, 4, 0, 0, 0, size]
}

/// Attacks with many connections, twice: freed memory must serve the second round.
async fn assert_survives_unauthenticated_peers(server: &Server, memory_mib: usize) {
    let before = peak(server);
    let gateway = BackgroundClient::on(server.connect().await);
    for round in 0..2 {
        for fields in [80, 420] {
            let attacks = (0..150).map(|_| hold_health_checks(server.address(), fields));
            let attackers = join_all(attacks).await;
            println!(
                "round {round}, {fields} fields: {} connections, peak {} MB",
                attackers.iter().filter(|attacker| attacker.is_ok()).count(),
                peak(server) / MEGABYTE
            );
        }
    }
    println!("{} MB before; {} checks were answered", before / MEGABYTE, gateway.stop().await);
    assert!(peak(server) < memory_mib * MEGABYTE / 2, "{} B", peak(server));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_peers_do_not_exhaust_the_memory_of_a_sidecar() {
    let (replica, _replica) = start(Launch::replica("memory:"), REPLICA);
    let (sidecar, _sidecar) = start(Launch::sidecar(&[replica.url()]), SIDECAR);
    sidecar.ready().await;
    assert_survives_unauthenticated_peers(&sidecar, SIDECAR).await;
    assert_survives_unauthenticated_peers(&replica, REPLICA).await;
}

/// Opens a connection with a window of `size`, and requests 40 long lists.
async fn request_lists(address: SocketAddr, size: u8) -> Attacker<TcpStream> {
    let list = ListEventsRequest {
        tenant_id: "acme".to_owned(),
        page_size: 1_000,
        ..ListEventsRequest::default()
    };
    let list = raw::framed(&list.encode_to_vec());
    let mut attacker = Attacker::silent(address).await.unwrap();
    attacker.start(&window(size)).await.unwrap();
    for number in 0..40 {
        let open = frame(HEADERS, END_HEADERS, 2 * number + 1, &call(LIST_EVENTS, "mallory"));
        let rest = frame(DATA, END_STREAM, 2 * number + 1, &list);
        attacker.send(&[open, rest].concat()).await.unwrap();
    }
    attacker
}

/// The number of lists that the server has rejected.
async fn rejected_lists(server: &Server) -> usize {
    let metrics = get(server.http, "/metrics").await.2;
    let exhausted = "method=\"ListEvents\",code=\"RESOURCE_EXHAUSTED\"} ";
    let count = metrics.lines().find_map(|line| line.split_once(exhausted)?.1.parse().ok());
    count.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_do_not_exhaust_the_memory_of_a_replica() {
    const CONNECTIONS: usize = 4;
    /// The number of lists of 2.4 MB, among 160, that cannot fit.
    const REJECTED: usize = 140;
    let (server, _directory) = start(Launch::replica("memory:"), REPLICA);
    let mut admin = server.admin().await;
    for _ in 0..600 {
        let grant = GrantAccessRequest { reason: "\u{1F511}".repeat(1_000), ..a_grant() };
        admin.grant_access(grant).await.unwrap();
    }
    let before = peak(&server);
    let gateway = BackgroundClient::on(server.connect().await);
    for (round, size) in [0, 1, 0, 1].into_iter().enumerate() {
        let rejected = rejected_lists(&server).await;
        let attacks = (0..CONNECTIONS).map(|_| request_lists(server.address(), size));
        let attackers = join_all(attacks).await;
        eventually(async || rejected_lists(&server).await >= rejected + REJECTED).await;
        println!("round {round}, window {size}: peak {} MB", peak(&server) / MEGABYTE);
        // Other callers have their own quota.
        let mut trudy = server.admin().await;
        let list =
            ListEventsRequest { tenant_id: "acme".to_owned(), page_size: 10, ..Default::default() };
        trudy.list_events(named(list, "trudy")).await.unwrap();
        drop(attackers);
    }
    println!("{} MB before; {} checks were answered", before / MEGABYTE, gateway.stop().await);
    assert!(peak(&server) - before < REPLICA * MEGABYTE / 4, "{before} B, {} B", peak(&server));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_checks_do_not_exhaust_the_memory_of_a_sidecar() {
    let (replica, _replica) = start(Launch::replica("memory:"), REPLICA);
    let (sidecar, _sidecar) = start(Launch::sidecar(&[replica.url()]), SIDECAR);
    sidecar.ready().await;
    let before = peak(&sidecar);
    let gateway = BackgroundClient::on(sidecar.connect().await);
    let channel = sidecar.connect().await;
    for (path, field) in [("BatchCheckAccess", [10, 0]), ("CheckAccess", [26, 0])] {
        let path = format!("/supportaccess.v1.SupportAccess/{path}");
        let message = raw::framed(&field.repeat(2_000_000));
        let calls = (0..20).map(|_| {
            raw::outcome(&channel, raw::request(&path, "mallory", raw::whole(message.clone())))
        });
        for status in join_all(calls).await {
            let code = status.expect("a status").code();
            assert!([Code::InvalidArgument, Code::ResourceExhausted].contains(&code), "{code:?}");
        }
    }
    println!("{} MB before; {} checks were answered", before / MEGABYTE, gateway.stop().await);
    assert!(peak(&sidecar) - before < SIDECAR * MEGABYTE / 4, "{before} B, {} B", peak(&sidecar));
}
