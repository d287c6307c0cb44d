//! Clocks that are wrong. All are made from the one virtual time, which nobody in the simulated world can read.

use std::time::Duration;

use chrono::TimeDelta;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    domain::{BootTime, Clock, Time, time::from_micros},
    mutants::{Rule, is_broken},
};

/// The fastest and the slowest that a clock may run, in millionths.
pub(crate) const DRIFT_MAX: i64 = 10_000;
/// What the right clock shows when the simulation begins, in microseconds since 1970.
const START_US: i64 = 1_700_000_000_000_000;

/// A machine's clocks: one with the right rate or nearly, one that may be anything.
#[derive(Debug)]
pub(crate) struct MachineClock {
    start: Instant,
    /// How much too fast, in millionths.
    drift: i64,
    /// What boot time was when the simulation began.
    boot_offset: Duration,
    wall_offset: Mutex<TimeDelta>,
    sleep: Mutex<Sleep>,
}

/// For how long a machine has been suspended.
#[derive(Debug, Default)]
struct Sleep {
    slept: Duration,
    since: Option<Instant>,
}

impl MachineClock {
    pub(crate) fn new(drift: i64, boot_offset: Duration, wall_offset: TimeDelta) -> Self {
        Self {
            start: Instant::now(),
            drift,
            boot_offset,
            wall_offset: Mutex::new(wall_offset),
            sleep: Mutex::default(),
        }
    }

    /// Somebody sets the wall clock.
    pub(crate) fn set_wall(&self, offset: TimeDelta) {
        *self.wall_offset.lock() = offset;
    }

    pub(crate) fn fall_asleep(&self) {
        self.sleep.lock().since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn wake_up(&self) {
        let mut sleep = self.sleep.lock();
        if let Some(since) = sleep.since.take() {
            sleep.slept += since.elapsed();
        }
    }

    /// How long the machine has been suspended in all.
    fn slept(&self) -> Duration {
        let sleep = self.sleep.lock();
        sleep.slept + sleep.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Time {
        right_time(self.start.elapsed(), self.drift) + *self.wall_offset.lock()
    }

    fn boot_time(&self) -> BootTime {
        let mut passed = self.start.elapsed();
        if is_broken(Rule::ClockIncludesSuspend) {
            // `Instant`: it stands still while the machine is suspended.
            passed -= self.slept();
        }
        BootTime(0) + self.boot_offset + Duration::from_nanos(drifted(passed, self.drift))
    }
}

/// The database's clock. Its rate is nearly right, too; it may be set back, as clocks are that were too fast.
#[derive(Debug)]
pub(crate) struct DatabaseClock {
    start: Instant,
    drift: i64,
    set_back: Mutex<TimeDelta>,
}

impl DatabaseClock {
    pub(crate) fn new(drift: i64) -> Self {
        Self { start: Instant::now(), drift, set_back: Mutex::default() }
    }

    pub(crate) fn set_back(&self, span: TimeDelta) {
        *self.set_back.lock() += span;
    }

    /// What it would show if it had never been set back. Who has read it before does not know that it was.
    pub(crate) fn latest(&self) -> Time {
        self.now() + *self.set_back.lock()
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Time {
        right_time(self.start.elapsed(), self.drift) - *self.set_back.lock()
    }

    fn boot_time(&self) -> BootTime {
        BootTime(0)
    }
}

fn drifted(passed: Duration, drift: i64) -> u64 {
    let millionths = u128::from((1_000_000 + drift).unsigned_abs());
    u64::try_from(passed.as_nanos() * millionths / 1_000_000).unwrap_or(u64::MAX)
}

fn right_time(passed: Duration, drift: i64) -> Time {
    let passed_us = i64::try_from(drifted(passed, drift) / 1_000).unwrap_or(i64::MAX);
    from_micros(START_US + passed_us).unwrap_or(Time::MAX_UTC)
}
