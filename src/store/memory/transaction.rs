//! A change in memory: a copy to work on, put in place when it commits.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use crate::{
    domain::{
        Epoch, Event, Grant, GrantId, Lock, LockId, Party, PolicyOverrides, RequestId, Revision,
        TenantId, Time,
    },
    store::{
        IdempotentResult, NewEvent, Notification, StoreError, Transaction,
        memory::{content::Database, state::State},
        notify::{LocalNotifier, Notifier},
        stamp,
    },
};

pub(super) struct MemoryTransaction {
    pub(super) now: Time,
    pub(super) max_staleness: Duration,
    pub(super) log: Epoch,
    pub(super) working: State,
    /// Which content of the database `working` was made from.
    pub(super) incarnation: u64,
    pub(super) database: Arc<Database>,
    pub(super) bell: Arc<LocalNotifier>,
    pub(super) _writer: OwnedMutexGuard<()>,
}

#[async_trait]
impl Transaction for MemoryTransaction {
    fn now(&self) -> Time {
        self.now
    }

    fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        Ok(self.working.grant(tenant_id, grant_id))
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<IdempotentResult>, StoreError> {
        let key = (tenant_id.clone(), request_id.clone());
        let found = self.working.requests.get(&key).and_then(|(fingerprint, revision)| {
            let index = usize::try_from(revision - 1).ok()?;
            let grant = self.working.events.get(index)?.kind.grant()?.clone();
            Some(IdempotentResult { fingerprint: *fingerprint, grant })
        });
        Ok(found)
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        let working = &self.working;
        let is_live =
            |grant: &&Grant| working.live.contains(&(tenant_id.clone(), grant.create_revision));
        Ok(working.grants_of(tenant_id, None).filter(is_live).take(limit).cloned().collect())
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        Ok(self.live_grants(tenant_id, usize::MAX).await?.len())
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        let is_due = |grant: &&Grant| grant.terms.expire_time.is_some_and(|end| end <= now);
        let mut due: Vec<Grant> = self.working.live_grants().filter(is_due).cloned().collect();
        due.sort_by_key(|grant| (grant.terms.expire_time, grant.create_revision));
        due.truncate(limit);
        Ok(due)
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        Ok(self.working.policy_overrides.get(tenant_id).cloned().unwrap_or_default())
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        Ok(self.working.lock(lock_id))
    }

    async fn count_live_locks(
        &mut self,
        side: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        let is_counted = |lock: &&Lock| {
            lock.terms.side == side && (tenant_id.is_none() || lock.tenant_id() == tenant_id)
        };
        Ok(self.working.live_locks().filter(is_counted).count())
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        let is_due = |lock: &&Lock| lock.terms.expire_time.is_some_and(|end| end <= now);
        let mut due: Vec<Lock> = self.working.live_locks().filter(is_due).cloned().collect();
        due.sort_by_key(|lock| (lock.terms.expire_time, lock.create_revision));
        due.truncate(limit);
        Ok(due)
    }

    async fn append(&mut self, entry: NewEvent) -> Result<Event, StoreError> {
        let (event, request) = stamp(entry, self.working.head() + 1, self.now);
        self.working.chains.push(self.log, &event)?;
        self.working.apply(event.clone(), request);
        Ok(event)
    }

    async fn commit(self: Box<Self>) -> Result<Revision, StoreError> {
        let revision = self.working.head();
        self.database.commit(self.working, self.incarnation)?;
        self.bell.tell(Notification::Log);
        Ok(revision)
    }
}
