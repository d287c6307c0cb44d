//! The rate limit of a follower's messages.

use std::time::Duration;

use crate::{
    domain::BootTime,
    node::{follower_session::end::SessionEnd, message::MESSAGES_PER_SECOND},
};

/// Maximum number of reports in one [`REPORT_WINDOW`]. Reports are large.
const REPORTS_MAX: u32 = 10;
const REPORT_WINDOW: Duration = Duration::from_secs(10);

/// A token bucket for messages, and a fixed window for reports.
#[derive(Debug)]
pub(super) struct RateLimit {
    tokens: u32,
    refilled_at: BootTime,
    /// The number of reports in the current window.
    reports: u32,
    window_start: BootTime,
}

impl RateLimit {
    pub(super) fn new(now: BootTime) -> Self {
        Self { tokens: MESSAGES_PER_SECOND, refilled_at: now, reports: 0, window_start: now }
    }

    /// Counts a message.
    pub(super) fn take_message(&mut self, now: BootTime) -> Result<(), SessionEnd> {
        let earned = now.since(self.refilled_at) * MESSAGES_PER_SECOND;
        let earned = u32::try_from(earned.as_secs()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(MESSAGES_PER_SECOND);
            self.refilled_at = now;
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(SessionEnd::Flood)?;
        Ok(())
    }

    /// Counts a report.
    pub(super) fn take_report(&mut self, now: BootTime) -> Result<(), SessionEnd> {
        if now.since(self.window_start) >= REPORT_WINDOW {
            (self.reports, self.window_start) = (0, now);
        }
        self.reports += 1;
        if self.reports > REPORTS_MAX { Err(SessionEnd::Flood) } else { Ok(()) }
    }
}
