//! The locks of a snapshot, by tenant and target.

use foldhash::fast::RandomState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};

use crate::domain::{AccessCheck, LockTarget, LockTerms, TenantId};

type Map<K, V> = GenericHashMap<K, V, RandomState, DefaultSharedPtr>;

/// Estimated memory of a lock beyond the terms, in bytes. The first lock of a tenant needs a map.
const LOCK_SIZE: u64 = 2_048;

/// Locks that no event has ended; some may have expired. A clone shares memory with the original. A
/// check reads only the locks of its tenant and targets.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks {
    by_tenant: Map<Option<TenantId>, Map<LockTarget, Vec<LockTerms>>>,
    count: u64,
    bytes: u64,
}

impl Locks {
    /// Adds a lock.
    pub(super) fn insert(&mut self, terms: LockTerms) {
        self.remove(&terms);
        self.count += 1;
        self.bytes += terms.weight() as u64;
        let by_target = self.by_tenant.entry(terms.tenant_id.clone()).or_default();
        by_target.entry(terms.target.clone()).or_default().push(terms);
    }

    /// Removes a lock that has ended.
    pub(super) fn remove(&mut self, terms: &LockTerms) {
        let Some(by_target) = self.by_tenant.get_mut(&terms.tenant_id) else { return };
        let Some(locks) = by_target.get_mut(&terms.target) else { return };
        let Some(index) = locks.iter().position(|lock| lock.lock_id == terms.lock_id) else {
            return;
        };
        self.count -= 1;
        self.bytes -= locks.swap_remove(index).weight() as u64;
        if locks.is_empty() {
            by_target.remove(&terms.target);
        }
        if by_target.is_empty() {
            self.by_tenant.remove(&terms.tenant_id);
        }
    }

    /// The locks that match a check.
    pub(super) fn on(&self, check: &AccessCheck) -> Vec<&LockTerms> {
        if self.by_tenant.is_empty() {
            return Vec::new();
        }
        let everywhere = self.by_tenant.get(&None);
        let in_tenant = self.by_tenant.get(&Some(check.tenant_id.clone()));
        if everywhere.is_none() && in_tenant.is_none() {
            return Vec::new();
        }
        let mut targets = vec![LockTarget::Everything, LockTarget::AgentKind(check.agent_kind)];
        let agents = check.agent_id.iter().chain(&check.on_behalf_of);
        targets.extend(agents.cloned().map(LockTarget::Agent));
        targets.extend(check.groups.lockable().cloned().map(LockTarget::Group));
        let in_scope = everywhere.into_iter().chain(in_tenant);
        in_scope
            .flat_map(|by_target| targets.iter().filter_map(|target| by_target.get(target)))
            .flatten()
            .collect()
    }

    /// The number of locks.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Estimated memory, in bytes.
    pub(super) fn memory(&self) -> u64 {
        self.bytes + self.count * LOCK_SIZE
    }

    /// All locks, in no particular order. Clones the locks of one target at a time.
    pub(super) fn into_terms(self) -> impl Iterator<Item = LockTerms> {
        let by_target = self.by_tenant.into_iter().flat_map(|(_, by_target)| by_target);
        by_target.flat_map(|(_, locks)| locks)
    }

    /// The number of histories in which everything is denied, because an event is not authentic.
    pub(super) fn quarantines(&self) -> usize {
        self.iter().filter(|lock| lock.is_quarantine()).count()
    }

    /// All locks, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &LockTerms> {
        self.by_tenant.values().flat_map(Map::values).flatten()
    }
}
