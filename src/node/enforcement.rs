//! When a change is in force everywhere: what the roll of check nodes says of it. Pure: time is an argument.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    domain::{Ack, BootTime, NodeId, Revision, Time},
    node::lease::grantor_bound,
    store::Membership,
};

/// How long a node that was struck off is told of, in lengths of a lease.
const REMEMBERED: u32 = 1;

/// A change whose reach is to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Its first event.
    pub first: Revision,
    /// Its last event, or a later one: what every node has to have.
    pub last: Revision,
    /// When that event was committed, by the database's clock: in another history it was not.
    pub time: Time,
    /// When the commit had been answered, or later.
    pub at: BootTime,
    /// The longest that any node which was registered before the commit may answer from one lease.
    pub max_staleness: Duration,
}

/// How far a change has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// No node can answer from before it.
    Everywhere {
        /// Nodes that confirmed it.
        acknowledged: u32,
        /// Nodes that did not, and can no longer allow anything.
        lapsed: u32,
    },
    /// Some may. The answer changes by itself at this moment at the latest.
    Waiting {
        /// When everything that was proven before the commit has lapsed.
        until: BootTime,
    },
}

/// The roll of check nodes as one replica sees it, time after time.
#[derive(Debug, Default)]
pub struct MembershipView {
    /// When the last roll was asked for, and the end of the log that came with it.
    read: Option<(BootTime, Revision)>,
    members: BTreeMap<NodeId, Seen>,
    /// Nodes that were struck off lately: when, and how many nodes that was. Only to be told of.
    evicted: BTreeMap<NodeId, (BootTime, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    seq: i64,
    /// When this `seq` was seen first.
    since: BootTime,
    ack: Ack,
}

/// A node that has not renewed for so long that none of its leases can be valid, unless a renewal is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silent {
    /// The node.
    pub node_id: NodeId,
    /// What its row said. It may be struck off only if it still does.
    pub seq: i64,
}

impl MembershipView {
    /// Takes in a roll that was asked for at `asked_at` and has been answered by `now`; names those that have fallen silent.
    pub fn observe(&mut self, roll: &Membership, asked_at: BootTime, now: BootTime) -> Vec<Silent> {
        let patience = grantor_bound(roll.max_staleness);
        let members = roll.members.iter().map(|member| {
            let before = self.members.get(&member.node_id).filter(|seen| seen.seq == member.seq);
            let since = before.map_or(now, |seen| seen.since);
            (member.node_id, Seen { seq: member.seq, since, ack: member.ack })
        });
        let members = members.collect();
        let before = std::mem::replace(&mut self.members, members);
        // Another has struck off who had been silent for long; who left has not been.
        let gone = before.into_iter().filter(|(node_id, _)| !self.members.contains_key(node_id));
        for (node_id, seen) in gone.filter(|(_, seen)| now >= seen.since + patience / 2) {
            self.evicted.insert(node_id, (now, seen.ack.nodes.max(1)));
        }
        self.evicted.retain(|_, (at, _)| now < *at + patience * REMEMBERED);
        self.read = Some((asked_at, roll.head.revision));
        self.silent(patience, now)
    }

    fn silent(&self, patience: Duration, now: BootTime) -> Vec<Silent> {
        let silent = self.members.iter().filter(|(_, seen)| now >= seen.since + patience);
        silent.map(|(&node_id, seen)| Silent { node_id, seq: seen.seq }).collect()
    }

    /// A silent node's row is gone: until it registers anew, with a row that is not this one, it can prove nothing.
    pub fn evicted(&mut self, silent: Silent, now: BootTime) {
        if let Some(seen) = self.members.remove(&silent.node_id) {
            self.evicted.insert(silent.node_id, (now, seen.ack.nodes.max(1)));
        }
    }

    /// Whether no other node than `own` was in the roll when it was last read.
    pub fn is_only(&self, own: NodeId) -> bool {
        self.read.is_some() && self.members.keys().all(|node_id| *node_id == own)
    }

    /// Whether, for all that was read, there may be no other node than `own`.
    pub fn may_be_only(&self, own: NodeId) -> bool {
        self.read.is_none() || self.is_only(own)
    }

    /// How far `commit` has reached, where the node `own` says itself what it acknowledges.
    pub fn reach(&self, commit: &Commit, own: NodeId, own_ack: Ack, now: BootTime) -> Coverage {
        // A roll without the commit is another database's: an old primary's, that nobody has told.
        let is_recent = self.read.is_some_and(|(at, head)| at >= commit.at && head >= commit.last);
        let (mut acknowledged, mut lapsed, mut missing) = (0, 0, 0);
        let others = self.members.iter().filter(|(node_id, _)| **node_id != own);
        for ack in others.map(|(_, seen)| seen.ack).chain([own_ack]) {
            if ack.revision >= commit.last {
                acknowledged += ack.nodes;
                lapsed += ack.nodes_lapsed;
            } else {
                missing += ack.nodes.max(1);
            }
        }
        let since_commit = self.evicted.values().filter(|(at, _)| *at >= commit.at);
        lapsed += since_commit.map(|(_, nodes)| nodes).sum::<u32>();
        let until = commit.at + grantor_bound(commit.max_staleness);
        if (missing == 0 && is_recent) || now >= until {
            Coverage::Everywhere { acknowledged, lapsed: lapsed + missing }
        } else {
            Coverage::Waiting { until }
        }
    }
}
