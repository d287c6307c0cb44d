//! Group commit: changes of this process that wait at the same time share a transaction.
//!
//! The changes run one after another. A change that commits while others wait passes the open
//! transaction to the next change. The last change sends `COMMIT`, and all changes wait for that
//! one result. So a group locks the head once, and waits once for the disk.
//!
//! Each change sees the events of the earlier ones, as if these were committed. If a statement
//! fails, or a change ends without a commit after a write, the transaction is rolled back. The
//! other changes of the group then fail with [`StoreError::is_rolled_back`], and their callers
//! retry each of them alone. If the database does not confirm `COMMIT`, all changes fail with
//! [`StoreError::is_outcome_unknown`].

use std::{mem, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    domain::{
        Epoch, Event, EventKind, Grant, GrantId, GroupId, Lock, LockId, Party, PolicyOverrides,
        RequestId, Revision, Sequence, TenantId, Time,
    },
    store::{
        IdempotencyKey, Listed, NewEvent, Read, RequestPart, StoreError, TIMEOUT, Transaction,
        Transactions,
    },
};
use queue::{Condition, Group, Queue, Turn, copy};

mod queue;

/// Transactions whose changes are committed in groups.
pub(super) struct GroupedTransactions {
    inner: Arc<dyn Transactions>,
    queue: Arc<Queue>,
}

/// One change in a group.
struct GroupedChange {
    /// Contains the group. `None` after the commit.
    turn: Option<Turn>,
    /// Whether no further change joins.
    is_alone: bool,
    /// Whether earlier changes of the group wait for the commit.
    has_earlier: bool,
    clock: Time,
    now: Time,
    head: Revision,
    /// The revision of the last event.
    last: Revision,
    epoch: Epoch,
    max_staleness: Duration,
}

// === impl GroupedTransactions ===

impl GroupedTransactions {
    pub(super) fn new(inner: Arc<dyn Transactions>) -> Self {
        Self { inner, queue: Arc::default() }
    }

    async fn begin_change(&self, is_alone: bool) -> Result<Box<dyn Transaction>, StoreError> {
        let mut turn = self.queue.wait(is_alone).await?;
        let group = match turn.group.take() {
            Some(group) => group.joined(),
            None => Group::of(self.inner.begin().await?),
        };
        let (has_earlier, transaction) = (!group.changes.is_empty(), &group.transaction);
        let (clock, now, head) = (transaction.clock(), transaction.now(), transaction.head());
        let (epoch, max_staleness) = (transaction.epoch(), transaction.max_staleness());
        turn.group = Some(group);
        let (turn, last) = (Some(turn), head);
        Ok(Box::new(GroupedChange {
            turn,
            is_alone,
            has_earlier,
            clock,
            now,
            head,
            last,
            epoch,
            max_staleness,
        }))
    }
}

#[async_trait]
impl Transactions for GroupedTransactions {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        timeout(TIMEOUT, self.begin_change(false)).await.map_err(StoreError::unavailable)?
    }

    async fn begin_alone(&self) -> Result<Box<dyn Transaction>, StoreError> {
        timeout(TIMEOUT, self.begin_change(true)).await.map_err(StoreError::unavailable)?
    }
}

// === impl GroupedChange ===

impl GroupedChange {
    /// Runs an operation on the transaction. If an earlier change of the group may have caused the
    /// failure, the caller makes this change again.
    async fn run<'a, T>(
        &'a mut self,
        after: Condition,
        operation: impl FnOnce(&'a mut dyn Transaction) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let group = self.turn.as_mut().and_then(|turn| turn.group.as_mut());
        let group = group.ok_or_else(|| StoreError::broken("the change is committed"))?;
        let before = mem::replace(&mut group.condition, Condition::Failed);
        match operation(group.transaction.as_mut()).await {
            Ok(output) => {
                group.condition = before.max(after);
                Ok(output)
            }
            Err(_) if self.has_earlier => Err(StoreError::rolled_back()),
            Err(error) => Err(error),
        }
    }

    async fn read<'a, T>(
        &'a mut self,
        operation: impl FnOnce(&'a mut dyn Transaction) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.run(Condition::Unchanged, operation).await
    }
}

#[async_trait]
impl Transaction for GroupedChange {
    fn clock(&self) -> Time {
        self.clock
    }

    fn now(&self) -> Time {
        self.now
    }

    fn set_now(&mut self, time: Time) {
        if let Some(group) = self.turn.as_mut().and_then(|turn| turn.group.as_mut()) {
            group.transaction.set_now(time);
            self.now = group.transaction.now();
        }
    }

    fn head(&self) -> Revision {
        self.head
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    fn next_change(&mut self, elapsed: Duration) {
        if let Some(group) = self.turn.as_mut().and_then(|turn| turn.group.as_mut()) {
            group.transaction.next_change(elapsed);
            (self.clock, self.now) = (group.transaction.clock(), group.transaction.now());
            self.head = self.last;
        }
    }

    async fn read_ahead(&mut self, reads: &[Read<'_>]) -> Result<(), StoreError> {
        self.read(|inner| inner.read_ahead(reads)).await
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.read(|inner| inner.grant(tenant_id, grant_id)).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        self.read(|inner| inner.live_grants(tenant_id, before, limit)).await
    }

    async fn live_grants_by_events(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
    ) -> Result<Vec<Grant>, StoreError> {
        self.read(|inner| inner.live_grants_by_events(tenant_id, before)).await
    }

    async fn live_grants_of(
        &mut self,
        tenant_id: &TenantId,
        grant_ids: &[GrantId],
    ) -> Result<Vec<Grant>, StoreError> {
        self.read(|inner| inner.live_grants_of(tenant_id, grant_ids)).await
    }

    async fn size_of_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.read(|inner| inner.size_of_live_grants(tenant_id)).await
    }

    async fn count_live_grants(
        &mut self,
        tenant_id: &TenantId,
        group_id: &GroupId,
    ) -> Result<usize, StoreError> {
        self.read(|inner| inner.count_live_grants(tenant_id, group_id)).await
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        self.read(|inner| inner.due_grants(now, limit)).await
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        self.read(|inner| inner.overrides(tenant_id)).await
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        self.read(|inner| inner.lock(lock_id)).await
    }

    async fn count_live_locks(
        &mut self,
        party: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        self.read(|inner| inner.count_live_locks(party, tenant_id)).await
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        self.read(|inner| inner.due_locks(now, limit)).await
    }

    async fn last_events_of_live_grants(
        &mut self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Listed<Event>>, StoreError> {
        self.read(|inner| inner.last_events_of_live_grants(after, limit)).await
    }

    async fn live_grant_ids(&mut self) -> Result<Vec<GrantId>, StoreError> {
        self.read(|inner| inner.live_grant_ids()).await
    }

    async fn clock_events(&mut self) -> Result<Vec<Event>, StoreError> {
        self.read(|inner| inner.clock_events()).await
    }

    async fn revision_of(
        &mut self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> Result<Revision, StoreError> {
        self.read(|inner| inner.revision_of(tenant_id, sequence)).await
    }

    async fn request(
        &mut self,
        tenant_id: Option<&TenantId>,
        request_id: &RequestId,
    ) -> Result<Vec<RequestPart>, StoreError> {
        self.read(|inner| inner.request(tenant_id, request_id)).await
    }

    async fn append(&mut self, new: NewEvent) -> Result<Event, StoreError> {
        let event = self.run(Condition::Written, |inner| inner.append(new)).await?;
        (self.now, self.last) = (event.time, event.revision);
        self.is_alone |= matches!(event.kind, EventKind::ClockAccepted { .. });
        Ok(event)
    }

    async fn append_all(&mut self, new: Vec<NewEvent>) -> Result<Vec<Event>, StoreError> {
        let events = self.run(Condition::Written, |inner| inner.append_all(new)).await?;
        self.last = events.last().map_or(self.last, |event| event.revision);
        Ok(events)
    }

    async fn record_request(&mut self, key: &IdempotencyKey, part: u32) -> Result<(), StoreError> {
        self.run(Condition::Written, |inner| inner.record_request(key, part)).await
    }

    async fn commit(mut self: Box<Self>) -> Result<Revision, StoreError> {
        let last = self.last;
        let mut turn = self.turn.take();
        let group = turn.as_mut().and_then(|turn| turn.group.as_mut());
        let group = group.ok_or_else(|| StoreError::broken("the change is committed"))?;
        let has_failed = group.condition == Condition::Failed;
        if has_failed && self.has_earlier {
            return Err(StoreError::rolled_back());
        }
        let (change, commit) = oneshot::channel();
        group.changes.push(change);
        group.condition = Condition::Unchanged;
        group.is_full |= self.is_alone || has_failed;
        drop(turn);
        let commit = commit.await.map_err(|_| StoreError::rolled_back())?;
        commit.await.map_err(|error| copy(&error))?;
        Ok(last)
    }
}
