//! Everything that a check reads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::Guard;
use chrono::TimeDelta;

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
    /// The least times since an operator last accepted the clock.
    pub(super) least_times: Arc<LeastTimes>,
}

/// The view, time and lease of one check.
#[derive(Debug)]
pub struct ReadView {
    /// The snapshot and the lease. A guard writes no counter that threads share.
    pub view: Guard<Arc<View>>,
    /// The time to decide at; `None` if the node has never read the database clock.
    pub now: Option<Now>,
    /// The remaining lifetime of the lease. If zero, the check must be denied with `STALE`.
    pub valid_for: Duration,
}

/// The least times of checks and of changes.
#[derive(Debug, Default)]
pub(super) struct LeastTimes {
    /// By events, and by trusted readings of the database clock.
    checks: SteadyTime,
    /// By events alone. A reading, and the time until then, depend on the activity of all tenants.
    /// The time of a change must reveal nothing of that.
    changes: SteadyTime,
}

/// A time that never decreases, and never runs slower than 99 % of the boot clock. Without this
/// bound, a database clock that is set back or stands still would extend grants.
#[derive(Debug)]
struct SteadyTime {
    /// The greatest distance so far from 99 % of the boot time to a known time, in microseconds.
    offset_us: AtomicI64,
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

    /// Bounds of the time at `now`.
    ///
    /// The bounds diverge while the database clock is not trusted. Grants end by the upper bound,
    /// so they end when their time has elapsed. Locks end by the lower bound, so a lock that was
    /// created after the step applies until its end.
    pub(super) fn time_at(&self, clock: &ClockReading, now: BootTime) -> Now {
        let last_event = self.snapshot.time().unwrap_or(Time::MIN_UTC);
        let earliest = clock.at(now).earliest.max(last_event);
        let latest = clock.at(now).latest.max(self.least_times.checks.at(now));
        Now { earliest, latest: latest.max(last_event) }
    }

    /// Whether the replica trusts the latest reading of the database clock.
    pub fn is_clock_trusted(&self) -> bool {
        self.database_clock.is_none_or(|clock| clock.is_trusted)
    }

    /// Makes the time at `now` the least time from then on. A time that is not trusted must not
    /// outlive the fault of the clock.
    pub(super) fn remember(&self, time: Time, is_trusted: bool, now: BootTime) {
        if !is_trusted {
            return;
        }
        self.least_times.checks.advance(time, now);
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

impl LeastTimes {
    /// Records that an event that happened at `time` was applied at `at`.
    pub(super) fn record_event(&self, time: Time, at: BootTime) {
        self.checks.advance(time, at);
        self.changes.advance(time, at);
    }

    /// Makes all times later, from now on.
    pub(super) fn advance_by(&self, by: TimeDelta) {
        self.checks.advance_by(by);
        self.changes.advance_by(by);
    }

    /// The least time of a change at `at`.
    pub(super) fn of_change(&self, at: BootTime) -> Time {
        self.changes.at(at)
    }
}

impl SteadyTime {
    /// Records that the time was `time` at `at`.
    fn advance(&self, time: Time, at: BootTime) {
        let offset_us = time.timestamp_micros().saturating_sub(slow_us(at));
        // Read first: most offsets are lower, and a write would invalidate the cache lines of other
        // threads.
        if offset_us > self.offset_us.load(Ordering::Relaxed) {
            self.offset_us.fetch_max(offset_us, Ordering::Relaxed);
        }
    }

    fn advance_by(&self, by: TimeDelta) {
        let by_us = by.num_microseconds().unwrap_or(i64::MAX);
        let later = |offset_us: i64| Some(offset_us.saturating_add(by_us));
        let _ = self.offset_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// The least time at `at`.
    fn at(&self, at: BootTime) -> Time {
        let least_us = self.offset_us.load(Ordering::Relaxed).saturating_add(slow_us(at));
        let limit = if least_us < 0 { Time::MIN_UTC } else { Time::MAX_UTC };
        from_micros(least_us).unwrap_or(limit)
    }
}

impl Default for SteadyTime {
    fn default() -> Self {
        Self { offset_us: AtomicI64::new(i64::MIN) }
    }
}

/// 99 % of the boot time, in microseconds.
fn slow_us(at: BootTime) -> i64 {
    at.0 / 100_000 * 99
}
