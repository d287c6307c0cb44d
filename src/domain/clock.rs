//! Where the time comes from.

use std::fmt::Debug;

use chrono::TimeDelta;
use parking_lot::Mutex;

use crate::domain::time::{Time, truncate};

/// Tells the time. The only way to the wall clock: everything else takes the time as an argument.
pub trait Clock: Debug + Send + Sync {
    /// The time now, UTC, truncated to microseconds.
    fn now(&self) -> Time;
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else must ask")]
    fn now(&self) -> Time {
        truncate(chrono::Utc::now())
    }
}

/// A clock that moves only when told to: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock(Mutex<Time>);

impl ManualClock {
    /// A clock that stands at `time`.
    pub fn at(time: Time) -> Self {
        Self(Mutex::new(truncate(time)))
    }

    /// Moves the clock by `delta`.
    pub fn advance(&self, delta: TimeDelta) {
        *self.0.lock() += delta;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        *self.0.lock()
    }
}
