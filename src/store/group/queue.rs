//! The changes that wait for their turn, and the group that a turn carries.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::store::{FileLost, StoreError, Transaction};

/// The maximum number of changes in a group. Changes with many events are alone.
const CHANGES_MAX: usize = 64;
/// No change joins a group whose transaction has been open for longer. Other replicas wait for the
/// transaction.
const OPEN_MAX: Duration = Duration::from_millis(20);

/// The changes that wait for their turn, in order.
#[derive(Default)]
pub(super) struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Whether a change has the turn.
    is_taken: bool,
    changes: VecDeque<WaitingChange>,
}

struct WaitingChange {
    is_alone: bool,
    turn: oneshot::Sender<Turn>,
}

/// The right to make the next change of this process. A dropped turn passes to the next change.
pub(super) struct Turn {
    /// `None`: passed on.
    queue: Option<Arc<Queue>>,
    /// The group to join. `None`: the change begins a transaction.
    pub(super) group: Option<Group>,
}

/// An open transaction, between two changes or in one.
pub(super) struct Group {
    pub(super) transaction: Box<dyn Transaction>,
    opened_at: Instant,
    /// When the last change joined.
    joined_at: Instant,
    pub(super) is_full: bool,
    pub(super) condition: Condition,
    /// The changes that wait for the commit. A sender that is dropped reports a rollback.
    pub(super) changes: Vec<oneshot::Sender<Commit>>,
}

/// The effect of the current change on the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    Unchanged,
    Written,
    /// An operation has failed, or was cancelled.
    Failed,
}

/// The commit of a group. Each change of the group can complete it, so that a change that is
/// cancelled leaves the others unaffected.
pub(super) type Commit = Shared<BoxFuture<'static, Result<(), Arc<StoreError>>>>;

// === impl Queue ===

impl Queue {
    /// Waits for the turn.
    pub(super) async fn wait(self: &Arc<Self>, is_alone: bool) -> Result<Turn, StoreError> {
        let received = {
            let mut waiting = self.0.lock();
            if !waiting.is_taken {
                waiting.is_taken = true;
                return Ok(Turn { queue: Some(Arc::clone(self)), group: None });
            }
            let (turn, received) = oneshot::channel();
            waiting.changes.push_back(WaitingChange { is_alone, turn });
            received
        };
        received.await.map_err(StoreError::unavailable)
    }

    /// Gives the turn to the next change. Returns the group unless that change joins it.
    fn pass(self: &Arc<Self>, mut group: Option<Group>) -> Option<Group> {
        let mut waiting = self.0.lock();
        while let Some(WaitingChange { is_alone, turn }) = waiting.changes.pop_front() {
            let joins = !is_alone && group.as_ref().is_some_and(Group::has_room);
            let joined = if joins { group.take() } else { None };
            let passed = Turn { queue: Some(Arc::clone(self)), group: joined };
            let Err(mut refused) = turn.send(passed) else { return group };
            // The caller was cancelled.
            refused.queue = None;
            group = refused.group.take().or(group);
        }
        waiting.is_taken = false;
        group
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        // The writes of a dropped change are rolled back.
        let group = self.group.take().filter(|group| group.condition == Condition::Unchanged);
        if let Some(group) = queue.pass(group) {
            group.close();
        }
    }
}

// === impl Group ===

impl Group {
    pub(super) fn of(transaction: Box<dyn Transaction>) -> Self {
        let now = Instant::now();
        Self {
            transaction,
            opened_at: now,
            joined_at: now,
            is_full: false,
            condition: Condition::Unchanged,
            changes: Vec::new(),
        }
    }

    fn has_room(&self) -> bool {
        !self.is_full && self.changes.len() < CHANGES_MAX && self.opened_at.elapsed() < OPEN_MAX
    }

    /// The group with a further change. The clock goes on while earlier changes run.
    pub(super) fn joined(mut self) -> Self {
        let now = Instant::now();
        let elapsed = now - self.joined_at;
        // Times are in microseconds.
        self.transaction
            .next_change(Duration::new(elapsed.as_secs(), elapsed.subsec_micros() * 1_000));
        self.joined_at = now;
        self
    }

    /// Commits if a change waits for that. Otherwise, drops the transaction.
    fn close(self) {
        if self.changes.is_empty() {
            return;
        }
        let (mut transaction, is_alone) = (self.transaction, self.changes.len() == 1);
        let commit = async move {
            match transaction.flush().await {
                Ok(()) => transaction.commit().await.map(drop).map_err(Arc::new),
                Err(error) if is_alone => Err(Arc::new(error)),
                // Any of the changes may have caused the failure.
                Err(_) => Err(Arc::new(StoreError::rolled_back())),
            }
        };
        let commit = commit.boxed().shared();
        for change in self.changes {
            // A change whose caller was cancelled is committed, too.
            let _ = change.send(commit.clone());
        }
    }
}

/// The error of a commit, for one of the changes.
pub(super) fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(source) => match source.downcast_ref::<FileLost>() {
            Some(lost) => StoreError::unavailable(lost.clone()),
            None if error.is_rolled_back() => StoreError::rolled_back(),
            None if error.is_outcome_unknown() => {
                StoreError::unavailable(source.to_string()).of_commit()
            }
            None => StoreError::unavailable(source.to_string()),
        },
        StoreError::Broken(source) => StoreError::broken(source.to_string()),
    }
}
