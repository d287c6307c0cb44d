//! Upstreams that try to exhaust the memory of a sidecar, or to keep it from another upstream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use support_access::api::proto::{
    replication::v1::{
        FollowRequest, FollowResponse, LogPosition, ReplicatedGrant, ReplicatedLock,
        follow_request::Message as Request,
        follow_response::{
            Change, Changes, Lease, Message, Pong, SnapshotBegin, SnapshotEnd, SnapshotGrants,
            SnapshotLocks, Welcome,
        },
        replicated_lock::Target as LockTarget,
        replication_server::{Replication, ReplicationServer},
    },
    v1::{AccessLevel, Party},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, Status, Streaming, async_trait, transport::Server};

use super::{
    super::{
        BackgroundClient, MEGABYTE,
        frames::{
            Attacker, CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, SETTINGS, frame,
            header, message,
        },
    },
    REPLICA, SENDING, SIDECAR, Target,
};
use crate::server::{
    harness::{TIMEOUT, eventually, get, loopback},
    process::Launch,
    proxy::{self, Proxy},
};

/// Streams of each attack in a row, so that the second one may resume.
const STREAMS: usize = 2;
/// Grants, locks or changes in a message.
const BATCH: u64 = 400;
/// Messages of a snapshot that fits into the memory of a sidecar.
const SNAPSHOT: u64 = 250;
/// Pause between the parts of an attack that is slow.
const SLOWLY: Duration = Duration::from_millis(50);
/// How long a slow attack continues: longer than every timeout of a follower.
const LONG: Duration = Duration::from_secs(20);

// === messages ===

/// The state of a stream before a message.
struct Context {
    /// The number of the message.
    number: u64,
    /// The revision from which the sidecar resumes.
    resumed: Option<i64>,
    /// The last ping of the sidecar.
    ping: i64,
}

/// A name, a pause before each message, and the messages. `None` ends the stream.
type MessageAttack = (&'static str, Duration, fn(&Context) -> Option<Message>);

const MESSAGE_ATTACKS: [MessageAttack; 9] = [
    ("tenants", Duration::ZERO, |it| Some(endless(it, |number| in_tenant(number, vec![])))),
    ("named agents", Duration::ZERO, |it| {
        Some(endless(it, |number| in_tenant(0, vec![format!("{number:x}")])))
    }),
    ("many agents", Duration::ZERO, |it| {
        Some(endless(it, |_| in_tenant(0, (0..25).map(|agent| format!("{agent:x}")).collect())))
    }),
    ("groups", Duration::ZERO, |it| {
        Some(endless(it, |number| in_group(in_tenant(0, vec![]), number)))
    }),
    ("locks", Duration::ZERO, |it| Some(part(it, locks))),
    ("changes", Duration::ZERO, |it| Some(changes(it))),
    ("snapshots and leases", Duration::ZERO, snapshot_and_lease),
    ("empty changes", SLOWLY, |_| Some(Message::Changes(Changes::default()))),
    ("empty snapshots", SLOWLY, |it| Some(part(it, |_| grants(0, 0, |_| unreachable!())))),
];

fn in_tenant(number: u64, agent_ids: Vec<String>) -> ReplicatedGrant {
    ReplicatedGrant {
        tenant_id: format!("{number:x}"),
        grant_id: vec![7; 16],
        agent_ids,
        access_level: AccessLevel::Admin.into(),
        ..ReplicatedGrant::default()
    }
}

/// The grant to another group of the message.
fn in_group(grant: ReplicatedGrant, number: u64) -> ReplicatedGrant {
    ReplicatedGrant { group_index: u32::try_from(number % BATCH).unwrap(), ..grant }
}

fn grants(first: u64, count: u64, grant: fn(u64) -> ReplicatedGrant) -> Message {
    Message::SnapshotGrants(SnapshotGrants {
        group_ids: (first..first + BATCH).map(|number| format!("{number:x}")).collect(),
        grants: (first..first + count).map(grant).collect(),
    })
}

fn locks(first: u64) -> Message {
    let lock = |number: u64| ReplicatedLock {
        lock_id: number.to_be_bytes().repeat(2),
        tenant_id: Some(format!("{number:x}")),
        target: Some(LockTarget::Everything(true)),
        party: Party::Vendor.into(),
        ..ReplicatedLock::default()
    };
    Message::SnapshotLocks(SnapshotLocks { locks: (first..first + BATCH).map(lock).collect() })
}

/// The next of these parts of a snapshot without an end.
fn part(context: &Context, part: fn(u64) -> Message) -> Message {
    match context.number {
        0 => Message::SnapshotBegin(SnapshotBegin {}),
        number => part((number - 1) * BATCH),
    }
}

fn endless(context: &Context, grant: fn(u64) -> ReplicatedGrant) -> Message {
    match context.number {
        0 => Message::SnapshotBegin(SnapshotBegin {}),
        number => grants((number - 1) * BATCH, BATCH, grant),
    }
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

fn end() -> Message {
    let position = LogPosition { epoch: vec![1; 16], revision: 1, time_us: Some(now_us()) };
    let end =
        SnapshotEnd { position: Some(position), token_key: vec![2; 16], ..Default::default() };
    Message::SnapshotEnd(end)
}

/// An empty snapshot unless the sidecar resumes, and then endless changes.
fn changes(context: &Context) -> Message {
    let before = match (context.resumed, context.number) {
        (None, 0) => return Message::SnapshotBegin(SnapshotBegin {}),
        (None, 1) => return end(),
        (None, number) => 1 + (number - 2) * BATCH,
        (Some(revision), number) => u64::try_from(revision).unwrap() + number * BATCH,
    };
    let change = |number: u64| Change {
        revision: i64::try_from(before + number).unwrap(),
        time_us: now_us(),
        grant: Some(in_tenant(before + number, vec![])),
        lock: None,
    };
    let changes = (1..=BATCH).map(change).collect();
    Message::Changes(Changes { group_ids: vec!["support".to_owned()], changes })
}

/// A whole snapshot with a long lease. The next stream replaces the snapshot.
fn snapshot_and_lease(context: &Context) -> Option<Message> {
    Some(match context.number {
        0..SNAPSHOT => endless(context, |number| in_tenant(number, vec![])),
        SNAPSHOT => end(),
        number if number > SNAPSHOT + 10 => return None,
        _ => Message::Pong(Pong {
            sequence: context.ping,
            path: vec![vec![3; 16]],
            lease: Some(Lease {
                revision: 1,
                age: Some(prost_types::Duration::default()),
                max_staleness: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
                latest_time_us: now_us(),
                earliest_time_us: now_us(),
                clock_trusted: true,
            }),
        }),
    })
}

/// A replica that attacks its followers with messages.
#[derive(Clone, Default)]
struct MessageAttacker {
    /// The number of streams so far.
    streams: Arc<AtomicUsize>,
}

#[async_trait]
impl Replication for MessageAttacker {
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    async fn follow(
        &self,
        request: tonic::Request<Streaming<FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let stream = self.streams.fetch_add(1, Ordering::SeqCst);
        let (name, pause, attack) = MESSAGE_ATTACKS[stream / STREAMS % MESSAGE_ATTACKS.len()];
        let mut requests = request.into_inner();
        let messages = stream::once(async move {
            // The follower sends a hello once the stream is open.
            let hello = requests.message().await.unwrap().unwrap().message;
            let Some(Request::Hello(hello)) = hello else { panic!("{hello:?}") };
            let resumed = hello.position.map(|position| position.revision);
            println!("attack with messages: {name}, resumed at {resumed:?}");
            let ping = Arc::<AtomicI64>::default();
            tokio::spawn(note_pings(requests, Arc::clone(&ping)));
            stream::unfold(0, move |number| {
                let ping = ping.load(Ordering::SeqCst);
                async move {
                    sleep(pause).await; // a slow attack
                    Some((attack(&Context { number, resumed, ping })?, number + 1))
                }
            })
        });
        let (node_id, version) = (vec![3; 16], "9.9".to_owned());
        let welcome = Message::Welcome(Welcome { protocol_version: 1, node_id, version });
        let messages = stream::iter([welcome]).chain(messages.flatten());
        let response = |message| Ok(FollowResponse { message: Some(message) });
        Ok(Response::new(messages.map(response).boxed()))
    }
}

/// Stores the last ping of a follower.
async fn note_pings(mut requests: Streaming<FollowRequest>, last: Arc<AtomicI64>) {
    while let Ok(Some(request)) = requests.message().await {
        if let Some(Request::Ping(ping)) = request.message {
            last.store(ping.sequence, Ordering::SeqCst);
        }
    }
}

// === frames ===

/// A name, a pause before each send, and the bytes of each send after the head of a response.
type FrameAttack = (&'static str, Duration, fn(u32) -> Vec<u8>);

const FRAME_ATTACKS: [FrameAttack; 12] = [
    ("silence", SLOWLY, |_| vec![]),
    ("informational responses", Duration::ZERO, |_| {
        frame(HEADERS, END_HEADERS, 1, b"\x08\x03100").repeat(1_000)
    }),
    ("informational responses with fields", Duration::ZERO, |_| {
        frame(HEADERS, END_HEADERS, 1, &[b"\x08\x03100".to_vec(), fields(400)].concat())
    }),
    ("headers without an end", Duration::ZERO, |number| match number {
        0 => frame(HEADERS, 0, 1, &head()),
        _ => frame(CONTINUATION, 0, 1, &fields(1_000)),
    }),
    ("a response with many fields", SLOWLY, |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &[head(), fields(400)].concat()),
        _ => vec![],
    }),
    ("a message of 4 GiB", Duration::ZERO, |number| match number {
        0 => [start(), data(&message(u32::MAX as usize, &[]))].concat(),
        _ => data(&[0; 16_000]),
    }),
    ("messages without an end", Duration::ZERO, |number| match number {
        0 => [start(), data(&message(128 * 1_024, &[]))].concat(),
        _ => data(&[0]).repeat(1_000),
    }),
    ("a message, byte by byte", SLOWLY, |number| match number {
        0 => [start(), data(&message(128 * 1_024, &[]))].concat(),
        _ => data(&[0]),
    }),
    ("empty frames", Duration::ZERO, |number| match number {
        0 => start(),
        _ => data(&[]).repeat(1_000),
    }),
    ("trailers", Duration::ZERO, |number| match number {
        0 => start(),
        _ => frame(HEADERS, END_HEADERS, 1, &fields(400)),
    }),
    ("pings", Duration::ZERO, |_| frame(PING, 0, 0, &[0; 8]).repeat(1_000)),
    ("settings", Duration::ZERO, |_| frame(SETTINGS, 0, 0, &[]).repeat(1_000)),
];

fn head() -> Vec<u8> {
    let mut block = Vec::new();
    header(&mut block, ":status", "200");
    header(&mut block, "content-type", "application/grpc");
    block
}

fn fields(count: usize) -> Vec<u8> {
    let mut block = Vec::new();
    (0..count).for_each(|_| header(&mut block, "a", ""));
    block
}

fn start() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &head())
}

fn data(bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, 1, bytes)
}

/// Attacks a follower that has connected, until the follower disconnects.
async fn attack_with_frames(mut stream: TcpStream, (name, pause, bytes): FrameAttack) {
    println!("attack with frames: {name}");
    if stream.read_exact(&mut [0; PREFACE.len()]).await.is_err() {
        return;
    }
    let mut attacker = Attacker::on(stream);
    if attacker.send(&frame(SETTINGS, 0, 0, &[])).await.is_err() {
        return;
    }
    attacker.until(TIMEOUT, |frame| frame.kind == HEADERS).await;
    let deadline = Instant::now() + if pause.is_zero() { SENDING } else { LONG };
    for number in 0.. {
        sleep(pause).await; // a slow attack
        if attacker.send_until(&bytes(number), deadline).await.is_err() || Instant::now() > deadline
        {
            return;
        }
    }
}

// === the sidecar ===

/// Whether the sidecar has no lease.
async fn is_stale(target: &Target) -> bool {
    get(target.server.http, "/readyz").await.0 == 503
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_upstreams_do_not_exhaust_the_memory_of_a_sidecar() {
    let replica = Target::start(Launch::replica("memory:"), REPLICA);
    let honest = Proxy::start(proxy::Target::Tcp(replica.server.address())).await;
    honest.cut();

    let messages = MessageAttacker::default();
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let first = format!("http://{}", listener.local_addr().unwrap());
    let service = Server::builder().add_service(ReplicationServer::new(messages.clone()));
    tokio::spawn(service.serve_with_incoming(TcpListenerStream::new(listener)));

    let listener = TcpListener::bind(loopback()).await.unwrap();
    let second = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            let attack = FRAME_ATTACKS[number % FRAME_ATTACKS.len()];
            tokio::spawn(attack_with_frames(stream, attack));
        }
    });

    let sidecar = Target::start(Launch::sidecar(&[&first, &second, &honest.url()]), SIDECAR);
    let gateway = BackgroundClient::on(sidecar.server.connect().await);
    let attacks = STREAMS * MESSAGE_ATTACKS.len();
    for number in 1..=attacks {
        eventually(async || messages.streams.load(Ordering::SeqCst) > number).await;
        sidecar.report(&format!("{number} attacks with messages"));
    }
    eventually(async || connections.load(Ordering::SeqCst) > FRAME_ATTACKS.len()).await;
    assert!(is_stale(&sidecar).await);
    honest.heal();
    sidecar.server.ready().await;
    println!("meanwhile {} checks were answered", gateway.stop().await);
    // The allocator keeps what earlier snapshots took. No caller attacks at the same time.
    let peak = sidecar.peak();
    assert!(peak < SIDECAR * MEGABYTE, "{peak} B");
}
