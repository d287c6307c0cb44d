//! A store that can be held up.

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
        Ack, Enforced, Event, Grant, GrantId, GrantTerms, Lock, LockId, NodeId, NodeInfo, Party,
        PolicyOverrides, Position, RequestId, Revision, TenantId, Time,
        chain::{ChainHead, Record, Sequence},
    },
    server::SystemClock,
    store::{
        EventQuery, GrantQuery, HeartbeatResponse, HistoryEvent, IdempotentResult, Loaded,
        LockQuery, Membership, NewEvent, Notifications, Registration, Retained, Store, StoreError,
        Transaction, memory::MemoryStore,
    },
};
use tokio::sync::watch;

/// A store in memory whose loading, changes and lists can be held up.
#[derive(Debug, Clone)]
pub(crate) struct SlowStore {
    inner: Arc<MemoryStore>,
    pub(crate) is_loading_held: watch::Sender<bool>,
    pub(crate) are_changes_held: watch::Sender<bool>,
    pub(crate) are_reads_held: watch::Sender<bool>,
    /// Changes that are being held up.
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
            inner: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
            is_loading_held: watch::Sender::new(false),
            are_changes_held: watch::Sender::new(false),
            are_reads_held: watch::Sender::new(false),
            waiting: Arc::default(),
            commits: Arc::default(),
            is_broken: false,
        }
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
impl Store for SlowStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        released(&self.are_changes_held).await;
        let inner = self.inner.begin().await?;
        Ok(Box::new(CountedTransaction { inner, commits: Arc::clone(&self.commits) }))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.inner.head().await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        if self.is_broken {
            return Err(StoreError::Broken("the disk is on fire".into()));
        }
        released(&self.is_loading_held).await;
        self.inner.load(visit).await
    }

    async fn events_after(&self, after: Revision, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.events_after(after, limit).await
    }

    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.inner.grant(tenant_id, grant_id).await
    }

    async fn list_grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        released(&self.are_reads_held).await;
        self.inner.list_grants(query).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Vec<HistoryEvent>, StoreError> {
        self.inner.list_events(query).await
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        self.inner.overrides(tenant_id).await
    }

    async fn list_locks(&self, query: &LockQuery) -> Result<Vec<Lock>, StoreError> {
        self.inner.list_locks(query).await
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        self.inner.next_expiry().await
    }

    async fn register(&self, member: &Registration) -> Result<(), StoreError> {
        self.inner.register(member).await
    }

    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        self.inner.heartbeat(node_id, seq, held).await
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        self.inner.acknowledge(node_id, held, ack).await
    }

    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        self.inner.write_followers(node_id, followers).await
    }

    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        self.inner.read_followers().await
    }

    async fn membership(&self) -> Result<Membership, StoreError> {
        self.inner.membership().await
    }

    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        self.inner.evict(node_id, seq).await
    }

    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        self.inner.record_enforced(first, last, time, enforced).await
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        self.inner.enforced(revision).await
    }

    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.inner.records(tenant_id, sequence, limit).await
    }

    async fn tenant_after(&self, tenant_id: &str) -> Result<Option<String>, StoreError> {
        self.inner.tenant_after(tenant_id).await
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        self.inner.chain_head(tenant_id).await
    }

    async fn listen(&self) -> Result<Box<dyn Notifications>, StoreError> {
        self.inner.listen().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Transaction for CountedTransaction {
    fn now(&self) -> Time {
        self.inner.now()
    }

    fn max_staleness(&self) -> Duration {
        self.inner.max_staleness()
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.inner.grant(tenant_id, grant_id).await
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<IdempotentResult>, StoreError> {
        self.inner.remembered(tenant_id, request_id).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        self.inner.live_grants(tenant_id, limit).await
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.inner.count_live_grants(tenant_id).await
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

    async fn append(&mut self, entry: NewEvent) -> Result<Event, StoreError> {
        self.inner.append(entry).await
    }

    async fn commit(self: Box<Self>) -> Result<Revision, StoreError> {
        let revision = self.inner.commit().await?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        Ok(revision)
    }
}
