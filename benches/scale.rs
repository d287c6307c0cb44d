//! What many grants and many sidecars cost: a sidecar that joins a server with a million live grants, and a server with a
//! thousand followers. Not a loop of criterion's: each takes seconds, and what counts are time, bytes and processor time.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::unchecked_time_subtraction,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use support_access::{
    api::{
        grpc::upstream::GrpcUpstream,
        proto::v1::{
            AccessLevel as Level, GrantAccessRequest, RevokeAccessRequest,
            grant_access_request::End, support_access_admin_client::SupportAccessAdminClient,
        },
    },
    domain::{
        AccessLevel, EventKind, Grant, GrantId, GroupId, NodeId, NodeKind, Note, TenantId, Terms,
        Ticket, clock::SystemClock, text::Actor,
    },
    node::{CheckNode, following},
    store::{self, Entry},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use uuid::Uuid;

const LIVE_GRANTS: usize = 1_000_000;
const GRANTS_PER_TENANT: usize = 10;
const FOLLOWERS: usize = 1_000;
const IDLE: Duration = Duration::from_secs(10);
const REVOCATIONS: u32 = 50;

/// A process of ours, and where it listens.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_support-access"))
            .args(args)
            .args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(["--log-format", "json", "--log", "info,support_access::rpc=off"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines
            .find_map(|line| {
                let line: Value = serde_json::from_str(&line).ok()?;
                Some(format!("http://{}", line["grpc"].as_str()?))
            })
            .unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    /// Memory that is its own, in bytes.
    fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
    }

    /// Processor time used so far.
    fn used(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn fill(database_url: &str) {
    let store = store::open(database_url, Arc::new(SystemClock)).await.unwrap();
    let mut change = store.begin().await.unwrap();
    let (actor, now) = (Actor::new("admin").unwrap(), change.now());
    for number in 0..LIVE_GRANTS {
        let tenant = format!("tenant-{:06}", number / GRANTS_PER_TENANT);
        let tenant_id = TenantId::new(&tenant).unwrap();
        let terms = Terms {
            grant_id: GrantId(Uuid::now_v7()),
            group_id: GroupId::new(&format!("group-{}", number % 5)).unwrap(),
            agent_ids: BTreeSet::new(),
            access_level: AccessLevel::ReadWrite,
            start_time: now,
            expire_time: Some(now + Duration::from_hours(24)),
            revoke_time: None,
        };
        let grant = Grant {
            tenant_id: tenant_id.clone(),
            terms,
            reason: Note::default(),
            ticket: Ticket::default(),
            create_time: now,
            creator: actor.clone(),
            revocation: None,
            create_revision: 0,
            revision: 0,
        };
        let (kind, actor) = (EventKind::Granted { grant }, actor.clone());
        let entry = Entry { tenant_id, actor, reason: Note::default(), kind, request: None };
        change.append(entry).await.unwrap();
    }
    change.commit().await.unwrap();
    store.close().await;
}

/// A follower in this process, which begins with nothing.
fn follow(url: &str) -> Arc<CheckNode> {
    let id = NodeId(Uuid::new_v4());
    let node = CheckNode::new(id, NodeKind::Sidecar, Arc::new(SystemClock));
    let upstream = Arc::new(GrpcUpstream::new(url).unwrap());
    let following = following::run(node.clone(), vec![upstream], CancellationToken::new());
    tokio::spawn(async move { following.await.unwrap() });
    node
}

async fn until_fresh(node: &CheckNode) {
    while !node.sight().is_fresh() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A sidecar that joins a server with a million live grants.
async fn joining(url: &str) {
    let server = Process::start(&["serve", "--database-url", url]);
    println!(
        "a server with {LIVE_GRANTS} live grants takes {} bytes a grant",
        server.resident() / LIVE_GRANTS
    );
    for round in 1..=5 {
        let began = Instant::now();
        let node = follow(&server.url);
        until_fresh(&node).await;
        let estimate = node.gauges().snapshot_bytes as usize / LIVE_GRANTS;
        println!(
            "round {round}: a follower was ready after {:?} ({estimate} bytes a grant by its own estimate)",
            began.elapsed()
        );
    }
    let empty = Process::start(&["sidecar", "--upstream", "http://127.0.0.1:1"]);
    let sidecar = Process::start(&["sidecar", "--upstream", &server.url]);
    let channel = Endpoint::from_shared(sidecar.url.clone()).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let serving = i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving as u8);
    while health
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner()
        .status
        != serving
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let bytes = sidecar.resident() - empty.resident();
    println!(
        "a sidecar process takes {} bytes a grant, beyond what an empty one takes",
        bytes / LIVE_GRANTS
    );
}

/// A server with a thousand followers.
async fn feeding(url: &str) {
    let server = Process::start(&["serve", "--database-url", url]);
    let (before, memory) = (server.used(), server.resident());
    tokio::time::sleep(IDLE).await;
    let alone = server.used() - before;
    println!("alone, a server uses {:.2} % of a core", percent(alone, IDLE));

    let followers: Vec<_> = (0..FOLLOWERS).map(|_| follow(&server.url)).collect();
    for follower in &followers {
        until_fresh(follower).await;
    }
    let before = server.used();
    tokio::time::sleep(IDLE).await;
    let idle = server.used() - before;
    println!("with {FOLLOWERS} idle followers, {:.2} % of a core", percent(idle, IDLE));
    println!("and {} bytes a follower", server.resident().saturating_sub(memory) / FOLLOWERS);

    let mut admin = SupportAccessAdminClient::connect(server.url.clone()).await.unwrap();
    let mut elapsed = Vec::new();
    let (mut used, mut nodes) = (Duration::ZERO, 0);
    for _ in 0..REVOCATIONS {
        let request = GrantAccessRequest {
            tenant_id: "acme".into(),
            group_id: "support".into(),
            access_level: Level::ReadOnly.into(),
            end: Some(End::UntilRevoked(true)),
            ..GrantAccessRequest::default()
        };
        let grant = admin.grant_access(request).await.unwrap().into_inner().grant.unwrap();
        let last = followers.last().unwrap();
        while last.revision() < grant.revision {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = server.used();
        let request = RevokeAccessRequest {
            tenant_id: "acme".into(),
            grant_id: grant.grant_id,
            ..RevokeAccessRequest::default()
        };
        let revoked = admin.revoke_access(request).await.unwrap().into_inner();
        let enforcement = revoked.enforcement.unwrap();
        elapsed.push(Duration::try_from(enforcement.elapsed.unwrap()).unwrap());
        nodes = enforcement.nodes_acknowledged;
        used += server.used() - before;
    }
    elapsed.sort_unstable();
    println!(
        "{REVOCATIONS} revocations at {nodes} nodes: p50 {:?}, worst {:?}; {:?} of processor time each at the server",
        elapsed[elapsed.len() / 2],
        elapsed.last().unwrap(),
        used / REVOCATIONS
    );
}

fn percent(used: Duration, of: Duration) -> f64 {
    100.0 * used.as_secs_f64() / of.as_secs_f64()
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    feeding(&url("small.db")).await;
    fill(&url("large.db")).await;
    joining(&url("large.db")).await;
}
