//! The clock as an interface. Everything in `domain`, `store`, `node` and `service` takes the time
//! from a [`Clock`].

use std::{
    fmt::Debug,
    ops::{Add, Sub},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use chrono::TimeDelta;

use crate::domain::time::{Time, from_micros};

/// A wall clock and a monotonic clock.
pub trait Clock: Debug + Send + Sync {
    /// The wall-clock time in UTC, truncated to microseconds. May be wrong, and may jump.
    fn now(&self) -> Time;

    /// The time since the machine booted, including suspend. Never jumps. Not comparable between
    /// machines.
    fn boot_time(&self) -> BootTime;
}

/// An instant of a machine's `CLOCK_BOOTTIME` (Linux, `clock_gettime(2)`), in nanoseconds. Unlike
/// [`std::time::Instant`], this clock advances while the machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub i64);

impl BootTime {
    /// The span from `earlier` to `self`; zero if `earlier` is later.
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
    /// The result may be earlier than the boot of the machine.
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

fn nanos(span: Duration) -> i64 {
    span.as_nanos().try_into().unwrap_or(i64::MAX)
}

/// A clock that advances only on request, for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    /// Wall clock, in microseconds since 1970.
    now: AtomicI64,
    /// Boot clock, in nanoseconds.
    boot_time: AtomicI64,
}

impl ManualClock {
    /// Starts the wall clock at `time` and the boot clock at zero.
    pub fn at(time: Time) -> Self {
        Self { now: AtomicI64::new(time.timestamp_micros()), boot_time: AtomicI64::new(0) }
    }

    /// Steps the wall clock by `delta`, forward or back.
    pub fn set(&self, delta: TimeDelta) {
        self.now.fetch_add(delta.num_microseconds().unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Advances both clocks by `span`.
    pub fn pass(&self, span: Duration) {
        let nanos = nanos(span);
        self.now.fetch_add(nanos / 1_000, Ordering::SeqCst);
        self.boot_time.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        from_micros(self.now.load(Ordering::SeqCst)).unwrap_or(Time::MAX_UTC)
    }

    fn boot_time(&self) -> BootTime {
        BootTime(self.boot_time.load(Ordering::SeqCst))
    }
}
