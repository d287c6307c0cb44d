//! What a follower acknowledges, and whether it does.

use std::time::Duration;

use crate::{
    domain::{BootTime, Revision},
    node::follower_session::SessionEnd,
};

/// The acknowledgements of one stream.
#[derive(Debug, Default)]
pub(super) struct Acks {
    last: Revision,
    /// What was not acknowledged yet when the follower asked for a lease, and since when.
    due: Option<(Revision, BootTime)>,
}

impl Acks {
    /// The follower, which was sent everything up to `sent`, acknowledges.
    pub(super) fn take(&mut self, found: Revision, sent: Revision) -> Result<(), SessionEnd> {
        if !(self.last..=sent).contains(&found) {
            return Err(SessionEnd::WrongAck { least: self.last, most: sent, found });
        }
        self.last = found;
        Ok(())
    }

    /// The follower asks for a lease. Each change waits for whoever has one: so it must also acknowledge, within `patience`.
    pub(super) fn check(
        &mut self,
        sent: Revision,
        patience: Option<Duration>,
        now: BootTime,
    ) -> Result<(), SessionEnd> {
        self.due = self.due.filter(|(revision, _)| *revision > self.last && patience.is_some());
        if let Some(patience) = patience
            && sent > self.last
        {
            let (revision, since) = *self.due.get_or_insert((sent, now));
            if now.since(since) > patience {
                return Err(SessionEnd::Unacknowledged(revision));
            }
        }
        Ok(())
    }
}
