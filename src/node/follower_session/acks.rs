//! The acknowledgements of one stream.

use std::time::Duration;

use crate::{
    domain::{BootTime, Revision},
    node::follower_session::end::SessionEnd,
};

#[derive(Debug, Default)]
pub(super) struct Acks {
    last: Revision,
    /// The revision to acknowledge, and the time of the first ping before the acknowledgement.
    due: Option<(Revision, BootTime)>,
}

impl Acks {
    /// Records an acknowledgement of a follower that was sent all revisions up to `sent`.
    pub(super) fn record(&mut self, found: Revision, sent: Revision) -> Result<(), SessionEnd> {
        if !(self.last..=sent).contains(&found) {
            return Err(SessionEnd::WrongAck { least: self.last, most: sent, found });
        }
        self.last = found;
        Ok(())
    }

    /// Fails if the follower requests a lease, but has not acknowledged a revision within
    /// `timeout`. Every change waits for a follower with a lease. Without a `timeout`, no lease is
    /// granted, and the follower need not acknowledge.
    pub(super) fn require(
        &mut self,
        sent: Revision,
        timeout: Option<Duration>,
        now: BootTime,
    ) -> Result<(), SessionEnd> {
        self.due = self.due.filter(|(revision, _)| *revision > self.last && timeout.is_some());
        if let Some(timeout) = timeout
            && sent > self.last
        {
            let (revision, since) = *self.due.get_or_insert((sent, now));
            if now.since(since) > timeout {
                return Err(SessionEnd::Unacknowledged(revision));
            }
        }
        Ok(())
    }
}
