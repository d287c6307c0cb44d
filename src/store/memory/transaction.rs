//! A transaction in memory: a copy of the state, which replaces the original at the commit.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use crate::{
    domain::{
        Epoch, Event, EventKind, Grant, GrantId, GroupId, Lock, LockId, LogName, Party,
        PolicyOverrides, RequestId, Revision, Sequence, TenantId, Time, TokenKey,
    },
    store::{
        IdempotencyKey, Listed, NewEvent, Notification, RequestPart, StoreError, Transaction,
        memory::{
            content::Database,
            state::{State, Stored},
        },
        new_epoch,
        notify::{LocalNotifier, Notifier},
        transaction::StampedEvent,
    },
};

pub(super) struct MemoryTransaction {
    pub(super) clock: Time,
    pub(super) last: Option<Time>,
    pub(super) now: Time,
    pub(super) epoch: Epoch,
    /// The epoch that begins with this transaction, if the transaction accepts the clock.
    pub(super) new_epoch: Option<(Epoch, TokenKey)>,
    pub(super) max_staleness: Duration,
    pub(super) log: LogName,
    pub(super) state: State,
    /// The revision of the log when the change began.
    pub(super) begin_revision: Revision,
    /// The incarnation of the database that `state` was copied from.
    pub(super) incarnation: u64,
    pub(super) database: Arc<Database>,
    pub(super) notifier: Arc<LocalNotifier>,
    pub(super) _writer: OwnedMutexGuard<()>,
}

#[async_trait]
impl Transaction for MemoryTransaction {
    fn clock(&self) -> Time {
        self.clock
    }

    fn now(&self) -> Time {
        self.now
    }

    fn set_now(&mut self, time: Time) {
        self.now = self.last.map_or(time, |last| last.max(time));
    }

    fn head(&self) -> Revision {
        self.begin_revision
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    fn next_change(&mut self, elapsed: Duration) {
        self.clock += elapsed;
        self.begin_revision = self.state.head();
        self.set_now(self.clock);
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        Ok(self.state.grant(tenant_id, grant_id).cloned())
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        let live = self.state.live_grants_of(tenant_id, before).rev();
        Ok(live.take(limit).cloned().collect())
    }

    async fn size_of_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        Ok(self.state.live_grants_of(tenant_id, None).map(|grant| grant.terms.size()).sum())
    }

    async fn count_live_grants(
        &mut self,
        tenant_id: &TenantId,
        group_id: &GroupId,
    ) -> Result<usize, StoreError> {
        let live = self.state.live_grants_of(tenant_id, None);
        Ok(live.filter(|grant| grant.terms.group_id == *group_id).count())
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        Ok(due(self.state.live_grants(), |grant| grant.terms.expire_time, now, limit))
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        Ok(self.state.overrides.get(tenant_id).cloned().unwrap_or_default())
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        Ok(self.state.lock(lock_id).cloned())
    }

    async fn count_live_locks(
        &mut self,
        party: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        let is_counted = |lock: &Lock| {
            lock.terms.party == party && (tenant_id.is_none() || lock.tenant_id() == tenant_id)
        };
        Ok(self.state.live_locks().filter(|stored| is_counted(&stored.item)).count())
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        Ok(due(self.state.live_locks(), |lock| lock.terms.expire_time, now, limit))
    }

    async fn last_events_of_live_grants(
        &mut self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Listed<Event>>, StoreError> {
        let mut live: Vec<_> =
            self.state.live_grants().filter(|stored| stored.create_revision > after).collect();
        live.sort_by_key(|stored| stored.create_revision);
        let last_event = |stored: &Stored<Grant>| {
            let grant = &stored.item;
            let revision =
                self.state.revisions.get(&(Some(grant.tenant_id.clone()), grant.sequence));
            let event = self.state.event(*revision?)?.event.clone();
            Some(Listed { position: stored.create_revision, item: event })
        };
        Ok(live.into_iter().take(limit).filter_map(last_event).collect())
    }

    async fn live_grant_ids(&mut self) -> Result<Vec<GrantId>, StoreError> {
        Ok(self.state.live_grants().map(|stored| stored.item.id()).collect())
    }

    async fn clock_events(&mut self) -> Result<Vec<Event>, StoreError> {
        Ok(self.state.clock_events().cloned().collect())
    }

    async fn revision_of(
        &mut self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> Result<Revision, StoreError> {
        let revision = self.state.revisions.get(&(tenant_id.cloned(), sequence)).copied();
        revision.ok_or_else(|| StoreError::broken("an event is missing"))
    }

    async fn request(
        &mut self,
        tenant_id: Option<&TenantId>,
        request_id: &RequestId,
    ) -> Result<Vec<RequestPart>, StoreError> {
        let parts = self.state.requests.get(&(tenant_id.cloned(), request_id.clone()));
        Ok(parts.map(|parts| parts.iter().copied().collect()).unwrap_or_default())
    }

    async fn append(&mut self, new: NewEvent) -> Result<Event, StoreError> {
        if let EventKind::ClockAccepted { .. } = new.kind {
            self.now = self.clock;
            self.new_epoch = Some(new_epoch());
        }
        let previous = self.state.chain_head(new.tenant_id.as_ref());
        let revision = self.state.head() + 1;
        let stamped = StampedEvent::new(new, self.log, previous, revision, self.now)?;
        let event = stamped.event.clone();
        self.last = Some(event.time);
        self.state.apply(stamped);
        Ok(event)
    }

    async fn record_request(&mut self, key: &IdempotencyKey, part: u32) -> Result<(), StoreError> {
        let last_revision = self.state.head();
        if last_revision == self.begin_revision {
            return Ok(());
        }
        let IdempotencyKey { tenant_id, request_id, fingerprint } = key.clone();
        let first_revision = self.begin_revision + 1;
        let parts = self.state.requests.entry((tenant_id, request_id)).or_default();
        parts.push_back(RequestPart { part, fingerprint, first_revision, last_revision });
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<Revision, StoreError> {
        let revision = self.state.head();
        self.database.commit(self.state, self.incarnation, self.new_epoch)?;
        self.notifier.notify(Notification::Log);
        Ok(revision)
    }
}

/// The items that are due at `now`, earliest first.
fn due<'a, T: Clone + 'a>(
    live: impl Iterator<Item = &'a Stored<T>>,
    expire_time: impl Fn(&T) -> Option<Time>,
    now: Time,
    limit: usize,
) -> Vec<T> {
    let is_due = |stored: &&Stored<T>| expire_time(&stored.item).is_some_and(|end| end <= now);
    let mut due: Vec<_> = live.filter(is_due).collect();
    due.sort_by_key(|stored| (expire_time(&stored.item), stored.create_revision));
    due.into_iter().take(limit).map(|stored| stored.item.clone()).collect()
}
