//! The messages of `SupportAccessAdmin` become words. Every field is checked, and everything that is wrong is said at once.

use prost_types::Duration as ProtoDuration;

use crate::{
    api::{
        grpc::convert::fields::{Fields, Parsed},
        proto::v1 as pb,
    },
    domain::{
        AgentId, End, ExtendRequest, GrantRequest, GrantState, GroupId, PolicyOverrides,
        PolicyRequest, RequestId, Revision, RevokeRequest, Sequence, Span, TenantId, Ticket,
        grant::AGENTS_MAX,
        overrides::GroupOverrides,
        policy::{GROUPS_MAX, PRESETS_MAX},
        text::check_id,
    },
    service::{GrantRef, page::PageRequest},
    store::{GrantFilter, QueryScope},
};

const ENDS: &str = "must be given: exactly one of expire_time, duration, until_revoked";

pub(in crate::api::grpc) fn grant_request(message: pb::GrantAccessRequest) -> Parsed<GrantRequest> {
    use pb::grant_access_request::End as ProtoEnd;
    let pb::GrantAccessRequest {
        request_id,
        tenant_id,
        group_id,
        agent_ids,
        access_level,
        start_time,
        reason,
        ticket,
        end,
    } = message;
    let mut fields = Fields::default();
    let request_id = fields.optional("request_id", &request_id, RequestId::new);
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let group_id = fields.text("group_id", &group_id, GroupId::new);
    let agent_ids = fields.list("agent_ids", &agent_ids, AGENTS_MAX, AgentId::new);
    let access_level = fields.level("access_level", access_level);
    let start_time = start_time.and_then(|start| fields.time("start_time", start));
    let reason = fields.note("reason", reason);
    let ticket = fields.text("ticket", &ticket, Ticket::new);
    let end = match end {
        Some(ProtoEnd::ExpireTime(end)) => fields.time("expire_time", end).map(End::At),
        Some(ProtoEnd::Duration(length)) => fields.span("duration", length).map(End::After),
        Some(ProtoEnd::UntilRevoked(is_asked)) => fields.until_revoked(is_asked),
        None => {
            fields.0.add("end", ENDS);
            None
        }
    };
    let words = (|| {
        Some(GrantRequest {
            request_id,
            tenant_id: tenant_id?,
            group_id: group_id?,
            agent_ids: agent_ids.into_iter().collect(),
            access_level: access_level?,
            start_time,
            end: end?,
            reason,
            ticket: ticket?,
        })
    })();
    fields.finish(words)
}

/// The words of `ExtendAccess`: which grant, and what is asked for.
pub(in crate::api::grpc) fn extend_request(
    message: pb::ExtendAccessRequest,
) -> Parsed<(GrantRef, ExtendRequest)> {
    use pb::extend_access_request::End as ProtoEnd;
    let pb::ExtendAccessRequest { tenant_id, grant_id, etag, reason, end } = message;
    let mut fields = Fields::default();
    let grant = fields.grant_ref(&tenant_id, grant_id);
    let reason = fields.note("reason", reason);
    let end = match end {
        Some(ProtoEnd::ExpireTime(end)) => fields.time("expire_time", end).map(End::At),
        Some(ProtoEnd::Duration(length)) => fields.span("duration", length).map(End::After),
        Some(ProtoEnd::UntilRevoked(is_asked)) => fields.until_revoked(is_asked),
        None => {
            fields.0.add("end", ENDS);
            None
        }
    };
    let etag = fields.etag(&etag);
    let words = grant.zip(end).map(|(grant, end)| {
        let request = ExtendRequest { request_id: None, etag, end, reason };
        (grant, request)
    });
    fields.finish(words)
}

/// The words of `RevokeAccess`: which grant, and why.
pub(in crate::api::grpc) fn revoke_request(
    message: pb::RevokeAccessRequest,
) -> Parsed<(GrantRef, RevokeRequest)> {
    let pb::RevokeAccessRequest { tenant_id, grant_id, etag, reason } = message;
    let mut fields = Fields::default();
    let grant = fields.grant_ref(&tenant_id, grant_id);
    let etag = fields.etag(&etag);
    let reason = fields.note("reason", reason);
    let request = RevokeRequest { request_id: None, etag, reason };
    fields.finish(grant.map(|grant| (grant, request)))
}

pub(in crate::api::grpc) fn revoke_all_request(
    message: pb::RevokeAllAccessRequest,
) -> Parsed<(TenantId, RevokeRequest)> {
    let pb::RevokeAllAccessRequest { tenant_id, reason } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let reason = fields.note("reason", reason);
    let request = RevokeRequest { reason, ..RevokeRequest::default() };
    fields.finish(tenant_id.map(|tenant_id| (tenant_id, request)))
}

pub(in crate::api::grpc) fn get_grant_request(message: pb::GetGrantRequest) -> Parsed<GrantRef> {
    let pb::GetGrantRequest { tenant_id, grant_id } = message;
    let mut fields = Fields::default();
    let grant = fields.grant_ref(&tenant_id, grant_id);
    fields.finish(grant)
}

pub(in crate::api::grpc) fn list_grants_request(
    message: pb::ListGrantsRequest,
) -> Parsed<(GrantFilter, PageRequest)> {
    let pb::ListGrantsRequest {
        tenant_id,
        states,
        group_id,
        agent_id,
        overlap_start,
        overlap_end,
        page_size,
        page_token,
    } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let numbered = states.iter().enumerate();
    let mut states: Vec<GrantState> = numbered
        .filter_map(|(index, state)| fields.state(&format!("states[{index}]"), *state))
        .collect();
    states.sort_unstable_by_key(|state| *state as u8);
    states.dedup();
    let group_id = fields.optional("group_id", &group_id, GroupId::new);
    let agent_id = fields.optional("agent_id", &agent_id, AgentId::new);
    let overlap_start = overlap_start.and_then(|start| fields.time("overlap_start", start));
    let overlap_end = overlap_end.and_then(|end| fields.time("overlap_end", end));
    if overlap_start.zip(overlap_end).is_some_and(|(start, end)| end <= start) {
        fields.0.add("overlap_end", "must be after overlap_start");
    }
    let page = fields.page(page_size, page_token);
    let words = tenant_id.map(|tenant_id| {
        let scope = QueryScope::Tenant(tenant_id);
        let filter = GrantFilter { scope, states, group_id, agent_id, overlap_start, overlap_end };
        (filter, page)
    });
    fields.finish(words)
}

/// The words of `ListEvents`: of which tenant, or of the vendor's own history, of which grant alone, which page.
pub(in crate::api::grpc) fn list_events_request(
    message: pb::ListEventsRequest,
) -> Parsed<(QueryScope, Option<GrantRef>, PageRequest)> {
    let pb::ListEventsRequest { tenant_id, grant_id, page_size, page_token } = message;
    let mut fields = Fields::default();
    let is_vendors = tenant_id.is_empty();
    let tenant_id = fields.optional("tenant_id", &tenant_id, TenantId::new);
    let grant_id =
        fields.optional("grant_id", &grant_id, |text| check_id(text).map(|()| text.to_owned()));
    let page = fields.page(page_size, page_token);
    if is_vendors && grant_id.is_some() {
        fields.0.add("tenant_id", "must not be empty with grant_id: a grant is a tenant's");
    }
    let grant = grant_id.zip(tenant_id.clone());
    let grant = grant.map(|(text, tenant_id)| GrantRef { tenant_id, text });
    fields.finish(Some((QueryScope::of(tenant_id), grant, page)))
}

pub(in crate::api::grpc) fn get_support_policy_request(
    message: pb::GetSupportPolicyRequest,
) -> Parsed<TenantId> {
    let pb::GetSupportPolicyRequest { tenant_id } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    fields.finish(tenant_id)
}

/// The words of `WaitEnforced`: the revision to wait for.
pub(in crate::api::grpc) fn wait_enforced_request(
    message: pb::WaitEnforcedRequest,
) -> Parsed<Revision> {
    let pb::WaitEnforcedRequest { revision } = message;
    let mut fields = Fields::default();
    if revision < 1 {
        fields.0.add("revision", "must be at least 1");
    }
    fields.finish(Some(revision))
}

/// The words of `ExportHistory`: of which tenant (`None`: of the vendor), after which sequence, and how many.
pub(in crate::api::grpc) fn export_history_request(
    message: pb::ExportHistoryRequest,
) -> Parsed<(Option<TenantId>, Sequence, PageRequest)> {
    let pb::ExportHistoryRequest { tenant_id, after_sequence, page_size } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.optional("tenant_id", &tenant_id, TenantId::new);
    let after = fields.revision("after_sequence", after_sequence);
    let page = fields.page(page_size, String::new());
    fields.finish(Some((tenant_id, after, page)))
}

/// The words of `GetCheckpoint`: of which tenant; `None`: of the vendor.
pub(in crate::api::grpc) fn get_checkpoint_request(
    message: pb::GetCheckpointRequest,
) -> Parsed<Option<TenantId>> {
    let pb::GetCheckpointRequest { tenant_id } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.optional("tenant_id", &tenant_id, TenantId::new);
    fields.finish(Some(tenant_id))
}

/// The words of `UpdateSupportPolicy`: of which tenant, and what is asked for.
pub(in crate::api::grpc) fn update_support_policy_request(
    message: pb::UpdateSupportPolicyRequest,
) -> Parsed<(TenantId, PolicyRequest)> {
    let pb::UpdateSupportPolicyRequest { tenant_id, support_policy, update_mask, etag, reason } =
        message;
    let mut fields = Fields::default();
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let reason = fields.note("reason", reason);
    let paths = update_mask.unwrap_or_default().paths;
    if paths.is_empty() {
        fields.0.add("update_mask", "must name at least one field of support_policy");
    }
    let mut update = PolicyOverrides::default();
    match support_policy {
        Some(policy) => {
            for path in &paths {
                set_policy_field(&mut fields, &mut update, path, &policy);
            }
        }
        None => fields.0.add("support_policy", "must be given"),
    }
    let etag = fields.etag(&etag);
    let request = PolicyRequest { request_id: None, etag, update, reason };
    fields.finish(tenant_id.map(|tenant_id| (tenant_id, request)))
}

fn set_policy_field(
    fields: &mut Fields,
    update: &mut PolicyOverrides,
    path: &str,
    policy: &pb::SupportPolicy,
) {
    let field = format!("support_policy.{path}");
    match path {
        "groups" => update.groups = Some(policy_groups(fields, &field, &policy.groups)),
        "preset_durations" => {
            update.preset_durations =
                Some(policy_presets(fields, &field, &policy.preset_durations));
        }
        "default_duration" => {
            let span = policy.default_duration.unwrap_or_default();
            update.default_duration = fields.span(&field, span);
        }
        "longest_duration" => {
            let span = policy.longest_duration.unwrap_or_default();
            update.longest_duration = fields.span(&field, span);
        }
        "until_revoked_allowed" => {
            update.until_revoked_allowed = Some(policy.until_revoked_allowed);
        }
        "reason_required" => update.reason_required = Some(policy.reason_required),
        "ticket_required" => update.ticket_required = Some(policy.ticket_required),
        "longest_schedule_ahead" => {
            let span = policy.longest_schedule_ahead.unwrap_or_default();
            update.longest_schedule_ahead = fields.span(&field, span);
        }
        _ => fields.0.add(
            "update_mask",
            "may name groups, preset_durations, default_duration, longest_duration, \
             until_revoked_allowed, reason_required, ticket_required, longest_schedule_ahead",
        ),
    }
}

fn policy_groups(
    fields: &mut Fields,
    field: &str,
    groups: &[pb::SupportGroup],
) -> Vec<GroupOverrides> {
    if groups.len() > GROUPS_MAX {
        fields.0.add(field, format!("must be at most {GROUPS_MAX}"));
        return Vec::new();
    }
    let mut parsed: Vec<GroupOverrides> = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let group_id = fields.text(&format!("{field}.group_id"), &group.group_id, GroupId::new);
        let level = fields.level(&format!("{field}.highest_level"), group.highest_level);
        let Some((group_id, highest_level)) = group_id.zip(level) else { continue };
        if parsed.iter().any(|other| other.group_id == group_id) {
            fields.0.add(format!("{field}.group_id"), "must be named only once");
        }
        parsed.push(GroupOverrides { group_id, highest_level });
    }
    parsed
}

fn policy_presets(fields: &mut Fields, field: &str, presets: &[ProtoDuration]) -> Vec<Span> {
    if presets.len() > PRESETS_MAX {
        fields.0.add(field, format!("must be at most {PRESETS_MAX}"));
        return Vec::new();
    }
    let numbered = presets.iter().enumerate();
    numbered
        .filter_map(|(index, preset)| fields.span(&format!("{field}[{index}]"), *preset))
        .collect()
}
