//! The database clock, as judged by one replica.

use std::sync::Arc;

use chrono::TimeDelta;
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::domain::{BootTime, Clock, Judgement, Revision, Time, TrustedClock};

/// Judges every reading of the database clock.
#[derive(Debug)]
pub struct DatabaseClock {
    boot_clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trusted_clock: TrustedClock,
    /// The revision of the event that last accepted the clock; 0: no clock was accepted. `None`
    /// before the start.
    accepted_revision: Option<Revision>,
    /// The judgement of the last reading.
    last: Option<Judgement>,
}

impl DatabaseClock {
    /// Measures elapsed time by `boot_clock`.
    pub(super) fn new(boot_clock: Arc<dyn Clock>) -> Self {
        Self { boot_clock, state: Mutex::default() }
    }

    /// Whether readings are judged by an earlier time.
    pub(super) fn is_started(&self) -> bool {
        self.state.lock().accepted_revision.is_some()
    }

    /// Continues from a time since the event of revision `accepted_revision`. `is_running`: another
    /// process has run until now.
    pub(super) fn resume(
        &self,
        least: Option<Time>,
        accepted_revision: Revision,
        is_running: bool,
    ) {
        let trusted_clock =
            least.map(|time| TrustedClock::resuming(time, is_running)).unwrap_or_default();
        let accepted_revision = Some(accepted_revision);
        *self.state.lock() = State { trusted_clock, accepted_revision, last: None };
    }

    /// Continues in a log whose last accepted clock is the event of revision `accepted_revision`.
    /// The time is later by `by`.
    pub(super) fn advance(&self, by: TimeDelta, accepted_revision: Revision) {
        let mut state = self.state.lock();
        state.trusted_clock.advance(by);
        state.accepted_revision = Some(accepted_revision);
    }

    /// Judges a reading that was requested at `sent_at` and arrives now.
    pub fn judge(&self, reading: Time, sent_at: BootTime) -> Judgement {
        let mut state = self.state.lock();
        let judgement = state.trusted_clock.observe(reading, sent_at, self.boot_clock.boot_time());
        let was_trusted = state.last.is_none_or(|last| last.is_trusted());
        state.last = Some(judgement);
        drop(state);
        match (was_trusted, judgement.is_trusted()) {
            (true, false) => warn!(
                distance_seconds = judgement.distance.num_seconds(),
                expected = %judgement.trusted,
                "the database clock is not trusted, because it differs from the elapsed time; \
                 correct or accept the clock"
            ),
            (false, true) => info!("the database clock is trusted again"),
            _ => {}
        }
        judgement
    }

    /// The distance of the last reading from the expected time; positive if the clock is ahead.
    pub fn distance(&self) -> TimeDelta {
        self.state.lock().last.map(|last| last.distance).unwrap_or_default()
    }

    /// The trusted time at the last reading. Advances with the elapsed time, even while readings
    /// are not trusted. Also the revision of the event that last accepted the clock.
    pub(super) fn trusted(&self) -> Option<(Time, Revision)> {
        let state = self.state.lock();
        Some((state.last?.trusted, state.accepted_revision?))
    }

    /// Whether the last reading is trusted.
    pub fn is_trusted(&self) -> bool {
        self.state.lock().last.is_none_or(|last| last.is_trusted())
    }
}
