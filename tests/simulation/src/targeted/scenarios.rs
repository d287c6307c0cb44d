//! What happens in each aimed scenario.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::sleep;

use crate::{
    checker::{Aftermath, Subject},
    clocks::DRIFT_MAX,
    cluster::Plan,
    domain::{End, Revision, Span},
    fixture::Stage,
    link::Weather,
    store::memory::Backup,
    targeted::LEASE,
};

const QUICK: Weather = Weather { delay: (0, 0), ..Weather::FINE };
const CUT: Weather = Weather { is_cut: true, ..Weather::FINE };

/// So short that a node still waits for an answer when all leases have lapsed.
const SHORT_LEASE: Duration = Duration::from_millis(400);

pub(crate) fn short_leases() -> Plan {
    Plan::replicas(2, SHORT_LEASE)
}

pub(crate) fn rates() -> Plan {
    let mut plan = Plan::replicas(2, LEASE);
    (plan.machines[0].drift, plan.machines[1].drift) = (-DRIFT_MAX, DRIFT_MAX);
    plan
}

pub(crate) fn leases() -> Plan {
    let mut plan = Plan::replicas(2, LEASE);
    plan.machines[0].lease = LEASE * 2;
    plan
}

pub(crate) fn one_upstream() -> Plan {
    Plan::replicas(1, LEASE).with_sidecar(vec![0])
}

pub(crate) fn two_upstreams() -> Plan {
    Plan::replicas(2, LEASE).with_sidecar(vec![0, 1])
}

pub(crate) fn second_upstream() -> Plan {
    Plan::replicas(2, LEASE).with_sidecar(vec![1])
}

/// A node is cut off right after it has proven that it is current, and right before somebody is revoked.
pub(crate) async fn margin(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    // So that only the rates of the clocks matter.
    stage.weather(0, QUICK);
    stage.weather(1, QUICK);
    stage.until_proven(0).await;
    stage.weather(0, CUT);
    stage.complete(stage.revoke(1, &subject)).await;
}

/// A node has not renewed for so long that it seems silent, while the renewal that it has sent at last is not committed yet.
pub(crate) async fn renewal_in_flight(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.until_proven(0).await;
    stage.read_membership(1);
    stage.weather(0, Weather { is_refused: true, ..Weather::FINE });
    sleep(LEASE * 80 / 100).await;
    stage.weather(0, Weather { gap: (300, 300), lost_hints: 100, ..Weather::FINE });
    sleep(LEASE * 23 / 100).await;
    stage.complete(stage.revoke(1, &subject)).await;
    sleep(LEASE).await;
}

/// The question for the roll takes long to arrive, and meanwhile a node renews. Then it is cut off.
pub(crate) async fn late_roll(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.weather(1, Weather { delay: (300, 300), ..Weather::FINE });
    stage.read_membership(1);
    sleep(Duration::from_millis(295)).await;
    stage.weather(1, QUICK);
    sleep(Duration::from_millis(6)).await;
    stage.weather(0, CUT);
    sleep(LEASE * 65 / 100).await;
    stage.complete(stage.revoke(1, &subject)).await;
}

/// A node joins; the one that makes the change has not heard of it.
pub(crate) async fn join_before_commit(stage: Stage) {
    stage.weather(0, Weather { lost_hints: 100, delay: (0, 4), ..Weather::FINE });
    stage.weather(1, Weather { lost_hints: 100, ..Weather::FINE });
    stage.start(0).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    stage.start(1).await;
    stage.complete(stage.revoke(0, &subject)).await;
}

/// A node joins, over a line that is so slow that everything it does takes long.
pub(crate) async fn join_slowly(stage: Stage) {
    stage.start(0).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    stage.weather(1, Weather { lost_hints: 100, delay: (50, 60), ..Weather::FINE });
    stage.start(1).await;
    stage.complete(stage.revoke(0, &subject)).await;
}

/// A backup is restored, and a node's row comes to say again what it said before, just when somebody looks.
pub(crate) async fn restored_roll(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    let database = &stage.world.database;
    let backup = database.store.backup().expect("the database is open");
    // The one that watches sees the next renewal, and then nothing until the row says the same again.
    stage.until_proven(0).await;
    sleep(Duration::from_millis(10)).await;
    stage.read_membership(1);
    sleep(Duration::from_millis(20)).await;
    stage.weather(1, CUT);
    database.go_down();
    sleep(LEASE * 12 / 10).await;
    database.come_up_with(backup, Aftermath::Clean).await;
    stage.until_proven(0).await;
    stage.weather(1, Weather::FINE);
    stage.process(0).host.pause();
    stage.until(1, |process| process.node.read_view().is_fresh()).await;
    stage.complete(stage.revoke(1, &subject)).await;
}

/// A node has asked for an event, and is answered so late that an older log has been restored meanwhile, without that event. What
/// the node held when it asked is in both logs.
pub(crate) async fn late_event(stage: Stage) {
    let (subject, backup, head) = event_under_way(&stage).await;
    let database = &stage.world.database;
    database.go_down();
    sleep(SHORT_LEASE * 12 / 10).await;
    database.come_up_with(backup, Aftermath::Clean).await;
    stage.until(1, |process| process.node.revision() == head).await;
    stage.until(1, |process| process.node.read_view().is_fresh()).await;
    stage.complete(stage.revoke(1, &subject)).await;
    sleep(SHORT_LEASE).await;
}

/// As [`late_event`], and nothing happens until the event comes.
pub(crate) async fn lost_event(stage: Stage) {
    let (_, backup, _) = event_under_way(&stage).await;
    let database = &stage.world.database;
    database.go_down();
    sleep(SHORT_LEASE * 12 / 10).await;
    database.come_up_with(backup, Aftermath::Clean).await;
    sleep(SHORT_LEASE * 2).await;
    stage.expect_fresh(0);
}

/// A node has asked for an event that was just committed, and waits for the answer. There is a backup from before.
async fn event_under_way(stage: &Stage) -> (Subject, Backup, Revision) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    let database = &stage.world.database;
    let backup = database.store.backup().expect("the database is open");
    stage.weather(0, Weather { delay: (5, 5), ..Weather::FINE });
    let head = stage.world.judge.head();
    let granting = stage.grant(1, End::UntilRevoked);
    let delaying = async {
        while stage.world.judge.head() == head {
            sleep(Duration::from_millis(1)).await;
        }
        // The hint takes 5 ms, and the question 5 more.
        sleep(Duration::from_millis(9)).await;
        stage.weather(0, Weather { delay: (680, 680), outlives: true, ..Weather::FINE });
        sleep(Duration::from_millis(2)).await;
        stage.weather(0, Weather::FINE);
    };
    tokio::select! {
        biased;
        _ = granting => {}
        () = delaying => {}
    }
    (subject, backup, head)
}

/// The node that is cut off may answer for twice as long as the one that waits.
pub(crate) async fn longer_lease(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.until_proven(0).await;
    stage.process(0).host.pause();
    stage.complete(stage.revoke(1, &subject)).await;
}

/// The node that is cut off proves that it is current while the commit is on its way.
pub(crate) async fn slow_commit(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.weather(1, Weather { delay: (150, 150), ..Weather::FINE });
    let answer = stage.revoke(1, &subject);
    let head = stage.world.judge.head();
    while stage.world.judge.head() == head {
        sleep(Duration::from_millis(1)).await;
    }
    stage.process(0).host.pause();
    stage.complete(answer).await;
}

/// A grant ends, and then the database's clock is set back to before its end.
pub(crate) async fn clock_set_back(stage: Stage) {
    stage.start(0).await;
    let subject = stage.grant(0, End::After(Span(Duration::from_millis(700)))).await;
    sleep(Duration::from_millis(420)).await;
    stage.world.ask_all(&subject);
    stage.weather(0, Weather { delay: (0, 0), ..Weather::FINE });
    stage.world.database.clock.set_back(TimeDelta::milliseconds(300));
    stage.until_proven(0).await;
    stage.world.ask_all(&subject);
}

/// A node reads the log so slowly that others wait for its lease to lapse; but it goes on asking for leases.
pub(crate) async fn slow_reading(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.weather(0, Weather { reading: (1_500, 1_500), ..Weather::FINE });
    stage.complete(stage.revoke(1, &subject)).await;
}

/// A follower that has lapsed comes back, and while it is told what it has missed, somebody is revoked. What it asks is answered
/// while changes wait to be sent.
pub(crate) async fn narrow_way(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    stage.weather_between(1, 0, CUT);
    sleep(LEASE).await;
    stage.grant(0, End::UntilRevoked).await;
    stage.weather_between(1, 0, Weather { room: 1, ..Weather::FINE });
    let pair = stage.world.network.pair(1, 0);
    pair.down.change(|it| it.delay = (100, 100));
    stage.until(0, |process| process.node.gauges().followers == 1).await;
    // So that it is told of changes.
    stage.until_proven(0).await;
    stage.until_proven(0).await;
    // The way is taken. These two wait, in a row, ...
    for _ in 0..2 {
        sleep(Duration::from_millis(30)).await;
        stage.grant_many(0, 1).await;
    }
    // ... while the follower asks.
    sleep(Duration::from_millis(40)).await;
    stage.complete(stage.revoke(0, &subject)).await;
    sleep(LEASE * 2).await;
    stage.expect_fresh(1);
}

/// A follower loses its stream and comes back, and somebody is revoked before it is told anything.
pub(crate) async fn new_stream(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    let pair = stage.world.network.pair(1, 0);
    pair.down.change(|it| it.delay = (100, 100));
    pair.cut();
    stage.until(0, |process| process.node.gauges().followers == 0).await;
    stage.until(0, |process| process.node.gauges().followers == 1).await;
    stage.complete(stage.revoke(0, &subject)).await;
}

/// A database fails over and has lost what was committed last, but no registration and no renewal. A sidecar that has acknowledged
/// what was lost goes on answering for a while.
pub(crate) async fn lost_commits(stage: Stage) {
    for number in 0..3 {
        stage.start(number).await;
    }
    let subject = stage.grant(1, End::UntilRevoked).await;
    let database = &stage.world.database;
    stage.until_proven(0).await;
    let backup = database.store.backup().expect("the database is open");
    stage.grant_many(1, 3).await;
    sleep(Duration::from_millis(15)).await;
    stage.weather_between(2, 0, CUT);
    stage.weather_between(2, 1, CUT);
    database.go_down();
    database.come_up_with(backup, Aftermath::Sudden).await;
    stage.until(1, |process| process.node.revision() == 1).await;
    stage.complete(stage.revoke(1, &subject)).await;
}

/// An older log is restored, and a replica that is cut off does not know. A sidecar that follows the older log already, and has a
/// lease, comes to it, and is told what was lost.
pub(crate) async fn late_upstream(stage: Stage) {
    for number in 0..3 {
        stage.start(number).await;
    }
    stage.grant(0, End::UntilRevoked).await;
    let database = &stage.world.database;
    let backup = database.store.backup().expect("the database is open");
    let head = stage.world.judge.head();
    stage.grant_many(0, 2).await;
    stage.until(1, |process| process.node.revision() > head + 1).await;
    stage.weather(1, CUT);
    database.go_down();
    sleep(LEASE * 12 / 10).await;
    database.come_up_with(backup, Aftermath::Clean).await;
    stage.until(2, |process| process.node.revision() == head).await;
    stage.until(2, |process| process.node.read_view().is_fresh()).await;
    stage.weather_between(2, 0, CUT);
    sleep(LEASE).await;
    stage.weather(1, Weather::FINE);
    stage.weather_between(2, 0, Weather::FINE);
    sleep(LEASE * 3).await;
    stage.expect_fresh(2);
}

/// A node could prove nothing for so long that whoever it feeds has lapsed. It stops running for a moment, and is told to stop; and
/// when it goes on, it finds a lease, and a follower that asks for one.
pub(crate) async fn late_proof(stage: Stage) {
    for number in 0..3 {
        stage.start(number).await;
    }
    let subject = stage.grant(0, End::UntilRevoked).await;
    stage.weather(1, Weather { is_refused: true, ..Weather::FINE });
    sleep(LEASE * 11 / 10).await;
    // So slow that it mostly waits for an answer.
    stage.weather(1, Weather { delay: (150, 150), ..Weather::FINE });
    sleep(LEASE / 4).await;
    let process = stage.process(1);
    process.host.pause();
    stage.weather(1, Weather::FINE);
    let answer = stage.revoke(0, &subject);
    let resuming = async {
        sleep(LEASE / 5).await;
        process.host.resume();
    };
    tokio::join!(stage.world.stop(1), resuming, stage.complete(answer));
}

/// A machine is suspended for hours. When it is awake again, a grant for another minute is in force.
pub(crate) async fn long_sleep(stage: Stage) {
    let process = stage.start(0).await;
    let hours = Duration::from_hours(2);
    let end = End::After(Span(hours + Duration::from_mins(1)));
    let subject = stage.grant(0, end).await;
    let clock = &stage.world.machines[0].clock;
    process.host.pause();
    clock.fall_asleep();
    sleep(hours).await;
    stage.world.ask_all(&subject);
    clock.wake_up();
    process.host.resume();
    sleep(LEASE).await;
    stage.expect_allowed(0, &subject);
}

/// A sidecar's first upstream never answers, and later the second.
pub(crate) async fn hanging_upstream(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    stage.weather_between(2, 0, CUT);
    stage.start(2).await;
    stage.weather_between(2, 0, Weather::FINE);
    stage.weather_between(2, 1, CUT);
    sleep(LEASE * 3).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    stage.expect_allowed(2, &subject);
    stage.prompt(0, &subject).await;
}

/// A replica and a sidecar die. The first revocation waits for them, the next does not.
pub(crate) async fn dead_node(stage: Stage) {
    for number in 0..3 {
        stage.start(number).await;
    }
    let first = stage.grant(0, End::UntilRevoked).await;
    let second = stage.grant(0, End::UntilRevoked).await;
    stage.world.crash(1);
    stage.world.crash(2);
    stage.complete(stage.revoke(0, &first)).await;
    stage.prompt(0, &second).await;
}
