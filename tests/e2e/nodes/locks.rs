//! Locks at real nodes: enforcement, new and restarted nodes, lifting and expiry.

use std::time::{Duration, Instant};

use prost_types::Timestamp;
use support_access::api::proto::v1::{
    AgentKind, DecisionReason, EnforcementState, Lock, LockAccessRequest, LockAccessResponse,
    LockState, UnlockAccessRequest,
};

use crate::nodes::{
    fleet::{ENFORCEMENT_BOUND, Fleet, Node, grant_with_token, replica, sidecar},
    history::Verdict,
    postgres::Cluster,
    requests::grant_request,
    server::eventually,
};

const LOCKED: Verdict = Verdict::Denied(DecisionReason::Locked);

/// Starts two replicas, a sidecar for each, and a sidecar that follows a sidecar.
async fn start_fleet(cluster: &Cluster) -> (Fleet, String) {
    let url = cluster.fresh_database();
    let mut fleet = Fleet::replicas(&url, 2).await;
    let urls: Vec<String> =
        fleet.replicas.iter().map(|node| node.server.url().to_owned()).collect();
    let launches = vec![
        sidecar(&[&urls[0]], 0).on_socket(&fleet.socket("sidecar-0")),
        sidecar(&[&urls[1]], 1),
    ];
    fleet.add_sidecars(launches).await;
    let upstream = fleet.sidecars[0].server.url().to_owned();
    fleet.add_sidecar(&[&upstream]).await;
    fleet.serving().await;
    (fleet, url)
}

pub async fn lock(fleet: &Fleet, by: usize, request: LockAccessRequest) -> LockAccessResponse {
    let request = LockAccessRequest { reason: "incident".into(), ..request };
    let started = Instant::now();
    let response = fleet.admin(by).lock_access(request).await.unwrap().into_inner();
    let enforcement = response.enforcement.clone().unwrap();
    assert_eq!(enforcement.state(), EnforcementState::Complete, "{enforcement:?}");
    assert!(started.elapsed() <= ENFORCEMENT_BOUND, "{enforcement:?}");
    response
}

/// A lock on all access in all tenants.
pub fn everything() -> LockAccessRequest {
    LockAccessRequest { everything: true, ..Default::default() }
}

fn acme() -> LockAccessRequest {
    LockAccessRequest { tenant_id: Some("acme".into()), ..everything() }
}

fn ada() -> LockAccessRequest {
    LockAccessRequest { agent_id: "ada".into(), ..Default::default() }
}

pub async fn lift(fleet: &Fleet, by: usize, lock: &Lock) -> Lock {
    let request = UnlockAccessRequest {
        tenant_id: lock.tenant_id.clone(),
        lock_id: lock.lock_id.clone(),
        reason: "resolved".into(),
        ..Default::default()
    };
    fleet.admin(by).unlock_access(request).await.unwrap().into_inner().lock.unwrap()
}

/// Asserts that a node denies access from now on, and waits until the reason is `LOCKED`. Until
/// then, the node may answer `STALE`.
async fn assert_locked(fleet: &Fleet, node: &Node, token: &str) {
    eventually("the node answers LOCKED", async || {
        let verdict = fleet.check(node, "acme", token).await;
        assert!(matches!(verdict, Verdict::Stale | LOCKED), "{}: {verdict:?}", node.server.name);
        verdict == LOCKED
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_enforced_on_every_node_until_lifted() {
    let cluster = Cluster::launch();
    let (fleet, _url) = start_fleet(&cluster).await;
    let grant = fleet.grant_everywhere(0, "acme").await;
    let targets = [
        acme(),
        LockAccessRequest { tenant_id: Some("acme".into()), ..ada() },
        ada(),
        LockAccessRequest { group_id: "support".into(), ..Default::default() },
        LockAccessRequest { agent_kind: AgentKind::Human.into(), ..Default::default() },
        everything(),
    ];
    for (round, target) in targets.into_iter().enumerate() {
        let response = lock(&fleet, round % 2, target).await;
        let enforcement = response.enforcement.clone().unwrap();
        assert_eq!((enforcement.nodes_acknowledged, enforcement.nodes_lapsed), (fleet.count(), 0));
        for node in fleet.nodes() {
            assert_locked(&fleet, node, "").await;
        }
        // A later grant does not override the lock.
        let (later, token) =
            grant_with_token(&mut fleet.admin(1), grant_request("acme")).await.unwrap();
        for node in fleet.nodes() {
            assert_locked(&fleet, node, &token).await;
        }
        fleet.revoke(0, &later).await.unwrap();
        let lifted = lift(&fleet, (round + 1) % 2, &response.lock.unwrap()).await;
        assert_eq!(lifted.state(), LockState::Lifted);
        for node in fleet.nodes() {
            fleet.wait_until_allowed(node, &grant).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_sidecar_applies_locks_set_during_the_pause() {
    let cluster = Cluster::launch();
    let (fleet, _url) = start_fleet(&cluster).await;
    fleet.grant_everywhere(0, "acme").await;
    let paused: &Node = &fleet.sidecars[1];
    paused.server.pause();
    let response = lock(&fleet, 0, acme()).await;
    let enforcement = response.enforcement.unwrap();
    assert!(enforcement.nodes_lapsed > 0, "the paused node's lease must expire: {enforcement:?}");
    paused.server.resume();
    assert_locked(&fleet, paused, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_and_restarted_nodes_apply_existing_locks() {
    let cluster = Cluster::launch();
    let (mut fleet, url) = start_fleet(&cluster).await;
    let grant = fleet.grant_everywhere(0, "acme").await;
    let response = lock(&fleet, 1, ada()).await;

    // A new sidecar receives the locks in its snapshot.
    let urls: Vec<String> =
        fleet.replicas.iter().map(|node| node.server.url().to_owned()).collect();
    fleet.add_sidecar(&[&urls[0]]).await;
    let number = fleet.sidecars.len() - 1;
    assert_locked(&fleet, &fleet.sidecars[number], "").await;

    // A new replica loads the locks from the database.
    fleet.replicas[0].server.kill();
    fleet.add_replicas(vec![replica(&url, 2)]).await;
    fleet.replicas[2].server.serving().await;
    assert_locked(&fleet, &fleet.replicas[2], "").await;
    let lifted = lift(&fleet, 2, &response.lock.unwrap()).await;
    assert_eq!(lifted.unlocker, "anonymous");
    for node in fleet.sidecars[1..2].iter().chain(&fleet.replicas[1..]) {
        fleet.wait_until_allowed(node, &grant).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_expire_on_every_node_and_never_early() {
    let cluster = Cluster::launch();
    let (fleet, _url) = start_fleet(&cluster).await;
    let grant = fleet.grant_everywhere(0, "acme").await;
    let span = prost_types::Duration { seconds: 1, nanos: 500_000_000 };
    let target = LockAccessRequest { duration: Some(span), ..acme() };
    let set = lock(&fleet, 0, target).await.lock.unwrap();
    let Timestamp { seconds, nanos } = set.expire_time.unwrap();
    let end = Duration::new(seconds.unsigned_abs(), nanos.unsigned_abs());
    eventually("the lock has expired on every node", async || {
        let mut has_expired = true;
        for node in fleet.nodes() {
            let is_allowed = fleet.check(node, "acme", "").await.is_allowed_by(&grant);
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            assert!(
                now >= end || !is_allowed,
                "{} at {now:?}, before the lock expired at {end:?}",
                node.server.name
            );
            has_expired &= is_allowed;
        }
        has_expired
    })
    .await;
    // The expiry is recorded once, and lifting the lock has no further effect.
    let expired = lift(&fleet, 1, &set).await;
    assert_eq!((expired.state(), expired.unlocker.as_str()), (LockState::Expired, ""));
}
