//! The state that follows from all events of a log.

use std::collections::{BTreeSet, HashMap};

use crate::{
    domain::{
        Event, EventKind, GrantId, GrantTerms, GroupId, LockId, LockTerms, Revision, TenantId,
    },
    store::Retained,
};

/// The grants and locks after the events so far, as far as check nodes hold them.
#[derive(Debug, Default)]
pub(super) struct Fold {
    revision: Revision,
    live: HashMap<GrantId, (TenantId, GrantTerms)>,
    ended: HashMap<(TenantId, GroupId), GrantTerms>,
    locks: HashMap<LockId, LockTerms>,
    /// The histories that contain a forged event. `None`: the vendor's, or an unknown one.
    forged: BTreeSet<Option<TenantId>>,
}

impl Fold {
    /// Adds the next event. An event that is missing may belong to any history.
    pub(super) fn apply(&mut self, event: Event) {
        self.expect(event.revision - 1);
        self.revision = event.revision;
        let is_end = event.kind.is_end();
        if event.kind == EventKind::Forged {
            self.forged.insert(event.tenant_id);
        } else if let Some(grant) = event.kind.grant() {
            let (tenant_id, terms) = (grant.tenant_id.clone(), grant.terms.clone());
            if is_end {
                self.live.remove(&terms.grant_id);
                self.end(tenant_id, terms);
            } else {
                self.live.insert(terms.grant_id, (tenant_id, terms));
            }
        } else if let Some(lock) = event.kind.lock() {
            if is_end {
                self.locks.remove(&lock.id());
            } else {
                self.locks.insert(lock.id(), lock.terms.clone());
            }
        }
    }

    /// States that the log ends at `revision`.
    pub(super) fn expect(&mut self, revision: Revision) {
        if self.revision != revision {
            self.forged.insert(None);
        }
    }

    fn end(&mut self, tenant_id: TenantId, terms: GrantTerms) {
        let key = (tenant_id, terms.group_id.clone());
        let rank = |terms: &GrantTerms| terms.end_rank();
        if self.ended.get(&key).is_none_or(|known| rank(known) < rank(&terms)) {
            self.ended.insert(key, terms);
        }
    }

    /// Whether a row equals the state. Each state is found once.
    pub(super) fn take(
        &mut self,
        tenant_id: &TenantId,
        terms: &GrantTerms,
        retained: Retained,
    ) -> bool {
        match retained {
            Retained::Live => self
                .live
                .remove(&terms.grant_id)
                .is_some_and(|(owner, state)| owner == *tenant_id && state == *terms),
            Retained::LastEnded => {
                let key = (tenant_id.clone(), terms.group_id.clone());
                self.ended.remove(&key).is_some_and(|state| state == *terms)
            }
        }
    }

    /// The live grants whose rows were not found.
    pub(super) fn missing(&self) -> impl Iterator<Item = (&TenantId, GrantId)> {
        self.live.iter().map(|(grant_id, (tenant_id, _))| (tenant_id, *grant_id))
    }

    /// Whether all events are authentic, and the rows of all grants and these locks were found.
    pub(super) fn is_found(&self, locks: &[LockTerms]) -> bool {
        self.live.is_empty()
            && self.ended.is_empty()
            && self.forged.is_empty()
            && self.locks.len() == locks.len()
            && locks.iter().all(|terms| self.locks.get(&terms.lock_id) == Some(terms))
    }

    /// The histories in which everything must be denied.
    pub(super) fn forged(&self) -> &BTreeSet<Option<TenantId>> {
        &self.forged
    }

    /// The live locks, and a lock for each history in which everything must be denied.
    pub(super) fn into_locks(self) -> Vec<LockTerms> {
        let quarantines = self.forged.into_iter().map(LockTerms::quarantine);
        self.locks.into_values().chain(quarantines).collect()
    }
}
