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
        freshness::{ClockReading, Proof},
    },
};

/// What checks are answered from: one load gives all of it.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) snapshot: Snapshot,
    pub(super) proof: Option<Proof>,
    /// The last that was heard of the database's clock.
    pub(super) clock: Option<ClockReading>,
    /// Whether the grants are known not to be in the database's log.
    pub(super) is_disowned: bool,
    /// The latest that was ever taken for the time in this history.
    pub(super) latch: Arc<Latch>,
}

/// What a check sees at one moment.
#[derive(Debug, Clone)]
pub struct Sight {
    /// The grants.
    pub view: Arc<View>,
    /// The time to decide at. `None`: the node has never known the time.
    pub now: Option<Now>,
    /// For how long the grants may be answered from; zero: not at all.
    pub fresh_for: Duration,
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
    /// How old the proof is.
    pub proof_age: Option<Duration>,
    /// Nodes that follow this one.
    pub followers: usize,
}

/// The latest that was taken for now, in microseconds since 1970: it never goes back.
#[derive(Debug)]
pub(super) struct Latch {
    latest_us: AtomicI64,
}

impl View {
    /// The grants.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The proof that nothing newer is in force.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    pub(super) fn with_proof(self, proof: Option<Proof>) -> Self {
        Self { proof, clock: proof.map(|proof| proof.clock).or(self.clock), ..self }
    }
}

impl Sight {
    /// Whether the grants may be answered from.
    pub fn is_fresh(&self) -> bool {
        !self.fresh_for.is_zero()
    }
}

impl Latch {
    /// `now`, but its latest not before what was taken for the latest before. A clock that is set back makes the bounds stand apart: what lets
    /// in ends by the one, and what keeps out by the other.
    pub(super) fn close(&self, now: Now) -> Now {
        let before = self.latest_us.fetch_max(now.latest.timestamp_micros(), Ordering::Relaxed);
        let latest = from_micros(before).map_or(now.latest, |before| before.max(now.latest));
        Now { earliest: now.earliest, latest }
    }
}

impl Default for Latch {
    fn default() -> Self {
        Self { latest_us: AtomicI64::new(i64::MIN) }
    }
}
