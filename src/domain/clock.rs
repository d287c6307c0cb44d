//! Clocks.

use std::{
    fmt::Debug,
    ops::{Add, Sub},
    time::Duration,
};

use chrono::TimeDelta;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::domain::time::{Time, truncate};

/// A source of time. Only implementations read the machine's clocks; all other code takes the time
/// as an argument.
pub trait Clock: Debug + Send + Sync {
    /// The wall-clock time, UTC, truncated to microseconds. May be wrong, and may jump.
    fn now(&self) -> Time;

    /// The time since this machine booted, suspends included. Never jumps, and is not comparable
    /// with that of another machine.
    fn boot_time(&self) -> BootTime;
}

/// A time on a machine's `CLOCK_BOOTTIME` (Linux, `clock_gettime(2)`), in nanoseconds. Unlike
/// [`std::time::Instant`], this clock continues while the machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub i64);

impl BootTime {
    /// The time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;
    /// May be before the machine booted.
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

fn nanos(span: Duration) -> i64 {
    span.as_nanos().try_into().unwrap_or(i64::MAX)
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "all other code reads this clock")]
    fn now(&self) -> Time {
        truncate(chrono::Utc::now())
    }

    fn boot_time(&self) -> BootTime {
        let time = clock_gettime(ClockId::Boottime);
        BootTime(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
    }
}

/// Clocks that move only on request, for tests and simulations.
#[derive(Debug)]
pub struct ManualClock(Mutex<(Time, BootTime)>);

impl ManualClock {
    /// Clocks that show `time`.
    pub fn at(time: Time) -> Self {
        Self(Mutex::new((truncate(time), BootTime(0))))
    }

    /// Sets the wall clock forward or back.
    pub fn set(&self, delta: TimeDelta) {
        self.0.lock().0 += delta;
    }

    /// Advances both clocks.
    pub fn pass(&self, span: Duration) {
        let (now, boot_time) = &mut *self.0.lock();
        *now += span;
        *boot_time = *boot_time + span;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        self.0.lock().0
    }

    fn boot_time(&self) -> BootTime {
        self.0.lock().1
    }
}
