//! Replaces the snapshot of a check node, and marks it as obsolete.

use std::sync::Arc;

use crate::{
    domain::{AcceptedClock, LockTerms, TenantId},
    node::{
        change_buffer::ChangeBuffer, check_node::CheckNode, known_clocks::ClockEffect,
        snapshot::Snapshot, state::NodeState, view::View,
    },
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
    /// the earlier log. Only an accepted clock that the node has not known lowers its time.
    pub fn replace_snapshot(&self, snapshot: Snapshot) {
        self.replace_locked(&mut self.state.lock(), snapshot);
    }

    /// Denies everything in these histories. `None` stands for all tenants. Followers receive the
    /// quarantines in a new snapshot. Does nothing while the node waits for a new snapshot.
    pub fn quarantine(&self, histories: impl IntoIterator<Item = Option<TenantId>>) {
        let mut state = self.state.lock();
        let view = self.view.load_full();
        if view.is_invalidated || view.snapshot.position().is_none() {
            return;
        }
        let mut snapshot = view.snapshot.clone();
        for history in histories {
            snapshot.insert_lock(LockTerms::quarantine(history));
        }
        if snapshot.quarantines() > view.snapshot.quarantines() {
            self.replace_locked(&mut state, snapshot);
        }
    }

    fn replace_locked(&self, state: &mut NodeState, snapshot: Snapshot) {
        state.change_buffer = snapshot.position().map(ChangeBuffer::at);
        state.applied_times.reset(snapshot.revision(), self.boot_time());
        state.lease_tracker.reset();
        state.followers.reset();
        let clocks = snapshot.accepted_clocks();
        let (database_clock, least_times) = match state.known_clocks.effect_of(clocks) {
            ClockEffect::Restart => (None, Arc::default()),
            ClockEffect::Continue { later_by } => {
                let view = self.view();
                view.least_times.advance_by(later_by);
                (view.database_clock, Arc::clone(&view.least_times))
            }
        };
        state.known_clocks.load(clocks);
        if let Some(time) = snapshot.time() {
            least_times.record_event(time, self.boot_time());
        }
        let view = View { snapshot, database_clock, least_times, ..View::default() };
        self.publish(view, |progress| progress.generation += 1);
        self.request_lease();
    }

    /// The effect on the time of this node if the node loads a log with these accepted clocks.
    pub(in crate::node) fn clock_effect(&self, log: &[AcceptedClock]) -> ClockEffect {
        self.state.lock().known_clocks.effect_of(log)
    }

    /// Estimated memory of the known clocks, in bytes.
    pub(in crate::node) fn known_clocks_memory(&self) -> u64 {
        self.state.lock().known_clocks.memory()
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
