//! The state of a check node. Only the methods here and in `check_node/snapshots.rs` change the
//! view.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    domain::{Ack, BootTime, Clock, Epoch, NodeId, NodeInfo, NodeKind, Position, Revision, Time},
    node::{
        change_buffer::ChangeBuffer,
        followers::Followers,
        gauges::Gauges,
        limits::NodeLimits,
        message::{Change, LeaseGrant},
        state::{NodeState, StateGuard},
        view::{ReadView, View},
        watch::{NodeProgress, WatchSender, Watcher},
    },
};

mod snapshots;
mod waits;

/// A check node. Every check reads the view. The tasks that follow the log and serve followers
/// modify the node.
#[derive(Debug)]
pub struct CheckNode {
    id: NodeId,
    kind: NodeKind,
    clock: Arc<dyn Clock>,
    view: ArcSwap<View>,
    /// Locked during every change of `view`.
    state: Mutex<NodeState>,
    /// Notified after `view` has changed: a watcher that sees the progress also sees the view.
    progress: WatchSender,
    /// Notified when [`CheckNode::ack`] may have changed. Separate from `progress`: all followers
    /// acknowledge every change, and these acknowledgements must not wake the streams of the
    /// others.
    acks: WatchSender,
    /// Notified when a newer lease is requested.
    lease_requested: Notify,
    pub(super) limits: NodeLimits,
}

/// Changes that do not continue the node's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the changes do not continue revision {0}")]
pub struct Gap(pub Revision);

impl CheckNode {
    /// A node without a snapshot, which denies every check with `STALE`.
    pub fn new(id: NodeId, kind: NodeKind, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::limited(id, kind, clock, NodeLimits::default())
    }

    /// Like [`Self::new`], with other limits than the default.
    pub fn limited(
        id: NodeId,
        kind: NodeKind,
        clock: Arc<dyn Clock>,
        limits: NodeLimits,
    ) -> Arc<Self> {
        let followers = Followers::limited(limits.followers);
        Arc::new(Self {
            id,
            kind,
            clock,
            view: ArcSwap::default(),
            state: Mutex::new(NodeState { followers, ..NodeState::default() }),
            progress: WatchSender::default(),
            acks: WatchSender::default(),
            lease_requested: Notify::new(),
            limits,
        })
    }

    /// The id of this process.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Replica or sidecar.
    pub fn kind(&self) -> NodeKind {
        self.kind
    }

    /// The clock that leases are measured by.
    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// The least time of a change: the time of the last event, and 99 % of the time since.
    pub fn least_time_of_change(&self) -> Time {
        self.view().least_times.of_change(self.boot_time())
    }

    /// The time on the clock that leases are measured by.
    pub fn boot_time(&self) -> BootTime {
        self.clock.boot_time()
    }

    /// The current view.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// The position of the snapshot; `None` before the first one.
    pub fn position(&self) -> Option<Position> {
        self.view().snapshot.position()
    }

    /// The epoch of the last snapshot, even if its content was freed; `None` before the first one.
    pub fn epoch(&self) -> Option<Epoch> {
        self.state.lock().change_buffer.as_ref().map(ChangeBuffer::epoch)
    }

    /// The revision of the snapshot.
    pub fn revision(&self) -> Revision {
        self.view().snapshot.revision()
    }

    /// The number of loaded snapshots.
    pub fn generation(&self) -> u64 {
        self.progress.read().generation
    }

    /// The gauges of the node, for metrics.
    pub fn gauges(&self) -> Gauges {
        let view = self.view();
        let now = self.boot_time();
        Gauges {
            lease_age: view.lease.map(|lease| now.since(lease.valid_from)),
            followers: self.state.lock().followers.connected(),
            ..view.snapshot.gauges()
        }
    }

    // === checks ===

    /// The view, time and lease for a check that is invoked now.
    ///
    /// The clock is read before the view. So a node that is paused between the two reads, even for
    /// long, answers as of the invocation.
    pub fn read_view(&self) -> ReadView {
        let now = self.boot_time();
        let view = self.view.load();
        let valid_for = match &view.lease {
            Some(lease) if lease.is_valid(now) => lease.expires_at().since(now),
            _ => Duration::ZERO,
        };
        let time = view.database_clock.map(|clock| view.time_at(&clock, now));
        // Without a valid lease, the check is denied. The time may be inaccurate by then, and must
        // not be remembered.
        if let Some(time) = time.filter(|_| !valid_for.is_zero()) {
            view.remember(time.latest, view.is_clock_trusted(), now);
        }
        ReadView { view, now: time, valid_for }
    }

    /// Watches the revision, the generation and the lease.
    pub fn watch(&self) -> Watcher {
        self.progress.subscribe()
    }

    // === the log ===

    /// Applies changes that continue the log, and buffers them for followers. Fails without any
    /// effect if a change is missing.
    pub fn apply(&self, changes: &[Arc<Change>]) -> Result<(), Gap> {
        let mut state = self.state.lock();
        let mut view = View::clone(&self.view());
        for change in changes {
            if change.revision != view.snapshot.revision() + 1 {
                return Err(Gap(view.snapshot.revision()));
            }
            view.snapshot.apply(change);
        }
        state.followers.drop_stalled_transfers(self.boot_time());
        let NodeState { lease_tracker, change_buffer, applied_times, .. } = &mut *state;
        let change_buffer = change_buffer.as_mut().filter(|_| view.snapshot.position().is_some());
        let change_buffer = change_buffer.ok_or(Gap(view.snapshot.revision()))?;
        for change in changes {
            change_buffer.push(Arc::clone(change));
        }
        let revision = view.snapshot.revision();
        let now = self.boot_time();
        applied_times.record(revision, now);
        let contains = |head: &Position| change_buffer.continues(head);
        let best = if lease_tracker.conflicts_with(revision, now, contains) {
            view.is_invalidated = true;
            lease_tracker.reset();
            None
        } else {
            lease_tracker.best(revision, view.lease, now)
        };
        if let Some(time) = view.snapshot.time() {
            view.least_times.record_event(time, now);
        }
        self.publish(view.with_lease(best), |progress| progress.leases += 1);
        Ok(())
    }

    // === leases ===

    /// Starts the renewal of the lease, and returns a sequence number. Call before sending the
    /// request.
    pub fn start_renewal(&self) -> i64 {
        self.state.lock().lease_tracker.start_renewal(self.boot_time())
    }

    /// Records the response to a renewal. A response from the database includes the head of the
    /// log. Returns false for unsolicited responses, and for responses about another log.
    pub fn record_response(
        &self,
        seq: i64,
        lease_grant: LeaseGrant,
        head: Option<Position>,
    ) -> bool {
        let mut state = self.state.lock();
        let now = self.boot_time();
        state.followers.drop_stalled_transfers(now);
        let NodeState { lease_tracker, change_buffer, .. } = &mut *state;
        let Some(clock) = lease_tracker.record_response(seq, lease_grant, head, now) else {
            return false;
        };
        let view = self.view.load_full();
        let revision = view.snapshot.revision();
        let contains =
            |head: &Position| change_buffer.as_ref().is_some_and(|buffer| buffer.continues(head));
        if lease_tracker.conflicts_with(revision, now, contains) {
            drop(state);
            self.invalidate();
            return false;
        }
        view.remember(clock.value.latest, clock.is_trusted, clock.sent_at);
        let lease = lease_tracker.best(revision, view.lease, now);
        let is_usable = !view.is_invalidated && lease.is_some_and(|lease| lease.is_valid(now));
        if lease != view.lease && is_usable {
            self.publish(View::clone(&view).with_lease(lease), |progress| progress.leases += 1);
        }
        true
    }

    /// Requests a renewal of the lease before the next one is due.
    pub fn request_lease(&self) {
        self.lease_requested.notify_one();
    }

    /// Waits until a renewal is requested.
    pub async fn lease_requested(&self) {
        self.lease_requested.notified().await;
    }

    // === followers ===

    /// The acknowledgement of this node and all followers.
    pub fn ack(&self) -> Ack {
        self.with_state(|state| state.ack())
    }

    /// [`Self::ack`] with the node's position, which identifies the log of the acknowledgement.
    /// `None` without a valid snapshot.
    pub fn ack_in_log(&self) -> Option<(Ack, Position)> {
        self.with_state(|state| {
            let position = state.view.snapshot.position().filter(|_| !state.view.is_invalidated);
            Some((state.ack(), position?))
        })
    }

    /// [`Self::ack`] for a log with an event of `revision` at `time`. If the node has another log,
    /// the acknowledgement is of revision 0.
    pub fn ack_of(&self, revision: Revision, time: Time) -> Ack {
        self.with_state(|state| {
            let ack = state.ack();
            let is_same_log = state.change_buffer.is_some_and(|buffer| buffer.has(revision, time));
            if is_same_log { ack } else { Ack { revision: 0, ..ack } }
        })
    }

    /// A time by which this node had applied `revision`. The event `in_log`, by revision and time,
    /// is that event or a later one. `None` if the node does not have that event.
    pub fn applied_at(&self, revision: Revision, in_log: (Revision, Time)) -> Option<BootTime> {
        let state = self.state.lock();
        let is_same_log = state.change_buffer.as_ref()?.has(in_log.0, in_log.1);
        state.applied_times.get(revision).filter(|_| is_same_log)
    }

    /// Time until [`Self::ack`] changes because a follower's lease expires; `None` if no follower
    /// delays the acknowledgement.
    pub fn ack_unchanged_for(&self) -> Option<Duration> {
        let state = self.state.lock();
        let now = self.boot_time();
        let expiry = state.followers.next_expiry(self.revision(), now);
        expiry.map(|expires_at| expires_at.since(now))
    }

    /// Watches [`Self::ack`]. May also wake without a change.
    pub fn watch_acks(&self) -> Watcher {
        self.acks.subscribe()
    }

    pub(super) fn notify_acks(&self) {
        self.acks.send_modify(|_| {});
    }

    /// Stops answering checks and granting leases, before the node leaves. Returns false, and
    /// changes nothing, while a follower holds a valid lease from this node.
    pub fn step_down(&self) -> bool {
        let mut state = self.state.lock();
        let is_alone = !state.followers.hold_leases(self.boot_time());
        if is_alone {
            self.invalidate_locked(&mut state);
        }
        is_alone
    }

    /// The followers of this node.
    pub fn followers(&self) -> Vec<NodeInfo> {
        self.state.lock().followers.infos(self.id, self.boot_time())
    }

    /// Sets the path from the upstream to the replica.
    pub fn set_upstream_path(&self, path: Vec<NodeId>) {
        self.state.lock().upstream_path = path;
    }

    /// The path from this node to the replica, both included.
    pub fn path(&self) -> Vec<NodeId> {
        let mut path = vec![self.id];
        path.extend_from_slice(&self.state.lock().upstream_path);
        path
    }

    /// Runs `read` on a consistent state: the view cannot change during the call.
    pub(super) fn with_state<T>(&self, read: impl FnOnce(StateGuard<'_>) -> T) -> T {
        let mut state = self.state.lock();
        let NodeState { followers, change_buffer, applied_times, .. } = &mut *state;
        let (view, now) = (self.view.load_full(), self.boot_time());
        let change_buffer = change_buffer.as_ref();
        read(StateGuard { followers, change_buffer, applied_times, view, now })
    }

    fn publish(&self, view: View, advance: impl FnOnce(&mut NodeProgress)) {
        let revision = view.snapshot.revision();
        self.view.store(Arc::new(view));
        self.progress.send_modify(|progress| {
            progress.revision = revision;
            advance(progress);
        });
        self.notify_acks();
    }
}
