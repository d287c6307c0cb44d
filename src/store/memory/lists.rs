//! Lists of the store in memory: filters applied to everything that is in scope.

use crate::{
    domain::{
        Grant, Lock, LockState, Sequence, TenantId, Time,
        chain::{Hash, Record},
    },
    store::{
        EventQuery, GrantFilter, GrantQuery, HistoryEvent, ListOrder, ListPosition, Listed,
        LockQuery, PageBounds, StoreError,
        memory::{
            content::Content,
            state::{State, Stored, StoredEvent},
        },
        query::PageItems,
        transaction,
    },
};

pub(super) fn grants(state: &State, query: &GrantQuery) -> Vec<Listed<Grant>> {
    let GrantQuery { filter, now, page } = query;
    let matching = state.grants.values().filter(|stored| {
        filter.scope.includes(Some(&stored.item.tenant_id)) && matches(stored, filter, *now)
    });
    let position = |stored: &Stored<Grant>| {
        filter.scope.position(stored.item.create_sequence, stored.create_revision)
    };
    paged(matching, position, |stored| stored.item.clone(), Grant::weight, page)
}

pub(super) fn events(content: &Content, query: &EventQuery) -> Vec<Listed<HistoryEvent>> {
    let EventQuery { filter, page } = query;
    let matching = content.state.events.iter().filter(|stored| {
        filter.scope.includes(stored.event.tenant_id.as_ref())
            && (filter.grant_id.is_none() || stored.event.grant_id() == filter.grant_id)
    });
    let position =
        |stored: &StoredEvent| filter.scope.position(stored.event.sequence, stored.event.revision);
    let item = |stored: &StoredEvent| HistoryEvent {
        event: stored.event.clone(),
        hash: stored.hash,
        enforced: content.members.enforced(stored.event.revision),
    };
    paged(matching, position, item, |listed| listed.event.weight(), page)
}

pub(super) fn locks(state: &State, query: &LockQuery) -> Vec<Listed<Lock>> {
    let LockQuery { filter, now, page } = query;
    let is_active =
        |stored: &Stored<Lock>| !stored.is_ended && stored.item.state(*now) == LockState::Active;
    let matching = state.locks.values().filter(|stored| {
        filter.scope.includes(stored.item.tenant_id())
            && (filter.include_ended || is_active(stored))
    });
    let position = |stored: &Stored<Lock>| {
        filter.scope.position(stored.item.create_sequence, stored.create_revision)
    };
    paged(matching, position, |stored| stored.item.clone(), Lock::weight, page)
}

pub(super) fn tenants(state: &State, after: &str, limit: usize) -> Vec<String> {
    let mut tenants: Vec<String> = Vec::new();
    for (tenant_id, _) in state.revisions.keys() {
        if tenants.len() == limit {
            break;
        }
        let Some(tenant_id) = tenant_id.as_ref().map(TenantId::as_str) else { continue };
        if tenant_id > after && tenants.last().is_none_or(|last| last != tenant_id) {
            tenants.push(tenant_id.to_owned());
        }
    }
    tenants
}

pub(super) fn records(
    content: &Content,
    tenant_id: Option<&TenantId>,
    sequence: Sequence,
    limit: usize,
) -> Result<Vec<Record>, StoreError> {
    let history = content.state.history(tenant_id, sequence);
    let record = |stored: &StoredEvent| {
        let StoredEvent { event, body, .. } = stored;
        let mut previous = content.state.history(tenant_id, event.sequence - 2);
        let is_first = event.sequence == 1;
        let previous =
            previous.next().filter(|_| !is_first).map_or(Hash::ZERO, |stored| stored.hash);
        let hashed = transaction::content(event, body);
        hashed.record(content.log, event.revision, previous, stored.link())
    };
    let mut records = PageItems::new();
    for stored in history.take(limit) {
        if records.is_full() {
            break;
        }
        let record = record(stored).map_err(StoreError::broken)?;
        let length = record.line.len();
        records.push(record, length);
    }
    Ok(records.items)
}

fn matches(stored: &Stored<Grant>, filter: &GrantFilter, now: Time) -> bool {
    let terms = &stored.item.terms;
    let state = stored.item.state(now);
    let end = terms.end_time().unwrap_or(Time::MAX_UTC);
    // A grant that was revoked before its start was never active.
    let was_active = terms.start_time < end;
    let has_overlap = filter.overlap_start.is_some() || filter.overlap_end.is_some();
    (filter.states.is_empty() || filter.states.contains(&state))
        && filter.group_id.as_ref().is_none_or(|group_id| *group_id == terms.group_id)
        && filter.agent_id.as_ref().is_none_or(|agent_id| terms.agent_ids.contains(agent_id))
        && filter.overlap_start.is_none_or(|start| end > start)
        && filter.overlap_end.is_none_or(|limit| terms.start_time < limit)
        && (was_active || !has_overlap)
}

/// The items within the bounds of a page, in the order of the page.
fn paged<'a, S: 'a, T>(
    matching: impl Iterator<Item = &'a S>,
    position: impl Fn(&S) -> ListPosition,
    item: impl Fn(&S) -> T,
    weight: impl Fn(&T) -> usize,
    page: &PageBounds,
) -> Vec<Listed<T>> {
    let mut found: Vec<_> = matching.filter(|stored| page.includes(position(stored))).collect();
    found.sort_by_key(|stored| match page.order {
        ListOrder::NewestFirst => -position(stored),
        ListOrder::OldestFirst => position(stored),
    });
    let mut listed = PageItems::new();
    for stored in found.into_iter().take(page.limit) {
        if listed.is_full() {
            break;
        }
        let item = item(stored);
        let weight = weight(&item);
        listed.push(Listed { position: position(stored), item }, weight);
    }
    listed.items
}
