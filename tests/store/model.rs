//! What the contract means, computed from the log in the most naive way.

use std::collections::BTreeMap;

use support_access::{
    domain::{
        Event, EventKind, Grant, GrantId, GrantState, GrantTerms, Lock, LockId, LockState,
        LockTerms, PolicyOverrides, Revision, TenantId, Time,
    },
    store::{EventQuery, GrantQuery, LockQuery, Retained},
};

/// All that ever happened.
#[derive(Debug, Default, Clone)]
pub struct Model {
    pub events: Vec<Event>,
}

impl Model {
    /// Every grant as its last event left it, with that event's kind. Newest first.
    pub fn grants(&self) -> Vec<(Grant, bool)> {
        let mut grants: BTreeMap<GrantId, (Grant, bool)> = BTreeMap::new();
        for event in &self.events {
            if let Some(grant) = event.kind.grant() {
                grants.insert(grant.id(), (grant.clone(), event.kind.ends_grant()));
            }
        }
        let mut grants: Vec<_> = grants.into_values().collect();
        grants.sort_by_key(|(grant, _)| -grant.create_revision);
        grants
    }

    pub fn live(&self) -> Vec<Grant> {
        self.grants().into_iter().filter(|(_, ended)| !ended).map(|(grant, _)| grant).collect()
    }

    pub fn grant(&self, tenant_id: &TenantId, grant_id: GrantId) -> Option<Grant> {
        let grants = self.grants().into_iter().map(|(grant, _)| grant);
        grants.into_iter().find(|grant| grant.id() == grant_id && grant.tenant_id == *tenant_id)
    }

    pub fn list_grants(&self, query: &GrantQuery) -> Vec<Grant> {
        let grants =
            self.grants().into_iter().filter(|(grant, ended)| is_asked(query, grant, *ended));
        grants.map(|(grant, _)| grant).take(query.limit).collect()
    }

    pub fn list_events(&self, query: &EventQuery) -> Vec<Event> {
        let mut events = self.events.clone();
        events.reverse();
        events.retain(|event| {
            event.tenant_id == query.tenant_id
                && (query.grant_id.is_none() || event.grant_id() == query.grant_id)
                && query.before.is_none_or(|before| event.revision < before)
        });
        events.truncate(query.limit);
        events
    }

    /// What [`support_access::store::Store::load`] must visit, sorted.
    pub fn load(&self) -> Vec<(TenantId, GrantTerms, Retained)> {
        let rank = |grant: &Grant| {
            (grant.terms.end_time(), grant.terms.access_level, grant.terms.grant_id)
        };
        let mut latest: BTreeMap<_, Grant> = BTreeMap::new();
        let mut visited = Vec::new();
        for (grant, ended) in self.grants() {
            let key = (grant.tenant_id.clone(), grant.terms.group_id.clone());
            if !ended {
                visited.push((grant.tenant_id.clone(), grant.terms.clone(), Retained::Live));
            } else if latest.get(&key).is_none_or(|other| rank(&grant) > rank(other)) {
                latest.insert(key, grant);
            }
        }
        let ended = |grant: Grant| (grant.tenant_id, grant.terms, Retained::LastEnded);
        visited.extend(latest.into_values().map(ended));
        visited.sort_by_key(|(_, terms, _)| terms.grant_id);
        visited
    }

    pub fn due(&self, now: Time, limit: usize) -> Vec<Grant> {
        let mut due = self.live();
        due.retain(|grant| grant.terms.expire_time.is_some_and(|end| end <= now));
        due.sort_by_key(|grant| (grant.terms.expire_time, grant.create_revision));
        due.truncate(limit);
        due
    }

    pub fn next_expiry(&self) -> Option<Time> {
        let (grants, locks) = (self.live(), self.live_locks());
        let of_grants = grants.iter().filter_map(|grant| grant.terms.expire_time);
        of_grants.chain(locks.iter().filter_map(|lock| lock.terms.expire_time)).min()
    }

    /// Every lock as its last event left it, with whether that has ended it. Newest first.
    pub fn locks(&self) -> Vec<(Lock, bool)> {
        let mut locks: BTreeMap<LockId, (Lock, bool)> = BTreeMap::new();
        for event in &self.events {
            if let Some(lock) = event.kind.lock() {
                locks.insert(lock.id(), (lock.clone(), event.kind.ends_lock()));
            }
        }
        let mut locks: Vec<_> = locks.into_values().collect();
        locks.sort_by_key(|(lock, _)| -lock.create_revision);
        locks
    }

    pub fn live_locks(&self) -> Vec<Lock> {
        self.locks().into_iter().filter(|(_, ended)| !ended).map(|(lock, _)| lock).collect()
    }

    /// What [`support_access::store::Store::load`] must answer, sorted.
    pub fn load_locks(&self) -> Vec<LockTerms> {
        let mut terms: Vec<_> = self.live_locks().into_iter().map(|lock| lock.terms).collect();
        terms.sort_by_key(|terms| terms.lock_id);
        terms
    }

    pub fn due_locks(&self, now: Time, limit: usize) -> Vec<Lock> {
        let mut due = self.live_locks();
        due.retain(|lock| lock.terms.expire_time.is_some_and(|end| end <= now));
        due.sort_by_key(|lock| (lock.terms.expire_time, lock.create_revision));
        due.truncate(limit);
        due
    }

    pub fn list_locks(&self, query: &LockQuery) -> Vec<Lock> {
        let mut locks = self.locks();
        locks.retain(|(lock, ended)| {
            let is_held = !ended && lock.state(query.now) == LockState::Held;
            (query.tenant_id.is_none() || lock.tenant_id() == query.tenant_id.as_ref())
                && (query.include_ended || is_held)
                && query.before.is_none_or(|before| lock.create_revision < before)
        });
        locks.into_iter().map(|(lock, _)| lock).take(query.limit).collect()
    }

    pub fn overrides(&self, tenant_id: &TenantId) -> PolicyOverrides {
        let own =
            self.events.iter().rev().filter(|event| event.tenant_id.as_ref() == Some(tenant_id));
        let mut updates = own.filter_map(|event| match &event.kind {
            EventKind::PolicyUpdated { overrides, .. } => Some(overrides.clone()),
            _ => None,
        });
        updates.next().unwrap_or_default()
    }

    pub fn head(&self) -> Revision {
        self.events.len().try_into().unwrap()
    }
}

fn is_asked(query: &GrantQuery, grant: &Grant, ended: bool) -> bool {
    let terms = &grant.terms;
    let state = match terms.state(query.now) {
        GrantState::Scheduled | GrantState::Active if ended => GrantState::Expired,
        state => state,
    };
    let ends_after = |time: Time| terms.end_time().is_none_or(|end| end > time);
    let overlaps = match (query.overlap_start, query.overlap_end) {
        (None, None) => true,
        (start, end) => {
            ends_after(terms.start_time)
                && start.is_none_or(ends_after)
                && end.is_none_or(|end| terms.start_time < end)
        }
    };
    grant.tenant_id == query.tenant_id
        && (query.states.is_empty() || query.states.contains(&state))
        && query.group_id.iter().all(|group| *group == terms.group_id)
        && query.agent_id.iter().all(|agent| terms.agent_ids.contains(agent))
        && query.before.is_none_or(|before| grant.create_revision < before)
        && overlaps
}
