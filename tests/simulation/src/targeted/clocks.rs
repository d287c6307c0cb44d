//! The steps of scenarios with clocks that step, and with a suspended machine.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::sleep;

use crate::{
    domain::{End, Span},
    fixture::Fixture,
    link::LinkConditions,
    targeted::plans::LEASE,
};

const HEALTHY: LinkConditions = LinkConditions::HEALTHY;
const INSTANT: LinkConditions = LinkConditions::INSTANT;
const CUT: LinkConditions = LinkConditions::CUT;

/// The database clock is set back to before the end of an expired grant.
pub(super) async fn clock_set_back(fixture: Fixture) {
    fixture.start(0).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_millis(700)))).await;
    sleep(Duration::from_millis(420)).await;
    fixture.cluster.check_everywhere(&grant);
    fixture.set_database_link(0, INSTANT);
    fixture.cluster.database.clock.step(TimeDelta::milliseconds(-300));
    fixture.wait_for_renewal(0).await;
    fixture.cluster.check_everywhere(&grant);
}

/// The database clock is set back by an hour during a grant, and stays so.
pub(super) async fn clock_set_back_for_good(fixture: Fixture) {
    fixture.start_all(2).await;
    fixture.grant(0, End::After(Span(Duration::from_secs(2)))).await;
    fixture.cluster.database.clock.step(TimeDelta::hours(-1));
    // The end of the grant is watched.
    sleep(Duration::from_secs(4)).await;
}

/// Both replicas lose the database. Then the clock is set back, and one replica restarts, with a
/// time that is seconds behind that of the sidecar. The sidecar changes to that replica.
pub(super) async fn upstream_with_earlier_time(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(6)))).await;
    sleep(LEASE).await;
    fixture.set_database_link(0, CUT);
    fixture.set_database_link(1, CUT);
    sleep(LEASE * 3).await;
    fixture.cluster.crash(1);
    fixture.cluster.database.clock.step(TimeDelta::hours(-1));
    fixture.set_database_link(1, HEALTHY);
    fixture.start(1).await;
    fixture.wait_until(2, |running| running.node.read_view().is_fresh()).await;
    for _ in 0..7 {
        sleep(LEASE / 2).await;
        fixture.cluster.check_everywhere(&grant);
    }
}

/// The database clock is two hours ahead for a while. Meanwhile, a grant is revoked.
pub(super) async fn clock_ahead_for_a_while(fixture: Fixture) {
    fixture.start_all(3).await;
    let long = fixture.grant(0, End::After(Span(Duration::from_mins(10)))).await;
    let revoked = fixture.grant(0, End::UntilRevoked).await;
    let clock = &fixture.cluster.database.clock;
    clock.step(TimeDelta::hours(2));
    fixture.wait_for_renewal(0).await;
    fixture.expect_enforced(fixture.revoke(0, &revoked)).await;
    clock.step(TimeDelta::hours(-2));
    sleep(LEASE * 3).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(2)))).await;
    sleep(LEASE / 2).await;
    for number in 0..3 {
        fixture.expect_allowed(number, &long);
        fixture.expect_allowed(number, &grant);
    }
    // The end of the grant is watched.
    sleep(LEASE * 3).await;
}

/// The database clock is set back by eight seconds during a grant, and an operator accepts the
/// clock. Both replicas can then grant access.
pub(super) async fn accepted_step_back(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(20)))).await;
    sleep(Duration::from_secs(10)).await;
    fixture.cluster.database.clock.step(TimeDelta::seconds(-8));
    sleep(LEASE).await;
    fixture.accept_clock(0).await;
    sleep(LEASE).await;
    for number in 0..3 {
        fixture.expect_allowed(number, &grant);
    }
    for replica in 0..2 {
        let new = fixture.grant(replica, End::After(Span(Duration::from_secs(5)))).await;
        for number in 0..3 {
            fixture.expect_allowed(number, &new);
        }
    }
    // The elapsed time of each grant is watched.
    sleep(Duration::from_secs(12)).await;
}

/// An operator accepts a step forward of eight seconds, and the step back that undoes it.
pub(super) async fn accepted_step_and_return(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(30)))).await;
    for by in [8, -8] {
        fixture.cluster.database.clock.step(TimeDelta::seconds(by));
        sleep(LEASE).await;
        fixture.accept_clock(1).await;
        sleep(LEASE).await;
    }
    sleep(Duration::from_secs(20)).await;
    for number in 0..2 {
        fixture.expect_allowed(number, &grant);
    }
    // The elapsed time of the grant is watched.
    sleep(Duration::from_secs(8)).await;
}

/// An operator accepts a step back. A replica that has not noticed makes a change.
pub(super) async fn change_after_accepted_step(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(20)))).await;
    let revoked = fixture.grant(0, End::UntilRevoked).await;
    sleep(Duration::from_secs(10)).await;
    fixture.cluster.database.clock.step(TimeDelta::seconds(-8));
    sleep(LEASE).await;
    fixture.set_database_link(1, LinkConditions { lost_notifications: 100, ..HEALTHY });
    fixture.accept_clock(0).await;
    fixture.expect_enforced(fixture.revoke(1, &revoked)).await;
    sleep(LEASE).await;
    for number in 0..2 {
        fixture.expect_allowed(number, &grant);
    }
}

/// During a grant, a backup without the last event is restored, and the database clock is set back
/// by an hour.
pub(super) async fn restore_and_step_back(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(10)))).await;
    sleep(LEASE * 2).await;
    let backup = fixture.backup();
    fixture.grant(0, End::UntilRevoked).await;
    fixture.cluster.database.go_down();
    fixture.cluster.database.clock.step(TimeDelta::hours(-1));
    sleep(LEASE * 3).await;
    fixture.restore(backup).await;
    // The elapsed time of the grant is watched.
    sleep(LEASE * 6).await;
    for number in 0..3 {
        fixture.expect_fresh(number);
        fixture.expect_denied(number, &grant);
    }
}

/// A backup is made after an operator has accepted a step forward of eight seconds, and before the
/// operator accepts the step back. During a grant, the backup is restored.
pub(super) async fn restore_before_accepted_step(fixture: Fixture) {
    fixture.start_all(3).await;
    let clock = &fixture.cluster.database.clock;
    clock.step(TimeDelta::seconds(8));
    sleep(LEASE).await;
    fixture.accept_clock(0).await;
    sleep(LEASE).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(24)))).await;
    // After the step back, the grant has started already.
    sleep(Duration::from_secs(10)).await;
    let backup = fixture.backup();
    clock.step(TimeDelta::seconds(-8));
    sleep(LEASE).await;
    fixture.accept_clock(1).await;
    sleep(LEASE).await;
    for number in 0..3 {
        fixture.expect_allowed(number, &grant);
    }
    fixture.cluster.database.go_down();
    sleep(LEASE * 2).await;
    fixture.restore(backup).await;
    sleep(LEASE * 2).await;
    for number in 0..3 {
        fixture.expect_allowed(number, &grant);
    }
    // The elapsed time of the grant is watched.
    sleep(LEASE * 10).await;
    for number in 0..3 {
        fixture.expect_fresh(number);
        fixture.expect_denied(number, &grant);
    }
}

/// The database clock steps forward by an hour during a grant.
pub(super) async fn clock_steps_forward(fixture: Fixture) {
    fixture.start_all(3).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_mins(10)))).await;
    fixture.cluster.database.clock.step(TimeDelta::hours(1));
    sleep(LEASE * 2).await;
    fixture.cluster.check_everywhere(&grant);
}

/// While the database clock is set back, the fast clock of the replica moves the trusted time ahead
/// of every reading. Grants start around the time of the next change.
pub(super) async fn start_after_untrusted_time(fixture: Fixture) {
    const UNTRUSTED: Duration = Duration::from_secs(100);
    fixture.start_all(2).await;
    let revoked = fixture.grant(0, End::UntilRevoked).await;
    let delays = (0..60).map(|number| UNTRUSTED + LEASE / 2 + Duration::from_millis(20) * number);
    let grants: Vec<_> = delays.map(|delay| fixture.grant_later(0, delay)).collect();
    sleep(LEASE / 3).await;
    fixture.cluster.database.clock.step(TimeDelta::hours(-1));
    sleep(UNTRUSTED).await;
    fixture.expect_enforced(fixture.revoke(0, &revoked)).await;
    for _ in 0..100 {
        sleep(LEASE / 100).await;
        for grant in &grants {
            fixture.cluster.check_everywhere(grant);
        }
    }
}

/// The database clock is set back, and a replica restarts.
pub(super) async fn restart_after_step_back(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(0, End::After(Span(Duration::from_secs(6)))).await;
    sleep(LEASE * 4).await;
    fixture.cluster.crash(1);
    fixture.cluster.database.clock.step(TimeDelta::hours(-1));
    fixture.start(1).await;
    sleep(LEASE * 7 / 2).await;
    fixture.expect_denied(1, &grant);
}

/// A machine is suspended for two hours. When the machine resumes, a grant is active for another
/// minute.
pub(super) async fn long_suspend(fixture: Fixture) {
    let running = fixture.start(0).await;
    let suspended = Duration::from_hours(2);
    let end = End::After(Span(suspended + Duration::from_mins(1)));
    let grant = fixture.grant(0, end).await;
    let clock = &fixture.cluster.machines[0].clock;
    running.process.pause();
    clock.suspend();
    sleep(suspended).await;
    fixture.cluster.check_everywhere(&grant);
    clock.resume();
    running.process.resume();
    sleep(LEASE).await;
    fixture.expect_fresh(0);
    fixture.expect_allowed(0, &grant);
}
