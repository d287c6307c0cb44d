//! Decides from the membership when a change is enforced. Pure: time is an argument.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    domain::{Ack, BootTime, NodeId, Revision, Time},
    node::lease::grantor_bound,
    store::MemberList,
};

/// How long an evicted member is still reported as lapsed, in lease durations.
const REPORTED_LEASES: u32 = 1;

/// A committed change that is to be enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The first event of the change.
    pub first: Revision,
    /// The last event of the change. Every node must acknowledge this revision.
    pub last: Revision,
    /// The time of event `last`.
    pub time: Time,
    /// Revision and time of event `last`, or of a later event, in the log of the change. The
    /// acknowledgement of this node counts only if this node has that event, too.
    pub in_log: (Revision, Time),
    /// A time after the commit has returned.
    pub at: BootTime,
    /// The longest lifetime of a lease of any node that registered before the commit.
    pub max_staleness: Duration,
}

/// The progress of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// Nodes that have acknowledged the change.
    pub acknowledged: u32,
    /// Nodes that have not, and have no valid lease.
    pub lapsed: u32,
    /// Nodes that may answer from a revision before the change. 0: the change is enforced.
    pub missing: u32,
    /// The time at which all leases from before the commit have expired.
    pub complete_at: BootTime,
}

/// The membership over time, as observed by one replica.
#[derive(Debug, Default)]
pub struct MembershipView {
    /// The time at which the last read was sent, and the head of the log in the response.
    last_read: Option<(BootTime, Revision)>,
    members: BTreeMap<NodeId, ObservedMember>,
    /// Recently evicted members: the time of the eviction, and the number of nodes that the member
    /// acknowledged for. Only for reports.
    evicted: BTreeMap<NodeId, (BootTime, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct ObservedMember {
    heartbeat: i64,
    /// The time of the read that first showed this heartbeat.
    since: BootTime,
    ack: Ack,
}

/// A member without a valid lease, unless a heartbeat is in flight: the last heartbeat is too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SilentMember {
    /// The member.
    pub node_id: NodeId,
    /// The heartbeat in the row. The row may be deleted only while showing this heartbeat.
    pub heartbeat: i64,
}

impl MembershipView {
    /// Records a read of the membership. The request was sent at `sent_at`, and the response has
    /// arrived by `now`. If a later read was recorded already, nothing changes. Returns the silent
    /// members.
    pub fn observe(
        &mut self,
        membership: &MemberList,
        sent_at: BootTime,
        now: BootTime,
    ) -> Vec<SilentMember> {
        let timeout = grantor_bound(membership.max_staleness);
        if self.last_read.is_none_or(|(last_sent_at, _)| sent_at >= last_sent_at) {
            self.record(membership, timeout, sent_at, now);
        }
        self.silent(timeout, now)
    }

    fn record(
        &mut self,
        membership: &MemberList,
        timeout: Duration,
        sent_at: BootTime,
        now: BootTime,
    ) {
        let members = membership.members.iter().map(|member| {
            let known = self.members.get(&member.node_id);
            let known = known.filter(|known| known.heartbeat == member.heartbeat_seq);
            let since = known.map_or(now, |known| known.since);
            let (heartbeat, ack) = (member.heartbeat_seq, member.ack);
            (member.node_id, ObservedMember { heartbeat, since, ack })
        });
        let members = members.collect();
        let earlier = std::mem::replace(&mut self.members, members);
        let gone = earlier.into_iter().filter(|(node_id, _)| !self.members.contains_key(node_id));
        // Another replica has evicted a member that was silent for long. Any other missing member
        // has left.
        for (node_id, member) in gone.filter(|(_, member)| now >= member.since + timeout / 2) {
            self.evicted.insert(node_id, (now, member.ack.nodes.max(1)));
        }
        self.evicted.retain(|_, (evicted_at, _)| now < *evicted_at + timeout * REPORTED_LEASES);
        self.last_read = Some((sent_at, membership.head.revision));
    }

    fn silent(&self, timeout: Duration, now: BootTime) -> Vec<SilentMember> {
        let silent = self.members.iter().filter(|(_, member)| now >= member.since + timeout);
        silent
            .map(|(&node_id, member)| SilentMember { node_id, heartbeat: member.heartbeat })
            .collect()
    }

    /// Records that the row of a silent member was deleted. The member has no valid lease before
    /// the next registration, which another read may have recorded already.
    pub fn record_eviction(&mut self, silent: SilentMember, now: BootTime) {
        let SilentMember { node_id, heartbeat } = silent;
        let member = self.members.get(&node_id).filter(|member| member.heartbeat == heartbeat);
        if let Some(nodes) = member.map(|member| member.ack.nodes.max(1)) {
            self.members.remove(&node_id);
            self.evicted.insert(node_id, (now, nodes));
        }
    }

    /// Whether `this_node` was the only member when the membership was last read.
    pub fn is_only(&self, this_node: NodeId) -> bool {
        self.last_read.is_some() && self.members.keys().all(|node_id| *node_id == this_node)
    }

    /// Whether `this_node` may be the only member: [`Self::is_only`], or the membership was never
    /// read.
    pub fn may_be_only(&self, this_node: NodeId) -> bool {
        self.last_read.is_none() || self.is_only(this_node)
    }

    /// The progress of `commit`. `this_node` acknowledges `own_ack`, which the membership need not
    /// show yet.
    pub fn coverage(
        &self,
        commit: &Commit,
        this_node: NodeId,
        own_ack: Ack,
        now: BootTime,
    ) -> Coverage {
        // A membership without the commit comes from another database, such as a deposed primary.
        let is_after_commit = self
            .last_read
            .is_some_and(|(sent_at, head)| sent_at >= commit.at && head >= commit.last);
        let (mut acknowledged, mut lapsed, mut missing) = (0, 0, 0);
        let others = self.members.iter().filter(|(node_id, _)| **node_id != this_node);
        for ack in others.map(|(_, member)| member.ack).chain([own_ack]) {
            if ack.revision >= commit.last {
                acknowledged += ack.nodes;
                lapsed += ack.nodes_lapsed;
            } else {
                missing += ack.nodes.max(1);
            }
        }
        let evicted = self.evicted.values().filter(|(evicted_at, _)| *evicted_at >= commit.at);
        lapsed += evicted.map(|(_, nodes)| nodes).sum::<u32>();
        let complete_at = commit.at + grantor_bound(commit.max_staleness);
        if now >= complete_at {
            Coverage { acknowledged, lapsed: lapsed + missing, missing: 0, complete_at }
        } else if is_after_commit {
            Coverage { acknowledged, lapsed, missing, complete_at }
        } else {
            // The membership may lack a node that has registered since the read.
            Coverage { acknowledged, lapsed, missing: missing.max(1), complete_at }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{Epoch, Position},
        store::Member,
    };

    const THIS_NODE: NodeId = NodeId(Uuid::nil());
    const OTHER: NodeId = NodeId(Uuid::max());
    const MAX_STALENESS: Duration = Duration::from_secs(2);
    const COMMIT: Commit = Commit {
        first: 5,
        last: 5,
        time: Time::UNIX_EPOCH,
        in_log: (5, Time::UNIX_EPOCH),
        at: at(0),
        max_staleness: MAX_STALENESS,
    };

    const fn at(millis: i64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    const fn ack(revision: Revision) -> Ack {
        Ack { revision, nodes: 1, nodes_lapsed: 0 }
    }

    /// The membership with one other node, if that node has a heartbeat.
    fn membership(heartbeat: Option<i64>, acked: Revision) -> MemberList {
        let member = |heartbeat_seq| Member {
            node_id: OTHER,
            version: "1.2.3".into(),
            heartbeat_seq,
            ack: ack(acked),
            heartbeat_age: Duration::ZERO,
        };
        MemberList {
            head: Position { epoch: Epoch(Uuid::nil()), revision: 5, time: None },
            max_staleness: MAX_STALENESS,
            members: heartbeat.map(member).into_iter().collect(),
        }
    }

    fn missing(view: &MembershipView, now: BootTime) -> u32 {
        view.coverage(&COMMIT, THIS_NODE, ack(5), now).missing
    }

    #[test]
    fn a_read_that_was_sent_earlier_does_not_replace_a_later_one() {
        let mut view = MembershipView::default();
        view.observe(&membership(Some(1), 5), at(20), at(30));
        assert_eq!(missing(&view, at(30)), 0);
        view.observe(&membership(Some(1), 4), at(10), at(40));
        assert_eq!(missing(&view, at(40)), 0);
        view.observe(&membership(Some(1), 4), at(20), at(40));
        assert_eq!(missing(&view, at(40)), 1);
    }

    #[test]
    fn an_eviction_does_not_remove_a_node_that_has_registered_again() {
        let mut view = MembershipView::default();
        view.observe(&membership(Some(1), 4), at(0), at(0));
        let [silent] = view.observe(&membership(Some(1), 4), at(2_100), at(2_100))[..] else {
            panic!("the node is silent");
        };
        view.observe(&membership(Some(2), 4), at(2_200), at(2_200));
        view.record_eviction(silent, at(2_300));
        let commit = Commit { at: at(2_150), ..COMMIT };
        let coverage = |view: &MembershipView| view.coverage(&commit, THIS_NODE, ack(5), at(2_300));
        assert_eq!(coverage(&view).missing, 1, "the node may answer from before the commit");
        view.record_eviction(SilentMember { heartbeat: 2, ..silent }, at(2_300));
        assert_eq!((coverage(&view).missing, coverage(&view).lapsed), (0, 1));
    }
}
