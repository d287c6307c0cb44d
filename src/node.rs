//! A check node: what checks are answered from, how it keeps up with the log, and how it proves that it does.
//!
//! Checks never touch the database. A node holds an immutable [`View`] behind one atomic pointer: the grants, the revision they
//! are of, and the lease that nothing newer is in force. It follows the log, directly ([`replica`]) or fed by another node
//! ([`following`]), and feeds others ([`feeding`]).
//!
//! The protocol is made of machines that do no I/O and take the time as an argument: [`freshness`], [`followers`],
//! [`enforcement`], [`follower_session`], [`upstream_session`]. `tests/simulation` runs them in virtual time.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    domain::{BootTime, Clock, NodeId, NodeKind, Now, Position, Revision, Time},
    node::{
        change_buffer::ChangeBuffer,
        followers::Followers,
        lease::{ClockReading, LeaseTracker},
        message::{Change, LeaseGrant},
        state::NodeState,
        watch::{Reader, WatchSender},
    },
};

pub mod change_buffer;
pub mod enforcement;
pub mod enforcer;
mod failure_log;
pub mod follower_session;
pub mod followers;
pub mod lease;
mod locks;
pub mod message;
pub mod replica;
pub mod snapshot;
mod state;
pub mod upstream_session;
pub mod watch;

pub use watch::NodeProgress;
mod view;

pub use snapshot::Snapshot;
pub use view::{Gauges, ReadView, View};

/// Owns what checks are answered from. Written by those that follow the log, read by every check.
#[derive(Debug)]
pub struct CheckNode {
    id: NodeId,
    kind: NodeKind,
    clock: Arc<dyn Clock>,
    current: ArcSwap<View>,
    /// Held for every change of `current`.
    ledger: Mutex<NodeState>,
    /// Told after `current` has changed: who sees the progress will see the view.
    watch: WatchSender,
    /// Told when [`CheckNode::ack`] may have changed. Apart from `progress`, because with every change each follower acknowledges: that
    /// must not wake all the others.
    acks: WatchSender,
    /// Told when somebody waits for this node to have a newer lease.
    lease_requested: Notify,
}

/// Changes that do not follow on what the node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the changes do not follow on revision {0}")]
pub struct Gap(pub Revision);

impl CheckNode {
    /// A node that knows nothing yet, and so denies everything.
    pub fn new(id: NodeId, kind: NodeKind, clock: Arc<dyn Clock>) -> Arc<Self> {
        let view = View {
            snapshot: Snapshot::default(),
            lease: None,
            clock: None,
            is_invalidated: false,
            monotonic_time: Arc::default(),
        };
        Arc::new(Self {
            id,
            kind,
            clock,
            current: ArcSwap::from_pointee(view),
            ledger: Mutex::new(NodeState {
                lease_tracker: LeaseTracker::default(),
                followers: Followers::default(),
                feed: None,
                path: Vec::new(),
            }),
            watch: WatchSender::default(),
            acks: WatchSender::default(),
            lease_requested: Notify::new(),
        })
    }

    /// Its name.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What it is.
    pub fn kind(&self) -> NodeKind {
        self.kind
    }

    /// The clock that leases are measured by.
    pub fn boot_time(&self) -> BootTime {
        self.clock.boot_time()
    }

    /// What checks are answered from now.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.current.load()
    }

    /// What the node holds; `None` while that is nothing.
    pub fn held(&self) -> Option<Position> {
        self.view().snapshot.position()
    }

    /// The revision that checks are answered from.
    pub fn revision(&self) -> Revision {
        self.view().snapshot.revision()
    }

    /// What a check that is invoked now sees. The clock is read first: a node that is stopped half-way through a check, and goes
    /// on much later, answers as of when the check was invoked.
    pub fn read_view(&self) -> ReadView {
        let now = self.boot_time();
        let view = self.current.load_full();
        let valid_for = match &view.lease {
            Some(lease) if lease.is_valid(now) => lease.expires_at().since(now),
            _ => Duration::ZERO,
        };
        let now = view.clock.map(|clock| {
            // Nothing is decided by it. It may be far from the truth after so long, and must not be remembered.
            if valid_for.is_zero() { clock.at(now) } else { self.decision_time(&view, &clock, now) }
        });
        ReadView { view, now, valid_for }
    }

    /// The database's time: never before the last event, and at the latest never before a time that was used already. So a grant that
    /// has ended cannot come back; and a lock that is set by a clock that was set back holds by that clock.
    fn decision_time(&self, view: &View, clock: &ClockReading, now: BootTime) -> Now {
        let now = clock.at(now);
        let least = view.snapshot.time().unwrap_or(Time::MIN_UTC);
        view.monotonic_time
            .advance(Now { earliest: now.earliest.max(least), latest: now.latest.max(least) })
    }

    /// Waits until checks are answered from `revision` or later. False if that has not come by `deadline`.
    pub async fn wait_for(&self, revision: Revision, deadline: Instant) -> bool {
        let mut progress = self.watch();
        let reached = async {
            while progress.read().revision < revision {
                progress.changed().await;
            }
        };
        timeout_at(deadline, reached).await.is_ok()
    }

    /// Tells of everything that changes.
    pub fn watch(&self) -> Reader {
        self.watch.reader()
    }

    /// Tells when [`Self::ack`] may have changed.
    pub fn watch_acks(&self) -> Reader {
        self.acks.reader()
    }

    /// Which snapshot all that is held goes back to.
    pub fn generation(&self) -> u64 {
        self.watch.read().generation
    }

    /// What metrics say.
    pub fn gauges(&self) -> Gauges {
        let view = self.view();
        let now = self.boot_time();
        Gauges {
            lease_age: view.lease.map(|lease| now.since(lease.valid_from)),
            followers: self.ledger.lock().followers.connected(),
            ..view.snapshot.gauges()
        }
    }

    // === the log ===

    /// Applies changes that follow on what is held, and passes them on; nothing at all if they do not.
    pub fn apply(&self, changes: &[Arc<Change>]) -> Result<(), Gap> {
        let mut ledger = self.ledger.lock();
        let mut view = View::clone(&self.view());
        for change in changes {
            if change.revision != view.snapshot.revision() + 1 {
                return Err(Gap(view.snapshot.revision()));
            }
            view.snapshot.apply(change);
        }
        ledger.followers.drop_stalled(self.boot_time());
        let NodeState { lease_tracker, feed, .. } = &mut *ledger;
        let feed = feed.as_mut().ok_or(Gap(view.snapshot.revision()))?;
        for change in changes {
            feed.push(Arc::clone(change));
        }
        let revision = view.snapshot.revision();
        let now = self.boot_time();
        let best = if lease_tracker.conflicts_with(revision, now, |head| feed.continues(head)) {
            view.is_invalidated = true;
            lease_tracker.reset();
            None
        } else {
            lease_tracker.best(revision, view.lease, now)
        };
        self.publish(view.with_lease(best), |progress| {
            progress.leases += 1;
        });
        Ok(())
    }

    /// Replaces whatever is held. Nothing that was proven holds for it, and whoever follows must start anew.
    pub fn replace_snapshot(&self, snapshot: Snapshot) {
        let mut ledger = self.ledger.lock();
        ledger.feed = snapshot.position().map(ChangeBuffer::at);
        ledger.lease_tracker.reset();
        ledger.followers.reset();
        let is_same_log = snapshot.position().map(|it| it.epoch) == self.held().map(|it| it.epoch);
        let monotonic_time =
            if is_same_log { Arc::clone(&self.view().monotonic_time) } else { Arc::default() };
        let clock = self.view().clock;
        let view = View { snapshot, lease: None, clock, is_invalidated: false, monotonic_time };
        self.publish(view, |progress| {
            progress.generation += 1;
        });
        self.request_lease();
    }

    /// What is held is not in the database's log: nothing may be answered from it any more.
    pub fn invalidate(&self) {
        self.invalidate_all(&mut self.ledger.lock());
    }

    fn invalidate_all(&self, ledger: &mut NodeState) {
        ledger.lease_tracker.reset();
        let view = View { lease: None, is_invalidated: true, ..View::clone(&self.view()) };
        self.publish(view, |progress| progress.leases += 1);
    }

    /// Whether what is held was disowned.
    pub fn is_invalidated(&self) -> bool {
        self.view().is_invalidated
    }

    // === leases ===

    /// Notes that a lease is asked for. Call it before sending the question.
    pub fn start_renewal(&self) -> i64 {
        let mut ledger = self.ledger.lock();
        ledger.lease_tracker.start_renewal(self.boot_time())
    }

    /// Somebody waits for a newer lease: it should be asked for soon.
    pub fn request_lease(&self) {
        self.lease_requested.notify_one();
    }

    /// Waits until somebody wants a newer lease.
    pub async fn lease_requested(&self) {
        self.lease_requested.notified().await;
    }

    /// The answer to a question, if from the database with the end of its log; false if it was not asked, or of another history.
    pub fn record_response(
        &self,
        seq: i64,
        lease_grant: LeaseGrant,
        head: Option<Position>,
    ) -> bool {
        let mut ledger = self.ledger.lock();
        let now = self.boot_time();
        ledger.followers.drop_stalled(now);
        let NodeState { lease_tracker, feed, .. } = &mut *ledger;
        if !lease_tracker.record_response(seq, lease_grant, head, now) {
            return false;
        }
        let view = self.current.load_full();
        let revision = view.snapshot.revision();
        let holds = |head: &Position| feed.as_ref().is_some_and(|feed| feed.continues(head));
        if lease_tracker.conflicts_with(revision, now, holds) {
            drop(ledger);
            self.invalidate();
            return false;
        }
        let lease = lease_tracker.best(revision, view.lease, now);
        if lease != view.lease
            && !view.is_invalidated
            && lease.is_some_and(|lease| lease.is_valid(now))
        {
            self.publish(View::clone(&view).with_lease(lease), |progress| progress.leases += 1);
        }
        true
    }

    /// Which nodes feed this one, the nearest first.
    pub fn set_path(&self, path: Vec<NodeId>) {
        self.ledger.lock().path = path;
    }

    /// This node and those that feed it.
    pub fn path(&self) -> Vec<NodeId> {
        let mut path = vec![self.id];
        path.extend_from_slice(&self.ledger.lock().path);
        path
    }

    /// Somebody's acknowledgement has changed.
    fn notify_acks(&self) {
        self.acks.change(|_| {});
    }

    fn publish(&self, view: View, change: impl FnOnce(&mut NodeProgress)) {
        let revision = view.snapshot.revision();
        self.current.store(Arc::new(view));
        self.watch.change(|progress| {
            progress.revision = revision;
            change(progress);
        });
        self.notify_acks();
    }
}
