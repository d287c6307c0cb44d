//! Grants and requests about grants.

use crate::{
    api::{
        grpc::convert::{
            enums::ProtoEnum,
            fields::{Fields, Parsed},
            timestamps::{duration, timestamp},
        },
        proto::v1 as pb,
    },
    domain::{
        AgentKindEntry, ExtendRequest, Grant, GrantRequest, GrantState, GrantTerms, GroupId,
        RevokeRequest, TenantId, Ticket, ViolationReason,
    },
    service::{Enforcement, GrantRef, GrantView, grants::ExtendOutcome},
};

pub(in crate::api::grpc) fn grant_request(message: pb::GrantAccessRequest) -> Parsed<GrantRequest> {
    let pb::GrantAccessRequest {
        request_id,
        tenant_id,
        group_id,
        named_agents,
        access_level,
        agent_kinds,
        start_time,
        reason,
        ticket,
        expire_time,
        duration,
        until_revoked,
    } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let group_id = fields.text("group_id", &group_id, GroupId::new);
    let agent_ids = fields.named_agents(named_agents);
    let access_level = fields.level("access_level", access_level);
    if agent_kinds.as_ref().is_some_and(|kinds| kinds.entries.is_empty()) {
        let description = "must not be empty; omit agent_kinds to admit humans";
        fields.add("agent_kinds.entries", ViolationReason::Required, description);
    }
    let agent_kinds = agent_kinds.map(|kinds| fields.agent_kinds(&kinds));
    let start_time = start_time.and_then(|start| fields.time("start_time", start));
    let reason = fields.free_text("reason", reason);
    let ticket = fields.text("ticket", &ticket, Ticket::new);
    let end = fields.end(expire_time, duration, until_revoked);
    let parsed = (|| {
        Some(GrantRequest {
            request_id,
            tenant_id: tenant_id?,
            group_id: group_id?,
            agent_ids: agent_ids.into_iter().collect(),
            access_level: access_level?,
            agent_kinds,
            start_time,
            end: end?,
            reason,
            ticket: ticket?,
        })
    })();
    fields.finish(parsed)
}

pub(in crate::api::grpc) fn extend_request(
    message: pb::ExtendAccessRequest,
) -> Parsed<(GrantRef, ExtendRequest)> {
    let pb::ExtendAccessRequest {
        request_id,
        tenant_id,
        grant_id,
        etag,
        reason,
        expire_time,
        duration,
        until_revoked,
    } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let grant = fields.grant_ref(&tenant_id, grant_id);
    let etag = fields.etag(&etag);
    let reason = fields.free_text("reason", reason);
    let end = fields.end(expire_time, duration, until_revoked);
    let parsed = grant.zip(end);
    fields
        .finish(parsed.map(|(grant, end)| (grant, ExtendRequest { request_id, etag, end, reason })))
}

pub(in crate::api::grpc) fn revoke_request(
    message: pb::RevokeAccessRequest,
) -> Parsed<(GrantRef, RevokeRequest)> {
    let pb::RevokeAccessRequest { request_id, tenant_id, grant_id, etag, reason } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let grant = fields.grant_ref(&tenant_id, grant_id);
    let etag = fields.etag(&etag);
    let reason = fields.free_text("reason", reason);
    fields.finish(grant.map(|grant| (grant, RevokeRequest { request_id, etag, reason })))
}

pub(in crate::api::grpc) fn revoke_all_request(
    message: pb::RevokeAllAccessRequest,
) -> Parsed<(TenantId, RevokeRequest)> {
    let pb::RevokeAllAccessRequest { request_id, tenant_id, reason } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let reason = fields.free_text("reason", reason);
    let request = RevokeRequest { request_id, etag: None, reason };
    fields.finish(tenant_id.map(|tenant_id| (tenant_id, request)))
}

pub(in crate::api::grpc) fn get_grant_request(message: pb::GetGrantRequest) -> Parsed<GrantRef> {
    let pb::GetGrantRequest { tenant_id, grant_id } = message;
    let mut fields = Fields::default();
    let grant = fields.grant_ref(&tenant_id, grant_id);
    fields.finish(grant)
}

/// The part of a grant that check nodes know.
pub(super) fn terms(tenant_id: TenantId, terms: GrantTerms, state: GrantState) -> pb::Grant {
    let GrantTerms {
        grant_id,
        group_id,
        agent_ids,
        access_level,
        agent_kinds,
        start_time,
        expire_time,
        revoke_time,
        is_expired: _,
    } = terms;
    // A grant states the effective level of each kind.
    let kinds = agent_kinds.entries().map(|entry| {
        let level = entry.max_access_level.map_or(access_level, |max| max.min(access_level));
        AgentKindEntry { max_access_level: Some(level), ..entry }
    });
    let agent_ids: Vec<String> = agent_ids.into_iter().map(String::from).collect();
    pb::Grant {
        grant_id: grant_id.to_string(),
        tenant_id: tenant_id.into(),
        group_id: group_id.into(),
        named_agents: (!agent_ids.is_empty()).then_some(pb::NamedAgents { agent_ids }),
        access_level: access_level.to_proto(),
        agent_kinds: Some(self::agent_kinds(kinds)),
        state: state.to_proto(),
        start_time: Some(timestamp(start_time)),
        expire_time: expire_time.map(timestamp),
        revoke_time: revoke_time.map(timestamp),
        end_cause: end_cause(state).into(),
        ..pb::Grant::default()
    }
}

pub(in crate::api::grpc) fn grant(view: GrantView) -> pb::Grant {
    let GrantView { grant, state } = view;
    let etag = grant.etag();
    let Grant { tenant_id, terms, reason, ticket, create_time, creator, revocation, .. } = grant;
    let (revoker, revoke_reason) = revocation.map_or_else(Default::default, |revocation| {
        (revocation.revoker.into(), revocation.reason.as_str().to_owned())
    });
    pb::Grant {
        reason: reason.as_str().to_owned(),
        ticket: ticket.as_str().to_owned(),
        create_time: Some(timestamp(create_time)),
        creator: creator.into(),
        revoker,
        revoke_reason,
        etag,
        ..self::terms(tenant_id, terms, state)
    }
}

pub(in crate::api::grpc) fn grants(views: Vec<GrantView>) -> Vec<pb::Grant> {
    views.into_iter().map(grant).collect()
}

pub(super) fn agent_kinds(entries: impl IntoIterator<Item = AgentKindEntry>) -> pb::AgentKinds {
    pb::AgentKinds { entries: entries.into_iter().map(agent_kind_entry).collect() }
}

pub(super) fn agent_kind_entry(entry: AgentKindEntry) -> pb::AgentKindEntry {
    let AgentKindEntry { agent_kind, max_access_level, on_behalf_of_required } = entry;
    pb::AgentKindEntry {
        agent_kind: agent_kind.to_proto(),
        max_access_level: max_access_level.map(ProtoEnum::to_proto).unwrap_or_default(),
        on_behalf_of_required,
    }
}

pub(in crate::api::grpc) fn extended(outcome: ExtendOutcome) -> pb::ExtendAccessResponse {
    let ExtendOutcome { grant: view, previous_expire_time, enforcement: reached } = outcome;
    pb::ExtendAccessResponse {
        grant: Some(grant(view)),
        previous_expire_time: previous_expire_time.map(timestamp),
        consistency_token: reached.token.to_string(),
        enforcement: Some(enforcement(reached)),
    }
}

fn end_cause(state: GrantState) -> pb::EndCause {
    match state {
        GrantState::Scheduled | GrantState::Active => pb::EndCause::Unspecified,
        GrantState::Expired => pb::EndCause::Time,
        GrantState::Revoked => pb::EndCause::Revoked,
    }
}

pub(in crate::api::grpc) fn enforcement(enforcement: Enforcement) -> pb::Enforcement {
    let Enforcement {
        state,
        revision: _,
        token,
        elapsed,
        nodes_acknowledged,
        nodes_lapsed,
        nodes_pending,
        complete_by,
    } = enforcement;
    let count = |nodes: u32| nodes.try_into().unwrap_or(i32::MAX);
    pb::Enforcement {
        state: state.to_proto(),
        consistency_token: token.to_string(),
        elapsed: Some(duration(elapsed)),
        nodes_acknowledged: count(nodes_acknowledged),
        nodes_lapsed: count(nodes_lapsed),
        nodes_pending: count(nodes_pending),
        complete_by: Some(timestamp(complete_by)),
    }
}
