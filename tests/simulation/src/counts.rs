//! How much a history has covered.

use std::ops::Add;

/// How much a history has covered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Committed events.
    pub commits: u64,
    /// Changes whose response was `COMPLETE`.
    pub complete: u64,
    /// Enforced changes that every node had acknowledged, so that no lease had to expire.
    pub acknowledged: u64,
    /// Changes whose response was `PENDING`.
    pub pending: u64,
    /// Checks.
    pub checks: u64,
    /// Checks that were allowed.
    pub allowed: u64,
    /// Checks of AI agents that were allowed.
    pub allowed_ai: u64,
    /// Checks that were denied because the node had no valid lease.
    pub stale: u64,
    /// Checks that were denied because of a lock.
    pub locked: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            commits: self.commits + other.commits,
            complete: self.complete + other.complete,
            acknowledged: self.acknowledged + other.acknowledged,
            pending: self.pending + other.pending,
            checks: self.checks + other.checks,
            allowed: self.allowed + other.allowed,
            allowed_ai: self.allowed_ai + other.allowed_ai,
            stale: self.stale + other.stale,
            locked: self.locked + other.locked,
        }
    }
}
