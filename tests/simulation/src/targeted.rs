//! Scenarios that are aimed at one rule each: what random histories rarely hit. With the rule broken, they show it; unbroken, the
//! protocol keeps its promise in all of them.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    Outcome, Settings,
    cluster::{Plan, World},
    fixture::Stage,
    mutants::Rule,
};

mod scenarios;

/// How long a lease is in all of them.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

#[derive(Debug)]
/// A scenario: its name, the rules that it is aimed at, and what happens.
pub struct Scenario {
    /// What happens in it.
    pub name: &'static str,
    /// The rules that it must detect when they are broken.
    pub rules: &'static [Rule],
    run: fn(u64) -> BoxFuture<'static, Played>,
}

/// The world that it happens in, and what happens.
type Played = (Arc<World>, BoxFuture<'static, ()>);

/// All of them.
pub const SCENARIOS: [Scenario; 20] = [
    Scenario {
        name: "the holder's clock is slow, the waiter's fast",
        rules: &[Rule::RateMargins, Rule::HolderMargin, Rule::GrantorMargin],
        run: |seed| Box::pin(begin(seed, scenarios::rates(), scenarios::margin)),
    },
    Scenario {
        name: "a renewal is in flight while its node seems silent",
        rules: &[Rule::EvictBeforeSkip, Rule::EvictObservedHeartbeat],
        run: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenarios::renewal_in_flight)),
    },
    Scenario {
        name: "the roll is read late",
        rules: &[Rule::SilenceStartsAtAnswer],
        run: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenarios::late_roll)),
    },
    Scenario {
        name: "a node joins right before a commit",
        rules: &[Rule::MembershipAfterCommit],
        run: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenarios::join_before_commit)),
    },
    Scenario {
        name: "a commit comes right after a node has joined",
        rules: &[Rule::RegisterBeforeLease],
        run: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenarios::join_slowly)),
    },
    Scenario {
        name: "an older roll is restored",
        rules: &[Rule::HeartbeatsNeverRepeat],
        run: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenarios::restored_roll)),
    },
    Scenario {
        name: "an event comes after an older log was restored",
        rules: &[Rule::LeaseMatchesLog],
        run: |seed| Box::pin(begin(seed, scenarios::short_leases(), scenarios::late_event)),
    },
    Scenario {
        name: "an event that was lost comes when there is a lease already",
        rules: &[Rule::ReadAfterLease],
        run: |seed| Box::pin(begin(seed, scenarios::short_leases(), scenarios::lost_event)),
    },
    Scenario {
        name: "one node has a longer lease than the one that waits",
        rules: &[Rule::WaitForLongestLease],
        run: |seed| Box::pin(begin(seed, scenarios::leases(), scenarios::longer_lease)),
    },
    Scenario {
        name: "the answer to a commit takes long",
        rules: &[Rule::WaitStartsAfterCommit],
        run: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenarios::slow_commit)),
    },
    Scenario {
        name: "a node knows of a change long before it has read it",
        rules: &[Rule::LeaseAfterApply],
        run: |seed| Box::pin(begin(seed, Plan::replicas(2, LEASE), scenarios::slow_reading)),
    },
    Scenario {
        name: "a follower comes back when much has happened",
        rules: &[Rule::PongsFollowChanges],
        run: |seed| Box::pin(begin(seed, scenarios::one_upstream(), scenarios::narrow_way)),
    },
    Scenario {
        name: "the last commits are lost all of a sudden",
        rules: &[Rule::AcksEndWithTheirLog],
        run: |seed| Box::pin(begin(seed, scenarios::two_upstreams(), scenarios::lost_commits)),
    },
    Scenario {
        name: "a follower comes to a node that has not heard of the older log",
        rules: &[Rule::ResumeAfterNewerLease],
        run: |seed| Box::pin(begin(seed, scenarios::two_upstreams(), scenarios::late_upstream)),
    },
    Scenario {
        name: "a node is told to stop while a follower asks",
        rules: &[Rule::NoGrantsAfterStepDown],
        run: |seed| Box::pin(begin(seed, scenarios::second_upstream(), scenarios::late_proof)),
    },
    Scenario {
        name: "a follower has a new stream",
        rules: &[Rule::LeasesSurviveReconnects],
        run: |seed| Box::pin(begin(seed, scenarios::one_upstream(), scenarios::new_stream)),
    },
    Scenario {
        name: "a machine sleeps for hours",
        rules: &[Rule::StaleTimeIsNotKept],
        run: |seed| Box::pin(begin(seed, Plan::replicas(1, LEASE), scenarios::long_sleep)),
    },
    Scenario {
        name: "one of two upstreams hangs",
        rules: &[],
        run: |seed| Box::pin(begin(seed, scenarios::two_upstreams(), scenarios::hanging_upstream)),
    },
    Scenario {
        name: "a dead node is waited for once",
        rules: &[],
        run: |seed| Box::pin(begin(seed, scenarios::two_upstreams(), scenarios::dead_node)),
    },
    Scenario {
        name: "the database's clock is set back when a grant has ended",
        rules: &[Rule::TimeNeverRunsBack],
        run: |seed| Box::pin(begin(seed, Plan::replicas(1, LEASE), scenarios::clock_set_back)),
    },
];

impl Scenario {
    /// Runs the scenario with one seed.
    pub fn run(&self, seed: u64, settings: Settings) -> Outcome {
        let play = self.run;
        crate::run(settings, async move { play(seed).await })
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
