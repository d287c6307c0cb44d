//! Inaccurate clocks. All clocks derive from the virtual time, which the simulated nodes cannot
//! read.

use std::time::Duration;

use chrono::TimeDelta;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    domain::{BootTime, Clock, Time, time::from_micros},
    mutants::{Rule, is_broken},
};

/// Maximum error of a clock's rate, in millionths, either way.
pub(crate) const DRIFT_MAX: i64 = 10_000;
/// The true time at the start, in microseconds since 1970.
const START_US: i64 = 1_700_000_000_000_000;

/// The clocks of a machine: a boot clock with a nearly right rate, and a wall clock with any
/// offset.
#[derive(Debug)]
pub(crate) struct MachineClock {
    start: Instant,
    /// Error of the rate, in millionths.
    drift: i64,
    /// The boot time at the start.
    boot_offset: Duration,
    wall_offset: Mutex<TimeDelta>,
    suspend: Mutex<Suspend>,
}

/// The time that a machine has been suspended.
#[derive(Debug, Default)]
struct Suspend {
    total: Duration,
    since: Option<Instant>,
}

impl MachineClock {
    pub(crate) fn new(drift: i64, boot_offset: Duration, wall_offset: TimeDelta) -> Self {
        Self {
            start: Instant::now(),
            drift,
            boot_offset,
            wall_offset: Mutex::new(wall_offset),
            suspend: Mutex::default(),
        }
    }

    pub(crate) fn set_wall(&self, offset: TimeDelta) {
        *self.wall_offset.lock() = offset;
    }

    pub(crate) fn suspend(&self) {
        self.suspend.lock().since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn resume(&self) {
        let mut suspend = self.suspend.lock();
        if let Some(since) = suspend.since.take() {
            suspend.total += since.elapsed();
        }
    }

    fn suspended(&self) -> Duration {
        let suspend = self.suspend.lock();
        suspend.total + suspend.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Time {
        at_rate(self.start.elapsed(), self.drift) + *self.wall_offset.lock()
    }

    fn boot_time(&self) -> BootTime {
        let mut elapsed = self.start.elapsed();
        if is_broken(Rule::ClockIncludesSuspend) {
            // Like `std::time::Instant`, which stops while the machine is suspended.
            elapsed -= self.suspended();
        }
        BootTime(0) + self.boot_offset + Duration::from_nanos(drifted(elapsed, self.drift))
    }
}

/// The database clock. The rate is nearly right, and the clock may step.
#[derive(Debug)]
pub(crate) struct DatabaseClock {
    start: Instant,
    /// Error of the rate, in millionths.
    drift: i64,
    /// Each step, with the offset from then on.
    steps: Mutex<Vec<(Instant, TimeDelta)>>,
    /// The offset that an operator last accepted.
    accepted: Mutex<TimeDelta>,
}

impl DatabaseClock {
    pub(crate) fn new(drift: i64) -> Self {
        let start = Instant::now();
        let steps = Mutex::new(vec![(start, TimeDelta::zero())]);
        Self { start, drift, steps, accepted: Mutex::new(TimeDelta::zero()) }
    }

    /// Steps forward, or back if `by` is negative.
    pub(crate) fn step(&self, by: TimeDelta) {
        let offset = self.offset() + by;
        self.steps.lock().push((Instant::now(), offset));
    }

    /// An operator has accepted a recent reading.
    pub(crate) fn accept(&self, reading: Time) {
        let offset = reading - at_rate(self.start.elapsed(), self.drift);
        let steps = self.steps.lock();
        let nearest = steps.iter().min_by_key(|(_, step)| (*step - offset).abs());
        *self.accepted.lock() = nearest.map_or(offset, |(_, step)| *step);
    }

    /// Undoes all steps since an operator last accepted the clock.
    pub(crate) fn correct(&self) {
        let accepted = *self.accepted.lock();
        self.step(accepted - self.offset());
    }

    /// The earliest time that a node may know, which has read the clock within the last `span`.
    pub(crate) fn earliest_within(&self, span: Duration) -> Time {
        let steps = self.steps.lock();
        let is_known = |ended: &Instant| ended.elapsed() <= span;
        let ends = steps.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        let known = steps.iter().zip(ends).filter(|(_, end)| end.as_ref().is_none_or(is_known));
        let earliest = known.map(|((_, offset), _)| *offset).min().unwrap_or_default();
        at_rate(self.start.elapsed(), self.drift) + earliest
    }

    /// The latest time that a node may know, which has read the clock at any time.
    pub(crate) fn latest(&self) -> Time {
        let latest = self.steps.lock().iter().map(|(_, offset)| *offset).max();
        at_rate(self.start.elapsed(), self.drift) + latest.unwrap_or_default()
    }

    /// Whether the clock has ever been ahead of an earlier time.
    pub(crate) fn has_stepped_forward(&self) -> bool {
        !self.steps.lock().is_sorted_by(|(_, earlier), (_, later)| earlier >= later)
    }

    fn offset(&self) -> TimeDelta {
        self.steps.lock().last().map(|(_, offset)| *offset).unwrap_or_default()
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Time {
        at_rate(self.start.elapsed(), self.drift) + self.offset()
    }

    fn boot_time(&self) -> BootTime {
        BootTime(0)
    }
}

fn drifted(elapsed: Duration, drift: i64) -> u64 {
    let millionths = u128::from((1_000_000 + drift).unsigned_abs());
    u64::try_from(elapsed.as_nanos() * millionths / 1_000_000).unwrap_or(u64::MAX)
}

fn at_rate(elapsed: Duration, drift: i64) -> Time {
    let elapsed_us = i64::try_from(drifted(elapsed, drift) / 1_000).unwrap_or(i64::MAX);
    from_micros(START_US + elapsed_us).unwrap_or(Time::MAX_UTC)
}
