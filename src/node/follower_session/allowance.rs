//! How much a follower may say.

use std::time::Duration;

use crate::{domain::BootTime, node::follower_session::SessionEnd};

/// How many messages a follower may send at once, and how many a second.
const MESSAGES_BURST: u32 = 1_000;
pub(super) const MESSAGES_PER_SECOND: u32 = 1_000;
/// How many reports a follower may send in [`REPORTS_SPAN`]: they are long.
const REPORTS_MAX: u32 = 10;
const REPORTS_SPAN: Duration = Duration::from_secs(10);

/// What may still be sent by a follower before it talks too much.
#[derive(Debug)]
pub(super) struct Allowance {
    messages: u32,
    /// When it last grew.
    at: BootTime,
    /// How many reports have come since `reports_at`.
    reports: u32,
    reports_at: BootTime,
}

impl Allowance {
    pub(super) fn begin(now: BootTime) -> Self {
        Self { messages: MESSAGES_BURST, at: now, reports: 0, reports_at: now }
    }

    /// Counts a message.
    pub(super) fn take_one(&mut self, now: BootTime) -> Result<(), SessionEnd> {
        let earned = now.since(self.at) * MESSAGES_PER_SECOND;
        let earned = u32::try_from(earned.as_secs()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.messages = self.messages.saturating_add(earned).min(MESSAGES_BURST);
            self.at = now;
        }
        self.messages = self.messages.checked_sub(1).ok_or(SessionEnd::Flood)?;
        Ok(())
    }

    /// Counts a report.
    pub(super) fn take_report(&mut self, now: BootTime) -> Result<(), SessionEnd> {
        if now.since(self.reports_at) >= REPORTS_SPAN {
            (self.reports, self.reports_at) = (0, now);
        }
        self.reports += 1;
        if self.reports > REPORTS_MAX { Err(SessionEnd::Flood) } else { Ok(()) }
    }
}
