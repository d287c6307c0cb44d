//! What is asked and told of locks.

use crate::domain::{LockTerms, Position, Revision, TenantId, Time};

/// Which locks to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockQuery {
    /// On this tenant; `None`: all there are.
    pub tenant_id: Option<TenantId>,
    /// Whether to list those that have been lifted or have come to their end by `now`, too. A lock that an event has ended has
    /// ended, also where `now` is by a clock that is behind.
    pub include_ended: bool,
    /// The moment that states are told at.
    pub now: Time,
    /// Made before the event of this revision.
    pub before: Option<Revision>,
    /// At most so many.
    pub limit: usize,
}

/// What [`Store::load`](super::Store::load) has read besides what it visits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The place in the log that all of it is of.
    pub position: Position,
    /// Every lock that no event has ended, in no particular order.
    pub locks: Vec<LockTerms>,
}
