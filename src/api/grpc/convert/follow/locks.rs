//! Locks on their way to a follower.

use crate::{
    api::{
        grpc::convert::{
            fields::Parsed,
            follow::{time, uuid},
            locks::lock_side,
        },
        proto::v1 as pb,
    },
    domain::{
        AgentId, GroupId, LockId, LockTarget, LockTerms, Party, TenantId, text::TextError,
        violation::Violations,
    },
    node::message::LockChange,
};

pub(super) fn write(terms: &LockTerms, ended: bool) -> pb::FedLock {
    use pb::fed_lock::Target;
    let LockTerms { lock_id, tenant_id, target, party, expire_time } = terms;
    // These messages cannot express every target in one tenant, nor a kind: the follower locks more.
    let target = match (tenant_id, target) {
        (Some(tenant_id), _) => Target::TenantId(tenant_id.to_string()),
        (None, LockTarget::Agent(id)) => Target::AgentId(id.to_string()),
        (None, LockTarget::Group(id)) => Target::GroupId(id.to_string()),
        (None, LockTarget::AgentKind(_) | LockTarget::Everything) => Target::Everything(true),
    };
    pb::FedLock {
        lock_id: lock_id.0.as_bytes().to_vec(),
        target: Some(target),
        side: lock_side(*party),
        expire_time_us: expire_time.map(|time| time.timestamp_micros()),
        ended,
    }
}

/// A lock of a snapshot, where there is none that has ended.
pub(super) fn read_held(message: pb::FedLock) -> Parsed<LockTerms> {
    match read(message)? {
        LockChange { terms, is_ended: false } => Ok(terms),
        LockChange { .. } => Err(Violations::of("ended", "must be false in a snapshot")),
    }
}

pub(super) fn read(message: pb::FedLock) -> Parsed<LockChange> {
    use pb::fed_lock::Target;
    let pb::FedLock { lock_id, target, side, expire_time_us, ended } = message;
    let mut tenant_id = None;
    let target = match target {
        Some(Target::TenantId(id)) => {
            tenant_id = Some(id_of("tenant_id", &id, TenantId::new)?);
            LockTarget::Everything
        }
        Some(Target::AgentId(id)) => LockTarget::Agent(id_of("agent_id", &id, AgentId::new)?),
        Some(Target::GroupId(id)) => LockTarget::Group(id_of("group_id", &id, GroupId::new)?),
        Some(Target::Everything(true)) => LockTarget::Everything,
        Some(Target::Everything(false)) => {
            return Err(Violations::of("everything", "must be true if it is given"));
        }
        None => {
            let description = "must be tenant_id, agent_id, group_id or everything";
            return Err(Violations::of("target", description));
        }
    };
    let party = match pb::LockSide::try_from(side) {
        Ok(pb::LockSide::Tenant) => Party::Tenant,
        Ok(pb::LockSide::Vendor) => Party::Vendor,
        Ok(pb::LockSide::Unspecified) | Err(_) => {
            return Err(Violations::of("side", "must be LOCK_SIDE_TENANT or LOCK_SIDE_VENDOR"));
        }
    };
    let terms = LockTerms {
        lock_id: LockId(uuid("lock_id", &lock_id)?),
        tenant_id,
        target,
        party,
        expire_time: expire_time_us.map(|it| time("expire_time_us", it)).transpose()?,
    };
    Ok(LockChange { terms, is_ended: ended })
}

fn id_of<T>(field: &str, text: &str, new: fn(&str) -> Result<T, TextError>) -> Parsed<T> {
    new(text).map_err(|error| Violations::of(field, error))
}
