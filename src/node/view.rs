//! Everything that a check reads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use crate::{
    domain::{BootTime, Now, Time, time::from_micros},
    node::{
        lease::{ClockReading, Lease},
        snapshot::Snapshot,
    },
};

/// An immutable state of a check node. A check loads the whole view at once.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub(super) snapshot: Snapshot,
    pub(super) lease: Option<Lease>,
    /// The latest reading of the database clock. The reading outlives the lease.
    pub(super) database_clock: Option<ClockReading>,
    /// Whether the snapshot is known to differ from the log of the database.
    pub(super) is_invalidated: bool,
    /// The latest time that decided a check in this log.
    pub(super) monotonic_time: Arc<MonotonicTime>,
}

/// The view, time and lease of one check.
#[derive(Debug, Clone)]
pub struct ReadView {
    /// The snapshot and the lease.
    pub view: Arc<View>,
    /// The time to decide at; `None` if the node has never read the database clock.
    pub now: Option<Now>,
    /// The remaining lifetime of the lease. If zero, the check must be denied with `STALE`.
    pub valid_for: Duration,
}

/// A time, in microseconds since 1970, that never decreases.
#[derive(Debug)]
pub(super) struct MonotonicTime {
    latest_us: AtomicI64,
}

impl View {
    /// The grants and locks.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The latest lease, valid or not.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// The time of the database at `now`, but at least the time of the last event. The upper bound
    /// never decreases within one log, so an ended grant stays ended even if the database clock is
    /// set back.
    pub(super) fn decision_time(&self, clock: &ClockReading, now: BootTime) -> Now {
        let now = clock.at(now);
        let least = self.snapshot.time().unwrap_or(Time::MIN_UTC);
        let (earliest, latest) = (now.earliest.max(least), now.latest.max(least));
        self.monotonic_time.advance(Now { earliest, latest })
    }

    pub(super) fn with_lease(self, lease: Option<Lease>) -> Self {
        let database_clock = lease.map(|lease| lease.database_clock).or(self.database_clock);
        Self { lease, database_clock, ..self }
    }
}

impl ReadView {
    /// Whether the check may be answered from the snapshot.
    pub fn is_fresh(&self) -> bool {
        !self.valid_for.is_zero()
    }
}

impl MonotonicTime {
    /// Raises `now.latest` to the highest value passed so far. `now.earliest` is unchanged.
    ///
    /// The bounds diverge after the database clock is set back. Grants end by `latest`, so an ended
    /// grant stays ended. Locks end by `earliest`, so a lock that was created after the step
    /// applies until its end.
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
