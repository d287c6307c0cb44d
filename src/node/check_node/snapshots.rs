//! Replaces the snapshot of a check node, and marks it as obsolete.

use std::sync::Arc;

use crate::node::{
    change_buffer::ChangeBuffer, check_node::CheckNode, snapshot::Snapshot, state::NodeState,
    view::View,
};

impl CheckNode {
    /// Frees the snapshot, unless checks may be answered from it. Call while the next snapshot is
    /// loaded: the memory may not suffice for both.
    pub fn free_obsolete_snapshot(&self) {
        let may_answer = |view: &View| view.lease.is_some_and(|it| it.is_valid(self.boot_time()));
        self.free_snapshot_if(|view| !may_answer(view));
    }

    /// Frees the snapshot. The node denies every check until the next snapshot is loaded.
    pub(in crate::node) fn free_snapshot(&self) {
        self.free_snapshot_if(|_| true);
    }

    fn free_snapshot_if(&self, condition: impl FnOnce(&View) -> bool) {
        let mut state = self.state.lock();
        let view = self.view.load_full();
        if view.snapshot.position().is_none() || !condition(&view) {
            return;
        }
        state.lease_tracker.reset();
        state.followers.drop_transfers();
        let snapshot = view.snapshot.freed();
        let view = View { snapshot, lease: None, is_invalidated: true, ..View::clone(&view) };
        self.publish(view, |progress| progress.leases += 1);
    }

    /// Replaces the snapshot. Drops all leases and ends all streams to followers, which belong to
    /// the earlier log.
    pub fn replace_snapshot(&self, snapshot: Snapshot) {
        let mut state = self.state.lock();
        // The snapshot of the earlier log may be free already, but the buffer is not.
        let epoch = |buffer: &Option<ChangeBuffer>| buffer.as_ref().map(ChangeBuffer::epoch);
        let earlier_epoch = epoch(&state.change_buffer);
        state.change_buffer = snapshot.position().map(ChangeBuffer::at);
        let is_same_epoch = epoch(&state.change_buffer) == earlier_epoch;
        state.applied_times.reset(snapshot.revision(), self.boot_time());
        state.lease_tracker.reset();
        state.followers.reset();
        // In another epoch, an operator may have accepted an earlier time.
        let (database_clock, least_times) = if is_same_epoch {
            let view = self.view();
            (view.database_clock, Arc::clone(&view.least_times))
        } else {
            (None, Arc::default())
        };
        if let Some(time) = snapshot.time() {
            least_times.record_event(time, self.boot_time());
        }
        let view = View { snapshot, database_clock, least_times, ..View::default() };
        self.publish(view, |progress| progress.generation += 1);
        self.request_lease();
    }

    /// Drops the lease until a new snapshot is loaded: the current one is not a state of the
    /// database's log.
    pub fn invalidate(&self) {
        self.invalidate_locked(&mut self.state.lock());
    }

    pub(super) fn invalidate_locked(&self, state: &mut NodeState) {
        state.lease_tracker.reset();
        let view = View { lease: None, is_invalidated: true, ..View::clone(&self.view()) };
        self.publish(view, |progress| progress.leases += 1);
    }

    /// Whether the node waits for a new snapshot.
    pub fn is_invalidated(&self) -> bool {
        self.view().is_invalidated
    }
}
