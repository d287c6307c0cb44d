//! Locks, at real nodes: in force like a revocation, kept by whoever comes later, and over when they are over.

use std::time::{Duration, Instant};

use prost_types::Timestamp;
use support_access::api::proto::v1::{
    AgentKind, DecisionReason, EnforcementState, Lock, LockAccessRequest, LockAccessResponse,
    LockState, UnlockAccessRequest,
};

use crate::{
    fleet::{Fleet, IN_TIME, Node, grant_with_token, replica, request, sidecar},
    history::Verdict,
    postgres::Cluster,
    server::eventually,
};

const LOCKED: Verdict = Verdict::Denied(DecisionReason::Locked);

/// Two replicas, a sidecar of each, and one that follows a sidecar; somebody is let in.
async fn scene(cluster: &Cluster) -> (Fleet, String) {
    let url = cluster.fresh_database();
    let mut fleet = Fleet::replicas(&url, 2).await;
    let urls: Vec<String> = fleet.replicas.iter().map(|it| it.server.url().to_owned()).collect();
    let launches = vec![
        sidecar(&[&urls[0]], 0).on_socket(&fleet.socket("sidecar-0")),
        sidecar(&[&urls[1]], 1),
    ];
    fleet.add_sidecars(launches).await;
    let near = fleet.sidecars[0].server.url().to_owned();
    fleet.add_sidecar(&[&near]).await;
    fleet.serving().await;
    (fleet, url)
}

pub async fn lock(fleet: &Fleet, by: usize, request: LockAccessRequest) -> LockAccessResponse {
    let request = LockAccessRequest { reason: "why".into(), ..request };
    let began = Instant::now();
    let answer = fleet.admin(by).lock_access(request).await.unwrap().into_inner();
    let enforcement = answer.enforcement.clone().unwrap();
    assert_eq!(enforcement.state(), EnforcementState::Complete, "{enforcement:?}");
    assert!(began.elapsed() <= IN_TIME, "{enforcement:?}");
    answer
}

/// A lock on everything, in all tenants.
pub fn everything() -> LockAccessRequest {
    LockAccessRequest { everything: true, ..Default::default() }
}

fn acme() -> LockAccessRequest {
    LockAccessRequest { tenant_id: Some("acme".into()), ..everything() }
}

fn ada() -> LockAccessRequest {
    LockAccessRequest { agent_id: "ada".into(), ..Default::default() }
}

pub async fn unlock(fleet: &Fleet, by: usize, lock: &Lock) -> Lock {
    let request = UnlockAccessRequest {
        tenant_id: lock.tenant_id.clone(),
        lock_id: lock.lock_id.clone(),
        reason: "over".into(),
        ..Default::default()
    };
    fleet.admin(by).unlock_access(request).await.unwrap().into_inner().lock.unwrap()
}

/// A node, whatever revision it has, keeps the agent out from now on, and says why as soon as it can tell.
async fn is_locked(fleet: &Fleet, node: &Node, token: &str) {
    eventually("the node says that it is locked", async || {
        let verdict = fleet.ask(node, "acme", token).await;
        assert!(matches!(verdict, Verdict::Stale | LOCKED), "{}: {verdict:?}", node.server.name);
        verdict == LOCKED
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_in_force_at_every_node_and_lets_in_again_when_it_is_lifted() {
    let cluster = Cluster::begin();
    let (fleet, _url) = scene(&cluster).await;
    let grant = fleet.granted(0, "acme").await;
    let targets = [
        acme(),
        LockAccessRequest { tenant_id: Some("acme".into()), ..ada() },
        ada(),
        LockAccessRequest { group_id: "support".into(), ..Default::default() },
        LockAccessRequest { agent_kind: AgentKind::Human.into(), ..Default::default() },
        everything(),
    ];
    for (round, target) in targets.into_iter().enumerate() {
        let answer = lock(&fleet, round % 2, target).await;
        let enforcement = answer.enforcement.clone().unwrap();
        assert_eq!((enforcement.nodes_acknowledged, enforcement.nodes_lapsed), (fleet.count(), 0));
        for node in fleet.nodes() {
            is_locked(&fleet, node, "").await;
        }
        // It beats what is granted later, too.
        let (later, token) = grant_with_token(&mut fleet.admin(1), request("acme")).await.unwrap();
        for node in fleet.nodes() {
            is_locked(&fleet, node, &token).await;
        }
        fleet.revoke(0, &later).await.unwrap();
        let lifted = unlock(&fleet, (round + 1) % 2, &answer.lock.unwrap()).await;
        assert_eq!(lifted.state(), LockState::Lifted);
        for node in fleet.nodes() {
            fleet.lets_in(node, &grant).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sidecar_lets_nobody_in_when_it_wakes_up() {
    let cluster = Cluster::begin();
    let (fleet, _url) = scene(&cluster).await;
    fleet.granted(0, "acme").await;
    let sleeper: &Node = &fleet.sidecars[1];
    sleeper.server.pause();
    let answer = lock(&fleet, 0, acme()).await;
    assert!(answer.enforcement.unwrap().elapsed.unwrap().seconds >= 1, "it had to be waited for");
    sleeper.server.resume();
    is_locked(&fleet, sleeper, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_or_again_has_the_locks() {
    let cluster = Cluster::begin();
    let (mut fleet, url) = scene(&cluster).await;
    let grant = fleet.granted(0, "acme").await;
    let answer = lock(&fleet, 1, ada()).await;

    // All of the snapshot that it is fed.
    let urls: Vec<String> = fleet.replicas.iter().map(|it| it.server.url().to_owned()).collect();
    fleet.add_sidecar(&[&urls[0]]).await;
    let number = fleet.sidecars.len() - 1;
    is_locked(&fleet, &fleet.sidecars[number], "").await;

    // All that it loads from the database.
    fleet.replicas[0].server.kill();
    fleet.add_replicas(vec![replica(&url, 2)]).await;
    fleet.replicas[2].server.serving().await;
    is_locked(&fleet, &fleet.replicas[2], "").await;
    let lifted = unlock(&fleet, 2, &answer.lock.unwrap()).await;
    assert_eq!(lifted.unlocker, "anonymous");
    for node in fleet.sidecars[1..2].iter().chain(&fleet.replicas[1..]) {
        fleet.lets_in(node, &grant).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_ends_by_itself_and_never_early() {
    let cluster = Cluster::begin();
    let (fleet, _url) = scene(&cluster).await;
    let grant = fleet.granted(0, "acme").await;
    let span = prost_types::Duration { seconds: 1, nanos: 500_000_000 };
    let target = LockAccessRequest { duration: Some(span), ..acme() };
    let set = lock(&fleet, 0, target).await.lock.unwrap();
    let Timestamp { seconds, nanos } = set.expire_time.unwrap();
    let end = Duration::new(seconds.unsigned_abs(), nanos.unsigned_abs());
    eventually("the lock is over everywhere", async || {
        let mut is_over = true;
        for node in fleet.nodes() {
            let is_allowed = fleet.ask(node, "acme", "").await.is_allowed_by(&grant);
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            assert!(now >= end || !is_allowed, "{} at {now:?}, before {end:?}", node.server.name);
            is_over &= is_allowed;
        }
        is_over
    })
    .await;
    // It is written down, once, and lifting it changes nothing any more.
    let over = unlock(&fleet, 1, &set).await;
    assert_eq!((over.state(), over.unlocker.as_str()), (LockState::Expired, ""));
}
