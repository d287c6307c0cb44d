//! All that a database in memory holds, and the one lock around it.

use parking_lot::Mutex;

use crate::{
    domain::{Ack, Enforced, Epoch, NodeId, Position, Revision, Time},
    store::{
        HeartbeatResponse, MemberList, StoreError,
        memory::{membership::MembershipTable, state::State},
    },
};

/// All that is committed. The collections are persistent: a copy costs nothing.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) epoch: Epoch,
    pub(super) state: State,
    /// Beside the state, which a change works on a copy of: nodes go on meanwhile.
    pub(super) roll: MembershipTable,
}

/// What readers and writers share.
#[derive(Debug)]
pub(super) struct Database(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` once closed.
    content: Option<Content>,
    /// How often the content was replaced: a change that began before cannot be committed.
    incarnation: u64,
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

// === impl Database ===

impl Database {
    pub(super) fn new(content: Content) -> Self {
        Self(Mutex::new(Inner { content: Some(content), incarnation: 0 }))
    }

    pub(super) fn content(&self) -> Result<Content, StoreError> {
        self.begin().map(|(content, _)| content)
    }

    /// The content, and which one it is.
    pub(super) fn begin(&self) -> Result<(Content, u64), StoreError> {
        let inner = self.0.lock();
        Ok((inner.content.clone().ok_or_else(closed)?, inner.incarnation))
    }

    pub(super) fn write<T>(&self, work: impl FnOnce(&mut Content) -> T) -> Result<T, StoreError> {
        self.0.lock().content.as_mut().map(work).ok_or_else(closed)
    }

    /// Puts `state` in place, if the content is still the one that it was made from.
    pub(super) fn commit(&self, state: State, incarnation: u64) -> Result<(), StoreError> {
        let mut inner = self.0.lock();
        if inner.incarnation != incarnation {
            return Err(StoreError::Unavailable("the database was replaced".into()));
        }
        inner.content.as_mut().ok_or_else(closed)?.state = state;
        Ok(())
    }

    /// A store that is closed stays closed.
    pub(super) fn replace(&self, content: Content) {
        let mut inner = self.0.lock();
        inner.incarnation += 1;
        inner.content = inner.content.take().map(|_| content);
    }

    pub(super) fn close(&self) {
        self.0.lock().content = None;
    }
}

// === impl Content ===

impl Content {
    pub(super) fn empty(epoch: Epoch) -> Self {
        Self { epoch, state: State::default(), roll: MembershipTable::default() }
    }

    pub(super) fn head(&self) -> Position {
        let last = self.state.events.last();
        Position {
            epoch: self.epoch,
            revision: last.map_or(0, |event| event.revision),
            time: last.map(|event| event.time),
        }
    }

    fn holds(&self, position: Position) -> bool {
        let event = usize::try_from(position.revision - 1)
            .ok()
            .and_then(|index| self.state.events.get(index));
        position.epoch == self.epoch
            && (position.revision == 0
                || event.is_some_and(|event| Some(event.time) == position.time))
    }

    pub(super) fn heartbeat(
        &mut self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
        now: Time,
    ) -> Option<HeartbeatResponse> {
        self.roll.heartbeat(node_id, seq, now).then(|| HeartbeatResponse {
            head: self.head(),
            is_held: held.is_some_and(|held| self.holds(held)),
            now,
        })
    }

    pub(super) fn acknowledge(&mut self, node_id: NodeId, held: Position, ack: Ack) -> bool {
        ack.revision <= held.revision && self.holds(held) && self.roll.acknowledge(node_id, ack)
    }

    pub(super) fn record_enforced(
        &mut self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) {
        if self.holds(Position { epoch: self.epoch, revision: last, time: Some(time) }) {
            self.roll.record_enforced(first, last, enforced);
        }
    }

    pub(super) fn roll_at(&self, now: Time) -> MemberList {
        MemberList {
            max_staleness: self.roll.longest_staleness(),
            head: self.head(),
            members: self.roll.members(now),
        }
    }
}
