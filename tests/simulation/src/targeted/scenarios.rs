//! The steps of each targeted scenario.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    check::GrantKey,
    checker::RestoreKind,
    database::Backup,
    domain::{End, Revision},
    fixture::Fixture,
    link::LinkConditions,
    targeted::plans::{LEASE, SHORT_LEASE},
};

const HEALTHY: LinkConditions = LinkConditions::HEALTHY;
const INSTANT: LinkConditions = LinkConditions::INSTANT;
const CUT: LinkConditions = LinkConditions::CUT;

const fn delayed(millis: u64) -> LinkConditions {
    LinkConditions { delay: (millis, millis), ..HEALTHY }
}

// === leases and enforcement ===

/// A node is cut off right after a renewal, and right before a revocation.
pub(super) async fn cut_off_after_renewal(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    // Only the rates of the clocks matter.
    fixture.set_database_link(0, INSTANT);
    fixture.set_database_link(1, INSTANT);
    fixture.wait_for_renewal(0).await;
    fixture.set_database_link(0, CUT);
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
}

/// A node has sent no heartbeat for so long that the node seems silent. Then a heartbeat is sent,
/// but not committed yet.
pub(super) async fn heartbeat_in_flight(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    fixture.wait_for_renewal(0).await;
    fixture.read_membership(1);
    fixture.set_database_link(0, LinkConditions::REFUSED);
    sleep(LEASE * 80 / 100).await;
    let slow_commit = LinkConditions { commit_gap: (300, 300), lost_notifications: 100, ..HEALTHY };
    fixture.set_database_link(0, slow_commit);
    sleep(LEASE * 23 / 100).await;
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
    sleep(LEASE).await;
}

/// The request for the membership arrives late. In the meantime, a node renews its lease, and is
/// then cut off.
pub(super) async fn late_membership_read(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    fixture.set_database_link(1, delayed(300));
    fixture.read_membership(1);
    sleep(Duration::from_millis(295)).await;
    fixture.set_database_link(1, INSTANT);
    sleep(Duration::from_millis(6)).await;
    fixture.set_database_link(0, CUT);
    sleep(LEASE * 65 / 100).await;
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
}

/// A node joins, and the replica that makes the change misses the notification.
pub(super) async fn join_before_commit(fixture: Fixture) {
    let unnotified = LinkConditions { lost_notifications: 100, ..HEALTHY };
    fixture.set_database_link(0, LinkConditions { delay: (0, 4), ..unnotified });
    fixture.set_database_link(1, unnotified);
    fixture.start(0).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    fixture.start(1).await;
    fixture.expect_enforced(fixture.revoke(0, &grant)).await;
}

/// A node joins over a slow link.
pub(super) async fn slow_join(fixture: Fixture) {
    fixture.start(0).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    let slow = LinkConditions { lost_notifications: 100, delay: (50, 60), ..HEALTHY };
    fixture.set_database_link(1, slow);
    fixture.start(1).await;
    fixture.expect_enforced(fixture.revoke(0, &grant)).await;
}

/// A backup is restored. When the membership is next read, the row of a node shows a heartbeat for
/// the second time.
pub(super) async fn restored_membership(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    let database = &fixture.cluster.database;
    let backup = database.backup();
    // Replica 1 sees the next heartbeat, and then nothing until the row shows the same number
    // again.
    fixture.wait_for_renewal(0).await;
    sleep(Duration::from_millis(10)).await;
    fixture.read_membership(1);
    sleep(Duration::from_millis(20)).await;
    fixture.set_database_link(1, CUT);
    database.go_down();
    sleep(LEASE * 12 / 10).await;
    database.come_up_with(backup, RestoreKind::LeasesExpired).await;
    fixture.wait_for_renewal(0).await;
    fixture.set_database_link(1, HEALTHY);
    fixture.running(0).process.pause();
    fixture.wait_until(1, |running| running.node.read_view().is_fresh()).await;
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
}

/// The node that is paused has leases twice as long as the replica that waits.
pub(super) async fn longer_lease(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    fixture.wait_for_renewal(0).await;
    fixture.running(0).process.pause();
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
}

/// The paused node has renewed the lease while the commit was in transit.
pub(super) async fn slow_commit(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    fixture.set_database_link(1, delayed(150));
    let head = fixture.cluster.checker.head();
    let response = fixture.revoke(1, &grant);
    fixture.wait_for_commit(head).await;
    fixture.running(0).process.pause();
    fixture.expect_enforced(response).await;
}

/// A node keeps sending heartbeats, but reads the log slowly. So a revocation waits until a lease
/// of the node has expired.
pub(super) async fn slow_reads(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    fixture.set_database_link(0, LinkConditions { read_delay: (1_500, 1_500), ..HEALTHY });
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
}

/// A node keeps its lease, but reads the log slowly. A caller waits for a revocation at the other
/// replicas in turn, with deadlines that are shorter than a lease.
pub(super) async fn switching_caller(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    fixture.set_database_link(0, LinkConditions { read_delay: (4_000, 4_000), ..HEALTHY });
    let head = fixture.cluster.checker.head();
    drop(fixture.revoke(1, &grant));
    fixture.wait_for_commit(head).await;
    fixture.expect_enforced_at_any(&[2, 1], &grant, LEASE * 110 / 100).await;
}

/// A replica and a sidecar die. The first revocation waits for the leases, and the second does not.
pub(super) async fn dead_nodes(fixture: Fixture) {
    fixture.start_all(3).await;
    let first = fixture.grant(0, End::UntilRevoked).await;
    let second = fixture.grant(0, End::UntilRevoked).await;
    fixture.cluster.crash(1);
    fixture.cluster.crash(2);
    fixture.expect_enforced(fixture.revoke(0, &first)).await;
    fixture.expect_prompt_revoke(0, &second).await;
}

// === restored logs ===

/// A node has requested an event. The response is so slow that a log without that event is restored
/// meanwhile. The position of the node in the request is in both logs.
pub(super) async fn late_event(fixture: Fixture) {
    let (grant, backup, head) = event_in_transit(&fixture).await;
    restore_after_expiry(&fixture, backup, SHORT_LEASE).await;
    fixture.wait_until(1, |running| running.node.revision() == head).await;
    fixture.wait_until(1, |running| running.node.read_view().is_fresh()).await;
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
    sleep(SHORT_LEASE).await;
}

/// Like [`late_event`], but no change follows the restore.
pub(super) async fn lost_event(fixture: Fixture) {
    let (_, backup, _) = event_in_transit(&fixture).await;
    restore_after_expiry(&fixture, backup, SHORT_LEASE).await;
    sleep(SHORT_LEASE * 2).await;
    fixture.expect_fresh(0);
}

/// A grant is revoked after a restore, and the event has the revision of a lost event. A caller
/// waits for the revocation at a replica that has applied the lost event long ago, and does not
/// know of the restore yet. A node has a lease from before the revocation.
pub(super) async fn wait_at_unaware_replica(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    let backup = fixture.backup();
    let head = fixture.cluster.checker.head();
    fixture.grant_many(1, 1).await;
    fixture.set_database_link(1, CUT);
    restore_after_expiry(&fixture, backup, LEASE).await;
    for number in [0, 2] {
        fixture.wait_until(number, |running| running.node.revision() == head).await;
        fixture.wait_until(number, |running| running.node.read_view().is_fresh()).await;
    }
    fixture.set_database_link(0, LinkConditions { read_delay: (4_000, 4_000), ..HEALTHY });
    drop(fixture.revoke(2, &grant));
    fixture.wait_for_commit(head).await;
    // The heartbeat that is in transit would reveal the restore.
    fixture.set_database_link(1, delayed(100));
    sleep(Duration::from_millis(1)).await;
    fixture.set_database_link(1, INSTANT);
    fixture.expect_enforced(fixture.wait_enforced(1, &grant, LEASE * 2)).await;
}

/// Takes the database down until all leases have expired, and restores a backup.
async fn restore_after_expiry(fixture: &Fixture, backup: Backup, lease: Duration) {
    let database = &fixture.cluster.database;
    database.go_down();
    sleep(lease * 12 / 10).await;
    database.come_up_with(backup, RestoreKind::LeasesExpired).await;
}

/// Node 0 has requested an event that was just committed, and waits for the response. The backup is
/// from before the event.
async fn event_in_transit(fixture: &Fixture) -> (GrantKey, Backup, Revision) {
    fixture.start_all(2).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    let database = &fixture.cluster.database;
    let backup = database.backup();
    fixture.set_database_link(0, delayed(5));
    let head = fixture.cluster.checker.head();
    let granting = fixture.grant(1, End::UntilRevoked);
    let delaying = async {
        fixture.wait_for_commit(head).await;
        // The notification takes 5 ms, and the request another 5 ms.
        sleep(Duration::from_millis(9)).await;
        let delivers_after_failure = true;
        fixture.set_database_link(0, LinkConditions { delivers_after_failure, ..delayed(680) });
        sleep(Duration::from_millis(2)).await;
        fixture.set_database_link(0, HEALTHY);
    };
    tokio::select! {
        biased;
        _ = granting => {}
        () = delaying => {}
    }
    (grant, backup, head)
}

/// A failover loses the last commits, but no registration and no heartbeat. A sidecar that has
/// acknowledged the lost commits keeps answering for a while.
pub(super) async fn lost_commits(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(1, End::UntilRevoked).await;
    let database = &fixture.cluster.database;
    fixture.wait_for_renewal(0).await;
    let backup = database.backup();
    fixture.grant_many(1, 3).await;
    sleep(Duration::from_millis(15)).await;
    fixture.set_route(2, 0, CUT);
    fixture.set_route(2, 1, CUT);
    database.go_down();
    database.come_up_with(backup, RestoreKind::LeasesValid).await;
    fixture.wait_until(1, |running| running.node.revision() == 1).await;
    fixture.expect_enforced(fixture.revoke(1, &grant)).await;
}

/// An older log is restored while a replica is cut off. A sidecar that already has a lease for the
/// restored log connects to that replica. The sidecar must not receive the lost events.
pub(super) async fn late_upstream(fixture: Fixture) {
    fixture.start_all(3).await;
    fixture.grant(0, End::UntilRevoked).await;
    let backup = fixture.backup();
    let head = fixture.cluster.checker.head();
    fixture.grant_many(0, 2).await;
    fixture.wait_until(1, |running| running.node.revision() > head + 1).await;
    fixture.set_database_link(1, CUT);
    restore_after_expiry(&fixture, backup, LEASE).await;
    fixture.wait_until(2, |running| running.node.revision() == head).await;
    fixture.wait_until(2, |running| running.node.read_view().is_fresh()).await;
    fixture.set_route(2, 0, CUT);
    sleep(LEASE).await;
    fixture.set_database_link(1, HEALTHY);
    fixture.set_route(2, 0, HEALTHY);
    sleep(LEASE * 3).await;
    fixture.expect_fresh(2);
}

// === replication ===

/// A follower with an expired lease reconnects. While it catches up, a grant is revoked. A ping
/// arrives while changes wait to be sent.
pub(super) async fn narrow_stream(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    fixture.set_route(1, 0, CUT);
    sleep(LEASE).await;
    fixture.grant(0, End::UntilRevoked).await;
    fixture.set_route(1, 0, LinkConditions { capacity: 1, ..HEALTHY });
    let route = fixture.cluster.network.route(1, 0);
    route.to_follower.modify(|conditions| conditions.delay = (100, 100));
    fixture.wait_for_followers(0, 1).await;
    // The follower resumes with changes.
    fixture.wait_for_renewal(0).await;
    fixture.wait_for_renewal(0).await;
    // The stream has no capacity left, so changes wait to be sent.
    for _ in 0..2 {
        sleep(Duration::from_millis(30)).await;
        fixture.grant_many(0, 1).await;
    }
    // In the meantime, the follower sends a ping.
    sleep(Duration::from_millis(40)).await;
    fixture.expect_enforced(fixture.revoke(0, &grant)).await;
    sleep(LEASE * 2).await;
    fixture.expect_fresh(1);
}

/// A follower reconnects. A grant is revoked before the follower receives anything on the new
/// stream.
pub(super) async fn reconnect(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    let route = fixture.cluster.network.route(1, 0);
    route.to_follower.modify(|conditions| conditions.delay = (100, 100));
    route.disconnect();
    fixture.wait_for_followers(0, 0).await;
    fixture.wait_for_followers(0, 1).await;
    fixture.expect_enforced(fixture.revoke(0, &grant)).await;
}

/// A node had no lease for so long that the lease of a follower has expired. The node is paused,
/// and stopped during the pause. After that, a lease and a ping of the follower arrive.
pub(super) async fn ping_while_stopping(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    fixture.set_database_link(1, LinkConditions::REFUSED);
    sleep(LEASE * 11 / 10).await;
    // With this delay, the node mostly waits for a response.
    fixture.set_database_link(1, delayed(150));
    sleep(LEASE / 4).await;
    let running = fixture.running(1);
    running.process.pause();
    fixture.set_database_link(1, HEALTHY);
    let response = fixture.revoke(0, &grant);
    let resuming = async {
        sleep(LEASE / 5).await;
        running.process.resume();
    };
    tokio::join!(fixture.cluster.stop(1), resuming, fixture.expect_enforced(response));
}

/// The first upstreams of a sidecar never respond. Later, the third does not respond. The sidecar
/// keeps its lease.
pub(super) async fn hanging_upstreams(fixture: Fixture) {
    const SIDECAR: usize = 3;
    fixture.start_all(SIDECAR).await;
    fixture.set_route(SIDECAR, 0, CUT);
    fixture.set_route(SIDECAR, 1, CUT);
    fixture.start(SIDECAR).await;
    fixture.set_route(SIDECAR, 1, HEALTHY);
    // The sidecar follows the third upstream. The first two have been silent.
    fixture.cluster.network.route(SIDECAR, 2).set(CUT);
    fixture.expect_fresh_for(SIDECAR, LEASE * 3).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    fixture.expect_allowed(SIDECAR, &grant);
    fixture.expect_prompt_revoke(0, &grant).await;
}
