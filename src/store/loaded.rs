//! The result of a load.

use crate::domain::{AcceptedClock, GrantId, LockTerms, Position, TenantId, Time, TokenKey};

/// Why a check node holds a grant in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// No event has ended the grant.
    Live,
    /// The grant ended last among the grants of its tenant and group. This grant can explain a
    /// denial.
    LastEnded,
}

/// The result of [`Log::load`](super::Log::load) besides the visited grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The position of all loaded data in the log.
    pub position: Position,
    /// The key of consistency tokens in this epoch.
    pub token_key: TokenKey,
    /// Every lock that no event has ended, in no particular order. Also locks on everything, where
    /// the history is incomplete or not authentic.
    pub locks: Vec<LockTerms>,
    /// Every clock that an operator has accepted, in the order of the log. From authentic events
    /// only.
    pub accepted_clocks: Vec<AcceptedClock>,
    /// The latest time that a check node has trusted since the last of these. `None` before the
    /// first record. Not authenticated.
    pub trusted_time: Option<Time>,
    /// Visited grants that must not be used, because they differ from their events.
    pub rejected: Vec<(TenantId, GrantId)>,
    /// False if the rows are not authentic. The locks, and the grants without the rejected ones,
    /// then follow from the events.
    pub is_authentic: bool,
}
