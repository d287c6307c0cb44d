//! Resident memory of server processes under attack, with the limits of small containers.

mod errors;
mod lists;
mod metrics;
mod upstreams;
mod web;

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use prost::Message;
use support_access::{
    api::proto::{
        replication::v1::{
            FollowRequest,
            follow_request::{Hello, Message as ToUpstream},
        },
        v1::{GrantAccessRequest, ListEventsRequest},
    },
    server::SystemClock,
    store,
};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::Instant};
use tonic::Code;
use uuid::Uuid;

use super::{
    BackgroundClient, MEGABYTE,
    connections::{ATTACKER, connect_from},
    floods::stream,
    frames::{
        Attacker, BATCH, CHECK, DATA, END_HEADERS, END_STREAM, EXPLAIN, FOLLOW, GRANT, HEADERS,
        LIST_EVENTS, call, frame, header, message,
    },
    named, raw,
};
use crate::{
    common::grants::new_grant,
    server::{
        harness::{a_grant, eventually, get},
        process::{Launch, Server},
    },
};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The memory limits of the chart, in MiB.
const REPLICA: usize = 512;
const SIDECAR: usize = 256;
const TENANTS: usize = 10;
const GRANTS_PER_TENANT: usize = 10_000;
/// How long an attacker tries to send.
const SENDING: Duration = Duration::from_secs(2);

/// A server with a memory limit.
struct Target {
    server: Server,
    memory_mib: usize,
    _directory: TempDir,
}

impl Target {
    fn start(launch: Launch, memory_mib: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.toml");
        fs::write(&path, format!("[limits]\nmemory_mib = {memory_mib}\n")).unwrap();
        let flags = ["--config", path.to_str().unwrap()];
        let launch = launch.flags(&flags).flags(&["--log", "warn,support_access::server=info"]);
        Self { server: launch.start(), memory_mib, _directory: directory }
    }

    /// The highest resident memory since the start, in bytes.
    fn peak(&self) -> usize {
        self.status("VmHWM:")
    }

    /// The resident memory, in bytes.
    fn resident(&self) -> usize {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024
    }

    fn report(&self, attack: &str) {
        let Self { server, memory_mib, .. } = self;
        println!("{}, {memory_mib} MiB: {attack}: peak {} MB", server.name, self.peak() / MEGABYTE);
    }

    /// Half of the memory must suffice: real containers also hold the page cache of a database.
    fn assert_survived(&self) {
        let peak = self.peak();
        assert!(peak < self.memory_mib * MEGABYTE / 2, "{peak} B");
    }
}

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
fn window(size: u16) -> [u8; 6] {
    let [high, low] = size.to_be_bytes();
    [0, 4, 0, 0, high, low]
}

/// A connection from another address, with windows of `size`.
async fn attack_from_elsewhere(address: SocketAddr, size: u16) -> Attacker<TcpStream> {
    let mut attacker = Attacker::on(connect_from(ATTACKER, address).await);
    // Fails if the server has already closed the connection.
    let _ = attacker.start(&window(size)).await;
    attacker
}

/// Sends as many of `calls` as possible.
async fn send_all(
    mut attacker: Attacker<TcpStream>,
    calls: impl Iterator<Item = Vec<u8>>,
) -> Attacker<TcpStream> {
    let deadline = Instant::now() + SENDING;
    for call in calls {
        // Fails once the server has closed the connection, or stops reading.
        if attacker.send_until(&call, deadline).await.is_err() {
            break;
        }
    }
    attacker
}

// === unauthenticated peers ===

/// Health checks with `fields` additional header fields. Without `message`, each waits for one.
fn health_checks(
    count: u32,
    fields: usize,
    message: Option<&'static [u8]>,
) -> impl Iterator<Item = Vec<u8>> {
    let mut block = call(HEALTH, "mallory");
    for _ in 0..fields {
        header(&mut block, "a", "");
    }
    (0..count).map(move |number| {
        let open = frame(HEADERS, END_HEADERS, stream(number), &block);
        let rest = message.map(|message| frame(DATA, END_STREAM, stream(number), message));
        [open, rest.unwrap_or_default()].concat()
    })
}

/// Attacks with many connections, twice: freed memory must serve the second round.
async fn attack_without_credentials(target: &Target) {
    /// A gRPC message without fields.
    const EMPTY: &[u8] = &[0; 5];
    let gateway = BackgroundClient::on(target.server.connect().await);
    for round in 0..2 {
        for (connections, calls, fields, message, size) in [
            (13, 300, 420, None, 0),
            (256, 40, 80, None, 0),
            (256, 40, 0, Some(EMPTY), 0),
            (256, 40, 0, Some(EMPTY), 1),
        ] {
            let attacks = (0..connections).map(async |_| {
                let attacker = attack_from_elsewhere(target.server.address(), size).await;
                send_all(attacker, health_checks(calls, fields, message)).await
            });
            let attackers = join_all(attacks).await;
            target.report(&format!(
                "round {round}, {connections} connections, {calls} health checks of {fields} \
                fields, window {size}"
            ));
            drop(attackers);
        }
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_peers_do_not_exhaust_the_memory() {
    let replica = Target::start(Launch::replica("memory:"), REPLICA);
    let sidecar = Target::start(Launch::sidecar(&[replica.server.url()]), SIDECAR);
    sidecar.server.ready().await;
    attack_without_credentials(&sidecar).await;
    attack_without_credentials(&replica).await;
}

// === followers ===

/// Fills a database with live grants of several tenants, each with as many as possible.
async fn fill(path: &Path) {
    let url = format!("sqlite:{}", path.display());
    let store = store::open(&url, Arc::new(SystemClock), None).await.unwrap();
    let mut change = store.begin().await.unwrap();
    let now = change.now();
    for number in 0..TENANTS * GRANTS_PER_TENANT {
        let tenant = format!("tenant-{}", number % TENANTS);
        change.append(new_grant(&tenant, "support", now, None)).await.unwrap();
    }
    change.commit().await.unwrap();
    store.close().await;
}

/// Streams of new followers, each of which gets a snapshot.
fn follows(count: u32, caller: &str) -> impl Iterator<Item = Vec<u8>> {
    let open = call(FOLLOW, caller);
    (0..count).map(move |number| {
        let hello = Hello {
            protocol_version: 1,
            node_id: Uuid::new_v4().as_bytes().to_vec(),
            version: "9.9".to_owned(),
            position: None,
            lease_age: None,
        };
        let hello = FollowRequest { message: Some(ToUpstream::Hello(hello)) };
        let open = frame(HEADERS, END_HEADERS, stream(number), &open);
        let hello = frame(DATA, 0, stream(number), &raw::framed(&hello.encode_to_vec()));
        [open, hello].concat()
    })
}

async fn attack_with_followers(target: &Target) {
    const CONNECTIONS: usize = 12;
    const STREAMS: u32 = 40;
    let gateway = BackgroundClient::on(target.server.connect().await);
    for (round, size) in [0, 1, 65_535, 0, 1, 65_535].into_iter().enumerate() {
        let attacks = (0..CONNECTIONS).map(async |number| {
            let caller = if number % 2 == 0 { "mallory" } else { "trudy" };
            let attacker = attack_from_elsewhere(target.server.address(), size).await;
            send_all(attacker, follows(STREAMS, caller)).await
        });
        let attackers = join_all(attacks).await;
        eventually(async || followers(target).await > 100).await;
        let followers = followers(target).await;
        target.report(&format!("round {round}, {followers} followers, window {size}"));
        drop(attackers);
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}

async fn followers(target: &Target) -> usize {
    let metrics = get(target.server.http, "/metrics").await.2;
    let count = |line: &str| line.strip_prefix("support_access_followers ")?.parse().ok();
    metrics.lines().find_map(count).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_read_no_snapshot_do_not_exhaust_the_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.db");
    fill(&path).await;
    let replica = Target::start(Launch::replica(&format!("sqlite:{}", path.display())), REPLICA);
    let sidecar = Target::start(Launch::sidecar(&[replica.server.url()]), SIDECAR);
    sidecar.server.ready().await;
    for target in [&sidecar, &replica] {
        target.report("100,000 grants");
        attack_with_followers(target).await;
    }
}

// === callers ===

/// The number of calls of a method in progress.
async fn calls_in_progress(target: &Target, path: &str) -> usize {
    let metrics = get(target.server.http, "/metrics").await.2;
    let (service, method) = path[1..].split_once('/').unwrap();
    let in_flight =
        format!("support_access_rpcs_in_flight{{service=\"{service}\",method=\"{method}\"}} ");
    let count = |line: &str| line.strip_prefix(&*in_flight)?.parse().ok();
    metrics.lines().find_map(count).unwrap_or(0)
}

/// The resident memory of each call of a method that waits for the rest of its message, in bytes.
/// Each call has a header of `length` bytes that the server does not read.
async fn memory_of_waiting_calls(path: &str, length: usize) -> usize {
    /// Each of another caller: together, these have most of the places of the server.
    const CONNECTIONS: usize = 9;
    const STREAMS: u32 = 64;
    let target = Target::start(Launch::replica("memory:"), REPLICA);
    let before = target.resident();
    let attacks = (0..CONNECTIONS).map(async |number| {
        let mut open = call(path, &format!("mallory-{number}"));
        header(&mut open, "cookie", &"a".repeat(length));
        // All of these fit into the window of the connection.
        let part = message(300_000, &[0; 900]);
        let calls = (0..STREAMS).map(|number| {
            let open = frame(HEADERS, END_HEADERS, stream(number), &open);
            [open, frame(DATA, 0, stream(number), &part)].concat()
        });
        send_all(Attacker::connect(target.server.address()).await.unwrap(), calls).await
    });
    let _attackers = join_all(attacks).await;
    let calls = CONNECTIONS * STREAMS as usize;
    eventually(async || calls_in_progress(&target, path).await == calls).await;
    (target.resident() - before) / calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_takes_no_more_memory_than_is_reserved() {
    /// `CALL` in `src/server/memory.rs`, without what this test does not send: 5 KiB of headers
    /// that are kept, 4 KiB of a message that are not counted, and 4 KiB for its fields.
    const RESERVED: usize = (48 - 13) * 1_024;
    for path in [CHECK, BATCH, EXPLAIN, GRANT] {
        let per_call = memory_of_waiting_calls(path, 8_000).await;
        assert!(per_call <= RESERVED, "{path}: {per_call} B");
        // The allocator keeps the memory of one freed copy. A call that holds a copy takes another.
        let without = memory_of_waiting_calls(path, 0).await;
        assert!(per_call < without + 12_000, "{path}: {without} B without the header");
    }
}

/// Opens a connection with a window of `size`, and makes `count` calls.
async fn request_all(
    address: SocketAddr,
    size: u16,
    count: u32,
    path: &str,
    message: &[u8],
) -> Attacker<TcpStream> {
    let mut attacker = Attacker::silent(address).await.unwrap();
    attacker.start(&window(size)).await.unwrap();
    for number in 0..count {
        let open = frame(HEADERS, END_HEADERS, stream(number), &call(path, "mallory"));
        let rest = frame(DATA, END_STREAM, stream(number), message);
        attacker.send(&[open, rest].concat()).await.unwrap();
    }
    attacker
}

/// The number of calls that the server has rejected.
async fn rejections(target: &Target, method: &str) -> usize {
    let metrics = get(target.server.http, "/metrics").await.2;
    let exhausted = format!("method=\"{method}\",code=\"RESOURCE_EXHAUSTED\"}} ");
    let count = metrics.lines().find_map(|line| line.split_once(&exhausted)?.1.parse().ok());
    count.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_do_not_exhaust_the_memory_of_a_replica() {
    const CONNECTIONS: usize = 4;
    const LISTS: u32 = 20;
    /// The number of lists of 2.4 MB that cannot fit.
    const REJECTED: usize = 60;
    let launch = Launch::replica("memory:").flags(&["--max-live-grants-per-group", "600"]);
    let target = Target::start(launch, REPLICA);
    let mut admin = target.server.admin().await;
    for _ in 0..600 {
        let grant = GrantAccessRequest { reason: "\u{1F511}".repeat(1_000), ..a_grant() };
        admin.grant_access(grant).await.unwrap();
    }
    let list = ListEventsRequest {
        tenant_id: "acme".to_owned(),
        page_size: 1_000,
        ..ListEventsRequest::default()
    };
    let list = raw::framed(&list.encode_to_vec());
    let gateway = BackgroundClient::on(target.server.connect().await);
    for (round, size) in [0, 1, 0, 1].into_iter().enumerate() {
        let rejected = rejections(&target, "ListEvents").await;
        let attacks = (0..CONNECTIONS)
            .map(|_| request_all(target.server.address(), size, LISTS, LIST_EVENTS, &list));
        let attackers = join_all(attacks).await;
        eventually(async || rejections(&target, "ListEvents").await >= rejected + REJECTED).await;
        target.report(&format!("round {round}, lists of 2.4 MB, window {size}"));
        // Other callers have their own quota.
        let mut trudy = target.server.admin().await;
        let list =
            ListEventsRequest { tenant_id: "acme".to_owned(), page_size: 10, ..Default::default() };
        trudy.list_events(named(list, "trudy")).await.unwrap();
        drop(attackers);
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_checks_do_not_exhaust_the_memory_of_a_sidecar() {
    let replica = Target::start(Launch::replica("memory:"), REPLICA);
    let sidecar = Target::start(Launch::sidecar(&[replica.server.url()]), SIDECAR);
    sidecar.server.ready().await;
    let gateway = BackgroundClient::on(sidecar.server.connect().await);
    let channel = sidecar.server.connect().await;
    for (path, field) in [("BatchCheckAccess", [10, 0]), ("CheckAccess", [26, 0])] {
        let path = format!("/supportaccess.v1.SupportAccess/{path}");
        let message = raw::framed(&field.repeat(2_000_000));
        let calls = (0..8).map(|_| {
            raw::outcome(&channel, raw::request(&path, "mallory", raw::whole(message.clone())))
        });
        for status in join_all(calls).await {
            let code = status.expect("a status").code();
            // On a slow machine, the message does not arrive in time.
            let expected = [Code::InvalidArgument, Code::ResourceExhausted, Code::DeadlineExceeded];
            assert!(expected.contains(&code), "{code:?}");
        }
        sidecar.report(&path);
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    sidecar.assert_survived();
}
