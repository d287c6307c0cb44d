//! The followers of a node, with leases and acknowledgements. Pure: time is an argument.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    domain::{Ack, BootTime, NodeId, NodeInfo, NodeKind, Revision},
    node::{
        lease::{Lease, grantor_bound},
        limits::FollowerLimits,
        message::{Hello, REPORT_MAX, REPORTED_MAX, ToFollower},
        snapshot_transfer::SnapshotTransfer,
    },
};

/// How long an expired follower is still reported as lapsed, in lease durations.
const REPORTED_LEASES: u32 = 1;

/// Identifies one stream of a follower. Each stream has another id.
pub type StreamId = u64;

/// All nodes that may answer checks because of a lease from this node.
#[derive(Debug, Default)]
pub struct Followers {
    limits: FollowerLimits,
    last_stream: StreamId,
    by_node: BTreeMap<NodeId, Follower>,
    /// Snapshots that are being sent. The node owns the transfers, not the streams, so a stalled
    /// stream cannot keep the memory of a snapshot.
    transfers: BTreeMap<StreamId, SnapshotTransfer>,
}

#[derive(Debug)]
struct Follower {
    /// The identity of the caller that opened the stream.
    caller: Arc<str>,
    version: String,
    /// The current stream; `None` while the follower is disconnected.
    stream: Option<StreamId>,
    acked: Ack,
    /// The time at which all leases of the follower have expired; `None` without any lease so far.
    expires_at: Option<BootTime>,
    /// The lifetime of the latest lease.
    max_staleness: Duration,
    last_message_at: BootTime,
    /// The age of the latest lease at the time of the grant.
    lease_age: Option<Duration>,
    /// The nodes that follow this follower.
    report: Vec<NodeInfo>,
}

impl Follower {
    /// Whether a lease from this node may still be valid at the follower.
    fn holds_lease(&self, now: BootTime) -> bool {
        self.expires_at.is_some_and(|expires_at| now < expires_at)
    }

    /// Whether the follower is connected, holds a lease, or has lapsed recently.
    fn is_recent(&self, now: BootTime) -> bool {
        let reported_until =
            |expires_at: BootTime| expires_at + self.max_staleness * REPORTED_LEASES;
        self.stream.is_some() || self.expires_at.is_some_and(|at| now < reported_until(at))
    }
}

impl Followers {
    /// No followers, and at most as many as `limits` allow.
    pub(super) fn limited(limits: FollowerLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Opens a stream for a follower, and replaces an earlier stream. `None` if the node or the
    /// caller has too many followers, including recent ones. A known follower may always return.
    pub fn connect(&mut self, hello: &Hello, caller: &Arc<str>, now: BootTime) -> Option<StreamId> {
        self.by_node.retain(|_, follower| follower.is_recent(now));
        if !self.by_node.contains_key(&hello.node_id) {
            let of_caller = self.by_node.values().filter(|known| known.caller == *caller).count();
            let FollowerLimits { in_all, per_caller } = self.limits;
            if self.by_node.len() >= in_all || of_caller >= per_caller {
                return None;
            }
        }
        self.last_stream += 1;
        let known = self.by_node.remove(&hello.node_id);
        let expires_at = known.as_ref().and_then(|known| known.expires_at);
        let max_staleness = known.map_or(Duration::ZERO, |known| known.max_staleness);
        let follower = Follower {
            caller: Arc::clone(caller),
            version: hello.version.clone(),
            stream: Some(self.last_stream),
            acked: Ack { revision: 0, nodes: 1, nodes_lapsed: 0 },
            expires_at,
            max_staleness,
            last_message_at: now,
            lease_age: None,
            report: Vec::new(),
        };
        self.by_node.insert(hello.node_id, follower);
        Some(self.last_stream)
    }

    /// Whether `stream` is the current stream of the follower.
    pub fn is_current(&self, node_id: NodeId, stream: StreamId) -> bool {
        self.by_node.get(&node_id).is_some_and(|follower| follower.stream == Some(stream))
    }

    /// Closes a stream that has ended without [`Self::leave`]. The follower may answer checks until
    /// the lease expires.
    pub fn disconnect(&mut self, node_id: NodeId, stream: StreamId) {
        self.transfers.remove(&stream);
        if let Some(follower) = self.current(node_id, stream) {
            follower.stream = None;
            follower.report = Vec::new();
        }
    }

    /// Removes a follower that has stopped answering checks, and has announced that.
    pub fn leave(&mut self, node_id: NodeId, stream: StreamId) {
        self.transfers.remove(&stream);
        if self.is_current(node_id, stream) {
            self.by_node.remove(&node_id);
        }
    }

    /// Drops all acknowledgements and streams: the node has another log now. The leases of
    /// followers stay counted.
    pub fn reset(&mut self) {
        self.transfers.clear();
        for follower in self.by_node.values_mut() {
            follower.acked.revision = 0;
            follower.stream = None;
        }
    }

    // === snapshots ===

    /// Starts to send a snapshot on a stream.
    pub fn start_transfer(&mut self, stream: StreamId, transfer: SnapshotTransfer) {
        self.transfers.insert(stream, transfer);
    }

    /// The next message of the snapshot that is being sent on a stream; `Some(None)` at the end.
    /// `None` if the transfer was dropped, because the follower was too slow.
    pub fn next_snapshot_message(
        &mut self,
        stream: StreamId,
        now: BootTime,
    ) -> Option<Option<ToFollower>> {
        let message = self.transfers.get_mut(&stream)?.next_message(now);
        if message.is_none() {
            self.transfers.remove(&stream);
        }
        Some(message)
    }

    /// Drops the snapshots of followers that read too slowly.
    pub fn drop_stalled_transfers(&mut self, now: BootTime) {
        self.transfers.retain(|_, transfer| !transfer.is_stalled(now));
    }

    // === messages of followers ===

    /// Records that a follower has sent a message.
    pub fn record_message(&mut self, node_id: NodeId, stream: StreamId, now: BootTime) {
        if let Some(follower) = self.current(node_id, stream) {
            follower.last_message_at = now;
        }
    }

    /// Records an acknowledgement, which includes the followers of the follower.
    pub fn record_ack(&mut self, node_id: NodeId, stream: StreamId, ack: Ack) {
        if let Some(follower) = self.current(node_id, stream) {
            follower.acked = ack;
        }
    }

    /// Records the nodes that follow the follower, as many as fit in [`REPORTED_MAX`].
    pub fn record_report(&mut self, node_id: NodeId, stream: StreamId, mut report: Vec<NodeInfo>) {
        let reported = self.reported();
        if let Some(follower) = self.current(node_id, stream) {
            report.truncate(REPORTED_MAX.saturating_sub(reported - follower.report.len()));
            report.shrink_to_fit();
            follower.report = report;
        }
    }

    /// Records that the follower gets a lease that derives from `lease`. Call before sending the
    /// grant of the lease.
    pub fn record_lease_grant(
        &mut self,
        node_id: NodeId,
        stream: StreamId,
        lease: &Lease,
        now: BootTime,
    ) {
        let Some(follower) = self.current(node_id, stream) else { return };
        let expires_at = lease.valid_from + grantor_bound(lease.max_staleness);
        follower.expires_at = follower.expires_at.max(Some(expires_at));
        follower.max_staleness = lease.max_staleness;
        follower.lease_age = Some(now.since(lease.valid_from));
    }

    // === acknowledgement ===

    /// The acknowledgement of a node at `applied`, including all followers.
    pub fn ack(&self, applied: Revision, now: BootTime) -> Ack {
        let mut ack = Ack { revision: applied, nodes: 1, nodes_lapsed: 0 };
        for follower in self.by_node.values().filter(|follower| follower.holds_lease(now)) {
            ack.revision = ack.revision.min(follower.acked.revision);
        }
        for follower in self.by_node.values() {
            let is_behind = follower.acked.revision < ack.revision;
            let is_active = follower.stream.is_some() || follower.holds_lease(now);
            if !is_behind && is_active {
                ack.nodes = ack.nodes.saturating_add(follower.acked.nodes);
                ack.nodes_lapsed = ack.nodes_lapsed.saturating_add(follower.acked.nodes_lapsed);
            } else if is_behind && follower.expires_at.is_some() && follower.is_recent(now) {
                ack.nodes_lapsed = ack.nodes_lapsed.saturating_add(1);
            }
        }
        ack
    }

    /// The time at which [`Self::ack`] next changes without a message: the first expiry of a
    /// follower behind `applied`.
    pub fn next_expiry(&self, applied: Revision, now: BootTime) -> Option<BootTime> {
        let delays_ack =
            |follower: &&Follower| follower.acked.revision < applied && follower.holds_lease(now);
        let delaying = self.by_node.values().filter(delays_ack);
        delaying.filter_map(|follower| follower.expires_at).min()
    }

    /// Whether any follower holds a valid lease.
    pub fn hold_leases(&self, now: BootTime) -> bool {
        self.by_node.values().any(|follower| follower.holds_lease(now))
    }

    // === for operators ===

    /// The number of followers with a stream.
    pub fn connected(&self) -> usize {
        self.by_node.values().filter(|follower| follower.stream.is_some()).count()
    }

    /// The number of nodes in the reports of all followers.
    pub fn reported(&self) -> usize {
        self.by_node.values().map(|follower| follower.report.len()).sum()
    }

    /// The followers that are connected or hold a lease, and the nodes that follow these. At most
    /// [`REPORT_MAX`].
    pub fn infos(&self, upstream: NodeId, now: BootTime) -> Vec<NodeInfo> {
        let is_active = |(_, follower): &(&NodeId, &Follower)| {
            follower.stream.is_some() || follower.holds_lease(now)
        };
        let infos = self.by_node.iter().filter(is_active).flat_map(|(node_id, follower)| {
            let silent_for = now.since(follower.last_message_at);
            let info = NodeInfo {
                node_id: *node_id,
                kind: NodeKind::Sidecar,
                version: follower.version.clone(),
                upstream: Some(upstream),
                revision: follower.acked.revision,
                lease_age: follower.lease_age.map(|age| age + silent_for),
                silent_for,
            };
            std::iter::once(info).chain(follower.report.iter().cloned())
        });
        infos.take(REPORT_MAX).collect()
    }

    fn current(&mut self, node_id: NodeId, stream: StreamId) -> Option<&mut Follower> {
        self.by_node.get_mut(&node_id).filter(|follower| follower.stream == Some(stream))
    }
}
