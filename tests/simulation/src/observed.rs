//! When nodes were seen at the revisions of the log, and how far the times of nodes may be behind.
//!
//! A replica that starts continues from the recorded time, and so loses the time since the record.
//! While the database clock is not trusted, a grant may last longer at that replica by this lag.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clocks::DatabaseClock,
    domain::{AcceptedClock, NodeId, Revision},
    model::elapsed_at,
};

#[derive(Debug)]
pub(crate) struct Observed {
    /// When each node was first seen at each revision.
    nodes: BTreeMap<NodeId, BTreeMap<Revision, Instant>>,
    commits: BTreeMap<Revision, Instant>,
    /// The instant whose time is recorded in the database.
    pub(crate) recorded: Instant,
    replicas: BTreeMap<NodeId, ReplicaTime>,
}

/// The time of a replica.
#[derive(Debug)]
struct ReplicaTime {
    accepted_clocks: BTreeSet<AcceptedClock>,
    /// The instant whose time was recorded when the replica loaded the record. `None` once the
    /// replica has continued from there.
    loaded: Option<Instant>,
    last_reading: Instant,
    lag: Duration,
}

impl Default for Observed {
    fn default() -> Self {
        let (nodes, commits, replicas) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { nodes, commits, recorded: Instant::now(), replicas }
    }
}

impl Observed {
    // === the log ===

    /// Records that the node is at `revision`.
    pub(crate) fn record(&mut self, node_id: NodeId, revision: Revision) {
        self.nodes.entry(node_id).or_default().entry(revision).or_insert_with(Instant::now);
    }

    /// Records the commit of `revision`.
    pub(crate) fn record_commit(&mut self, revision: Revision) {
        self.commits.insert(revision, Instant::now());
    }

    /// Forgets all revisions after `head`, or all revisions if the log is another one. A restore
    /// takes no time from a node that runs, so that earlier revisions count on.
    pub(crate) fn truncate(&mut self, head: Revision, is_same_log: bool) {
        if !is_same_log {
            (self.nodes, self.recorded) = (BTreeMap::new(), Instant::now());
        }
        let first_lost = if is_same_log { head + 1 } else { Revision::MIN };
        for revisions in self.nodes.values_mut().chain([&mut self.commits]) {
            revisions.split_off(&first_lost);
        }
    }

    /// Whether `span` has elapsed since the event of `revision`, by the time of a node: since the
    /// node was first seen at the event or a later one, or since the commit and the node's lag. The
    /// commit does not count if the clock was ahead once: some times may have advanced, not all.
    pub(crate) fn has_elapsed(
        &self,
        node_id: NodeId,
        revision: Revision,
        span: Duration,
        clock: &DatabaseClock,
    ) -> bool {
        let mut revisions =
            self.nodes.get(&node_id).into_iter().flat_map(|it| it.range(revision..));
        let seen = revisions.next().map(|(_, at)| *at);
        let lag = self.replicas.get(&node_id).map(|replica| replica.lag);
        let lag = lag.unwrap_or_else(|| self.greatest_lag());
        let committed = self.commits.get(&revision).map(|at| *at + lag);
        let committed = committed.filter(|_| !clock.has_stepped_forward());
        let since = seen.into_iter().chain(committed).min();
        since.is_some_and(|since| elapsed_at(since, span) <= Instant::now())
    }

    // === the recorded time ===

    /// Records that a replica has loaded the recorded time. The replica continues from there if the
    /// replica has just started, or if an accepted clock is new.
    pub(crate) fn record_load(&mut self, node_id: NodeId, accepted_clocks: &[AcceptedClock]) {
        let (loaded, now) = (self.recorded, Instant::now());
        let replica = self.replicas.entry(node_id).or_insert_with(|| ReplicaTime {
            accepted_clocks: BTreeSet::new(),
            loaded: Some(loaded),
            last_reading: now,
            lag: Duration::ZERO,
        });
        for clock in accepted_clocks {
            if replica.accepted_clocks.insert(*clock) {
                replica.loaded = Some(loaded);
            }
        }
    }

    /// Records that a replica has read the database clock with a request of `sent_at`.
    pub(crate) fn record_reading(&mut self, node_id: NodeId, sent_at: Instant) {
        let Some(replica) = self.replicas.get_mut(&node_id) else { return };
        replica.last_reading = sent_at;
        if let Some(loaded) = replica.loaded.take() {
            replica.lag = sent_at.saturating_duration_since(loaded);
        }
    }

    /// Records that a replica has recorded its time.
    pub(crate) fn record_time(&mut self, node_id: NodeId) {
        let Some(replica) = self.replicas.get(&node_id) else { return };
        self.recorded = self.recorded.max(replica.last_reading - replica.lag);
    }

    /// Records that an operator has accepted the clock, at any replica.
    pub(crate) fn record_acceptance(&mut self) {
        self.recorded = Instant::now() - self.greatest_lag();
    }

    fn greatest_lag(&self) -> Duration {
        self.replicas.values().map(|replica| replica.lag).max().unwrap_or_default()
    }
}
