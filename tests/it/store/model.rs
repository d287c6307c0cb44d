//! The contract, computed from the log in the most naive way.

use std::collections::BTreeMap;

use support_access::{
    domain::{
        Event, EventKind, Grant, GrantId, GrantState, GrantTerms, Lock, LockState, LockTerms,
        PolicyOverrides, Revision, Sequence, TenantId, Time,
    },
    store::{
        EventQuery, GrantFilter, GrantQuery, ListOrder, Listed, LockQuery, PAGE_WEIGHT_MAX,
        PageBounds, QueryScope, Retained,
    },
};

/// All committed events.
#[derive(Debug, Default, Clone)]
pub struct Model {
    pub events: Vec<Event>,
}

/// A grant or a lock after the last event.
#[derive(Debug, Clone)]
pub struct Known<T> {
    pub item: T,
    /// The event that created the item.
    pub created: Event,
    /// Whether an event has ended the item.
    pub is_ended: bool,
}

impl Model {
    /// Every grant, newest first.
    pub fn grants(&self) -> Vec<Known<Grant>> {
        self.known(|kind| kind.grant().cloned(), Grant::id)
    }

    /// Every lock, newest first.
    pub fn locks(&self) -> Vec<Known<Lock>> {
        self.known(|kind| kind.lock().cloned(), Lock::id)
    }

    fn known<T: Clone, I: Ord>(
        &self,
        item: impl Fn(&EventKind) -> Option<T>,
        id: impl Fn(&T) -> I,
    ) -> Vec<Known<T>> {
        let mut known: BTreeMap<I, Known<T>> = BTreeMap::new();
        for event in &self.events {
            let Some(item) = item(&event.kind) else { continue };
            let created = known.get(&id(&item)).map_or(event, |known| &known.created).clone();
            let is_ended = event.kind.is_end();
            known.insert(id(&item), Known { item, created, is_ended });
        }
        let mut known: Vec<_> = known.into_values().collect();
        known.sort_by_key(|known| -known.created.revision);
        known
    }

    pub fn live(&self) -> Vec<Grant> {
        live(self.grants())
    }

    pub fn live_locks(&self) -> Vec<Lock> {
        live(self.locks())
    }

    pub fn grant(&self, tenant_id: &TenantId, grant_id: GrantId) -> Option<Grant> {
        let mut grants = self.grants().into_iter().map(|known| known.item);
        grants.find(|grant| grant.id() == grant_id && grant.tenant_id == *tenant_id)
    }

    pub fn list_grants(&self, query: &GrantQuery) -> Vec<Listed<Grant>> {
        let GrantQuery { filter, now, page } = query;
        let mut grants = self.grants();
        grants.retain(|known| matches(filter, &known.item, known.is_ended, *now));
        listed(grants, &filter.scope, page, Grant::weight)
    }

    pub fn list_locks(&self, query: &LockQuery) -> Vec<Listed<Lock>> {
        let LockQuery { filter, now, page } = query;
        let mut locks = self.locks();
        locks.retain(|known| {
            let is_active = !known.is_ended && known.item.state(*now) == LockState::Active;
            filter.include_ended || is_active
        });
        listed(locks, &filter.scope, page, Lock::weight)
    }

    pub fn list_events(&self, query: &EventQuery) -> Vec<Listed<Event>> {
        let EventQuery { filter, page } = query;
        let mut events = self.events.clone();
        events.reverse();
        events.retain(|event| filter.grant_id.is_none() || event.grant_id() == filter.grant_id);
        let known = |event: Event| Known { item: event.clone(), created: event, is_ended: false };
        listed(events.into_iter().map(known).collect(), &filter.scope, page, Event::weight)
    }

    /// The grants that [`support_access::store::Log::load`] must visit, sorted.
    pub fn load(&self) -> Vec<(TenantId, GrantTerms, Retained)> {
        let rank = |grant: &Grant| {
            (grant.terms.end_time(), grant.terms.access_level, grant.terms.grant_id)
        };
        let mut latest: BTreeMap<_, Grant> = BTreeMap::new();
        let mut visited = Vec::new();
        for Known { item: grant, is_ended, .. } in self.grants() {
            let key = (grant.tenant_id.clone(), grant.terms.group_id.clone());
            if !is_ended {
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

    /// The locks that [`support_access::store::Log::load`] must return, sorted.
    pub fn load_locks(&self) -> Vec<LockTerms> {
        let mut terms: Vec<_> = self.live_locks().into_iter().map(|lock| lock.terms).collect();
        terms.sort_by_key(|terms| terms.lock_id);
        terms
    }

    pub fn due(&self, now: Time, limit: usize) -> Vec<Grant> {
        due(self.grants(), |grant| grant.terms.expire_time, now, limit)
    }

    pub fn due_locks(&self, now: Time, limit: usize) -> Vec<Lock> {
        due(self.locks(), |lock| lock.terms.expire_time, now, limit)
    }

    pub fn next_expiry(&self) -> Option<Time> {
        let (grants, locks) = (self.live(), self.live_locks());
        let grants = grants.iter().filter_map(|grant| grant.terms.expire_time);
        grants.chain(locks.iter().filter_map(|lock| lock.terms.expire_time)).min()
    }

    pub fn overrides(&self, tenant_id: &TenantId) -> PolicyOverrides {
        let own =
            self.events.iter().rev().filter(|event| event.tenant_id.as_ref() == Some(tenant_id));
        let mut updates = own.filter_map(|event| match &event.kind {
            EventKind::PolicyUpdated { policy_overrides, .. } => Some(policy_overrides.clone()),
            _ => None,
        });
        updates.next().unwrap_or_default()
    }

    /// The tenants that have a history, in byte order.
    pub fn tenants(&self) -> Vec<String> {
        let mut tenants: Vec<_> = self
            .events
            .iter()
            .filter_map(|event| event.tenant_id.as_ref().map(ToString::to_string))
            .collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants
    }

    /// The number of events in the history of a tenant, or of the vendor.
    pub fn sequence(&self, tenant_id: Option<&TenantId>) -> Sequence {
        let own = self.events.iter().filter(|event| event.tenant_id.as_ref() == tenant_id);
        own.count().try_into().unwrap()
    }

    pub fn head(&self) -> Revision {
        self.events.len().try_into().unwrap()
    }
}

fn live<T>(known: Vec<Known<T>>) -> Vec<T> {
    known.into_iter().filter(|known| !known.is_ended).map(|known| known.item).collect()
}

fn due<T>(
    known: Vec<Known<T>>,
    expire_time: impl Fn(&T) -> Option<Time>,
    now: Time,
    limit: usize,
) -> Vec<T> {
    let mut due: Vec<_> = known
        .into_iter()
        .filter(|known| !known.is_ended && expire_time(&known.item).is_some_and(|end| end <= now))
        .collect();
    due.sort_by_key(|known| (expire_time(&known.item), known.created.revision));
    due.into_iter().take(limit).map(|known| known.item).collect()
}

/// The page of a list that is newest first.
/// A list holds all items that fit into [`PAGE_WEIGHT_MAX`], and one more.
fn listed<T>(
    known: Vec<Known<T>>,
    scope: &QueryScope,
    page: &PageBounds,
    weight: fn(&T) -> usize,
) -> Vec<Listed<T>> {
    let mut listed: Vec<_> = known
        .into_iter()
        .filter(|known| match scope {
            QueryScope::Tenant(tenant_id) => known.created.tenant_id.as_ref() == Some(tenant_id),
            QueryScope::Vendor => known.created.tenant_id.is_none(),
            QueryScope::All => true,
        })
        .map(|Known { item, created, .. }| {
            let is_all = *scope == QueryScope::All;
            Listed { position: if is_all { created.revision } else { created.sequence }, item }
        })
        .collect();
    if page.order == ListOrder::OldestFirst {
        listed.reverse();
    }
    listed.retain(|item| match (page.order, page.after) {
        (_, None) => true,
        (ListOrder::NewestFirst, Some(after)) => item.position < after,
        (ListOrder::OldestFirst, Some(after)) => item.position > after,
    });
    listed.truncate(page.limit);
    let mut total = 0;
    let mut fits = |listed: &Listed<T>| {
        total += weight(&listed.item);
        total <= PAGE_WEIGHT_MAX
    };
    let count = listed.iter().take_while(|item| fits(item)).count();
    listed.truncate(count.max(1) + 1);
    listed
}

fn matches(filter: &GrantFilter, grant: &Grant, is_ended: bool, now: Time) -> bool {
    let terms = &grant.terms;
    let state = match terms.state(now) {
        GrantState::Scheduled | GrantState::Active if is_ended => GrantState::Expired,
        state => state,
    };
    let ends_after = |time: Time| terms.end_time().is_none_or(|end| end > time);
    let overlaps = match (filter.overlap_start, filter.overlap_end) {
        (None, None) => true,
        (start, end) => {
            ends_after(terms.start_time)
                && start.is_none_or(ends_after)
                && end.is_none_or(|end| terms.start_time < end)
        }
    };
    (filter.states.is_empty() || filter.states.contains(&state))
        && filter.group_id.iter().all(|group_id| *group_id == terms.group_id)
        && filter.agent_id.iter().all(|agent_id| terms.agent_ids.contains(agent_id))
        && overlaps
}
