//! What checks are answered from.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use crate::{
    domain::{Now, Revision, time::from_micros},
    node::{
        Snapshot,
        lease::{ClockReading, Lease},
    },
};

/// What checks are answered from: one load gives all of it.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) snapshot: Snapshot,
    pub(super) lease: Option<Lease>,
    /// The last that was heard of the database's clock.
    pub(super) clock: Option<ClockReading>,
    /// Whether the grants are known not to be in the database's log.
    pub(super) is_invalidated: bool,
    /// The latest that was ever taken for the time in this history.
    pub(super) monotonic_time: Arc<MonotonicTime>,
}

/// What a check sees at one moment.
#[derive(Debug, Clone)]
pub struct ReadView {
    /// The grants.
    pub view: Arc<View>,
    /// The time to decide at. `None`: the node has never known the time.
    pub now: Option<Now>,
    /// For how long the grants may be answered from; zero: not at all.
    pub valid_for: Duration,
}

/// What metrics say of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gauges {
    /// The last event that the snapshot includes.
    pub revision: Revision,
    /// Grants that no event has ended.
    pub live_grants: u64,
    /// Locks that no event has ended.
    pub locks: u64,
    /// Tenants with a grant, live or ended.
    pub tenants: u64,
    /// The snapshot's memory, estimated, in bytes.
    pub snapshot_bytes: u64,
    /// How old the lease is.
    pub lease_age: Option<Duration>,
    /// Nodes that follow this one.
    pub followers: usize,
}

/// The latest that was taken for now, in microseconds since 1970: it never goes back.
#[derive(Debug)]
pub(super) struct MonotonicTime {
    latest_us: AtomicI64,
}

impl View {
    /// The grants.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The lease that nothing newer is in force.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    pub(super) fn with_lease(self, lease: Option<Lease>) -> Self {
        Self { lease, clock: lease.map(|lease| lease.clock).or(self.clock), ..self }
    }
}

impl ReadView {
    /// Whether the grants may be answered from.
    pub fn is_fresh(&self) -> bool {
        !self.valid_for.is_zero()
    }
}

impl MonotonicTime {
    /// `now`, but its latest not before what was taken for the latest before. A clock that is set back makes the bounds stand apart: what lets
    /// in ends by the one, and what keeps out by the other.
    pub(super) fn advance(&self, now: Now) -> Now {
        let before = self.latest_us.fetch_max(now.latest.timestamp_micros(), Ordering::Relaxed);
        let latest = from_micros(before).map_or(now.latest, |before| before.max(now.latest));
        Now { earliest: now.earliest, latest }
    }
}

impl Default for MonotonicTime {
    fn default() -> Self {
        Self { latest_us: AtomicI64::new(i64::MIN) }
    }
}
