//! The followers of a node, with leases and acknowledgements. Pure: time is an argument.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use crate::{
    domain::{Ack, BootTime, NodeId, NodeInfo, NodeKind, Revision},
    node::{
        applied_times::AppliedTimes,
        delays::Delays,
        lease::{Lease, grantor_bound},
        message::{FOLLOWERS_MAX, Hello, ToFollower},
        snapshot_transfer::SnapshotTransfer,
    },
};

/// How long an expired follower is still reported as lapsed, in lease durations.
const REPORTED_LEASES: u32 = 1;

/// How long a follower may take to acknowledge a change before that counts as a delay: this part of
/// a lease.
const PROMPT_PARTS: u32 = 4;

/// Identifies one stream of a follower. Each stream has another id.
pub type StreamId = u64;

/// All nodes that may answer checks because of a lease from this node.
#[derive(Debug, Default)]
pub struct Followers {
    last_stream: StreamId,
    by_node: BTreeMap<NodeId, Follower>,
    /// Snapshots that are being sent. The node owns the transfers, not the streams, so a stalled
    /// stream cannot keep the memory of a snapshot.
    transfers: BTreeMap<StreamId, SnapshotTransfer>,
    delays: Delays,
}

/// Why a follower gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSlot {
    /// The node has the maximum number of followers.
    TooMany,
    /// The node id belongs to a follower with another credential.
    OtherCredential,
    /// Followers with this credential have delayed changes for too long.
    Excluded,
}

#[derive(Debug)]
struct Follower {
    version: String,
    /// The identity of the caller that first used the node id.
    credential: Arc<str>,
    /// The current stream; `None` while the follower is disconnected.
    stream: Option<StreamId>,
    acked: Revision,
    /// The time at which all leases of the follower have expired; `None` without any lease so far.
    expires_at: Option<BootTime>,
    /// Since when the follower has both the current stream and a lease, and must acknowledge.
    ack_due_since: BootTime,
    /// The lifetime of the latest lease.
    max_staleness: Duration,
    last_message_at: BootTime,
    /// The age of the latest lease at the time of the grant.
    lease_age: Option<Duration>,
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

    /// The time in which the follower has delayed a change, beyond what is prompt.
    fn delay(&self, applied_times: &AppliedTimes, now: BootTime) -> Option<Range<BootTime>> {
        let since = applied_times.get(self.acked + 1)?.max(self.ack_due_since);
        let from = since + self.max_staleness / PROMPT_PARTS;
        Some(from..self.expires_at?.min(now)).filter(|delay| !delay.is_empty())
    }
}

impl Followers {
    /// Opens a stream for a follower, and replaces an earlier stream of the same credential. Fails
    /// if the followers of the credential have delayed changes for `delay_max`.
    pub fn connect(
        &mut self,
        hello: &Hello,
        credential: &Arc<str>,
        delay_max: Option<Duration>,
        now: BootTime,
    ) -> Result<StreamId, NoSlot> {
        self.by_node.retain(|_, follower| follower.is_recent(now));
        let known = self.by_node.get(&hello.node_id);
        if known.is_some_and(|known| known.credential != *credential) {
            return Err(NoSlot::OtherCredential);
        }
        if delay_max.is_some_and(|delay_max| self.delays.total(credential, now) >= delay_max) {
            return Err(NoSlot::Excluded);
        }
        if self.by_node.len() >= FOLLOWERS_MAX && known.is_none() {
            return Err(NoSlot::TooMany);
        }
        self.last_stream += 1;
        let known = self.by_node.remove(&hello.node_id);
        let expires_at = known.as_ref().and_then(|known| known.expires_at);
        let max_staleness = known.map_or(Duration::ZERO, |known| known.max_staleness);
        let follower = Follower {
            version: hello.version.clone(),
            credential: Arc::clone(credential),
            stream: Some(self.last_stream),
            acked: 0,
            expires_at,
            ack_due_since: now,
            max_staleness,
            last_message_at: now,
            lease_age: None,
        };
        self.by_node.insert(hello.node_id, follower);
        Ok(self.last_stream)
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
            follower.acked = 0;
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

    // === delays ===

    /// Counts how long all followers have delayed changes. Call before [`Self::connect`].
    pub fn count_delays(&mut self, applied_times: &AppliedTimes, now: BootTime) {
        self.delays.prune(now);
        for follower in self.by_node.values() {
            if let Some(delay) = follower.delay(applied_times, now) {
                self.delays.add(&follower.credential, &delay);
            }
        }
    }

    /// Whether a follower delays a change, after the followers of its credential have delayed
    /// changes for `delay_max`.
    pub fn is_overdue(
        &self,
        node_id: NodeId,
        applied_times: &AppliedTimes,
        delay_max: Duration,
        now: BootTime,
    ) -> bool {
        self.by_node.get(&node_id).is_some_and(|follower| {
            follower.delay(applied_times, now).is_some_and(|delay| delay.end == now)
                && self.delays.total(&follower.credential, now) >= delay_max
        })
    }

    // === messages of followers ===

    /// Records that a follower has sent a message, and counts how long the follower has delayed
    /// changes until then.
    pub fn record_message(
        &mut self,
        node_id: NodeId,
        stream: StreamId,
        applied_times: &AppliedTimes,
        now: BootTime,
    ) {
        let follower = self.by_node.get_mut(&node_id);
        if let Some(follower) = follower.filter(|follower| follower.stream == Some(stream)) {
            follower.last_message_at = now;
            if let Some(delay) = follower.delay(applied_times, now) {
                self.delays.add(&follower.credential, &delay);
            }
        }
    }

    /// Records an acknowledgement, which includes the followers of the follower.
    pub fn record_ack(&mut self, node_id: NodeId, stream: StreamId, revision: Revision) {
        if let Some(follower) = self.current(node_id, stream) {
            follower.acked = revision;
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
        if !follower.holds_lease(now) {
            follower.ack_due_since = now;
        }
        let expires_at = lease.valid_from + grantor_bound(lease.max_staleness);
        follower.expires_at = follower.expires_at.max(Some(expires_at));
        follower.max_staleness = lease.max_staleness;
        follower.lease_age = Some(now.since(lease.valid_from));
    }

    // === acknowledgement ===

    /// The acknowledgement of a node at `applied`, including all followers. A follower counts as
    /// one node, together with the nodes that follow it: this node cannot verify their number.
    pub fn ack(&self, applied: Revision, now: BootTime) -> Ack {
        let mut ack = Ack { revision: applied, nodes: 1, nodes_lapsed: 0 };
        for follower in self.by_node.values().filter(|follower| follower.holds_lease(now)) {
            ack.revision = ack.revision.min(follower.acked);
        }
        for follower in self.by_node.values() {
            let is_behind = follower.acked < ack.revision;
            let is_active = follower.stream.is_some() || follower.holds_lease(now);
            if !is_behind && is_active {
                ack.nodes += 1;
            } else if is_behind && follower.expires_at.is_some() && follower.is_recent(now) {
                ack.nodes_lapsed += 1;
            }
        }
        ack
    }

    /// The time at which [`Self::ack`] next changes without a message: the first expiry of a
    /// follower behind `applied`.
    pub fn next_expiry(&self, applied: Revision, now: BootTime) -> Option<BootTime> {
        let delays_ack =
            |follower: &&Follower| follower.acked < applied && follower.holds_lease(now);
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

    /// The followers that are connected or hold a lease. Nodes that follow these are unknown here:
    /// a statement of a follower about other nodes could not be verified.
    pub fn infos(&self, this_node: NodeId, now: BootTime) -> Vec<NodeInfo> {
        let is_active = |(_, follower): &(&NodeId, &Follower)| {
            follower.stream.is_some() || follower.holds_lease(now)
        };
        let info = |(node_id, follower): (&NodeId, &Follower)| {
            let silent_for = now.since(follower.last_message_at);
            NodeInfo {
                node_id: *node_id,
                kind: NodeKind::Sidecar,
                version: follower.version.clone(),
                upstream: Some(this_node),
                revision: follower.acked,
                lease_age: follower.lease_age.map(|age| age + silent_for),
                silent_for,
            }
        };
        self.by_node.iter().filter(is_active).map(info).collect()
    }

    fn current(&mut self, node_id: NodeId, stream: StreamId) -> Option<&mut Follower> {
        self.by_node.get_mut(&node_id).filter(|follower| follower.stream == Some(stream))
    }
}
