//! The rate limit of a follower's messages.

use crate::{
    domain::BootTime,
    node::{follower_session::end::SessionEnd, message::MESSAGES_PER_SECOND},
};

/// A token bucket.
#[derive(Debug)]
pub(super) struct RateLimit {
    tokens: u32,
    refilled_at: BootTime,
}

impl RateLimit {
    pub(super) fn new(now: BootTime) -> Self {
        Self { tokens: MESSAGES_PER_SECOND, refilled_at: now }
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
}
