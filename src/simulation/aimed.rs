//! Scenarios that are aimed at one rule each: what random histories rarely hit. With the rule broken, they show it; unbroken, the
//! protocol keeps its promise in all of them.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::sleep;

use crate::{
    domain::{End, Span},
    node::mutants::Rule,
    simulation::{
        Outcome,
        clocks::DRIFT_MAX,
        judge::Aftermath,
        line::Weather,
        run,
        stage::Stage,
        world::{Plan, World},
    },
};

/// How long a lease is in all of them.
const LEASE: Duration = Duration::from_secs(1);

/// A scenario: its name, the rules that it is aimed at, and what happens.
pub(super) struct Aimed {
    pub(super) name: &'static str,
    pub(super) at: &'static [Rule],
    play: fn(u64) -> BoxFuture<'static, Played>,
}

/// The world that it happens in, and what happens.
type Played = (Arc<World>, BoxFuture<'static, ()>);

/// All of them.
pub(super) const ALL: [Aimed; 16] = [
    Aimed {
        name: "the holder's clock is slow, the waiter's fast",
        at: &[Rule::RateMargin, Rule::ShorterLease, Rule::LongerWait],
        play: |seed| Box::pin(begin(seed, rates(), margin)),
    },
    Aimed {
        name: "a renewal is in flight while its node seems silent",
        at: &[Rule::StrikeOffBeforeSkip, Rule::StrikeOffWhatWasSeen],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), renewal_in_flight)),
    },
    Aimed {
        name: "a node joins right before a commit",
        at: &[Rule::RollAfterCommit],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), join_before_commit)),
    },
    Aimed {
        name: "a commit comes right after a node has joined",
        at: &[Rule::RowBeforeProof],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), join_slowly)),
    },
    Aimed {
        name: "an older roll is restored",
        at: &[Rule::RowSeqOnce],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), restored_roll)),
    },
    Aimed {
        name: "an event comes after an older log was restored",
        at: &[Rule::ProofOfThisHistory],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), late_event)),
    },
    Aimed {
        name: "one node has a longer lease than the one that waits",
        at: &[Rule::LongestLease],
        play: |seed| Box::pin(begin(seed, leases(), longer_lease)),
    },
    Aimed {
        name: "the answer to a commit takes long",
        at: &[Rule::WaitFromAnswer],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), slow_commit)),
    },
    Aimed {
        name: "a node knows of a change long before it has read it",
        at: &[Rule::ProofAfterApply],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), slow_reading)),
    },
    Aimed {
        name: "a follower comes back when much has happened",
        at: &[Rule::PongBehindChanges],
        play: |seed| Box::pin(begin(seed, one_upstream(), narrow_way)),
    },
    Aimed {
        name: "the last commits are lost all of a sudden",
        at: &[Rule::ForgetOldAcks],
        play: |seed| Box::pin(begin(seed, two_upstreams(), lost_commits)),
    },
    Aimed {
        name: "a follower has a new stream",
        at: &[Rule::KeepLeaseOnReturn],
        play: |seed| Box::pin(begin(seed, one_upstream(), new_stream)),
    },
    Aimed {
        name: "a machine sleeps for hours",
        at: &[Rule::RememberNoOldTime],
        play: |seed| Box::pin(begin(seed, Plan::replicas(1, LEASE), long_sleep)),
    },
    Aimed {
        name: "one of two upstreams hangs",
        at: &[],
        play: |seed| Box::pin(begin(seed, two_upstreams(), hanging_upstream)),
    },
    Aimed {
        name: "a dead node is waited for once",
        at: &[],
        play: |seed| Box::pin(begin(seed, two_upstreams(), dead_node)),
    },
    Aimed {
        name: "the database's clock is set back when a grant has ended",
        at: &[Rule::TimeNeverBack],
        play: |seed| Box::pin(begin(seed, Plan::replicas(1, LEASE), clock_set_back)),
    },
];

impl Aimed {
    pub(super) fn play(&self, seed: u64, rule: Option<Rule>) -> Outcome {
        let play = self.play;
        run(rule, async move { play(seed).await })
    }
}

async fn begin<F: Future<Output = ()> + Send + 'static>(
    seed: u64,
    plan: Plan,
    scenario: fn(Stage) -> F,
) -> (Arc<World>, BoxFuture<'static, ()>) {
    let stage = Stage::new(plan, seed).await;
    (Arc::clone(&stage.world), Box::pin(scenario(stage)))
}

const CUT: Weather = Weather { is_cut: true, ..Weather::FINE };

fn rates() -> Plan {
    let mut plan = Plan::replicas(2, LEASE);
    (plan.machines[0].drift, plan.machines[1].drift) = (-DRIFT_MAX, DRIFT_MAX);
    plan
}

fn leases() -> Plan {
    let mut plan = Plan::replicas(2, LEASE);
    plan.machines[0].lease = LEASE * 2;
    plan
}

fn one_upstream() -> Plan {
    Plan::replicas(1, LEASE).with_sidecar(vec![0])
}

fn two_upstreams() -> Plan {
    Plan::replicas(2, LEASE).with_sidecar(vec![0, 1])
}

/// A node is cut off right after it has proven that it is current, and right before somebody is revoked.
async fn margin(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.until_proven(0).await;
    stage.weather(0, CUT);
    stage.complete(stage.revoke(1, &subject)).await;
}

/// A node has not renewed for so long that it seems silent, while the renewal that it has sent at last is not committed yet.
async fn renewal_in_flight(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.until_proven(0).await;
    stage.weather(0, Weather { is_refused: true, ..Weather::FINE });
    sleep(LEASE * 9 / 10).await;
    stage.weather(0, Weather { gap: (650, 650), lost_hints: 100, ..Weather::FINE });
    sleep(LEASE * 63 / 100).await;
    stage.complete(stage.revoke(1, &subject)).await;
    sleep(LEASE).await;
}

/// A node joins; the one that makes the change has not heard of it.
async fn join_before_commit(stage: Stage) {
    stage.weather(0, Weather { lost_hints: 100, delay: (0, 4), ..Weather::FINE });
    stage.weather(1, Weather { lost_hints: 100, ..Weather::FINE });
    stage.start(0).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    stage.start(1).await;
    stage.complete(stage.revoke(0, &subject)).await;
}

/// A node joins, over a line that is so slow that everything it does takes long.
async fn join_slowly(stage: Stage) {
    stage.start(0).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    stage.weather(1, Weather { lost_hints: 100, delay: (50, 60), ..Weather::FINE });
    stage.start(1).await;
    stage.complete(stage.revoke(0, &subject)).await;
}

/// A backup is restored, and a node's row comes to say again what it said before, just when somebody looks.
async fn restored_roll(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    let database = &stage.world.database;
    let backup = database.store.backup().expect("the database is open");
    // The one that watches sees the next renewal, and then nothing until the row says the same again.
    stage.until_proven(0).await;
    sleep(Duration::from_millis(10)).await;
    stage.process(1).replica.iter().for_each(|(replica, _)| replica.enforcer().wake());
    sleep(Duration::from_millis(20)).await;
    stage.weather(1, CUT);
    database.go_down();
    sleep(LEASE * 12 / 10).await;
    database.come_up_with(backup, Aftermath::Clean).await;
    stage.until_proven(0).await;
    stage.weather(1, Weather::FINE);
    stage.process(0).host.pause();
    stage.until(1, |process| process.node.sight().is_fresh()).await;
    stage.complete(stage.revoke(1, &subject)).await;
}

/// A node has asked for an event, and is answered so late that an older log has been restored meanwhile, without that event. What
/// the node held when it asked is in both logs.
async fn late_event(stage: Stage) {
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
        stage.weather(0, Weather { delay: (1_900, 1_900), ..Weather::FINE });
        sleep(Duration::from_millis(2)).await;
        stage.weather(0, Weather::FINE);
    };
    tokio::join!(granting, delaying);
    database.go_down();
    sleep(LEASE * 12 / 10).await;
    database.come_up_with(backup, Aftermath::Clean).await;
    stage.until(1, |process| process.node.revision() == head).await;
    stage.until(1, |process| process.node.sight().is_fresh()).await;
    stage.complete(stage.revoke(1, &subject)).await;
}

/// The node that is cut off may answer for twice as long as the one that waits.
async fn longer_lease(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.until_proven(0).await;
    stage.process(0).host.pause();
    stage.complete(stage.revoke(1, &subject)).await;
}

/// The node that is cut off proves that it is current while the commit is on its way.
async fn slow_commit(stage: Stage) {
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
async fn clock_set_back(stage: Stage) {
    stage.start(0).await;
    let subject = stage.grant(0, End::After(Span(Duration::from_millis(700)))).await;
    sleep(Duration::from_millis(420)).await;
    stage.world.ask_all(&subject);
    stage.weather(0, Weather { delay: (0, 0), ..Weather::FINE });
    stage.world.database.clock.set_back(chrono::TimeDelta::milliseconds(300));
    stage.until_proven(0).await;
    stage.world.ask_all(&subject);
}

/// A node reads the log so slowly that others wait for its lease to lapse; but it goes on asking for proofs.
async fn slow_reading(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(1, End::UntilRevoked).await;
    stage.weather(0, Weather { reading: (1_500, 1_500), ..Weather::FINE });
    stage.complete(stage.revoke(1, &subject)).await;
}

/// A follower that has lapsed comes back, and while it is told what it has missed, somebody is revoked. What it asks is answered
/// while changes wait to be sent.
async fn narrow_way(stage: Stage) {
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
    sleep(Duration::from_millis(20)).await;
    stage.grant_many(0, 1).await;
    sleep(Duration::from_millis(100)).await;
    stage.complete(stage.revoke(0, &subject)).await;
    sleep(LEASE * 2).await;
    stage.expect_fresh(1);
}

/// A follower loses its stream and comes back, and somebody is revoked before it is told anything.
async fn new_stream(stage: Stage) {
    stage.start(0).await;
    stage.start(1).await;
    let subject = stage.grant(0, End::UntilRevoked).await;
    let pair = stage.world.network.pair(1, 0);
    pair.cut();
    stage.until(0, |process| process.node.gauges().followers == 0).await;
    stage.until(0, |process| process.node.gauges().followers == 1).await;
    pair.down.change(|it| it.delay = (200, 200));
    stage.complete(stage.revoke(0, &subject)).await;
}

/// A database fails over and has lost what was committed last, but no registration and no renewal. A sidecar that has acknowledged
/// what was lost goes on answering for a while.
async fn lost_commits(stage: Stage) {
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

/// A machine is suspended for hours. When it is awake again, a grant for another minute is in force.
async fn long_sleep(stage: Stage) {
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
async fn hanging_upstream(stage: Stage) {
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
async fn dead_node(stage: Stage) {
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
