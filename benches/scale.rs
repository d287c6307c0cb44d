//! The cost of many grants and many sidecars.
//!
//! Measures a sidecar that joins a server with a million live grants, and a server with a thousand
//! followers. Each measurement takes seconds and covers time, memory and processor time, so it does
//! not use criterion.

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

#[path = "../tests/common/grants.rs"]
mod grants;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use grants::new_grant;
use serde_json::Value;
use support_access::{
    api::{
        credentials::ClientCredentials,
        grpc::upstream::GrpcUpstream,
        proto::{
            replication::v1::{
                FollowRequest, FollowResponse,
                follow_request::{Hello, Message, Ping},
                follow_response::Message as ResponseMessage,
                replication_client::ReplicationClient,
            },
            v1::{
                AccessLevel as Level, GrantAccessRequest, NamedAgents, RevokeAccessRequest,
                support_access_admin_client::SupportAccessAdminClient,
            },
        },
    },
    domain::{NodeId, NodeKind},
    node::{CheckNode, upstreams},
    server::SystemClock,
    store,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use uuid::Uuid;

const LIVE_GRANTS: usize = 1_000_000;
const GRANTS_PER_TENANT: usize = 10;
const FOLLOWERS: usize = 1_000;
const IDLE: Duration = Duration::from_secs(10);
const REVOCATIONS: u32 = 50;
const STALLED: usize = 100;
const CHURN: usize = 2_000;

/// A server process and its gRPC URL.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_support-access"))
            .args(args)
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .args(["--web-listen", "off"])
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

    /// Returns the resident memory in bytes.
    fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
    }

    /// Returns the processor time used so far.
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
    let store = store::open(database_url, Arc::new(SystemClock), None).await.unwrap();
    let mut change = store.begin().await.unwrap();
    let now = change.now();
    for number in 0..LIVE_GRANTS {
        let tenant = format!("tenant-{:06}", number / GRANTS_PER_TENANT);
        let group = format!("group-{}", number % 5);
        let end = now + Duration::from_hours(24);
        change.append(new_grant(&tenant, &group, now, Some(end))).await.unwrap();
    }
    change.commit().await.unwrap();
    store.close().await;
}

/// Starts a follower without a snapshot in this process.
fn follow(url: &str) -> Arc<CheckNode> {
    let id = NodeId(Uuid::new_v4());
    let node = CheckNode::new(id, NodeKind::Sidecar, Arc::new(SystemClock));
    let upstream = Arc::new(GrpcUpstream::new(url, &ClientCredentials::default()).unwrap());
    let following = upstreams::run(node.clone(), vec![upstream], CancellationToken::new());
    tokio::spawn(async move { following.await.unwrap() });
    node
}

async fn until_fresh(node: &CheckNode) {
    while !node.read_view().is_fresh() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Measures a sidecar that joins a server with a million live grants.
async fn measure_join(url: &str) {
    let server = Process::start(&["serve", "--database-url", url]);
    println!(
        "a server with {LIVE_GRANTS} live grants takes {} bytes a grant",
        server.resident() / LIVE_GRANTS
    );
    for round in 1..=5 {
        let started = Instant::now();
        let node = follow(&server.url);
        until_fresh(&node).await;
        let estimate = node.gauges().snapshot_bytes as usize / LIVE_GRANTS;
        println!(
            "round {round}: a follower was ready after {:?} ({estimate} estimated bytes a grant)",
            started.elapsed()
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
        "a sidecar process takes {} bytes a grant, in addition to an empty process",
        bytes / LIVE_GRANTS
    );
}

/// Measures a server with a thousand followers.
async fn measure_followers(url: &str) {
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
        let last = followers.last().unwrap();
        let known = last.revision();
        let grant =
            admin.grant_access(for_support("acme")).await.unwrap().into_inner().grant.unwrap();
        while last.revision() <= known {
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
        "{REVOCATIONS} revocations at {nodes} nodes: p50 {:?}, max {:?}; {:?} of server \
         processor time each",
        elapsed[elapsed.len() / 2],
        elapsed.last().unwrap(),
        used / REVOCATIONS
    );
}

/// Measures a server whose followers stop reading, half of them during the snapshot. The server
/// makes far more changes than it buffers for a follower.
async fn measure_stalled_followers(url: &str) {
    let server = Process::start(&["serve", "--database-url", url]);
    let mut admin = SupportAccessAdminClient::connect(server.url.clone()).await.unwrap();
    let churn = async |admin: &mut SupportAccessAdminClient<Channel>| {
        for number in 0..CHURN {
            let agent_ids = (0..100).map(|agent| format!("{agent:03}-{number:060}")).collect();
            let named_agents = Some(NamedAgents { agent_ids });
            let request = GrantAccessRequest { named_agents, ..for_support("acme") };
            let grant = admin.grant_access(request).await.unwrap().into_inner().grant.unwrap();
            let (tenant_id, grant_id) = (grant.tenant_id, grant.grant_id);
            let request = RevokeAccessRequest { tenant_id, grant_id, ..Default::default() };
            // Stalled followers would delay the revocation until the deadline.
            let mut request = tonic::Request::new(request);
            request.set_timeout(Duration::from_millis(200));
            let _ = admin.revoke_access(request).await;
        }
    };
    for number in 0..5_000 {
        admin.grant_access(for_support(&format!("tenant-{number}"))).await.unwrap();
    }
    churn(&mut admin).await;
    let before = server.resident();
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        stalled.push(StalledFollower::start(&server.url, number % 2 == 0).await);
    }
    let joined = server.resident();
    churn(&mut admin).await;
    let after = server.resident();
    println!(
        "{STALLED} followers that stop reading: {} kB before, {} kB with the followers, \
         {} kB after {} changes of 8 kB",
        before / 1_024,
        joined / 1_024,
        after / 1_024,
        2 * CHURN
    );
    let mut reasons = std::collections::BTreeMap::new();
    for stalled in stalled {
        *reasons.entry(stalled.end().await).or_insert(0) += 1;
    }
    println!("the stalled streams ended with: {reasons:?}");
    let node = follow(&server.url);
    until_fresh(&node).await;
    println!("a new follower is at revision {}", node.revision());
}

/// A follower that requests a lease and stops reading, either during the snapshot or after it.
struct StalledFollower {
    _requests: mpsc::Sender<FollowRequest>,
    responses: Streaming<FollowResponse>,
}

impl StalledFollower {
    async fn start(url: &str, is_early: bool) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let node_id = Uuid::new_v4().as_bytes().to_vec();
        let hello = Hello { protocol_version: 1, node_id, ..Default::default() };
        for message in [Message::Hello(hello), Message::Ping(Ping { sequence: 1 })] {
            requests.send(FollowRequest { message: Some(message) }).await.unwrap();
        }
        let mut client = ReplicationClient::connect(url.to_owned()).await.unwrap();
        let mut responses =
            client.follow(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        while let Some(response) = responses.message().await.unwrap() {
            let is_snapshot_complete = matches!(response.message, Some(ResponseMessage::Pong(_)));
            if is_early || is_snapshot_complete {
                break;
            }
        }
        Self { _requests: requests, responses }
    }

    /// Reads until the stream ends, and returns the reason.
    async fn end(mut self) -> String {
        loop {
            match self.responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return "nothing".into(),
                Err(status) => {
                    let info = status.get_details_error_info().clone();
                    return info.map(|info| info.reason).unwrap_or_default();
                }
            }
        }
    }
}

fn for_support(tenant_id: &str) -> GrantAccessRequest {
    GrantAccessRequest {
        tenant_id: tenant_id.into(),
        group_id: "support".into(),
        access_level: Level::ReadOnly.into(),
        until_revoked: true,
        ..GrantAccessRequest::default()
    }
}

fn percent(used: Duration, of: Duration) -> f64 {
    100.0 * used.as_secs_f64() / of.as_secs_f64()
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite://{}", directory.path().join(name).display());
    measure_stalled_followers(&url("stalled.db")).await;
    measure_followers(&url("small.db")).await;
    fill(&url("large.db")).await;
    measure_join(&url("large.db")).await;
}
