//! Whom a node feeds, and what it may acknowledge: all of it at one moment.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{Ack, BootTime, NodeId, NodeInfo, Position, Revision, Time},
    node::{
        CheckNode, View, change_buffer::ChangeBuffer, followers::Followers, lease::LeaseTracker,
    },
};

#[derive(Debug)]
pub(super) struct NodeState {
    pub(super) lease_tracker: LeaseTracker,
    pub(super) followers: Followers,
    pub(super) feed: Option<ChangeBuffer>,
    /// The nodes that feed this one, the nearest first.
    pub(super) path: Vec<NodeId>,
}

/// All of a node at one moment.
pub(super) struct StateGuard<'a> {
    pub(super) followers: &'a mut Followers,
    pub(super) feed: Option<&'a ChangeBuffer>,
    pub(super) view: Arc<View>,
    pub(super) now: BootTime,
}

impl StateGuard<'_> {
    /// What the node's lease is of.
    pub(super) fn lease_valid_from(&self) -> Option<BootTime> {
        self.view.lease.map(|lease| lease.valid_from)
    }

    pub(super) fn ack(&self) -> Ack {
        self.followers.ack(self.view.snapshot.revision(), self.now)
    }
}

impl CheckNode {
    /// What the node can acknowledge, for itself and those that it feeds.
    pub fn ack(&self) -> Ack {
        self.with_state(|moment| moment.ack())
    }

    /// [`Self::ack`], with what the node holds: a later position of the same history. `None` while it holds nothing that counts.
    pub fn ack_in_history(&self) -> Option<(Ack, Position)> {
        self.with_state(|moment| {
            let position = moment.view.snapshot.position().filter(|_| !moment.view.is_invalidated);
            Some((moment.ack(), position?))
        })
    }

    /// [`Self::ack`], for a log in which the event of `revision` was committed at `time`. What the node holds of another history
    /// acknowledges nothing.
    pub fn ack_of(&self, revision: Revision, time: Time) -> Ack {
        self.with_state(|moment| {
            let ack = moment.ack();
            let is_held = moment.feed.is_some_and(|feed| feed.has(revision, time));
            if is_held { ack } else { Ack { revision: 0, ..ack } }
        })
    }

    /// For how long [`Self::ack`] stays the same, if nothing else happens.
    pub fn ack_stands_for(&self) -> Option<Duration> {
        let ledger = self.ledger.lock();
        let now = self.boot_time();
        ledger.followers.next_lapse(self.revision(), now).map(|lapse| lapse.since(now))
    }

    /// Answers nothing and grants leases for nobody from now on; false, and nothing, if somebody may still answer from what it has lease_grant
    /// for. Whoever is about to leave calls it first: nobody may be lease_grant for in between.
    pub fn step_down(&self) -> bool {
        let mut ledger = self.ledger.lock();
        let is_alone = ledger.followers.are_gone(self.boot_time());
        if is_alone {
            self.invalidate_all(&mut ledger);
        }
        is_alone
    }

    /// Those that this node feeds.
    pub fn followers(&self) -> Vec<NodeInfo> {
        self.ledger.lock().followers.infos(self.id, self.boot_time())
    }

    /// Looks at the view and at the feed, and changes what is known of followers, all at one moment: no change of the view comes
    /// between.
    pub(super) fn with_state<T>(&self, work: impl FnOnce(StateGuard<'_>) -> T) -> T {
        let mut ledger = self.ledger.lock();
        let NodeState { followers, feed, .. } = &mut *ledger;
        let view = self.current.load_full();
        work(StateGuard { followers, feed: feed.as_ref(), view, now: self.boot_time() })
    }
}
