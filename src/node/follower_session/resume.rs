//! Decides how a follower resumes.

use crate::{
    domain::{BootTime, Position},
    node::state::StateGuard,
};

/// The state of a follower at the time of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResumeRequest {
    pub(super) position: Option<Position>,
    pub(super) received_at: BootTime,
    /// Upper bound of the time at which the follower received the lease; `None` without a valid
    /// lease.
    pub(super) lease_received_at: Option<BootTime>,
}

impl ResumeRequest {
    /// Whether a node at `position` needs a newer lease to decide how a follower at `held` resumes.
    ///
    /// If `held` is not in the log of the node, `held` is either newer, or of another log. A lease
    /// that started after the follower connected decides that. If `held` is in the log of the node,
    /// later events may have been lost in a restore. Lost events must not reach a follower with a
    /// lease for the restored log.
    pub(super) fn needs_newer_lease(
        &self,
        state: &StateGuard<'_>,
        position: &Position,
        held: &Position,
    ) -> bool {
        let is_known = held.epoch == position.epoch && held.revision <= position.revision;
        let needed = if is_known { self.lease_received_at } else { Some(self.received_at) };
        let is_older = |since| state.lease_valid_from().is_none_or(|valid_from| valid_from < since);
        needed.is_some_and(is_older)
    }
}
