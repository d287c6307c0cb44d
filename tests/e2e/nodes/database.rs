//! The database becomes unavailable, returns in an earlier state, or is replaced by another
//! database.

use std::time::{Duration, Instant};

use support_access::api::proto::v1::{DecisionReason, EnforcementState, Grant};
use tonic::Code;

use crate::nodes::{
    fleet::{Fleet, MAX_STALENESS, grant, replica, sidecar},
    history::{Log, Verdict, assert_consistent, log, matches_log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::{Server, eventually, is_serving},
};

/// The interval between checks at each node.
const PACE: Duration = Duration::from_millis(20);
/// Every lease is still valid this long after its last renewal.
pub const SOON: Duration = Duration::from_millis(1_200);

/// Starts two replicas, a sidecar on a Unix socket, and a sidecar that follows that sidecar.
pub async fn fleet(database_url: &str) -> Fleet {
    fleet_with(database_url, &[]).await
}

/// Like [`fleet`], with more flags for the replicas.
pub async fn fleet_with(database_url: &str, flags: &[&str]) -> Fleet {
    let mut fleet = Fleet::new();
    fleet
        .add_replicas((0..2).map(|number| replica(database_url, number).flags(flags)).collect())
        .await;
    let socket = fleet.socket("sidecar-0");
    let upstreams = [0, 1].map(|number| fleet.replicas[number].server.url().to_owned());
    let launches = vec![
        sidecar(&[&upstreams[0], &upstreams[1]], 0).on_socket(&socket),
        sidecar(&[&format!("unix:{}", socket.display())], 1),
    ];
    fleet.add_sidecars(launches).await;
    fleet.serving().await;
    fleet
}

#[tokio::main]
async fn database_outage(fail: impl Fn(&Cluster), recover: impl Fn(&Cluster)) {
    let cluster = Cluster::launch();
    let fleet = fleet(&cluster.fresh_database()).await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    let load = Load::on(&fleet, &["kept".into()], PACE);

    let started = Instant::now();
    fail(&cluster);
    let failed = Instant::now();
    for node in fleet.nodes() {
        let verdict = fleet.check(node, "kept", "").await;
        let is_soon = started.elapsed() < SOON;
        assert!(
            !is_soon || verdict.is_allowed_by(&kept),
            "nodes allow access while the leases are valid: {verdict:?}"
        );
    }
    assert_changes_fail(&fleet, &kept).await;
    for node in fleet.nodes() {
        eventually("the node is not SERVING", async || !is_serving(&node.channel).await).await;
        assert_eq!(fleet.check(node, "kept", "").await, Verdict::Stale);
    }
    let late = || fleet.history.answers(|answer| answer.invoked >= failed + MAX_STALENESS);
    eventually("all leases have expired", async || late().len() > 10).await;
    let late = late();
    assert!(late.iter().all(|answer| answer.verdict == Verdict::Stale), "{late:?}");

    recover(&cluster);
    fleet.serving().await;
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, &kept).await;
    }
    for replica in 0..2 {
        fleet.wait_until_all_acknowledge(replica).await;
    }
    let revoked = fleet.revoke_within_bound(1, &kept).await;
    println!("after the recovery: {revoked:?}");
    drop(load);
    let tenants = ["kept", "interim"].map(str::to_owned);
    fleet.history.verify(&log(&mut fleet.admin(0), &tenants).await);
}

/// Asserts that changes fail with `UNAVAILABLE`, which means that a retry may succeed.
pub async fn assert_changes_fail(fleet: &Fleet, kept: &Grant) {
    for replica in 0..2 {
        let mut admin = fleet.admin(replica);
        let (granted, revoked) =
            tokio::join!(grant(&mut admin, "kept"), fleet.revoke(replica, kept));
        for error in [granted.unwrap_err(), revoked.unwrap_err()] {
            assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        }
    }
}

/// Revokes a grant as soon as the database accepts changes. Returns the time after complete
/// enforcement.
async fn revoke_when_possible(fleet: &Fleet, replica: usize, grant: &Grant) -> Instant {
    let mut revoked = None;
    eventually("the database accepts a revocation", async || {
        revoked = fleet.revoke(replica, grant).await.ok();
        revoked.is_some()
    })
    .await;
    println!("the first revocation: {revoked:?}");
    assert_eq!(revoked.unwrap().enforcement.state(), EnforcementState::Complete);
    Instant::now()
}

#[test]
fn nodes_recover_after_the_database_restarts() {
    database_outage(Cluster::stop, Cluster::start);
}

#[test]
fn nodes_recover_after_the_database_is_killed() {
    database_outage(Cluster::kill, Cluster::start);
}

#[test]
fn nodes_recover_after_the_database_hangs() {
    database_outage(Cluster::pause, Cluster::resume);
}

/// The log before the database was replaced, and the log afterwards.
struct Histories {
    before: Log,
    after: Log,
}

impl Histories {
    /// Asserts that every answer matches one of the logs, and that no answer matches only the first
    /// log after `enforced_at`.
    fn verify(&self, fleet: &Fleet, enforced_at: Instant) {
        let answers = fleet.history.answers(|_| true);
        for answer in &answers {
            let is_known = matches_log(&self.before, answer) || matches_log(&self.after, answer);
            assert!(is_known, "the answer must match one of the logs: {answer:?}");
        }
        let late = fleet.history.answers(|answer| answer.invoked > enforced_at);
        assert_consistent(&self.after, &late);
        let stale = answers.iter().filter(|answer| answer.verdict == Verdict::Stale).count();
        println!("{} answers, of which {stale} were STALE", answers.len());
    }
}

const TENANTS: [&str; 4] = ["ended", "kept", "lost", "new"];

async fn histories(fleet: &Fleet) -> Log {
    log(&mut fleet.admin(0), &TENANTS.map(str::to_owned)).await
}

/// A backup is restored. Grants that were revoked since the backup are live again, and later grants
/// are lost. New events reuse the revisions of lost events.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_follow_a_database_restored_from_a_backup() {
    let cluster = Cluster::launch();
    let mut fleet = fleet(&cluster.fresh_database()).await;
    let ended = fleet.grant_everywhere(0, "ended").await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    cluster.stop();
    let backup = cluster.copy_aside();
    cluster.start();
    fleet.serving().await;
    revoke_when_possible(&fleet, 0, &ended).await;
    fleet.grant_everywhere(0, "lost").await;
    let lost_head = fleet.head_revision(0).await;
    let before = histories(&fleet).await;

    // The restored log contradicts the recorded revocations, so a new record starts here.
    fleet.history = std::sync::Arc::default();
    let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
    cluster.stop();
    cluster.replace_data(&backup);
    cluster.start();
    // Make a change at once, so that the new events reuse the revisions of the lost events.
    let mut new = None;
    eventually("the database accepts changes", async || {
        new = grant(&mut fleet.admin(1), "new").await.ok();
        new.is_some()
    })
    .await;
    let new = new.unwrap();
    let head = fleet.head_revision(1).await;
    assert!(head <= lost_head, "the new event must reuse the revision of a lost event");
    let enforced_at = revoke_when_possible(&fleet, 1, &kept).await;
    for node in fleet.nodes() {
        fleet.wait_until_allowed(node, &ended).await;
        fleet.wait_until_allowed(node, &new).await;
        let verdict = fleet.check(node, "lost", "").await;
        assert_eq!(verdict, Verdict::Denied(DecisionReason::NoGrant));
    }
    fleet.wait_until_all_acknowledge(0).await;
    drop(load);
    fleet.history.assert_no_access_after_revocation();
    Histories { before, after: histories(&fleet).await }.verify(&fleet, enforced_at);
}

/// A disconnected sidecar keeps the state of the old log until the lease of the sidecar expires,
/// regardless of earlier acknowledgements.
#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_sidecar_loses_its_lease_when_the_database_is_restored() {
    let cluster = Cluster::launch();
    // Long enough for the restore.
    let (flags, lease) = (["--max-staleness", "6s"], Duration::from_secs(6));
    let mut fleet = Fleet::new();
    fleet.add_replicas(vec![replica(&cluster.fresh_database(), 0).flags(&flags)]).await;
    let uplink = Proxy::start(Target::Tcp(fleet.replicas[0].server.address())).await;
    fleet.add_sidecar(&[&uplink.url()]).await;
    fleet.serving().await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    cluster.stop();
    let backup = cluster.copy_aside();
    cluster.start();
    fleet.serving().await;
    for _ in 0..10 {
        fleet.wait_until_all_acknowledge(0).await;
    }

    let partitioned = Instant::now();
    uplink.block();
    cluster.kill();
    cluster.replace_data(&backup);
    cluster.start();
    let sidecar = &fleet.sidecars[0];
    let verdict = fleet.check(sidecar, "kept", "").await;
    assert!(verdict.is_allowed_by(&kept) || partitioned.elapsed() > lease / 2, "{verdict:?}");
    let enforced_at = revoke_when_possible(&fleet, 0, &kept).await;
    println!("{:?} after the sidecar was partitioned", enforced_at - partitioned);
    fleet.assert_denied(&kept).await;
    uplink.heal();
    fleet.wait_until_all_acknowledge(0).await;
    fleet.history.assert_no_access_after_revocation();
}

/// Another database with a longer or shorter log replaces the first one.
#[tokio::main]
async fn replace_database(events: usize) {
    let other = Cluster::launch();
    let server = Server::start(&other.fresh_database());
    let mut other_grant = grant(&mut server.admin().await, "new").await.unwrap();
    for _ in 0..events {
        other_grant = grant(&mut server.admin().await, "new").await.unwrap();
    }
    drop(server);
    other.stop();

    let cluster = Cluster::launch();
    let mut fleet = fleet(&cluster.fresh_database()).await;
    let ended = fleet.grant_everywhere(0, "ended").await;
    let lost = fleet.grant_everywhere(0, "lost").await;
    fleet.revoke(0, &ended).await.unwrap();
    let before = histories(&fleet).await;

    fleet.history = std::sync::Arc::default();
    let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
    cluster.stop();
    cluster.replace_data(&other.data());
    cluster.start();
    let enforced_at = revoke_when_possible(&fleet, 0, &other_grant).await;
    for node in fleet.nodes() {
        eventually("the old state is dropped", async || {
            let verdict = fleet.check(node, &lost.tenant_id, "").await;
            verdict == Verdict::Denied(DecisionReason::NoGrant)
        })
        .await;
    }
    fleet.wait_until_all_acknowledge(1).await;
    drop(load);
    fleet.history.assert_no_access_after_revocation();
    Histories { before, after: histories(&fleet).await }.verify(&fleet, enforced_at);
}

#[test]
fn nodes_follow_another_database_with_a_longer_log() {
    replace_database(10);
}

#[test]
fn nodes_follow_another_database_with_a_shorter_log() {
    replace_database(0);
}

/// A replica that starts after the database was filled answers from the existing log.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_replica_answers_from_the_existing_log() {
    let cluster = Cluster::launch();
    let url = cluster.fresh_database();
    let mut fleet = fleet(&url).await;
    let kept = fleet.grant_everywhere(0, "kept").await;
    fleet.add_replicas(vec![replica(&url, 2)]).await;
    fleet.serving().await;
    let verdict = fleet.check(&fleet.replicas[2], "kept", "").await;
    assert!(verdict.is_allowed_by(&kept), "the first answer must be correct: {verdict:?}");
    fleet.wait_until_all_acknowledge(2).await;
}
