//! The locks of a snapshot, indexed by target.

use foldhash::fast::RandomState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};

use crate::domain::{LockTarget, LockTerms, Question};

/// Locks that no event has ended; some may have expired. A clone shares memory with the original.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks {
    by_target: GenericHashMap<LockTarget, Vec<LockTerms>, RandomState, DefaultSharedPtr>,
}

impl Locks {
    /// Adds a lock, or replaces the lock of that id.
    pub(super) fn insert(&mut self, terms: LockTerms) {
        self.remove(&terms);
        self.by_target.entry(terms.target.clone()).or_default().push(terms);
    }

    /// Removes a lock that has ended.
    pub(super) fn remove(&mut self, terms: &LockTerms) {
        let Some(locks) = self.by_target.get_mut(&terms.target) else { return };
        locks.retain(|lock| lock.lock_id != terms.lock_id);
        if locks.is_empty() {
            self.by_target.remove(&terms.target);
        }
    }

    /// The locks on any target of a question. The cost depends on the groups of the question and on
    /// the result only.
    pub(super) fn on(&self, question: &Question) -> Vec<&LockTerms> {
        // The common case, without an allocation.
        if self.by_target.is_empty() {
            return Vec::new();
        }
        let mut targets = vec![
            LockTarget::Everything,
            LockTarget::Tenant(question.tenant_id.clone()),
            LockTarget::Agent(question.agent_id.clone()),
        ];
        targets.extend(question.group_ids.iter().cloned().map(LockTarget::Group));
        targets.iter().filter_map(|target| self.by_target.get(target)).flatten().collect()
    }

    /// All locks, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &LockTerms> {
        self.by_target.values().flatten()
    }
}
