//! Locks and requests about locks.

use crate::{
    api::{
        grpc::convert::{
            enums::ProtoEnum,
            fields::{Fields, Parsed},
            timestamps::timestamp,
        },
        proto::v1 as pb,
    },
    domain::{
        AgentId, End, GroupId, Lock, LockRequest, LockTarget, LockTerms, UnlockRequest,
        ids::check_id,
    },
    service::locks::{LockRef, LockView},
};

pub(in crate::api::grpc) fn lock_request(message: pb::LockAccessRequest) -> Parsed<LockRequest> {
    let pb::LockAccessRequest {
        request_id,
        tenant_id,
        agent_id,
        group_id,
        agent_kind,
        everything,
        reason,
        expire_time,
        duration,
    } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let tenant_id = fields.tenant(tenant_id.as_deref());
    fields.exactly_one(&[
        ("agent_id", !agent_id.is_empty()),
        ("group_id", !group_id.is_empty()),
        ("agent_kind", agent_kind != 0),
        ("everything", everything),
    ]);
    let target = if !agent_id.is_empty() {
        fields.text("agent_id", &agent_id, AgentId::new).map(LockTarget::Agent)
    } else if !group_id.is_empty() {
        fields.text("group_id", &group_id, GroupId::new).map(LockTarget::Group)
    } else if agent_kind != 0 {
        fields.kind("agent_kind", agent_kind).map(LockTarget::AgentKind)
    } else {
        everything.then_some(LockTarget::Everything)
    };
    let reason = fields.required_reason(reason);
    fields.at_most_one(&[("expire_time", expire_time.is_some()), ("duration", duration.is_some())]);
    let end = match (expire_time, duration) {
        (Some(time), _) => fields.time("expire_time", time).map(End::At),
        (None, Some(duration)) => fields.span("duration", duration).map(End::After),
        (None, None) => None,
    };
    let parsed = target.map(|target| LockRequest { request_id, tenant_id, target, reason, end });
    fields.finish(parsed)
}

pub(in crate::api::grpc) fn unlock_request(
    message: pb::UnlockAccessRequest,
) -> Parsed<(LockRef, UnlockRequest)> {
    let pb::UnlockAccessRequest { request_id, tenant_id, lock_id, etag, reason } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let tenant_id = fields.tenant(tenant_id.as_deref());
    let is_id = fields.text("lock_id", &lock_id, check_id);
    let etag = fields.etag(&etag);
    let reason = fields.required_reason(reason);
    let lock = is_id.map(|()| LockRef { tenant_id, text: lock_id });
    fields.finish(lock.map(|lock| (lock, UnlockRequest { request_id, etag, reason })))
}

pub(in crate::api::grpc) fn lock(view: LockView) -> pb::Lock {
    use pb::lock::Target;
    let LockView { lock, state } = view;
    let etag = lock.etag();
    let Lock { terms, reason, create_time, creator, lifting, .. } = lock;
    let LockTerms { lock_id, tenant_id, target, party, expire_time } = terms;
    let target = match target {
        LockTarget::Agent(agent_id) => Target::AgentId(agent_id.into()),
        LockTarget::Group(group_id) => Target::GroupId(group_id.into()),
        LockTarget::AgentKind(kind) => Target::AgentKind(kind.to_proto()),
        LockTarget::Everything => Target::Everything(true),
    };
    let unlock_time = lifting.as_ref().map(|lifting| timestamp(lifting.time));
    let (unlocker, unlock_reason) = lifting.map_or_else(Default::default, |lifting| {
        (lifting.actor.into(), lifting.reason.as_str().to_owned())
    });
    pb::Lock {
        lock_id: lock_id.to_string(),
        tenant_id: tenant_id.map(String::from),
        target: Some(target),
        party: party.to_proto(),
        state: state.to_proto(),
        reason: reason.as_str().to_owned(),
        create_time: Some(timestamp(create_time)),
        creator: creator.into(),
        expire_time: expire_time.map(timestamp),
        unlock_time,
        unlocker,
        unlock_reason,
        etag,
    }
}

pub(in crate::api::grpc) fn locks(views: Vec<LockView>) -> Vec<pb::Lock> {
    views.into_iter().map(lock).collect()
}
