//! The clocks of the machine.

use rustix::time::{ClockId, clock_gettime};

use crate::domain::{BootTime, Clock, Time, time::truncate};

/// The machine's wall clock and its `CLOCK_BOOTTIME`. The only code that reads a clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "all other code takes the time from a `Clock`")]
    fn now(&self) -> Time {
        truncate(chrono::Utc::now())
    }

    fn boot_time(&self) -> BootTime {
        let time = clock_gettime(ClockId::Boottime);
        BootTime(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
    }
}
