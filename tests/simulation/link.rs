//! The way from a replica to the database, which takes time and can be cut.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use support_access::{
    domain::{
        Ack, Enforced, Event, Grant, GrantId, Lock, NodeId, NodeInfo, Position, Revision, TenantId,
        Terms, Tightening, Time,
        chain::{ChainHead, Record, Sequence},
    },
    store::{
        Change, EventQuery, GrantQuery, Held, Hints, Listed, Loaded, LockQuery, NewMember, Renewal,
        Roll, Store, StoreError,
    },
};

/// How long anybody waits at a link that is cut.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store at the end of a link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    inner: Arc<dyn Store>,
    is_cut: Arc<AtomicBool>,
    /// What the next delay is made from.
    next: Arc<AtomicU64>,
}

impl Link {
    pub(crate) fn to(inner: Arc<dyn Store>, seed: u64) -> Self {
        Self { inner, is_cut: Arc::default(), next: Arc::new(AtomicU64::new(seed)) }
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }

    /// One way: some milliseconds, and an error if the link is cut then.
    async fn pass(&self) -> Result<(), StoreError> {
        let step = |last: u64| last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let last = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| Some(step(it)));
        let delay = Duration::from_micros((last.unwrap() >> 33) % 4_000);
        tokio::time::sleep(delay).await; // on the way
        if self.is_cut.load(Ordering::SeqCst) {
            tokio::time::sleep(PATIENCE).await; // nobody answers
            return Err(StoreError::Unavailable("the link is cut".into()));
        }
        Ok(())
    }

    async fn there_and_back<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.pass().await?;
        let answer = work.await?;
        self.pass().await?;
        Ok(answer)
    }
}

#[async_trait]
impl Store for Link {
    async fn begin(&self) -> Result<Box<dyn Change>, StoreError> {
        self.there_and_back(self.inner.begin()).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.there_and_back(self.inner.head()).await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, Terms, Held) + Send),
    ) -> Result<Loaded, StoreError> {
        self.there_and_back(self.inner.load(visit)).await
    }

    async fn events_after(&self, after: Revision, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.there_and_back(self.inner.events_after(after, limit)).await
    }

    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.there_and_back(self.inner.grant(tenant_id, grant_id)).await
    }

    async fn list_grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        self.there_and_back(self.inner.list_grants(query)).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Vec<Listed>, StoreError> {
        self.there_and_back(self.inner.list_events(query)).await
    }

    async fn tightening(&self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        self.there_and_back(self.inner.tightening(tenant_id)).await
    }

    async fn list_locks(&self, query: &LockQuery) -> Result<Vec<Lock>, StoreError> {
        self.there_and_back(self.inner.list_locks(query)).await
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        self.there_and_back(self.inner.next_expiry()).await
    }

    async fn register(&self, member: &NewMember) -> Result<(), StoreError> {
        self.there_and_back(self.inner.register(member)).await
    }

    async fn renew(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<Renewal>, StoreError> {
        self.there_and_back(self.inner.renew(node_id, seq, held)).await
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        self.there_and_back(self.inner.acknowledge(node_id, held, ack)).await
    }

    async fn report(&self, node_id: NodeId, followers: &[NodeInfo]) -> Result<(), StoreError> {
        self.there_and_back(self.inner.report(node_id, followers)).await
    }

    async fn reports(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        self.there_and_back(self.inner.reports()).await
    }

    async fn roll(&self) -> Result<Roll, StoreError> {
        self.there_and_back(self.inner.roll()).await
    }

    async fn strike_off(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        self.there_and_back(self.inner.strike_off(node_id, seq)).await
    }

    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        self.there_and_back(self.inner.record_enforced(first, last, time, enforced)).await
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        self.there_and_back(self.inner.enforced(revision)).await
    }

    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.there_and_back(self.inner.records(tenant_id, sequence, limit)).await
    }

    async fn tenant_after(&self, tenant_id: &str) -> Result<Option<String>, StoreError> {
        self.there_and_back(self.inner.tenant_after(tenant_id)).await
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        self.there_and_back(self.inner.chain_head(tenant_id)).await
    }

    async fn listen(&self) -> Result<Box<dyn Hints>, StoreError> {
        // Hints come straight from the store, as if by magic: they need not come at all.
        self.there_and_back(self.inner.listen()).await
    }

    async fn close(&self) {}
}
