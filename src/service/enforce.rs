//! When a change is in force everywhere.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use tracing::{Instrument, info_span};

use crate::{
    domain::{Enforced, Revision, Time, time::between},
    node::{enforcement::Commit, enforcer::EnforcementTotals},
    service::{Service, ServiceError},
    store::Membership,
};

/// How long anybody may wait for a change to be in force. Longer, only so many: where leases are long, those who wait for a dead
/// node must not take the place of those who revoke.
const SHORT_WAIT: Duration = Duration::from_secs(10);
pub(super) const LONG_WAITS: usize = 512;

/// Whether a change is in force at every check node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnforcementState {
    /// No check node can still answer from before it.
    Complete,
    /// That is not known yet, and the caller's deadline has come.
    Pending,
}

/// How far a change has reached the check nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforcement {
    /// Whether it is in force everywhere.
    pub state: EnforcementState,
    /// The revision that nodes have to have.
    pub revision: Revision,
    /// From the commit until this was known, or until the caller had to be answered.
    pub elapsed: Duration,
    /// Nodes that have it.
    pub nodes_acknowledged: u32,
    /// Nodes that were not heard from, and can no longer allow anything.
    pub nodes_lapsed: u32,
}

impl EnforcementState {
    /// As the API names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETE",
            Self::Pending => "PENDING",
        }
    }
}

impl Enforcement {
    fn complete(revision: Revision, enforced: Enforced) -> Self {
        let Enforced { elapsed, nodes_acknowledged, nodes_lapsed } = enforced;
        let state = EnforcementState::Complete;
        Self { state, revision, elapsed, nodes_acknowledged, nodes_lapsed }
    }

    fn pending(revision: Revision, elapsed: Duration) -> Self {
        let state = EnforcementState::Pending;
        Self { state, revision, elapsed, nodes_acknowledged: 0, nodes_lapsed: 0 }
    }
}

impl Service {
    /// The totals of the changes that this process has made, for metrics.
    pub fn enforcement_totals(&self) -> EnforcementTotals {
        self.enforcer.totals()
    }

    /// Waits until what was committed is in force everywhere. That goes on after `deadline`, and is kept with the history.
    pub(super) async fn enforce(&self, commit: Commit, deadline: Instant) -> Enforcement {
        let result = self.enforcer.enforce(commit);
        let span = info_span!(target: "support_access::trace", "enforce", revision = commit.last);
        let outcome = self.outcome(commit.last, commit, result, deadline);
        let enforcement = outcome.instrument(span).await;
        self.enforcer.count_answer(enforcement.state == EnforcementState::Complete);
        enforcement
    }

    /// As [`Self::enforce`], for a change that was made before, and is known to be permanent. What was found then is found again.
    pub(super) async fn enforce_again(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> Result<Enforcement, ServiceError> {
        if let Some(enforced) = self.store.enforced(revision).await? {
            return Ok(Enforcement::complete(revision, enforced));
        }
        let made = self.store.events_after(revision - 1, 1).await?.first().map(|event| event.time);
        // Every node that can answer from before the change is on this roll. Who has its head has the change.
        let Membership { max_staleness, head, .. } = self.store.membership().await?;
        let time = head.time.unwrap_or(Time::UNIX_EPOCH);
        let at = self.node.boot_time();
        let commit = Commit { first: revision, last: head.revision, time, at, max_staleness };
        let result = self.enforcer.wait_for(commit, made);
        Ok(self.outcome(revision, commit, result, deadline).await)
    }

    /// Waits until the event of `revision`, and everything before it, is in force everywhere.
    pub async fn wait_enforced(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> Result<Enforcement, ServiceError> {
        let events = self.store.events_after(revision - 1, 1).await?;
        let event = events.first().ok_or(ServiceError::RevisionNotFound { revision })?;
        // An event that can be read need not be permanent.
        if self.store.begin().await?.commit().await? < revision {
            return Err(ServiceError::RevisionNotFound { revision });
        }
        let is_known = self.store.enforced(revision).await?.is_some();
        let enforcement = self.enforce_again(revision, deadline).await?;
        // The time that counts is from the commit, not from the question.
        let elapsed = if is_known { enforcement.elapsed } else { between(event.time, self.now()) };
        Ok(Enforcement { elapsed, ..enforcement })
    }

    async fn outcome(
        &self,
        revision: Revision,
        commit: Commit,
        result: oneshot::Receiver<Enforced>,
        deadline: Instant,
    ) -> Enforcement {
        let mut result = result;
        let soon = deadline.min(Instant::now() + SHORT_WAIT);
        let mut outcome = timeout_at(soon, &mut result).await;
        if outcome.is_err()
            && soon < deadline
            && let Ok(_place) = self.long_waits.try_acquire()
        {
            outcome = timeout_at(deadline, &mut result).await;
        }
        match outcome {
            Ok(Ok(enforced)) => Enforcement::complete(revision, enforced),
            // Too late, too many wait, or the server stops.
            Ok(Err(_)) | Err(_) => {
                Enforcement::pending(revision, self.node.boot_time().since(commit.at))
            }
        }
    }
}
