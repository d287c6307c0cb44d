//! The steps of scenarios with an attacker that can write to the database.

use crate::{
    domain::{End, Reason},
    fixture::Fixture,
};

/// A replica starts while the rows of the database contain forged grants.
pub(super) async fn forged_grants(fixture: Fixture) {
    fixture.start_all(1).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    fixture.expect_enforced(fixture.revoke(0, &grant)).await;
    fixture.cluster.database.forgeries.lock().has_grants = true;
    for number in 1..3 {
        fixture.start(number).await;
        fixture.expect_reason(number, &grant, Reason::Revoked);
    }
}

/// The attacker changes the event of a revocation, so that no node sees the revocation.
pub(super) async fn forged_revocation(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    let revision = fixture.cluster.checker.head() + 1;
    fixture.cluster.database.forgeries.lock().events.insert(revision);
    fixture.expect_enforced(fixture.revoke(0, &grant)).await;
    for number in 0..3 {
        fixture.expect_reason(number, &grant, Reason::Locked);
    }
}

/// The attacker changes an event that every node has applied. The replicas read the event again
/// before they apply the next one, so that a sidecar receives the quarantine by no event.
pub(super) async fn forged_known_event(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    for number in 0..3 {
        fixture.expect_allowed(number, &grant);
    }
    let revision = fixture.cluster.checker.head();
    fixture.cluster.database.forgeries.lock().events.insert(revision);
    fixture.grant(1, End::UntilRevoked).await;
    for number in 0..3 {
        fixture.wait_until(number, |running| running.node.read_view().is_fresh()).await;
        fixture.expect_reason(number, &grant, Reason::Locked);
    }
}
