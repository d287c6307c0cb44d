//! The mutable state of a check node, behind a mutex.

use std::sync::Arc;

use crate::{
    domain::{Ack, BootTime, NodeId},
    node::{
        applied_times::AppliedTimes, change_buffer::ChangeBuffer, followers::Followers,
        known_clocks::KnownClocks, lease::LeaseTracker, view::View,
    },
};

/// Everything that changes together with the view.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    pub(super) lease_tracker: LeaseTracker,
    pub(super) followers: Followers,
    /// `None` while the node has no snapshot.
    pub(super) change_buffer: Option<ChangeBuffer>,
    pub(super) applied_times: AppliedTimes,
    pub(super) known_clocks: KnownClocks,
    /// The path from the upstream to the replica, both included.
    pub(super) upstream_path: Vec<NodeId>,
}

/// A consistent state of a node: the view cannot change during the borrow.
pub(super) struct StateGuard<'a> {
    pub(super) followers: &'a mut Followers,
    pub(super) change_buffer: Option<&'a ChangeBuffer>,
    pub(super) applied_times: &'a AppliedTimes,
    pub(super) view: Arc<View>,
    pub(super) now: BootTime,
}

impl StateGuard<'_> {
    /// The start of the node's lease, valid or not.
    pub(super) fn lease_valid_from(&self) -> Option<BootTime> {
        self.view.lease.map(|lease| lease.valid_from)
    }

    /// The acknowledgement of the node and all followers.
    pub(super) fn ack(&self) -> Ack {
        self.followers.ack(self.view.snapshot.revision(), self.now)
    }
}
