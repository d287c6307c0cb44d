//! What is counted.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::Revision;

/// What the database is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Renewal,
    Acknowledgement,
    LogRead,
    RollRead,
    /// A statement of a change.
    Change,
    Strike,
    Report,
    Other,
    /// A hint to one listener.
    Hint,
}

/// How often something was, and how much of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) count: u64,
    /// Rows of an answer, or bytes.
    pub(super) amount: u64,
    /// Of the database's processors.
    pub(super) busy: Duration,
}

impl Sum {
    pub(super) fn add(&mut self, amount: usize, busy: Duration) {
        self.count += 1;
        self.amount += amount as u64;
        self.busy += busy;
    }
}

/// A revocation that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Enforced {
    /// Of whoever has revoked.
    pub(super) region: usize,
    /// From the request to the answer.
    pub(super) took: Duration,
    /// From the commit, in the database, to the answer.
    pub(super) since_commit: Duration,
    pub(super) acknowledged: u32,
    pub(super) lapsed: u32,
}

/// All that was counted.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) statements: BTreeMap<Kind, Sum>,
    /// On streams, by what they are.
    pub(super) messages: BTreeMap<&'static str, Sum>,
    pub(super) enforced: Vec<Enforced>,
    /// Revocations that were refused or not answered in time.
    pub(super) failed: u64,
    pub(super) commits: u64,
    /// When each revision was committed.
    pub(super) committed: BTreeMap<Revision, Instant>,
    /// How old the proofs of replicas and of sidecars were, in milliseconds, as often as they were looked at.
    pub(super) ages: [BTreeMap<u64, u64>; 2],
    /// How often a node had no valid proof when it was looked at.
    pub(super) stale: u64,
    /// The longest that the database let anybody wait for a processor.
    pub(super) queue_max: Duration,
}

/// Counts, once all is settled.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Figures>);

impl Meter {
    pub(super) fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.0.lock());
    }

    /// All that was counted since this was last asked.
    pub(super) fn take(&self) -> Figures {
        std::mem::take(&mut self.0.lock())
    }
}

impl Figures {
    pub(super) fn sum(&self, kind: Kind) -> Sum {
        self.statements.get(&kind).copied().unwrap_or_default()
    }

    /// All of the database's processors' time.
    pub(super) fn busy(&self) -> Duration {
        self.statements.values().map(|sum| sum.busy).sum()
    }
}

/// The value that so many in a hundred are not above; of `(value, count)`, from the smallest.
pub(super) fn percentile(counts: &BTreeMap<u64, u64>, percent: u64) -> Option<u64> {
    let total: u64 = counts.values().sum();
    let rank = (total * percent).div_ceil(100).max(1);
    let mut seen = 0;
    counts.iter().find_map(|(value, count)| {
        seen += count;
        (seen >= rank).then_some(*value)
    })
}
