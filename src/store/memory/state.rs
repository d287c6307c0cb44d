//! The log in memory, and the grants, locks and overrides that follow from the log.

use imbl::{HashMap, OrdMap, OrdSet, Vector};

use crate::{
    domain::{
        Event, EventKind, Grant, GrantId, GrantTerms, GroupId, Lock, LockId, PolicyOverrides,
        RequestId, Revision, Sequence, TenantId,
        chain::{Hash, Link},
    },
    store::{RequestPart, transaction::StampedEvent},
};

/// An event, and the stored data about the event.
#[derive(Debug, Clone)]
pub(super) struct StoredEvent {
    pub(super) event: Event,
    pub(super) body: String,
    pub(super) hash: Hash,
}

/// A grant or a lock after the last event.
#[derive(Debug, Clone)]
pub(super) struct Stored<T> {
    pub(super) item: T,
    /// The revision of the event that created the item.
    pub(super) create_revision: Revision,
    /// Whether an event has ended the item.
    pub(super) is_ended: bool,
}

/// Identifies an object: the history, and the event that created the object.
pub(super) type Key = (Option<TenantId>, Sequence);

/// Persistent collections: a transaction works on a cheap copy, and replaces the original when it
/// commits.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The log. The event of revision `n` is at `n - 1`.
    pub(super) events: Vector<StoredEvent>,
    /// The revision of every event by history and sequence.
    pub(super) revisions: OrdMap<Key, Revision>,
    pub(super) grants: OrdMap<Key, Stored<Grant>>,
    pub(super) locks: OrdMap<Key, Stored<Lock>>,
    grant_keys: HashMap<GrantId, Key>,
    lock_keys: HashMap<LockId, Key>,
    live_grants: OrdSet<Key>,
    live_locks: OrdSet<Key>,
    pub(super) requests: HashMap<(Option<TenantId>, RequestId), Vector<RequestPart>>,
    pub(super) overrides: HashMap<TenantId, PolicyOverrides>,
}

impl State {
    pub(super) fn head(&self) -> Revision {
        self.events.last().map_or(0, |stored| stored.event.revision)
    }

    pub(super) fn event(&self, revision: Revision) -> Option<&StoredEvent> {
        self.events.get(usize::try_from(revision - 1).ok()?)
    }

    /// The events of a history after `sequence`, oldest first.
    pub(super) fn history(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> impl DoubleEndedIterator<Item = &StoredEvent> {
        let first = (tenant_id.cloned(), sequence.saturating_add(1));
        let last = (tenant_id.cloned(), Sequence::MAX);
        self.revisions.range(first..=last).filter_map(|(_, revision)| self.event(*revision))
    }

    /// The events with which operators accepted the clock, oldest first.
    pub(super) fn clock_events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        let of_vendor = self.history(None, 0).map(|stored| &stored.event);
        of_vendor.filter(|event| event.accepted_clock().is_some())
    }

    /// The end of a chain.
    pub(super) fn chain_head(&self, tenant_id: Option<&TenantId>) -> Link {
        let last = self.history(tenant_id, 0).next_back();
        last.map_or(Link::START, StoredEvent::link)
    }

    pub(super) fn grant(&self, tenant_id: &TenantId, grant_id: GrantId) -> Option<&Grant> {
        let stored = self.grants.get(self.grant_keys.get(&grant_id)?)?;
        Some(&stored.item).filter(|grant| grant.tenant_id == *tenant_id)
    }

    pub(super) fn live_grants(&self) -> impl Iterator<Item = &Stored<Grant>> {
        self.live_grants.iter().filter_map(|key| self.grants.get(key))
    }

    /// The live grants of a tenant that were created before the event `before`, oldest first.
    pub(super) fn live_grants_of(
        &self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
    ) -> impl DoubleEndedIterator<Item = &Grant> {
        let first = (Some(tenant_id.clone()), 0);
        let end = (Some(tenant_id.clone()), before.unwrap_or(Sequence::MAX));
        let keys = self.live_grants.range(first..end);
        keys.filter_map(|key| Some(&self.grants.get(key)?.item))
    }

    /// The grants that ended last, one for each tenant and group.
    pub(super) fn last_ended(&self) -> impl Iterator<Item = &Grant> {
        let mut last: std::collections::HashMap<(&TenantId, &GroupId), &Grant> =
            std::collections::HashMap::new();
        let rank = |terms: &GrantTerms| (terms.end_time(), terms.access_level, terms.grant_id);
        for stored in self.grants.values().filter(|stored| stored.is_ended) {
            let grant = &stored.item;
            let key = (&grant.tenant_id, &grant.terms.group_id);
            let known = last.entry(key).or_insert(grant);
            if rank(&grant.terms) > rank(&known.terms) {
                *known = grant;
            }
        }
        last.into_values()
    }

    pub(super) fn lock(&self, lock_id: LockId) -> Option<&Lock> {
        Some(&self.locks.get(self.lock_keys.get(&lock_id)?)?.item)
    }

    pub(super) fn live_locks(&self) -> impl Iterator<Item = &Stored<Lock>> {
        self.live_locks.iter().filter_map(|key| self.locks.get(key))
    }

    pub(super) fn apply(&mut self, stamped: StampedEvent) {
        let StampedEvent { event, body, hash } = stamped;
        let (revision, is_ended) = (event.revision, event.kind.is_end());
        if let Some(grant) = event.kind.grant() {
            let key = (Some(grant.tenant_id.clone()), grant.create_sequence);
            self.grant_keys.insert(grant.id(), key.clone());
            set_live(&mut self.live_grants, &key, !is_ended);
            put(&mut self.grants, key, grant.clone(), revision, is_ended);
        }
        if let Some(lock) = event.kind.lock() {
            let key = (lock.tenant_id().cloned(), lock.create_sequence);
            self.lock_keys.insert(lock.id(), key.clone());
            set_live(&mut self.live_locks, &key, !is_ended);
            put(&mut self.locks, key, lock.clone(), revision, is_ended);
        }
        if let EventKind::PolicyUpdated { policy_overrides, .. } = &event.kind
            && let Some(tenant_id) = &event.tenant_id
        {
            self.overrides.insert(tenant_id.clone(), policy_overrides.clone());
        }
        self.revisions.insert((event.tenant_id.clone(), event.sequence), revision);
        self.events.push_back(StoredEvent { event, body, hash });
    }
}

impl StoredEvent {
    pub(super) fn link(&self) -> Link {
        Link { sequence: self.event.sequence, hash: self.hash }
    }
}

fn set_live(live: &mut OrdSet<Key>, key: &Key, is_live: bool) {
    if is_live {
        live.insert(key.clone());
    } else {
        live.remove(key);
    }
}

fn put<T: Clone>(
    map: &mut OrdMap<Key, Stored<T>>,
    key: Key,
    item: T,
    revision: Revision,
    is_ended: bool,
) {
    let create_revision = map.get(&key).map_or(revision, |stored| stored.create_revision);
    map.insert(key, Stored { item, create_revision, is_ended });
}
