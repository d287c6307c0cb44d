//! The content of a database in memory, behind one mutex.

use parking_lot::Mutex;

use crate::{
    domain::{Ack, Enforced, Epoch, LogName, NodeId, Position, Revision, Time, TokenKey},
    store::{
        HeartbeatResponse, MemberList, StoreError,
        memory::{members::MemberTable, state::State},
    },
};

/// Everything that is committed. The collections are persistent: a copy is cheap.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) log: LogName,
    pub(super) epoch: Epoch,
    pub(super) token_key: TokenKey,
    pub(super) state: State,
    /// Separate from the state: nodes write their rows while a transaction works on a copy of the
    /// state.
    pub(super) members: MemberTable,
    pub(super) trusted_time: Option<Time>,
}

/// The content, shared by readers and writers.
#[derive(Debug)]
pub(super) struct Database(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` once closed.
    content: Option<Content>,
    /// Counts replacements of the content. A transaction that began before one cannot commit.
    incarnation: u64,
}

fn closed() -> StoreError {
    StoreError::unavailable("the store is closed")
}

// === impl Database ===

impl Database {
    pub(super) fn new(content: Content) -> Self {
        Self(Mutex::new(Inner { content: Some(content), incarnation: 0 }))
    }

    pub(super) fn content(&self) -> Result<Content, StoreError> {
        self.begin().map(|(content, _)| content)
    }

    /// The content, and the incarnation.
    pub(super) fn begin(&self) -> Result<(Content, u64), StoreError> {
        let inner = self.0.lock();
        Ok((inner.content.clone().ok_or_else(closed)?, inner.incarnation))
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut Content) -> T) -> Result<T, StoreError> {
        self.0.lock().content.as_mut().map(change).ok_or_else(closed)
    }

    /// Replaces the state, if the content is still the incarnation that `state` was copied from.
    /// With `new_epoch`, the last event accepts the clock.
    pub(super) fn commit(
        &self,
        state: State,
        incarnation: u64,
        new_epoch: Option<(Epoch, TokenKey)>,
    ) -> Result<(), StoreError> {
        let mut inner = self.0.lock();
        if inner.incarnation != incarnation {
            return Err(StoreError::unavailable("the database was replaced"));
        }
        let content = inner.content.as_mut().ok_or_else(closed)?;
        content.state = state;
        if let Some((epoch, token_key)) = new_epoch {
            (content.epoch, content.token_key) = (epoch, token_key);
            content.trusted_time = content.head().time;
        }
        Ok(())
    }

    /// Replaces the content. A closed store stays closed.
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
    pub(super) fn empty(log: LogName, epoch: Epoch, token_key: TokenKey) -> Self {
        let (state, members) = (State::default(), MemberTable::default());
        Self { log, epoch, token_key, state, members, trusted_time: None }
    }

    pub(super) fn head(&self) -> Position {
        let last = self.state.events.last();
        Position {
            epoch: self.epoch,
            revision: last.map_or(0, |last| last.event.revision),
            time: last.map(|last| last.event.time),
        }
    }

    fn contains(&self, position: Position) -> bool {
        let stored = self.state.event(position.revision);
        position.epoch == self.epoch
            && (position.revision == 0
                || stored.is_some_and(|stored| Some(stored.event.time) == position.time))
    }

    pub(super) fn heartbeat(
        &mut self,
        node_id: NodeId,
        seq: i64,
        position: Option<Position>,
        now: Time,
    ) -> Option<HeartbeatResponse> {
        self.members.heartbeat(node_id, seq, now).then(|| HeartbeatResponse {
            head: self.head(),
            is_in_log: position.is_some_and(|position| self.contains(position)),
            now,
        })
    }

    pub(super) fn acknowledge(&mut self, node_id: NodeId, position: Position, ack: Ack) -> bool {
        ack.revision <= position.revision
            && self.contains(position)
            && self.members.acknowledge(node_id, ack)
    }

    pub(super) fn record_enforced(
        &mut self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) {
        if self.contains(Position { epoch: self.epoch, revision: last, time: Some(time) }) {
            self.members.record_enforced(first, last, enforced);
        }
    }

    pub(super) fn record_trusted_time(&mut self, time: Time, accepted_clock: Revision) {
        let last = self.state.clock_events().next_back().map_or(0, |event| event.revision);
        if last == accepted_clock {
            self.trusted_time = self.trusted_time.max(Some(time));
        }
    }

    pub(super) fn members(&self, now: Time) -> MemberList {
        MemberList {
            max_staleness: self.members.longest_staleness(),
            head: self.head(),
            members: self.members.list(now),
        }
    }
}
