//! The current state of a node, as numbers.

use std::time::Duration;

use crate::domain::Revision;

/// The gauges of a node, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gauges {
    /// The last event in the snapshot.
    pub revision: Revision,
    /// Grants that no event has ended.
    pub live_grants: u64,
    /// Locks that no event has ended.
    pub locks: u64,
    /// The histories in which everything is denied, plus 1 if the loaded rows were not authentic.
    pub forgeries: u64,
    /// Tenants with a grant, live or ended.
    pub tenants: u64,
    /// Estimated memory of the snapshot, in bytes.
    pub snapshot_bytes: u64,
    /// Age of the lease, valid or not; `None` without one.
    pub lease_age: Option<Duration>,
    /// Followers with an open stream.
    pub followers: usize,
}
