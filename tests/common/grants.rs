//! Grants that are written directly to a store.

use std::collections::BTreeSet;

use support_access::{
    domain::{
        AccessLevel, AdmittedKinds, Attribution, EventKind, FreeText, Grant, GrantId, GrantTerms,
        GroupId, TenantId, Ticket, Time, ids::Actor,
    },
    store::NewEvent,
};
use uuid::Uuid;

/// A new grant of read and write access that starts at `now`, to every agent of the group.
pub fn new_grant(tenant: &str, group: &str, now: Time, expire_time: Option<Time>) -> NewEvent {
    let (tenant_id, actor) = (TenantId::new(tenant).unwrap(), Actor::new("admin").unwrap());
    let terms = GrantTerms {
        grant_id: GrantId(Uuid::now_v7()),
        group_id: GroupId::new(group).unwrap(),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::ReadWrite,
        agent_kinds: AdmittedKinds::HUMAN,
        start_time: now,
        expire_time,
        revoke_time: None,
        is_expired: false,
    };
    let grant = Grant {
        tenant_id: tenant_id.clone(),
        terms,
        reason: FreeText::default(),
        ticket: Ticket::default(),
        create_time: now,
        creator: actor.clone(),
        revocation: None,
        create_sequence: 0,
        sequence: 0,
    };
    let (author, kind) = (Attribution::direct(actor), EventKind::Granted { grant });
    NewEvent { tenant_id: Some(tenant_id), author, reason: FreeText::default(), kind }
}
