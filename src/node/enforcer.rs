//! Finds out when changes are in force everywhere: drives [`MembershipView`] with what the store says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    domain::{BootTime, Enforced, Revision, Time},
    node::{
        CheckNode,
        enforcement::{Commit, Coverage, MembershipView},
        failure_log::{chain, with_timeout},
    },
    store::{Store, StoreError},
};

/// How often the roll is read while somebody waits. Acknowledgements are told of; this is for those whose telling was lost.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);
/// How long the roll may take to be read, before another connection is tried.
const ROLL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the roll is read while nobody waits, so that the next change need not wait for the dead.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// How long, and how many at a time, it is remembered since when changes were asked for: longer than the longest lease.
const ASKED_REMEMBERED: Duration = Duration::from_mins(15);
const ASKED_MAX: usize = 1_024;
/// How many results may wait to be written. Beyond that they are forgotten: the history then lacks a note.
const RECORDS_MAX: usize = 1_024;

/// From 1 millisecond to 5 minutes, the longest that `max_staleness` can be.
const BUCKETS: [f64; 15] =
    [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 300.0];

/// What is counted of the changes that this process has made. Its clones count together.
#[derive(Debug, Clone)]
pub struct EnforcementCounts {
    /// How long it took until they were in force everywhere, in seconds.
    pub duration: Histogram,
    /// What callers were told, by the `state` of the enforcement.
    pub told: Family<[(&'static str, &'static str); 1], Counter>,
    /// Nodes that had to be waited out.
    pub nodes_lapsed: Counter,
}

/// Waits for changes to be in force everywhere, for as many callers as there are.
#[derive(Debug)]
pub struct Enforcer {
    node: Arc<CheckNode>,
    store: Arc<dyn Store>,
    watch: Mutex<MembershipView>,
    pending: Mutex<Vec<Pending>>,
    /// Since when somebody has been asking for a change that was made elsewhere, or long ago.
    asked: Mutex<BTreeMap<Made, BootTime>>,
    /// Asks for a look at the roll.
    look: Notify,
    /// Asks to see whether anybody need not wait any longer.
    settle: Notify,
    counts: EnforcementCounts,
}

#[derive(Debug)]
struct Pending {
    commit: Commit,
    is_recorded: bool,
    /// Of the node, when the wait began. If that changes, so may what the revision stands for.
    generation: u64,
    done: oneshot::Sender<Enforced>,
}

type Record = (Commit, Enforced);
/// Names a change: in a log that was restored, another has its revision.
type Made = (Revision, Option<Time>);

// === impl EnforcementCounts ===

impl Default for EnforcementCounts {
    fn default() -> Self {
        let told: Family<_, _> = Family::default();
        for state in ["COMPLETE", "PENDING"] {
            drop(told.get_or_create(&[("state", state)]));
        }
        Self { duration: Histogram::new(BUCKETS), told, nodes_lapsed: Counter::default() }
    }
}

// === impl Enforcer ===

impl Enforcer {
    /// An enforcer at `node`, which reads the roll in `store`.
    pub fn new(node: Arc<CheckNode>, store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            node,
            store,
            watch: Mutex::default(),
            pending: Mutex::default(),
            asked: Mutex::default(),
            look: Notify::new(),
            settle: Notify::new(),
            counts: EnforcementCounts::default(),
        })
    }

    /// What is counted here.
    pub fn counts(&self) -> &EnforcementCounts {
        &self.counts
    }

    /// Begins to wait for a change that this process has made. What is found is kept with its events.
    pub fn enforce(&self, commit: Commit) -> oneshot::Receiver<Enforced> {
        self.wait(commit, true)
    }

    /// Begins, or goes on, to wait for a change that somebody has made, then by the database's clock.
    pub fn wait_for(&self, commit: Commit, made: Option<Time>) -> oneshot::Receiver<Enforced> {
        let at = self.asked_since((commit.first, made), commit.at);
        self.wait(Commit { at, ..commit }, false)
    }

    /// When it was first asked for a change, at most so long ago as anybody may have to wait: who asks again and again does not
    /// begin anew each time. It had been committed by then.
    fn asked_since(&self, change: Made, now: BootTime) -> BootTime {
        let mut asked = self.asked.lock();
        asked.retain(|_, at| now.since(*at) < ASKED_REMEMBERED);
        if asked.len() == ASKED_MAX {
            asked.pop_first();
        }
        *asked.entry(change).or_insert(now)
    }

    /// Somebody may have acknowledged something, or registered. All replicas hear of that, at each change as often as there are
    /// replicas, and reading the roll costs as many rows: so it is read only where somebody waits, or where this node may have been
    /// the only one, which need not acknowledge. Whoever begins to wait reads it anyhow.
    pub fn wake(&self) {
        let is_awaited = !self.pending.lock().is_empty();
        if is_awaited || self.watch.lock().may_be_only(self.node.id()) {
            self.look.notify_one();
        }
    }

    /// Whether no other node was in the roll when it was last read.
    pub fn is_only_one(&self) -> bool {
        self.watch.lock().is_only(self.node.id())
    }

    fn wait(&self, commit: Commit, is_recorded: bool) -> oneshot::Receiver<Enforced> {
        let (done, result) = oneshot::channel();
        self.pending.lock().push(Pending {
            commit,
            is_recorded,
            generation: self.node.generation(),
            done,
        });
        self.look.notify_one();
        self.settle.notify_one();
        result
    }

    /// Goes on until stopped. What has not been found out by then is forgotten: nobody waits for it any more.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (records, to_write) = mpsc::channel(RECORDS_MAX);
        let work = async { tokio::join!(self.look(), self.settle(records), self.record(to_write)) };
        stop.run_until_cancelled(work).await;
    }

    /// Reads the roll, and strikes off those who have fallen silent.
    async fn look(&self) {
        let mut is_away = false;
        loop {
            let is_idle = self.pending.lock().is_empty();
            let patience = if is_idle { IDLE_INTERVAL } else { BUSY_INTERVAL };
            let _ = timeout(patience, self.look.notified()).await;
            match self.look_once().await {
                Ok(()) if is_away => {
                    is_away = false;
                    info!("the roll of check nodes can be read again");
                }
                Ok(()) => {}
                Err(error) if is_away => {
                    debug!(error = %chain(&error), "still cannot read the roll");
                }
                Err(error) => {
                    is_away = true;
                    warn!(error = %chain(&error), "cannot read the roll of check nodes, will go on trying");
                }
            }
        }
    }

    async fn look_once(&self) -> Result<(), StoreError> {
        let asked_at = self.node.boot_time();
        let roll = with_timeout(ROLL_TIMEOUT, self.store.membership()).await?;
        let silent = self.watch.lock().observe(&roll, asked_at, self.node.boot_time());
        self.settle.notify_one();
        for silent in silent.into_iter().filter(|silent| silent.node_id != self.node.id()) {
            if self.store.evict(silent.node_id, silent.seq).await? {
                info!(node = %silent.node_id, "a check node has fallen silent, and was struck off the roll");
                let now = self.node.boot_time();
                self.watch.lock().evicted(silent, now);
                self.settle.notify_one();
            }
        }
        Ok(())
    }

    /// Answers those whose change is in force everywhere.
    async fn settle(&self, records: mpsc::Sender<Record>) {
        let mut acks = self.node.watch_acks();
        loop {
            acks.mark_unchanged();
            let next = self.settle_once(&records);
            tokio::select! {
                biased;
                () = self.settle.notified() => {}
                () = acks.changed() => {}
                () = sleep(next.unwrap_or(IDLE_INTERVAL)) => {}
            }
        }
    }

    /// Says after how long somebody will have waited long enough, whatever happens.
    fn settle_once(&self, records: &mpsc::Sender<Record>) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let watch = self.watch.lock();
        let now = self.node.boot_time();
        self.pending.lock().retain_mut(|pending| {
            if !pending.is_recorded && pending.done.is_closed() {
                return false;
            }
            let commit = pending.commit;
            let own_ack = self.node.ack_of(commit.last, commit.time);
            match watch.reach(&commit, self.node.id(), own_ack, now) {
                Coverage::Waiting { until } => {
                    let patience = until.since(now);
                    next = Some(next.map_or(patience, |next| next.min(patience)));
                    true
                }
                Coverage::Everywhere { acknowledged, lapsed } => {
                    let enforced = Enforced {
                        elapsed: now.since(commit.at),
                        nodes_acknowledged: acknowledged,
                        nodes_lapsed: lapsed,
                    };
                    if pending.is_recorded {
                        self.counts.duration.observe(enforced.elapsed.as_secs_f64());
                        self.counts.nodes_lapsed.inc_by(lapsed.into());
                    }
                    let (unused, _) = oneshot::channel();
                    // Whoever asked may have gone.
                    let _ = std::mem::replace(&mut pending.done, unused).send(enforced);
                    if pending.is_recorded
                        && pending.generation == self.node.generation()
                        && records.try_send((commit, enforced)).is_err()
                    {
                        warn!(revision = commit.last, "too much waits to be written: it will not be in the history when this was enforced");
                    }
                    false
                }
            }
        });
        next
    }

    /// Writes what was found into the history. Nobody waits for that.
    async fn record(&self, mut records: mpsc::Receiver<Record>) {
        while let Some((Commit { first, last, time, .. }, enforced)) = records.recv().await {
            if let Err(error) = self.store.record_enforced(first, last, time, enforced).await {
                warn!(error = %chain(&error), "it will not be in the history when a change was enforced");
            }
        }
    }
}
