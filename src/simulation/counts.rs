//! How much of everything a simulation has seen.

use std::ops::Add;

/// How much has happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) commits: u64,
    pub(super) complete: u64,
    /// Of these: without waiting for anybody to lapse.
    pub(super) acknowledged: u64,
    pub(super) pending: u64,
    pub(super) checks: u64,
    pub(super) allowed: u64,
    pub(super) stale: u64,
    pub(super) locked: u64,
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
            stale: self.stale + other.stale,
            locked: self.locked + other.locked,
        }
    }
}
