//! A store that a test can delay.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use support_access::{
    domain::{
        Epoch, Event, Grant, GrantId, GrantTerms, GroupId, Lock, LockId, Party, PolicyOverrides,
        Position, RequestId, Revision, Sequence, TenantId, Time,
    },
    server::SystemClock,
    store::{
        EventQuery, GrantQuery, HistoryEvent, IdempotencyKey, Listed, Loaded, LockQuery, Log,
        NewEvent, Queries, RequestPart, Retained, Store, StoreError, Transaction, Transactions,
        memory::MemoryStore,
    },
};
use tokio::sync::watch;

/// A store in memory. A test can delay loads, changes and lists.
#[derive(Debug, Clone)]
pub(crate) struct SlowStore {
    inner: Arc<Store>,
    pub(crate) is_loading_held: watch::Sender<bool>,
    pub(crate) are_changes_held: watch::Sender<bool>,
    pub(crate) are_reads_held: watch::Sender<bool>,
    /// Changes that are being delayed.
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) commits: Arc<AtomicUsize>,
    pub(crate) is_broken: bool,
}

struct CountedTransaction {
    inner: Box<dyn Transaction>,
    commits: Arc<AtomicUsize>,
}

impl SlowStore {
    pub(crate) fn new() -> Self {
        Self {
            inner: Store::new(Arc::new(MemoryStore::new(Arc::new(SystemClock)))),
            is_loading_held: watch::Sender::new(false),
            are_changes_held: watch::Sender::new(false),
            are_reads_held: watch::Sender::new(false),
            waiting: Arc::default(),
            commits: Arc::default(),
            is_broken: false,
        }
    }

    /// The store with the delays.
    pub(crate) fn store(&self) -> Arc<Store> {
        let delays = Arc::new(self.clone());
        self.inner.with_transactions(delays.clone()).with_log(delays.clone()).with_queries(delays)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }
}

async fn released(held: &watch::Sender<bool>) {
    held.subscribe().wait_for(|is_held| !is_held).await.unwrap();
}

#[async_trait]
impl Transactions for SlowStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        released(&self.are_changes_held).await;
        let inner = self.inner.begin().await?;
        Ok(Box::new(CountedTransaction { inner, commits: Arc::clone(&self.commits) }))
    }
}

#[async_trait]
impl Log for SlowStore {
    async fn head(&self) -> Result<Position, StoreError> {
        self.inner.log().head().await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        if self.is_broken {
            return Err(StoreError::Broken("the disk is on fire".into()));
        }
        released(&self.is_loading_held).await;
        self.inner.log().load(visit).await
    }

    async fn events_after(&self, after: Revision, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.log().events_after(after, limit).await
    }

    async fn replace_epoch(&self) -> Result<Epoch, StoreError> {
        self.inner.log().replace_epoch().await
    }
}

#[async_trait]
impl Queries for SlowStore {
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.inner.queries().grant(tenant_id, grant_id).await
    }

    async fn grants(&self, query: &GrantQuery) -> Result<Vec<Listed<Grant>>, StoreError> {
        released(&self.are_reads_held).await;
        self.inner.queries().grants(query).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Listed<HistoryEvent>>, StoreError> {
        released(&self.are_reads_held).await;
        self.inner.queries().events(query).await
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        self.inner.queries().overrides(tenant_id).await
    }

    async fn locks(&self, query: &LockQuery) -> Result<Vec<Listed<Lock>>, StoreError> {
        self.inner.queries().locks(query).await
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.inner.queries().tenants(after, limit).await
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        self.inner.queries().next_expiry().await
    }
}

#[async_trait]
impl Transaction for CountedTransaction {
    fn clock(&self) -> Time {
        self.inner.clock()
    }

    fn now(&self) -> Time {
        self.inner.now()
    }

    fn set_now(&mut self, time: Time) {
        self.inner.set_now(time);
    }

    fn head(&self) -> Revision {
        self.inner.head()
    }

    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }

    fn max_staleness(&self) -> Duration {
        self.inner.max_staleness()
    }

    fn next_change(&mut self, elapsed: Duration) {
        self.inner.next_change(elapsed);
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.inner.grant(tenant_id, grant_id).await
    }

    async fn request(
        &mut self,
        tenant_id: Option<&TenantId>,
        request_id: &RequestId,
    ) -> Result<Vec<RequestPart>, StoreError> {
        self.inner.request(tenant_id, request_id).await
    }

    async fn record_request(&mut self, key: &IdempotencyKey, part: u32) -> Result<(), StoreError> {
        self.inner.record_request(key, part).await
    }

    async fn revision_of(
        &mut self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> Result<Revision, StoreError> {
        self.inner.revision_of(tenant_id, sequence).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        self.inner.live_grants(tenant_id, before, limit).await
    }

    async fn size_of_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.inner.size_of_live_grants(tenant_id).await
    }

    async fn count_live_grants(
        &mut self,
        tenant_id: &TenantId,
        group_id: &GroupId,
    ) -> Result<usize, StoreError> {
        self.inner.count_live_grants(tenant_id, group_id).await
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        self.inner.due_grants(now, limit).await
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        self.inner.overrides(tenant_id).await
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        self.inner.lock(lock_id).await
    }

    async fn count_live_locks(
        &mut self,
        side: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        self.inner.count_live_locks(side, tenant_id).await
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        self.inner.due_locks(now, limit).await
    }

    async fn last_events_of_live_grants(
        &mut self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Listed<Event>>, StoreError> {
        self.inner.last_events_of_live_grants(after, limit).await
    }

    async fn live_grant_ids(&mut self) -> Result<Vec<GrantId>, StoreError> {
        self.inner.live_grant_ids().await
    }

    async fn clock_events(&mut self) -> Result<Vec<Event>, StoreError> {
        self.inner.clock_events().await
    }

    async fn append(&mut self, entry: NewEvent) -> Result<Event, StoreError> {
        self.inner.append(entry).await
    }

    async fn commit(self: Box<Self>) -> Result<Revision, StoreError> {
        let revision = self.inner.commit().await?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        Ok(revision)
    }
}
