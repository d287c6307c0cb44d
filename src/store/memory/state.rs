//! The log of events and the grants it adds up to, in memory.

use imbl::{HashMap, OrdMap, OrdSet, Vector};

use crate::{
    domain::{
        Event, EventKind, Grant, GrantId, Lock, LockId, PolicyOverrides, RequestId, Revision,
        TenantId,
    },
    store::{IdempotencyKey, memory::chain::Chains},
};

/// Persistent collections: a change works on a copy that costs nothing, and puts it in place when it commits.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The log; the event of revision `n` is at `n - 1`.
    pub(super) events: Vector<Event>,
    /// Every grant, by tenant and age.
    pub(super) grants: OrdMap<(TenantId, Revision), Grant>,
    /// Where each grant is in `grants`.
    keys: HashMap<GrantId, (TenantId, Revision)>,
    /// The grants that no event has ended.
    pub(super) live: OrdSet<(TenantId, Revision)>,
    pub(super) requests: HashMap<(TenantId, RequestId), ([u8; 32], Revision)>,
    pub(super) policy_overrides: HashMap<TenantId, PolicyOverrides>,
    pub(super) chains: Chains,
    /// Every lock, by age.
    pub(super) locks: OrdMap<Revision, Lock>,
    /// The locks that no event has ended.
    live_locks: OrdSet<Revision>,
    /// Where each lock is in `locks`.
    lock_keys: HashMap<LockId, Revision>,
}

impl State {
    pub(super) fn head(&self) -> Revision {
        self.events.last().map_or(0, |event| event.revision)
    }

    pub(super) fn grant(&self, tenant_id: &TenantId, grant_id: GrantId) -> Option<Grant> {
        let key = self.keys.get(&grant_id).filter(|(owner, _)| owner == tenant_id)?;
        self.grants.get(key).cloned()
    }

    /// Newest first.
    pub(super) fn grants_of(
        &self,
        tenant_id: &TenantId,
        before: Option<Revision>,
    ) -> impl Iterator<Item = &Grant> {
        let first = (tenant_id.clone(), Revision::MIN);
        let limit = (tenant_id.clone(), before.unwrap_or(Revision::MAX));
        self.grants.range(first..limit).rev().map(|(_, grant)| grant)
    }

    pub(super) fn is_live(&self, grant: &Grant) -> bool {
        self.live.contains(&(grant.tenant_id.clone(), grant.create_revision))
    }

    pub(super) fn live_grants(&self) -> impl Iterator<Item = &Grant> {
        self.live.iter().filter_map(|key| self.grants.get(key))
    }

    pub(super) fn lock(&self, lock_id: LockId) -> Option<Lock> {
        self.locks.get(self.lock_keys.get(&lock_id)?).cloned()
    }

    pub(super) fn is_lock_live(&self, lock: &Lock) -> bool {
        self.live_locks.contains(&lock.create_revision)
    }

    pub(super) fn live_locks(&self) -> impl Iterator<Item = &Lock> {
        self.live_locks.iter().filter_map(|key| self.locks.get(key))
    }

    pub(super) fn apply(&mut self, event: Event, request: Option<IdempotencyKey>) {
        if let Some(grant) = event.kind.grant() {
            let key = (grant.tenant_id.clone(), grant.create_revision);
            self.keys.insert(grant.id(), key.clone());
            if event.kind.ends_grant() {
                self.live.remove(&key);
            } else {
                self.live.insert(key.clone());
            }
            self.grants.insert(key, grant.clone());
        }
        if let Some(lock) = event.kind.lock() {
            self.lock_keys.insert(lock.id(), lock.create_revision);
            if event.kind.ends_lock() {
                self.live_locks.remove(&lock.create_revision);
            } else {
                self.live_locks.insert(lock.create_revision);
            }
            self.locks.insert(lock.create_revision, lock.clone());
        }
        if let EventKind::PolicyUpdated { overrides, .. } = &event.kind {
            self.policy_overrides.extend(event.tenant_id.clone().map(|id| (id, overrides.clone())));
        }
        if let Some(IdempotencyKey { request_id, fingerprint }) = request
            && let Some(tenant_id) = event.tenant_id.clone()
        {
            let key = (tenant_id, request_id);
            self.requests.insert(key, (fingerprint, event.revision));
        }
        self.events.push_back(event);
    }
}
