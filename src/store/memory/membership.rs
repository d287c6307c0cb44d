//! The roll of check nodes in memory, and what was proven of the enforcement of changes.

use std::time::Duration;

use imbl::OrdMap;

use crate::{
    domain::{Ack, Enforced, NodeId, NodeInfo, Revision, Time, time::between},
    store::{Member, Registration},
};

/// The rows of check nodes, and the records.
#[derive(Debug, Clone, Default)]
pub(super) struct MembershipTable {
    rows: OrdMap<NodeId, Row>,
    /// The longest of any row, when a node last registered.
    pub(super) max_staleness: Duration,
    /// By the last revision of a change; with the first.
    enforced: OrdMap<Revision, (Revision, Enforced)>,
}

#[derive(Debug, Clone)]
struct Row {
    version: String,
    max_staleness: Duration,
    seq: i64,
    ack: Ack,
    renew_time: Time,
    followers: Vec<NodeInfo>,
}

impl MembershipTable {
    /// A row that is there already keeps its `seq`, which never goes back: somebody may be watching whether it moves.
    pub(super) fn register(&mut self, member: &Registration, now: Time) {
        let Registration { node_id, version, max_staleness, first_heartbeat } = member.clone();
        let earlier = self.rows.get(&node_id);
        let row = Row {
            version,
            max_staleness,
            seq: earlier.map_or(first_heartbeat, |row| row.seq),
            ack: Ack { revision: 0, nodes: 0, nodes_lapsed: 0 },
            renew_time: earlier.map_or(now, |row| row.renew_time),
            followers: Vec::new(),
        };
        self.rows.insert(node_id, row);
        self.tell_longest_staleness();
    }

    /// False if there is no such row.
    pub(super) fn heartbeat(&mut self, node_id: NodeId, seq: i64, now: Time) -> bool {
        let Some(row) = self.rows.get_mut(&node_id) else { return false };
        row.seq = seq.max(row.seq + 1);
        row.renew_time = now;
        true
    }

    /// False if there is no such row, or it has more.
    pub(super) fn acknowledge(&mut self, node_id: NodeId, ack: Ack) -> bool {
        let row = self.rows.get_mut(&node_id).filter(|row| row.ack.revision <= ack.revision);
        row.map(|row| row.ack = ack).is_some()
    }

    pub(super) fn write_followers(&mut self, node_id: NodeId, followers: &[NodeInfo]) {
        if let Some(row) = self.rows.get_mut(&node_id) {
            row.followers = followers.to_vec();
        }
    }

    pub(super) fn evict(&mut self, node_id: NodeId, seq: i64) -> bool {
        let is_there = self.rows.get(&node_id).is_some_and(|row| row.seq == seq);
        let is_gone = is_there && self.rows.remove(&node_id).is_some();
        if is_gone {
            self.tell_longest_staleness();
        }
        is_gone
    }

    fn tell_longest_staleness(&mut self) {
        self.max_staleness =
            self.rows.values().map(|row| row.max_staleness).max().unwrap_or_default();
    }

    pub(super) fn longest_staleness(&self) -> Duration {
        self.rows.values().map(|row| row.max_staleness).fold(self.max_staleness, Duration::max)
    }

    pub(super) fn members(&self, now: Time) -> Vec<Member> {
        let member = |(node_id, row): (&NodeId, &Row)| Member {
            node_id: *node_id,
            version: row.version.clone(),
            seq: row.seq,
            ack: row.ack,
            renewed_ago: between(row.renew_time, now),
        };
        self.rows.iter().map(member).collect()
    }

    pub(super) fn read_followers(&self) -> Vec<(NodeId, Vec<NodeInfo>)> {
        self.rows.iter().map(|(node_id, row)| (*node_id, row.followers.clone())).collect()
    }

    pub(super) fn record_enforced(&mut self, first: Revision, last: Revision, enforced: Enforced) {
        self.enforced.entry(last).or_insert((first, enforced));
    }

    pub(super) fn enforced(&self, revision: Revision) -> Option<Enforced> {
        let (_, (first, enforced)) = self.enforced.range(revision..).next()?;
        (*first <= revision).then_some(*enforced)
    }
}
