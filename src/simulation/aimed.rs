//! Scenarios that are aimed at one rule each: what random histories rarely hit. With the rule broken, they show it; unbroken, the
//! protocol keeps its promise in all of them.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::sleep;

use crate::{
    domain::End,
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
    play: fn(u64) -> BoxFuture<'static, (Arc<World>, BoxFuture<'static, ()>)>,
}

/// All of them.
pub(super) const ALL: [Aimed; 8] = [
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
    // To begin, to read twice, to append, and then to commit.
    let head = stage.world.judge.head();
    let mut last = stage.process(0).node.view().proof().map(|proof| proof.as_of);
    while stage.world.judge.head() == head {
        sleep(Duration::from_millis(1)).await;
        let proof = stage.process(0).node.view().proof().map(|proof| proof.as_of);
        if proof != last && stage.world.judge.head() == head {
            last = proof;
        }
    }
    stage.process(0).host.pause();
    stage.complete(answer).await;
}

/// A grant ends, and then the database's clock is set back to before its end.
async fn clock_set_back(stage: Stage) {
    stage.start(0).await;
    let subject = stage.grant(0, End::After(crate::domain::Span(Duration::from_millis(700)))).await;
    sleep(Duration::from_millis(420)).await;
    stage.world.ask_all(&subject);
    stage.weather(0, Weather { delay: (0, 0), ..Weather::FINE });
    stage.world.database.clock.set_back(chrono::TimeDelta::milliseconds(300));
    stage.until_proven(0).await;
    stage.world.ask_all(&subject);
}
