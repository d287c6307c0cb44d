//! Waits until changes are enforced. To this end, reads the membership, and evicts silent members.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::Enforced,
    node::{
        check_node::CheckNode,
        enforcement::{Commit, Coverage, MembershipView, SilentMember},
        failure_log::{FailureLogger, error_chain, with_timeout},
    },
    store::{Store, StoreError},
};

/// Interval of reads of the membership while a change is pending. Notifications of acknowledgements
/// may be lost.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);
/// Interval of reads while no change is pending. These reads detect dead members before the next
/// change has to wait.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of a read.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(2);
/// Capacity of the queue of results to write. Beyond that, results are dropped, and the history
/// lacks these results.
const RECORDS_MAX: usize = 1_024;

/// Upper bounds of the histogram of durations, from 1 ms to 5 minutes, the maximum of
/// `max_staleness`.
pub const DURATION_BOUNDS: [Duration; 15] = [
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_mins(1),
    Duration::from_mins(5),
];

/// Totals of the changes that this process has made, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EnforcementTotals {
    /// Enforced changes, by the first of [`DURATION_BOUNDS`] that the duration does not exceed.
    /// The last entry has no bound.
    pub durations: [u64; DURATION_BOUNDS.len() + 1],
    /// The sum of these durations.
    pub duration_sum: Duration,
    /// Nodes that did not acknowledge: the changes had to wait for a lease to expire.
    pub nodes_lapsed: u64,
    /// Changes whose response was `COMPLETE`.
    pub complete: u64,
    /// Changes whose response was `PENDING`.
    pub pending: u64,
}

/// Waits until changes are enforced, for any number of callers.
#[derive(Debug)]
pub struct Enforcer {
    node: Arc<CheckNode>,
    store: Arc<Store>,
    membership: Mutex<MembershipView>,
    pending: Mutex<Vec<PendingChange>>,
    /// Requests a read of the membership.
    read_requested: Notify,
    /// Requests another decision on the pending changes.
    resolve_requested: Notify,
    totals: Mutex<EnforcementTotals>,
}

#[derive(Debug)]
struct PendingChange {
    commit: Commit,
    /// Whether this process has made the change, so that the result is counted and written.
    is_own: bool,
    /// The generation of the node when the wait started. In another generation, the revision may
    /// be that of another event.
    generation: u64,
    done: oneshot::Sender<Enforced>,
}

type Record = (Commit, Enforced);

impl EnforcementTotals {
    fn record(&mut self, enforced: &Enforced) {
        let exceeds = |bound: &&Duration| **bound < enforced.elapsed;
        self.durations[DURATION_BOUNDS.iter().take_while(exceeds).count()] += 1;
        self.duration_sum += enforced.elapsed;
        self.nodes_lapsed += u64::from(enforced.nodes_lapsed);
    }
}

impl Enforcer {
    /// An enforcer at `node`, with the membership in `store`.
    pub fn new(node: Arc<CheckNode>, store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            node,
            store,
            membership: Mutex::default(),
            pending: Mutex::default(),
            read_requested: Notify::new(),
            resolve_requested: Notify::new(),
            totals: Mutex::default(),
        })
    }

    /// The totals so far.
    pub fn totals(&self) -> EnforcementTotals {
        *self.totals.lock()
    }

    /// Counts the response to the caller of a change.
    pub fn count_response(&self, is_complete: bool) {
        let mut totals = self.totals.lock();
        if is_complete {
            totals.complete += 1;
        } else {
            totals.pending += 1;
        }
    }

    /// Waits for a change that this process has made. The result is written to the history.
    pub fn enforce(&self, commit: Commit) -> oneshot::Receiver<Enforced> {
        self.wait(commit, true)
    }

    /// Waits for a change that may have been made elsewhere or earlier. In the returned commit, the
    /// wait for leases to expire starts when this node applied the change. So a caller may switch
    /// replicas, and a repeated call does not restart the wait. The wait may have ended already, so
    /// [`Self::refresh`] must come first.
    pub fn wait_for(&self, commit: Commit) -> (Commit, oneshot::Receiver<Enforced>) {
        let applied_at = self.node.applied_at(commit.last, commit.in_log);
        let commit = Commit { at: applied_at.unwrap_or(commit.at), ..commit };
        (commit, self.wait(commit, false))
    }

    /// The progress of a change, as far as this node knows.
    pub fn coverage(&self, commit: &Commit) -> Coverage {
        self.coverage_in(&self.membership.lock(), commit)
    }

    fn coverage_in(&self, membership: &MembershipView, commit: &Commit) -> Coverage {
        let (revision, time) = commit.in_log;
        let own_ack = self.node.ack_of(revision, time);
        membership.coverage(commit, self.node.id(), own_ack, self.node.boot_time())
    }

    fn wait(&self, commit: Commit, is_own: bool) -> oneshot::Receiver<Enforced> {
        let (done, result) = oneshot::channel();
        let generation = self.node.generation();
        self.pending.lock().push(PendingChange { commit, is_own, generation, done });
        self.read_requested.notify_one();
        self.resolve_requested.notify_one();
        result
    }

    /// Handles the notification that a member has acknowledged or registered.
    ///
    /// With `n` replicas, each change causes `n` notifications at each replica, and a read returns
    /// `n` rows. So the membership is read only if a change is pending, or if this node was the
    /// only member and now must acknowledge.
    pub fn wake(&self) {
        let has_pending = !self.pending.lock().is_empty();
        if has_pending || self.membership.lock().may_be_only(self.node.id()) {
            self.read_requested.notify_one();
        }
    }

    /// Whether this node was the only member when the membership was last read.
    pub fn is_only_member(&self) -> bool {
        self.membership.lock().is_only(self.node.id())
    }

    /// Runs until stopped. Changes that are pending then are dropped: the callers no longer wait.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (records, to_write) = mpsc::channel(RECORDS_MAX);
        let work = async {
            tokio::join!(
                self.observe_membership(),
                self.resolve_pending(records),
                self.write_records(to_write)
            )
        };
        stop.run_until_cancelled(work).await;
    }

    // === membership ===

    async fn observe_membership(&self) {
        let mut failures = FailureLogger::new("read the membership");
        loop {
            let is_idle = self.pending.lock().is_empty();
            let interval = if is_idle { IDLE_INTERVAL } else { BUSY_INTERVAL };
            let _ = timeout(interval, self.read_requested.notified()).await;
            let _ = failures.record(self.read_and_evict().await);
        }
    }

    /// Reads the membership, and returns the longest lifetime of a lease. The result of a later
    /// wait then depends on no read for another change: a tenant must not learn of changes of
    /// other tenants.
    pub async fn refresh(&self) -> Result<Duration, StoreError> {
        let (max_staleness, _) = self.read_membership().await?;
        Ok(max_staleness)
    }

    /// Reads the membership. Returns the longest lifetime of a lease, and the silent members.
    async fn read_membership(&self) -> Result<(Duration, Vec<SilentMember>), StoreError> {
        let sent_at = self.node.boot_time();
        let membership =
            with_timeout(MEMBERSHIP_TIMEOUT, self.store.membership().members()).await?;
        let now = self.node.boot_time();
        let silent = self.membership.lock().observe(&membership, sent_at, now);
        self.resolve_requested.notify_one();
        Ok((membership.max_staleness, silent))
    }

    /// Reads the membership once, and evicts silent members.
    async fn read_and_evict(&self) -> Result<(), StoreError> {
        let (_, silent) = self.read_membership().await?;
        for member in silent.into_iter().filter(|member| member.node_id != self.node.id()) {
            if self.store.membership().evict(member.node_id, member.heartbeat).await? {
                info!(node = %member.node_id, "evicted a silent check node from the membership");
                let now = self.node.boot_time();
                self.membership.lock().record_eviction(member, now);
                self.resolve_requested.notify_one();
            }
        }
        Ok(())
    }

    // === pending changes ===

    async fn resolve_pending(&self, records: mpsc::Sender<Record>) {
        let mut acks = self.node.watch_acks();
        loop {
            acks.mark_unchanged();
            let next = self.resolve(&records);
            tokio::select! {
                biased;
                () = self.resolve_requested.notified() => {}
                () = acks.changed() => {}
                () = sleep(next.unwrap_or(IDLE_INTERVAL)) => {}
            }
        }
    }

    /// Sends the results of all enforced changes. Returns the time until the leases from before the
    /// next pending change have expired.
    fn resolve(&self, records: &mpsc::Sender<Record>) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let membership = self.membership.lock();
        self.pending.lock().retain_mut(|pending| {
            if !pending.is_own && pending.done.is_closed() {
                return false;
            }
            let commit = pending.commit;
            let coverage = self.coverage_in(&membership, &commit);
            let now = self.node.boot_time();
            if coverage.missing > 0 {
                let rest = coverage.complete_at.since(now);
                next = Some(next.map_or(rest, |next| next.min(rest)));
                return true;
            }
            let elapsed = now.since(commit.at);
            let enforced = Enforced {
                // In whole microseconds, as the history records the duration.
                elapsed: Duration::new(elapsed.as_secs(), elapsed.subsec_micros() * 1_000),
                nodes_acknowledged: coverage.acknowledged,
                nodes_lapsed: coverage.lapsed,
            };
            self.finish(pending, enforced, records);
            false
        });
        next
    }

    fn finish(
        &self,
        pending: &mut PendingChange,
        enforced: Enforced,
        records: &mpsc::Sender<Record>,
    ) {
        let (unused, _) = oneshot::channel();
        // The caller may no longer wait.
        let _ = std::mem::replace(&mut pending.done, unused).send(enforced);
        if !pending.is_own {
            return;
        }
        self.totals.lock().record(&enforced);
        let is_same_log = pending.generation == self.node.generation();
        if is_same_log && records.try_send((pending.commit, enforced)).is_err() {
            let revision = pending.commit.last;
            warn!(
                revision,
                "enforcement-record queue is full, dropping the record of this revision"
            );
        }
    }

    /// Writes results to the history.
    async fn write_records(&self, mut records: mpsc::Receiver<Record>) {
        while let Some((Commit { first, last, time, .. }, enforced)) = records.recv().await {
            let write = self.store.history().record_enforced(first, last, time, enforced);
            if let Err(error) = write.await {
                let error = error_chain(&error);
                warn!(revision = last, %error, "cannot write an enforcement record, dropping it");
            }
        }
    }
}
