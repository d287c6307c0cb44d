//! A transaction behind a faulty link.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use crate::{
    database::{Connection, unavailable},
    domain::{
        Epoch, Event, Grant, GrantId, GroupId, Lock, LockId, Party, PolicyOverrides, RequestId,
        Revision, Sequence, TenantId, Time,
    },
    link::Link,
    store::{IdempotencyKey, Listed, NewEvent, Notification, RequestPart, StoreError, Transaction},
};

/// How long the database waits for the next statement of a transaction, and the client for each
/// response.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the client waits for the response to a commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct FaultyTransaction {
    /// `None` after the commit.
    transaction: Option<Box<dyn Transaction>>,
    clock: Time,
    now: Time,
    head: Revision,
    epoch: Epoch,
    max_staleness: Duration,
    events: Vec<Event>,
    connection: Connection,
    link: Arc<Link>,
}

impl FaultyTransaction {
    pub(crate) fn new(
        transaction: Box<dyn Transaction>,
        connection: Connection,
        link: Arc<Link>,
    ) -> Self {
        let (now, max_staleness) = (transaction.now(), transaction.max_staleness());
        let (clock, head, epoch) = (transaction.clock(), transaction.head(), transaction.epoch());
        let (transaction, events) = (Some(transaction), Vec::new());
        Self { transaction, clock, now, head, epoch, max_staleness, events, connection, link }
    }

    /// The transaction at the database, after the round trip of one statement.
    async fn open(&mut self) -> Result<&mut Box<dyn Transaction>, StoreError> {
        timeout(STATEMENT_TIMEOUT, self.link.traverse()).await.map_err(|_| unavailable())?;
        self.connection.check()?;
        self.transaction.as_mut().ok_or_else(unavailable)
    }
}

impl Drop for FaultyTransaction {
    /// The database detects after a while that the client is gone, and rolls back. Until then,
    /// other transactions wait.
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take()
            && Handle::try_current().is_ok()
        {
            let (link, database) = (Arc::clone(&self.link), Arc::clone(&self.connection.database));
            database.tasks.spawn(async move {
                let _ = timeout(STATEMENT_TIMEOUT, link.traverse()).await;
                drop(transaction);
            });
        }
    }
}

#[async_trait]
impl Transaction for FaultyTransaction {
    fn clock(&self) -> Time {
        self.clock
    }

    fn now(&self) -> Time {
        self.now
    }

    fn set_now(&mut self, time: Time) {
        if let Some(transaction) = &mut self.transaction {
            transaction.set_now(time);
            self.now = transaction.now();
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

    /// The simulated replicas commit each change by itself.
    fn next_change(&mut self, _elapsed: Duration) {}

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.open().await?.grant(tenant_id, grant_id).await
    }

    async fn request(
        &mut self,
        tenant_id: Option<&TenantId>,
        request_id: &RequestId,
    ) -> Result<Vec<RequestPart>, StoreError> {
        self.open().await?.request(tenant_id, request_id).await
    }

    async fn record_request(&mut self, key: &IdempotencyKey, part: u32) -> Result<(), StoreError> {
        self.open().await?.record_request(key, part).await
    }

    async fn revision_of(
        &mut self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> Result<Revision, StoreError> {
        self.open().await?.revision_of(tenant_id, sequence).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        self.open().await?.live_grants(tenant_id, before, limit).await
    }

    async fn size_of_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.open().await?.size_of_live_grants(tenant_id).await
    }

    async fn count_live_grants(
        &mut self,
        tenant_id: &TenantId,
        group_id: &GroupId,
    ) -> Result<usize, StoreError> {
        self.open().await?.count_live_grants(tenant_id, group_id).await
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        self.open().await?.due_grants(now, limit).await
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        self.open().await?.overrides(tenant_id).await
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        self.open().await?.lock(lock_id).await
    }

    async fn count_live_locks(
        &mut self,
        party: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        self.open().await?.count_live_locks(party, tenant_id).await
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        self.open().await?.due_locks(now, limit).await
    }

    async fn last_events_of_live_grants(
        &mut self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Listed<Event>>, StoreError> {
        self.open().await?.last_events_of_live_grants(after, limit).await
    }

    async fn live_grant_ids(&mut self) -> Result<Vec<GrantId>, StoreError> {
        self.open().await?.live_grant_ids().await
    }

    async fn clock_events(&mut self) -> Result<Vec<Event>, StoreError> {
        self.open().await?.clock_events().await
    }

    async fn append(&mut self, event: NewEvent) -> Result<Event, StoreError> {
        let event = self.open().await?.append(event).await?;
        self.events.push(event.clone());
        Ok(event)
    }

    async fn commit(mut self: Box<Self>) -> Result<Revision, StoreError> {
        let transaction = self.transaction.take().ok_or_else(unavailable)?;
        let (connection, link) = (self.connection.clone(), Arc::clone(&self.link));
        let events = std::mem::take(&mut self.events);
        let is_change = !events.is_empty();
        let (response, received) = oneshot::channel();
        self.connection.database.tasks.spawn(async move {
            link.traverse().await;
            let is_reachable = !link.conditions().is_refused && connection.check().is_ok();
            let committed =
                if is_reachable { transaction.commit().await } else { Err(unavailable()) };
            if committed.is_ok() {
                connection.database.record_commit(events).await;
                connection.database.notify(Notification::Log);
            }
            link.traverse().await;
            if !link.loses_response() {
                let _ = response.send(committed);
            }
        });
        let received = timeout(COMMIT_TIMEOUT, received).await;
        let revision = received.map_err(|_| unavailable())?.map_err(|_| unavailable())??;
        // The commit of a transaction that only read has not made the last change.
        if is_change {
            self.connection.database.checker.record_commit_response(revision);
        }
        Ok(revision)
    }
}
