//! The membership table in memory, and the recorded enforcement of changes.

use std::time::Duration;

use imbl::OrdMap;

use crate::{
    domain::{Ack, Enforced, NodeId, NodeInfo, Revision, Time, time::between},
    store::{Member, Registration},
};

/// The rows of the check nodes, and the records of enforcement.
#[derive(Debug, Clone, Default)]
pub(super) struct MemberTable {
    rows: OrdMap<NodeId, Row>,
    /// The longest `max_staleness` of all rows, when a node last registered or was evicted.
    pub(super) max_staleness: Duration,
    /// The first revision and the enforcement of each change, by the last revision.
    enforced: OrdMap<Revision, (Revision, Enforced)>,
}

#[derive(Debug, Clone)]
struct Row {
    version: String,
    max_staleness: Duration,
    heartbeat_seq: i64,
    ack: Ack,
    heartbeat_time: Time,
    followers: Vec<NodeInfo>,
}

impl MemberTable {
    /// An existing row keeps `heartbeat_seq`, which never decreases, because other nodes watch the
    /// row.
    pub(super) fn register(&mut self, member: &Registration, now: Time) {
        let Registration { node_id, version, max_staleness, first_heartbeat } = member.clone();
        let existing = self.rows.get(&node_id);
        let row = Row {
            version,
            max_staleness,
            heartbeat_seq: existing.map_or(first_heartbeat, |row| row.heartbeat_seq),
            ack: Ack { revision: 0, nodes: 0, nodes_lapsed: 0 },
            heartbeat_time: existing.map_or(now, |row| row.heartbeat_time),
            followers: Vec::new(),
        };
        self.rows.insert(node_id, row);
        self.update_max_staleness();
    }

    /// False if there is no such row.
    pub(super) fn heartbeat(&mut self, node_id: NodeId, seq: i64, now: Time) -> bool {
        let Some(row) = self.rows.get_mut(&node_id) else { return false };
        row.heartbeat_seq = seq.max(row.heartbeat_seq + 1);
        row.heartbeat_time = now;
        true
    }

    /// False if there is no such row, or if the row has a later acknowledgement.
    pub(super) fn acknowledge(&mut self, node_id: NodeId, ack: Ack) -> bool {
        let row = self.rows.get_mut(&node_id).filter(|row| row.ack.revision <= ack.revision);
        row.map(|row| row.ack = ack).is_some()
    }

    pub(super) fn write_followers(&mut self, node_id: NodeId, followers: &[NodeInfo]) {
        if let Some(row) = self.rows.get_mut(&node_id) {
            row.followers = followers.to_vec();
        }
    }

    pub(super) fn read_followers(&self) -> Vec<(NodeId, Vec<NodeInfo>)> {
        self.rows.iter().map(|(node_id, row)| (*node_id, row.followers.clone())).collect()
    }

    pub(super) fn evict(&mut self, node_id: NodeId, seq: i64) -> bool {
        let is_current = self.rows.get(&node_id).is_some_and(|row| row.heartbeat_seq == seq);
        let is_removed = is_current && self.rows.remove(&node_id).is_some();
        if is_removed {
            self.update_max_staleness();
        }
        is_removed
    }

    fn update_max_staleness(&mut self) {
        self.max_staleness =
            self.rows.values().map(|row| row.max_staleness).max().unwrap_or_default();
    }

    pub(super) fn longest_staleness(&self) -> Duration {
        self.rows.values().map(|row| row.max_staleness).fold(self.max_staleness, Duration::max)
    }

    pub(super) fn list(&self, now: Time) -> Vec<Member> {
        let member = |(node_id, row): (&NodeId, &Row)| Member {
            node_id: *node_id,
            version: row.version.clone(),
            heartbeat_seq: row.heartbeat_seq,
            ack: row.ack,
            heartbeat_age: between(row.heartbeat_time, now),
        };
        self.rows.iter().map(member).collect()
    }

    pub(super) fn record_enforced(&mut self, first: Revision, last: Revision, enforced: Enforced) {
        self.enforced.entry(last).or_insert((first, enforced));
    }

    pub(super) fn enforced(&self, revision: Revision) -> Option<Enforced> {
        let (_, (first, enforced)) = self.enforced.range(revision..).next()?;
        (*first <= revision).then_some(*enforced)
    }
}
