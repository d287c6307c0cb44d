//! Replicated locks.

use crate::{
    api::{
        grpc::convert::{
            enums::ProtoEnum,
            fields::Parsed,
            replication::{malformed, parse_time, parse_uuid, required},
        },
        proto::replication::v1::{self as rpb, replicated_lock::Target},
    },
    domain::{
        AgentId, AgentKind, GroupId, LockId, LockTarget, LockTerms, Party, TenantId,
        ids::TextError, violation::Violations,
    },
    node::message::LockChange,
};

pub(super) fn message(terms: &LockTerms, ended: bool) -> rpb::ReplicatedLock {
    let LockTerms { lock_id, tenant_id, target, party, expire_time } = terms;
    let target = match target {
        LockTarget::Agent(agent_id) => Target::AgentId(agent_id.to_string()),
        LockTarget::Group(group_id) => Target::GroupId(group_id.to_string()),
        LockTarget::AgentKind(kind) => Target::AgentKind(kind.to_proto()),
        LockTarget::Everything => Target::Everything(true),
    };
    rpb::ReplicatedLock {
        lock_id: lock_id.0.as_bytes().to_vec(),
        tenant_id: tenant_id.as_ref().map(ToString::to_string),
        target: Some(target),
        party: party.to_proto(),
        expire_time_us: expire_time.map(|time| time.timestamp_micros()),
        ended,
    }
}

/// Parses a lock of a snapshot, which contains no ended locks.
pub(super) fn parse_live(message: rpb::ReplicatedLock) -> Parsed<LockTerms> {
    match parse(message)? {
        LockChange { terms, is_ended: false } => Ok(terms),
        LockChange { .. } => Err(malformed("ended", "must be false in a snapshot")),
    }
}

pub(super) fn parse(message: rpb::ReplicatedLock) -> Parsed<LockChange> {
    let rpb::ReplicatedLock { lock_id, tenant_id, target, party, expire_time_us, ended } = message;
    let tenant_id =
        tenant_id.map(|text| parse_id("tenant_id", &text, TenantId::new)).transpose()?;
    let target = match required("target", target)? {
        Target::AgentId(text) => LockTarget::Agent(parse_id("agent_id", &text, AgentId::new)?),
        Target::GroupId(text) => LockTarget::Group(parse_id("group_id", &text, GroupId::new)?),
        Target::AgentKind(kind) => LockTarget::AgentKind(
            AgentKind::from_proto(kind)
                .ok_or_else(|| malformed("agent_kind", "must be an agent kind"))?,
        ),
        Target::Everything(true) => LockTarget::Everything,
        Target::Everything(false) => return Err(malformed("everything", "must be true")),
    };
    let party = Party::from_proto(party);
    let terms = LockTerms {
        lock_id: LockId(parse_uuid("lock_id", &lock_id)?),
        tenant_id,
        target,
        party: party.ok_or_else(|| malformed("party", "must be PARTY_TENANT or PARTY_VENDOR"))?,
        expire_time: expire_time_us.map(|us| parse_time("expire_time_us", us)).transpose()?,
    };
    Ok(LockChange { terms, is_ended: ended })
}

fn parse_id<T>(field: &str, text: &str, new: fn(&str) -> Result<T, TextError>) -> Parsed<T> {
    new(text).map_err(|error| Violations::of_text(field, error))
}
