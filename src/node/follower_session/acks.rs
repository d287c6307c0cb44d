//! The acknowledgements of one stream.

use std::time::Duration;

use crate::{
    domain::{BootTime, NodeId, Revision},
    node::{
        follower_session::{FollowerSession, SessionEnd},
        message::PATH_MAX,
    },
};

impl FollowerSession {
    /// Fails if the follower acknowledges a revision that was not sent, or goes back.
    pub(super) fn check_ack(&mut self, found: Revision) -> Result<(), SessionEnd> {
        let (least, most) = (self.last_acked, self.sent());
        if !(least..=most).contains(&found) {
            return Err(SessionEnd::WrongAck { least, most, found });
        }
        self.last_acked = found;
        Ok(())
    }

    /// Fails if the follower requests a lease, but delays changes. Every change waits for a
    /// follower with a lease.
    pub(super) fn require_acks(&self, node_id: NodeId, now: BootTime) -> Result<(), SessionEnd> {
        let Some(delay_max) = self.delay_max() else { return Ok(()) };
        let is_overdue = self.node.with_state(|state| {
            state.followers.is_overdue(node_id, state.applied_times, delay_max, now)
        });
        if is_overdue { Err(SessionEnd::Unacknowledged) } else { Ok(()) }
    }

    /// How long the followers of one credential may delay changes; `None` while this node has had
    /// no lease to grant.
    ///
    /// A follower must first have time to disconnect its own followers that do not acknowledge. So
    /// the closer a node is to the replica, the longer is the time.
    pub(super) fn delay_max(&self) -> Option<Duration> {
        let lease = self.node.view().lease?;
        let hops = (PATH_MAX + 2).saturating_sub(self.node.path().len());
        Some(lease.max_staleness.saturating_mul(2 * u32::try_from(hops).unwrap_or(u32::MAX / 2)))
    }
}
