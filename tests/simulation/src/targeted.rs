//! Scenarios that random histories rarely reach. Each scenario targets some rules. If one of these
//! rules is broken, the scenario violates a guarantee. Otherwise, it keeps all guarantees.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::{Outcome, Rule, Settings, fixture::Fixture, plan::Plan};

mod clocks;
mod forgeries;
mod plans;
mod rogues;
mod scenarios;

use scenarios as play;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// A description, as a sentence.
    pub name: &'static str,
    /// The rules that the scenario detects when broken.
    pub rules: &'static [Rule],
    plan: fn() -> Plan,
    play: fn(Fixture) -> BoxFuture<'static, ()>,
}

/// All scenarios.
pub const SCENARIOS: [Scenario; 38] = [
    Scenario {
        name: "the clock of the holder is slow, and the clock of the waiting replica is fast",
        rules: &[Rule::RateMargins, Rule::HolderMargin, Rule::GrantorMargin],
        plan: plans::different_rates,
        play: |fixture| Box::pin(play::cut_off_after_renewal(fixture)),
    },
    Scenario {
        name: "a heartbeat is in flight while its node seems silent",
        rules: &[Rule::EvictBeforeSkip, Rule::EvictObservedHeartbeat],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(play::heartbeat_in_flight(fixture)),
    },
    Scenario {
        name: "the membership is read late",
        rules: &[Rule::SilenceStartsAtAnswer],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(play::late_membership_read(fixture)),
    },
    Scenario {
        name: "a node joins right before a commit",
        rules: &[Rule::MembershipAfterCommit],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(play::join_before_commit(fixture)),
    },
    Scenario {
        name: "a commit follows right after a node has joined",
        rules: &[Rule::RegisterBeforeLease],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(play::slow_join(fixture)),
    },
    Scenario {
        name: "an older membership is restored",
        rules: &[Rule::HeartbeatsNeverRepeat],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(play::restored_membership(fixture)),
    },
    Scenario {
        name: "an event arrives after a log without that event was restored",
        rules: &[Rule::LeaseMatchesLog],
        plan: plans::short_leases,
        play: |fixture| Box::pin(play::late_event(fixture)),
    },
    Scenario {
        name: "a lost event arrives when the node already has a lease",
        rules: &[Rule::ReadAfterLease],
        plan: plans::short_leases,
        play: |fixture| Box::pin(play::lost_event(fixture)),
    },
    Scenario {
        name: "a node has longer leases than the replica that waits",
        rules: &[Rule::WaitForLongestLease],
        plan: plans::different_leases,
        play: |fixture| Box::pin(play::longer_lease(fixture)),
    },
    Scenario {
        name: "the response to a commit is slow",
        rules: &[Rule::WaitStartsAfterCommit],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(play::slow_commit(fixture)),
    },
    Scenario {
        name: "a node gets a lease for events long before reading them",
        rules: &[Rule::LeaseAfterApply],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(play::slow_reads(fixture)),
    },
    Scenario {
        name: "a caller with short deadlines waits at one replica after the other",
        rules: &[Rule::WaitStartsAtApply],
        plan: plans::three_replicas,
        play: |fixture| Box::pin(play::switching_caller(fixture)),
    },
    Scenario {
        name: "a caller waits at a replica that does not know of a restore",
        rules: &[Rule::WaitStartsInSameLog],
        plan: plans::three_replicas,
        play: |fixture| Box::pin(play::wait_at_unaware_replica(fixture)),
    },
    Scenario {
        name: "a follower reconnects over a narrow stream",
        rules: &[Rule::PongsFollowChanges],
        plan: plans::replica_and_sidecar,
        play: |fixture| Box::pin(play::narrow_stream(fixture)),
    },
    Scenario {
        name: "the last commits are lost while leases are valid",
        rules: &[Rule::AcksEndWithTheirLog],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(play::lost_commits(fixture)),
    },
    Scenario {
        name: "a follower reaches a node that does not know of a restore",
        rules: &[Rule::ResumeAfterNewerLease],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(play::late_upstream(fixture)),
    },
    Scenario {
        name: "a node is stopped while its follower requests a lease",
        rules: &[Rule::NoGrantsAfterStepDown],
        plan: plans::sidecar_of_second_replica,
        play: |fixture| Box::pin(play::ping_while_stopping(fixture)),
    },
    Scenario {
        name: "a follower reconnects, and a grant is revoked at once",
        rules: &[Rule::LeasesSurviveReconnects],
        plan: plans::replica_and_sidecar,
        play: |fixture| Box::pin(play::reconnect(fixture)),
    },
    Scenario {
        name: "a machine is suspended for hours",
        rules: &[Rule::StaleTimeIsNotKept],
        plan: plans::one_replica,
        play: |fixture| Box::pin(clocks::long_suspend(fixture)),
    },
    Scenario {
        name: "two of three upstreams hang",
        rules: &[],
        plan: plans::three_replicas_and_sidecar,
        play: |fixture| Box::pin(play::hanging_upstreams(fixture)),
    },
    Scenario {
        name: "a follower uses the node id of another, and leaves in its name",
        rules: &[Rule::NodeIdsBelongToCredentials],
        plan: plans::replica_and_sidecar,
        play: |fixture| Box::pin(rogues::impostor(fixture)),
    },
    Scenario {
        name: "a follower never acknowledges, and returns with other node ids",
        rules: &[Rule::DelayingCredentialsGetNoSlot],
        plan: plans::one_replica,
        play: |fixture| Box::pin(rogues::returning_rogue(fixture)),
    },
    Scenario {
        name: "a replica loads forged grants",
        rules: &[Rule::RejectedGrantsAreNotUsed],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(forgeries::forged_grants(fixture)),
    },
    Scenario {
        name: "the event of a revocation is forged before a node reads the event",
        rules: &[Rule::ForgedEventsDenyEverything],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(forgeries::forged_revocation(fixture)),
    },
    Scenario {
        name: "an event is forged after every node has applied the event",
        rules: &[Rule::ReadsDenyForgedHistories, Rule::QuarantinesReachFollowers],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(forgeries::forged_known_event(fixture)),
    },
    Scenario {
        name: "only one revocation waits for a dead node",
        rules: &[],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(play::dead_nodes(fixture)),
    },
    Scenario {
        name: "the database clock is set back after a grant has expired",
        rules: &[],
        plan: plans::one_replica,
        play: |fixture| Box::pin(clocks::clock_set_back(fixture)),
    },
    Scenario {
        name: "the database clock is set back by an hour during a grant",
        rules: &[],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(clocks::clock_set_back_for_good(fixture)),
    },
    Scenario {
        name: "a follower changes to an upstream with an earlier time",
        rules: &[Rule::TimeKeepsPace, Rule::TimeNeverRunsBack],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(clocks::upstream_with_earlier_time(fixture)),
    },
    Scenario {
        name: "the database clock is ahead for a while",
        rules: &[Rule::ChangesAtTrustedTime, Rule::UntrustedTimeIsNotKept],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(clocks::clock_ahead_for_a_while(fixture)),
    },
    Scenario {
        name: "the database clock steps forward during a grant",
        rules: &[Rule::UntrustedReadingsEndGrants],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(clocks::clock_steps_forward(fixture)),
    },
    Scenario {
        name: "an operator accepts a step back of the clock",
        rules: &[
            Rule::AcceptedStepsMoveEnds,
            Rule::AcceptedClocksLowerTheTime,
            Rule::ReplicasFollowAcceptedClocks,
        ],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(clocks::accepted_step_back(fixture)),
    },
    Scenario {
        name: "an operator accepts a step forward, and the step back that undoes it",
        rules: &[Rule::UndoneStepsSpareGrants],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(clocks::accepted_step_and_return(fixture)),
    },
    Scenario {
        name: "a replica that has not noticed an accepted clock makes a change",
        rules: &[Rule::ChangesInCurrentEpoch],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(clocks::change_after_accepted_step(fixture)),
    },
    Scenario {
        name: "a backup is restored, and the database clock is set back",
        rules: &[Rule::RestoresLowerNoTime],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(clocks::restore_and_step_back(fixture)),
    },
    Scenario {
        name: "a backup from before an accepted step back is restored",
        rules: &[Rule::KnownClocksLowerNoTime, Rule::LostStepsAreUndone],
        plan: plans::two_replicas_and_sidecar,
        play: |fixture| Box::pin(clocks::restore_before_accepted_step(fixture)),
    },
    Scenario {
        name: "a grant starts after the trusted time was ahead of the database clock",
        rules: &[Rule::StartsFollowTheClock],
        plan: plans::fast_replica_and_sidecar,
        play: |fixture| Box::pin(clocks::start_after_untrusted_time(fixture)),
    },
    Scenario {
        name: "a replica restarts after the database clock was set back",
        rules: &[Rule::ResumeRecordedTime],
        plan: plans::two_replicas,
        play: |fixture| Box::pin(clocks::restart_after_step_back(fixture)),
    },
];

impl Scenario {
    /// Runs the scenario with one seed.
    pub fn run(&self, seed: u64, settings: Settings) -> Outcome {
        let Self { plan, play: steps, .. } = *self;
        crate::run(settings, async move {
            let fixture = Fixture::new(plan(), seed).await;
            (Arc::clone(&fixture.cluster), steps(fixture))
        })
    }
}
