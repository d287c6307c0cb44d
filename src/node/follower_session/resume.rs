//! Decides how a follower resumes.

use crate::{
    domain::{BootTime, Position},
    node::state::StateGuard,
};

/// The state of a follower when its stream was opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResumeRequest {
    /// The position of the follower; `None` without a valid snapshot.
    pub(super) position: Option<Position>,
    pub(super) received_at: BootTime,
    /// Upper bound of the time at which the follower received the lease; `None` without a valid
    /// lease.
    pub(super) lease_received_at: Option<BootTime>,
}

impl ResumeRequest {
    /// Whether this node, at position `ours`, needs a newer lease to decide how a follower at
    /// position `theirs` resumes.
    ///
    /// If `theirs` is later than `ours`, or of another epoch, either node may be in another log. A
    /// lease that started after the follower connected shows the current log. If `theirs` is not
    /// later, events after it may have been lost in a restore. Lost events must not reach a
    /// follower with a lease for the restored log.
    pub(super) fn needs_newer_lease(
        &self,
        state: &StateGuard<'_>,
        ours: &Position,
        theirs: &Position,
    ) -> bool {
        let is_known = theirs.epoch == ours.epoch && theirs.revision <= ours.revision;
        let needed = if is_known { self.lease_received_at } else { Some(self.received_at) };
        let is_older = |since| state.lease_valid_from().is_none_or(|valid_from| valid_from < since);
        needed.is_some_and(is_older)
    }
}
