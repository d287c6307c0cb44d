//! Those that a node feeds, and what it may acknowledge for them. Pure: time is an argument.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    domain::{Ack, BootTime, NodeId, NodeInfo, NodeKind, Revision},
    node::{
        lease::{Lease, grantor_bound},
        message::{Hello, REPORT_MAX},
        snapshot::{Parts, SnapshotPart},
    },
};

/// How long a follower that has lapsed is told of, in lengths of a lease.
const REMEMBERED: u32 = 1;

/// How long a follower may take for one part of a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many a node feeds at most.
pub const FOLLOWERS_MAX: usize = 4_096;

/// Names one stream of a follower: a follower that comes back has a new one.
pub type StreamId = u64;

/// Everybody who may answer from what this node has lease_grant for.
#[derive(Debug, Default)]
pub struct Followers {
    last_stream: StreamId,
    known: BTreeMap<NodeId, Follower>,
    /// Snapshots that are being sent. Kept here, and not by the streams: one that takes no more would keep its own for ever.
    snapshots: BTreeMap<StreamId, Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    parts: Parts,
    /// When the last part was taken.
    at: BootTime,
}

#[derive(Debug)]
struct Follower {
    version: String,
    /// Its stream; `None` once that has ended without a word.
    stream: Option<StreamId>,
    acked: Ack,
    /// By when everything that it was lease_grant for has lapsed; `None`: nothing was.
    expires_at: Option<BootTime>,
    last_lease: Duration,
    last_heard: BootTime,
    /// How old its lease was when it was last lease_grant for.
    lease_age: Option<Duration>,
    report: Vec<NodeInfo>,
}

impl Follower {
    /// Whether it may still answer from what it was lease_grant for.
    fn may_answer(&self, now: BootTime) -> bool {
        self.expires_at.is_some_and(|expires_at| now < expires_at)
    }

    /// Whether it has lapsed, not long ago.
    fn is_remembered_silent(&self, now: BootTime) -> bool {
        self.expires_at.is_some() && self.is_remembered(now)
    }

    /// Whether anybody still wants to know of it.
    fn is_remembered(&self, now: BootTime) -> bool {
        let until = |at: BootTime| at + self.last_lease * REMEMBERED;
        self.stream.is_some() || self.expires_at.is_some_and(|at| now < until(at))
    }
}

impl Followers {
    /// A follower has a new stream. If it had another, that one counts no more. `None`: there are as many as there may be.
    pub fn join(&mut self, hello: &Hello, now: BootTime) -> Option<StreamId> {
        self.known.retain(|_, follower| follower.is_remembered(now));
        if self.known.len() >= FOLLOWERS_MAX && !self.known.contains_key(&hello.node_id) {
            return None;
        }
        self.last_stream += 1;
        let known = self.known.remove(&hello.node_id);
        let expires_at = known.as_ref().and_then(|known| known.expires_at);
        let last_lease = known.map_or(Duration::ZERO, |known| known.last_lease);
        self.known.insert(
            hello.node_id,
            Follower {
                version: hello.version.clone(),
                stream: Some(self.last_stream),
                acked: Ack { revision: 0, nodes: 1, nodes_lapsed: 0 },
                expires_at,
                last_lease,
                last_heard: now,
                lease_age: None,
                report: Vec::new(),
            },
        );
        Some(self.last_stream)
    }

    /// A snapshot is about to be sent on a stream.
    pub fn begin_snapshot(&mut self, stream: StreamId, parts: Parts, now: BootTime) {
        self.snapshots.insert(stream, Outgoing { parts, at: now });
    }

    /// The next part of the snapshot that is sent on a stream, if there is one; `None` if it was not asked for in time.
    pub fn next_part(&mut self, stream: StreamId, now: BootTime) -> Option<Option<SnapshotPart>> {
        let outgoing = self.snapshots.get_mut(&stream)?;
        outgoing.at = now;
        let part = outgoing.parts.next();
        if part.is_none() {
            self.snapshots.remove(&stream);
        }
        Some(part)
    }

    /// Lets go of snapshots that nobody takes.
    pub fn drop_stalled(&mut self, now: BootTime) {
        self.snapshots.retain(|_, outgoing| now.since(outgoing.at) < SNAPSHOT_TIMEOUT);
    }

    /// Whether this is still the stream of that follower.
    pub fn is_current(&self, node_id: NodeId, stream: StreamId) -> bool {
        self.known.get(&node_id).is_some_and(|follower| follower.stream == Some(stream))
    }

    /// The follower is about to be lease_grant for from `lease`. Call it before sending.
    pub fn lease_granted(
        &mut self,
        node_id: NodeId,
        stream: StreamId,
        lease: &Lease,
        now: BootTime,
    ) {
        let Some(follower) = self.current(node_id, stream) else { return };
        let expires_at = lease.valid_from + grantor_bound(lease.max_staleness);
        follower.expires_at = follower.expires_at.max(Some(expires_at));
        follower.last_lease = lease.max_staleness;
        follower.lease_age = Some(now.since(lease.valid_from));
    }

    /// The follower was heard from.
    pub fn heard(&mut self, node_id: NodeId, stream: StreamId, now: BootTime) {
        if let Some(follower) = self.current(node_id, stream) {
            follower.last_heard = now;
        }
    }

    /// The follower and its own followers answer from `ack` on.
    pub fn acked(&mut self, node_id: NodeId, stream: StreamId, ack: Ack) {
        if let Some(follower) = self.current(node_id, stream) {
            follower.acked = ack;
        }
    }

    /// Whom the follower feeds.
    pub fn reported(&mut self, node_id: NodeId, stream: StreamId, report: Vec<NodeInfo>) {
        if let Some(follower) = self.current(node_id, stream) {
            follower.report = report;
        }
    }

    /// The stream has ended without a word: the follower may go on answering for a while.
    pub fn lost(&mut self, node_id: NodeId, stream: StreamId) {
        self.snapshots.remove(&stream);
        if let Some(follower) = self.current(node_id, stream) {
            follower.stream = None;
        }
    }

    /// The follower has said that it answers no more.
    pub fn left(&mut self, node_id: NodeId, stream: StreamId) {
        self.snapshots.remove(&stream);
        if self.is_current(node_id, stream) {
            self.known.remove(&node_id);
        }
    }

    /// The node holds another history now: what was acknowledged means nothing any more.
    pub fn reset(&mut self) {
        self.snapshots.clear();
        for follower in self.known.values_mut() {
            follower.acked.revision = 0;
            follower.stream = None;
        }
    }

    /// What the node may acknowledge, itself at `published`.
    pub fn ack(&self, published: Revision, now: BootTime) -> Ack {
        let mut ack = Ack { revision: published, nodes: 1, nodes_lapsed: 0 };
        for follower in self.known.values().filter(|follower| follower.may_answer(now)) {
            ack.revision = ack.revision.min(follower.acked.revision);
        }
        for follower in self.known.values() {
            let is_there = follower.stream.is_some() || follower.may_answer(now);
            if follower.acked.revision >= ack.revision && is_there {
                ack.nodes = ack.nodes.saturating_add(follower.acked.nodes);
                ack.nodes_lapsed = ack.nodes_lapsed.saturating_add(follower.acked.nodes_lapsed);
            } else if follower.acked.revision < ack.revision && follower.is_remembered_silent(now) {
                ack.nodes_lapsed = ack.nodes_lapsed.saturating_add(1);
            }
        }
        ack
    }

    /// When [`Self::ack`] next changes by itself: the first lapse of a follower that holds it back.
    pub fn next_lapse(&self, published: Revision, now: BootTime) -> Option<BootTime> {
        let late =
            |follower: &&Follower| follower.acked.revision < published && follower.may_answer(now);
        self.known.values().filter(late).filter_map(|follower| follower.expires_at).min()
    }

    /// Whether nobody can answer from what this node has lease_grant for.
    pub fn are_gone(&self, now: BootTime) -> bool {
        !self.known.values().any(|follower| follower.may_answer(now))
    }

    /// How many have a stream.
    pub fn connected(&self) -> usize {
        self.known.values().filter(|follower| follower.stream.is_some()).count()
    }

    /// What is known of those that have a stream or may still answer, and of those that they feed.
    pub fn infos(&self, upstream: NodeId, now: BootTime) -> Vec<NodeInfo> {
        let is_there = |(_, it): &(_, &Follower)| it.stream.is_some() || it.may_answer(now);
        let infos = self.known.iter().filter(is_there).flat_map(|(node_id, follower)| {
            let silent_for = now.since(follower.last_heard);
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
        self.known.get_mut(&node_id).filter(|follower| follower.stream == Some(stream))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::node::{Snapshot, message::PROTOCOL};

    #[test]
    fn a_snapshot_that_nobody_takes_is_let_go_of() {
        let (mut followers, begin) = (Followers::default(), BootTime(0));
        let parts = || Snapshot::default().into_parts();
        for stream in [1, 2] {
            followers.begin_snapshot(stream, parts(), begin);
        }
        let later = begin + SNAPSHOT_TIMEOUT;
        assert_eq!(
            followers.next_part(1, later - Duration::from_secs(1)),
            Some(None),
            "it is empty"
        );
        followers.begin_snapshot(3, parts(), later);
        followers.drop_stalled(later);
        assert_eq!(followers.next_part(2, later), None, "that was too slow");
        assert_eq!(followers.next_part(3, later), Some(None));
    }

    #[test]
    fn nobody_can_make_a_node_feed_without_end() {
        let hello = |number: usize| Hello {
            protocol: PROTOCOL,
            node_id: NodeId(Uuid::from_u128(number as u128)),
            version: String::new(),
            held: None,
            lease_age: None,
        };
        let (mut followers, now) = (Followers::default(), BootTime(0));
        let streams: Vec<_> =
            (0..FOLLOWERS_MAX).map(|number| followers.join(&hello(number), now)).collect();
        assert!(streams.iter().all(Option::is_some));
        assert_eq!(followers.join(&hello(FOLLOWERS_MAX), now), None, "that is one too many");
        assert!(followers.join(&hello(0), now).is_some(), "it has come back");
        followers.lost(hello(1).node_id, streams[1].unwrap());
        assert!(followers.join(&hello(FOLLOWERS_MAX), now).is_some(), "another one has gone");
    }
}
