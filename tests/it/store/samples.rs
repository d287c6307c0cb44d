//! Builders for test data.

use std::{collections::BTreeSet, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{
        AccessLevel, Ack, AdmittedKinds, AgentId, Attribution, Enforced, Event, EventKind,
        FreeText, Grant, GrantId, GrantTerms, GroupId, NodeId, PolicyOverrides, RequestId,
        Revision, Revocation, SupportPolicy, TenantId, Ticket, Time, ids::Actor,
    },
    store::{
        EventFilter, EventQuery, GrantFilter, GrantQuery, HistoryEvent, IdempotencyKey, Listed,
        NewEvent, PageBounds, QueryScope, Registration, Store, Transaction,
    },
};
use uuid::Uuid;

pub fn tenant(id: &str) -> TenantId {
    TenantId::new(id).unwrap()
}

pub fn group(id: &str) -> GroupId {
    GroupId::new(id).unwrap()
}

pub fn agent(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}

pub fn actor(id: &str) -> Actor {
    Actor::new(id).unwrap()
}

pub fn key(tenant_id: Option<&str>, request_id: &str, byte: u8) -> IdempotencyKey {
    let request_id = RequestId::new(request_id).unwrap();
    let tenant_id = tenant_id.map(tenant);
    IdempotencyKey { tenant_id, request_id, fingerprint: [byte; 32] }
}

/// A new grant for an hour from `now`.
pub fn new_grant(tenant_id: &str, group_id: &str, now: Time) -> Grant {
    Grant {
        tenant_id: tenant(tenant_id),
        terms: GrantTerms {
            grant_id: GrantId(Uuid::now_v7()),
            group_id: group(group_id),
            agent_ids: BTreeSet::new(),
            access_level: AccessLevel::ReadWrite,
            agent_kinds: AdmittedKinds::HUMAN,
            start_time: now,
            expire_time: Some(now + TimeDelta::hours(1)),
            revoke_time: None,
            is_expired: false,
        },
        reason: FreeText::new("why\nnot").unwrap(),
        ticket: Ticket::new("T-1").unwrap(),
        create_time: now,
        creator: actor("admin"),
        revocation: None,
        create_sequence: 0,
        sequence: 0,
    }
}

pub fn new_event(tenant_id: Option<TenantId>, kind: EventKind) -> NewEvent {
    let reason = FreeText::new("because").unwrap();
    NewEvent { tenant_id, author: Attribution::direct(actor("admin")), reason, kind }
}

fn grant_event(grant: &Grant, kind: EventKind) -> NewEvent {
    new_event(Some(grant.tenant_id.clone()), kind)
}

pub fn granted(grant: Grant) -> NewEvent {
    grant_event(&grant.clone(), EventKind::Granted { grant })
}

pub fn extended(grant: &Grant, expire_time: Option<Time>) -> NewEvent {
    let previous_expire_time = grant.terms.expire_time;
    let mut grant = grant.clone();
    grant.terms.expire_time = expire_time;
    let kind =
        EventKind::Extended { grant: grant.clone(), previous_expire_time, clock_step_ms: None };
    grant_event(&grant, kind)
}

pub fn revoked(grant: &Grant, now: Time) -> NewEvent {
    let mut grant = grant.clone();
    grant.terms.revoke_time = Some(now);
    let reason = FreeText::new("enough").unwrap();
    grant.revocation = Some(Revocation { revoker: actor("other"), reason });
    grant_event(&grant.clone(), EventKind::Revoked { grant })
}

pub fn expired(grant: &Grant) -> NewEvent {
    grant_event(grant, EventKind::Expired { grant: grant.clone() })
}

/// A policy event of a tenant, or of the vendor.
pub fn policy_updated(tenant_id: Option<TenantId>, policy_overrides: PolicyOverrides) -> NewEvent {
    let support_policy = SupportPolicy::default().narrowed_by(&policy_overrides);
    new_event(tenant_id, EventKind::PolicyUpdated { policy_overrides, support_policy })
}

pub fn grant_of(event: &Event) -> Grant {
    event.kind.grant().unwrap().clone()
}

/// More than any list contains.
pub const EVERYTHING: PageBounds = PageBounds::newest(1_000_000);

pub fn all_grants(tenant_id: &str, now: Time) -> GrantQuery {
    let filter = GrantFilter::all(QueryScope::Tenant(tenant(tenant_id)));
    GrantQuery { filter, now, page: EVERYTHING }
}

pub fn all_events(tenant_id: &str) -> EventQuery {
    events_in(QueryScope::Tenant(tenant(tenant_id)))
}

pub fn events_in(scope: QueryScope) -> EventQuery {
    EventQuery { filter: EventFilter { scope, grant_id: None }, page: EVERYTHING }
}

/// The recorded trusted time.
pub async fn trusted_time(store: &Store) -> Option<Time> {
    store.log().load(&mut |_, _, _| {}).await.unwrap().trusted_time
}

/// An event that accepts the clock.
pub fn clock_accepted(step_ms: i64) -> NewEvent {
    new_event(None, EventKind::ClockAccepted { step_ms, moved_count: 0 })
}

/// The items without positions.
pub fn items<T>(listed: Vec<Listed<T>>) -> Vec<T> {
    listed.into_iter().map(|listed| listed.item).collect()
}

/// The events without hashes and enforcements.
pub fn events_of(listed: Vec<Listed<HistoryEvent>>) -> Vec<Event> {
    listed.into_iter().map(|listed| listed.item.event).collect()
}

pub fn new_node() -> NodeId {
    NodeId(Uuid::new_v4())
}

/// A node with leases of two seconds.
pub fn member(node_id: NodeId) -> Registration {
    Registration {
        node_id,
        version: "1.2.3".into(),
        max_staleness: Duration::from_secs(2),
        first_heartbeat: 0,
    }
}

/// The acknowledgement of a node with two followers, one of which has lapsed.
pub fn ack(revision: Revision) -> Ack {
    Ack { revision, nodes: 2, nodes_lapsed: 1 }
}

pub const ENFORCED: Enforced =
    Enforced { elapsed: Duration::from_millis(12), nodes_acknowledged: 3, nodes_lapsed: 1 };

pub async fn begin(store: &Store) -> Box<dyn Transaction> {
    store.begin().await.unwrap()
}

/// Creates a grant in a separate transaction.
pub async fn make_grant(store: &Store, tenant_id: &str, group_id: &str) -> Grant {
    let mut change = begin(store).await;
    let grant = new_grant(tenant_id, group_id, change.now());
    let event = change.append(granted(grant)).await.unwrap();
    change.commit().await.unwrap();
    grant_of(&event)
}

/// Records the enforcement of a change that is in the log.
pub async fn record(store: &Store, first: Revision, last: Revision, enforced: Enforced) {
    let event = store.log().events_after(last - 1, 1).await.unwrap().into_iter().next();
    let time = event.map_or(Time::UNIX_EPOCH, |event| event.time);
    store.history().record_enforced(first, last, time, enforced).await.unwrap();
}
