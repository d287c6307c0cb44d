//! Locks: their requests become words, and the words messages.

use crate::{
    api::{
        grpc::convert::{
            fields::{Fields, Parsed},
            responses::timestamp,
        },
        proto::v1 as pb,
    },
    domain::{
        AgentId, End, FreeText, GroupId, Lock, LockRequest, LockState, LockTarget, LockTerms,
        Party, TenantId, UnlockRequest,
        text::{TextError, check_id},
    },
    service::{
        locks::{LockRef, LockView},
        page::PageRequest,
    },
    store::{LockFilter, QueryScope},
};

pub(in crate::api::grpc) fn lock_request(message: pb::LockAccessRequest) -> Parsed<LockRequest> {
    use pb::lock_access_request::{End as ProtoEnd, Target};
    let pb::LockAccessRequest { target, reason, end } = message;
    let mut fields = Fields::default();
    let mut tenant_id = None;
    let target = match target {
        Some(Target::TenantId(id)) => {
            tenant_id = fields.text("tenant_id", &id, TenantId::new);
            Some(LockTarget::Everything)
        }
        Some(Target::AgentId(id)) => {
            fields.text("agent_id", &id, AgentId::new).map(LockTarget::Agent)
        }
        Some(Target::GroupId(id)) => {
            fields.text("group_id", &id, GroupId::new).map(LockTarget::Group)
        }
        Some(Target::Everything(true)) => Some(LockTarget::Everything),
        Some(Target::Everything(false)) => {
            fields.0.add("everything", "must be true if it is given");
            None
        }
        None => {
            let description =
                "must be given: exactly one of tenant_id, agent_id, group_id, everything";
            fields.0.add("target", description);
            None
        }
    };
    let reason = required_note(&mut fields, reason);
    let end = match end {
        Some(ProtoEnd::ExpireTime(end)) => fields.time("expire_time", end).map(End::At),
        Some(ProtoEnd::Duration(length)) => fields.span("duration", length).map(End::After),
        None => None,
    };
    let request_id = None;
    fields.finish(target.map(|target| LockRequest { request_id, tenant_id, target, reason, end }))
}

/// The words of `UnlockAccess`: which lock, and why.
pub(in crate::api::grpc) fn unlock_request(
    message: pb::UnlockAccessRequest,
) -> Parsed<(LockRef, UnlockRequest)> {
    let pb::UnlockAccessRequest { tenant_id, lock_id, reason } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.optional("tenant_id", &tenant_id, TenantId::new);
    let is_id = fields.text("lock_id", &lock_id, check_id);
    let reason = required_note(&mut fields, reason);
    let request = UnlockRequest { request_id: None, etag: None, reason };
    fields.finish(is_id.map(|()| (LockRef { tenant_id, text: lock_id }, request)))
}

/// The words of `ListLocks`: which locks, and which page.
pub(in crate::api::grpc) fn list_locks_request(
    message: pb::ListLocksRequest,
) -> Parsed<(LockFilter, PageRequest)> {
    let pb::ListLocksRequest { tenant_id, include_ended, page_size, page_token } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.optional("tenant_id", &tenant_id, TenantId::new);
    let page = fields.page(page_size, page_token);
    let scope = tenant_id.map_or(QueryScope::All, QueryScope::Tenant);
    fields.finish(Some((LockFilter { scope, include_ended }, page)))
}

/// Whoever locks somebody out, or lets them in again, says why.
fn required_note(fields: &mut Fields, text: String) -> FreeText {
    let is_blank = text.trim().is_empty();
    let note = fields.note("reason", text);
    if is_blank {
        fields.0.add("reason", TextError::Empty);
    }
    note
}

pub(in crate::api::grpc) fn locks(views: Vec<LockView>) -> Vec<pb::Lock> {
    views.into_iter().map(lock).collect()
}

pub(in crate::api::grpc) fn lock(view: LockView) -> pb::Lock {
    use pb::lock::Target;
    let LockView { lock, state } = view;
    let Lock { terms, reason, create_time, creator, lifting, create_sequence: _, sequence: _ } =
        lock;
    let LockTerms { lock_id, tenant_id, target, party, expire_time } = terms;
    // These messages cannot express every target in one tenant, nor a kind. Callers cannot ask for them.
    let target = match (tenant_id, target) {
        (Some(tenant_id), _) => Target::TenantId(tenant_id.into()),
        (None, LockTarget::Agent(id)) => Target::AgentId(id.into()),
        (None, LockTarget::Group(id)) => Target::GroupId(id.into()),
        (None, LockTarget::AgentKind(_) | LockTarget::Everything) => Target::Everything(true),
    };
    let state = match state {
        LockState::Active => pb::LockState::Held,
        LockState::Expired => pb::LockState::Expired,
        LockState::Lifted => pb::LockState::Lifted,
    };
    let unlock_time = lifting.as_ref().map(|lifting| timestamp(lifting.time));
    let (unlocker, unlock_reason) = lifting.map_or_else(Default::default, |lifting| {
        (lifting.actor.to_string(), lifting.reason.as_str().to_owned())
    });
    pb::Lock {
        lock_id: lock_id.to_string(),
        target: Some(target),
        side: lock_side(party),
        state: state.into(),
        reason: reason.as_str().to_owned(),
        create_time: Some(timestamp(create_time)),
        creator: creator.to_string(),
        expire_time: expire_time.map(timestamp),
        unlock_time,
        unlocker,
        unlock_reason,
        revision: 0,
    }
}

pub(super) fn lock_side(party: Party) -> i32 {
    let side = match party {
        Party::Tenant => pb::LockSide::Tenant,
        Party::Vendor => pb::LockSide::Vendor,
    };
    side.into()
}
