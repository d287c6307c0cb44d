//! Scenarios that are aimed at one rule each: what random histories rarely hit. With the rule broken, they show it; unbroken, the
//! protocol keeps its promise in all of them.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    node::mutants::Rule,
    simulation::{
        Outcome, Settings, run,
        stage::Stage,
        world::{Plan, World},
    },
};

mod scenes;

/// How long a lease is in all of them.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// A scenario: its name, the rules that it is aimed at, and what happens.
pub(super) struct Aimed {
    pub(super) name: &'static str,
    pub(super) at: &'static [Rule],
    play: fn(u64) -> BoxFuture<'static, Played>,
}

/// The world that it happens in, and what happens.
type Played = (Arc<World>, BoxFuture<'static, ()>);

/// All of them.
pub(super) const ALL: [Aimed; 20] = [
    Aimed {
        name: "the holder's clock is slow, the waiter's fast",
        at: &[Rule::RateMargin, Rule::ShorterLease, Rule::LongerWait],
        play: |seed| Box::pin(begin(seed, scenes::rates(), scenes::margin)),
    },
    Aimed {
        name: "a renewal is in flight while its node seems silent",
        at: &[Rule::StrikeOffBeforeSkip, Rule::StrikeOffWhatWasSeen],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenes::renewal_in_flight)),
    },
    Aimed {
        name: "the roll is read late",
        at: &[Rule::SeenWhenAnswered],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenes::late_roll)),
    },
    Aimed {
        name: "a node joins right before a commit",
        at: &[Rule::RollAfterCommit],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenes::join_before_commit)),
    },
    Aimed {
        name: "a commit comes right after a node has joined",
        at: &[Rule::RowBeforeProof],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenes::join_slowly)),
    },
    Aimed {
        name: "an older roll is restored",
        at: &[Rule::RowSeqOnce],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenes::restored_roll)),
    },
    Aimed {
        name: "an event comes after an older log was restored",
        at: &[Rule::ProofOfThisHistory],
        play: |seed| Box::pin(begin(seed, scenes::short_leases(), scenes::late_event)),
    },
    Aimed {
        name: "an event that was lost comes when there is a lease already",
        at: &[Rule::ReadAfterProof],
        play: |seed| Box::pin(begin(seed, scenes::short_leases(), scenes::lost_event)),
    },
    Aimed {
        name: "one node has a longer lease than the one that waits",
        at: &[Rule::LongestLease],
        play: |seed| Box::pin(begin(seed, scenes::leases(), scenes::longer_lease)),
    },
    Aimed {
        name: "the answer to a commit takes long",
        at: &[Rule::WaitFromAnswer],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenes::slow_commit)),
    },
    Aimed {
        name: "a node knows of a change long before it has read it",
        at: &[Rule::ProofAfterApply],
        play: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenes::slow_reading)),
    },
    Aimed {
        name: "a follower comes back when much has happened",
        at: &[Rule::PongBehindChanges],
        play: |seed| Box::pin(begin(seed, scenes::one_upstream(), scenes::narrow_way)),
    },
    Aimed {
        name: "the last commits are lost all of a sudden",
        at: &[Rule::ForgetOldAcks],
        play: |seed| Box::pin(begin(seed, scenes::two_upstreams(), scenes::lost_commits)),
    },
    Aimed {
        name: "a follower comes to a node that has not heard of the older log",
        at: &[Rule::GoOnWhenProven],
        play: |seed| Box::pin(begin(seed, scenes::two_upstreams(), scenes::late_upstream)),
    },
    Aimed {
        name: "a node is told to stop while a follower asks",
        at: &[Rule::SilentOnceLeaving],
        play: |seed| Box::pin(begin(seed, scenes::second_upstream(), scenes::late_proof)),
    },
    Aimed {
        name: "a follower has a new stream",
        at: &[Rule::KeepLeaseOnReturn],
        play: |seed| Box::pin(begin(seed, scenes::one_upstream(), scenes::new_stream)),
    },
    Aimed {
        name: "a machine sleeps for hours",
        at: &[Rule::RememberNoOldTime],
        play: |seed| Box::pin(begin(seed, Plan::replicas(1, LEASE), scenes::long_sleep)),
    },
    Aimed {
        name: "one of two upstreams hangs",
        at: &[],
        play: |seed| Box::pin(begin(seed, scenes::two_upstreams(), scenes::hanging_upstream)),
    },
    Aimed {
        name: "a dead node is waited for once",
        at: &[],
        play: |seed| Box::pin(begin(seed, scenes::two_upstreams(), scenes::dead_node)),
    },
    Aimed {
        name: "the database's clock is set back when a grant has ended",
        at: &[Rule::TimeNeverBack],
        play: |seed| Box::pin(begin(seed, Plan::replicas(1, LEASE), scenes::clock_set_back)),
    },
];

impl Aimed {
    pub(super) fn play(&self, seed: u64, settings: Settings) -> Outcome {
        let play = self.play;
        run(settings, async move { play(seed).await })
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
