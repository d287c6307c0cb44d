//! Support policies and requests about policies.

use prost_types::Duration as ProtoDuration;

use crate::{
    api::{
        grpc::convert::{
            enums::ProtoEnum,
            fields::{Fields, Parsed},
            grants::agent_kinds,
            timestamps::duration,
        },
        proto::v1 as pb,
    },
    domain::{
        GroupId, OverrideField, OverridesUpdate, PolicyOverrides, PolicyRequest, Span,
        SupportGroup, SupportPolicy, TenantId, ViolationReason,
        overrides::GroupOverride,
        policy::{GROUPS_MAX, PRESETS_MAX},
    },
    service::policy::etag,
};

/// The path of a mask that replaces all overrides.
const ALL_FIELDS: &str = "*";

pub(in crate::api::grpc) fn get_support_policy_request(
    message: pb::GetSupportPolicyRequest,
) -> Parsed<TenantId> {
    let pb::GetSupportPolicyRequest { tenant_id } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    fields.finish(tenant_id)
}

pub(in crate::api::grpc) fn update_support_policy_request(
    message: pb::UpdateSupportPolicyRequest,
) -> Parsed<(TenantId, PolicyRequest)> {
    let pb::UpdateSupportPolicyRequest {
        request_id,
        tenant_id,
        policy_overrides,
        update_mask,
        etag,
        reason,
    } = message;
    let mut fields = Fields::default();
    let request_id = fields.request_id(&request_id);
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let reason = fields.free_text("reason", reason);
    let etag = fields.etag(&etag);
    let policy_overrides = policy_overrides.unwrap_or_default();
    let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
    let changed = masked_fields(&mut fields, &paths, &policy_overrides);
    let update = match overrides(&policy_overrides, &changed) {
        Ok(overrides) => Some(OverridesUpdate { fields: changed, overrides }),
        Err(violations) => {
            fields.extend(violations.within("policy_overrides."));
            None
        }
    };
    let parsed = tenant_id.zip(update).map(|(tenant_id, update)| {
        let request = PolicyRequest { request_id, etag, update, reason };
        (tenant_id, request)
    });
    fields.finish(parsed)
}

/// The fields that a request changes: those of its mask, or without a mask those that are present.
fn masked_fields(
    fields: &mut Fields,
    paths: &[String],
    overrides: &pb::PolicyOverrides,
) -> Vec<OverrideField> {
    if paths.is_empty() {
        let present: Vec<OverrideField> = overrides.fields().collect();
        if present.is_empty() {
            let description = "must name a field of policy_overrides, or a field must be set";
            fields.add("update_mask", ViolationReason::Required, description);
        }
        return present;
    }
    if paths.iter().any(|path| path == ALL_FIELDS) {
        if paths.len() > 1 {
            let description = "must name no field besides \"*\", which names all";
            fields.add("update_mask", ViolationReason::Conflict, description);
        }
        return OverrideField::ALL.to_vec();
    }
    let mut masked = Vec::new();
    for path in paths {
        match OverrideField::ALL.iter().find(|field| field.name() == path) {
            Some(field) if masked.contains(field) => {}
            Some(field) => masked.push(*field),
            None => {
                let names: Vec<&str> =
                    OverrideField::ALL.iter().map(|field| field.name()).collect();
                let description = format!("must be \"*\", or name only {}", names.join(", "));
                fields.add("update_mask", ViolationReason::Malformed, &description);
                break;
            }
        }
    }
    masked
}

/// Parses the changed fields. AIP-134: fields outside the mask are ignored.
fn overrides(message: &pb::PolicyOverrides, changed: &[OverrideField]) -> Parsed<PolicyOverrides> {
    let mut fields = Fields::default();
    let mut parsed = PolicyOverrides::default();
    for field in changed {
        let name = field.name();
        match field {
            OverrideField::Groups => {
                let groups = message.groups.as_ref();
                parsed.groups = groups.map(|groups| group_overrides(&mut fields, groups));
            }
            OverrideField::PresetDurations => {
                let presets = message.preset_durations.as_ref();
                parsed.preset_durations =
                    presets.map(|presets| preset_durations(&mut fields, &presets.durations));
            }
            OverrideField::DefaultDuration => {
                parsed.default_duration = positive(&mut fields, name, message.default_duration);
            }
            OverrideField::MaxDuration => {
                parsed.max_duration = positive(&mut fields, name, message.max_duration);
            }
            OverrideField::UntilRevokedAllowed => {
                parsed.until_revoked_allowed = message.until_revoked_allowed;
            }
            OverrideField::ReasonRequired => parsed.reason_required = message.reason_required,
            OverrideField::TicketRequired => parsed.ticket_required = message.ticket_required,
            OverrideField::MaxScheduleAhead => {
                let ahead = message.max_schedule_ahead;
                parsed.max_schedule_ahead = ahead.and_then(|ahead| fields.span(name, ahead));
            }
            OverrideField::AgentKinds => {
                let kinds = message.agent_kinds.as_ref();
                parsed.agent_kinds = kinds.map(|kinds| fields.agent_kinds(kinds));
            }
        }
    }
    fields.finish(Some(parsed))
}

fn positive(fields: &mut Fields, field: &str, duration: Option<ProtoDuration>) -> Option<Span> {
    let span = fields.span(field, duration?)?;
    if span.is_zero() {
        fields.add(field, ViolationReason::OutOfRange, "must be positive");
    }
    Some(span)
}

fn group_overrides(fields: &mut Fields, message: &pb::GroupOverrides) -> Vec<GroupOverride> {
    let mut parsed: Vec<GroupOverride> = Vec::new();
    if !fields.length("groups.groups", message.groups.len(), GROUPS_MAX) {
        return parsed;
    }
    for (index, group) in message.groups.iter().enumerate() {
        let field = |name: &str| format!("groups.groups[{index}].{name}");
        let group_id = fields.text(&field("group_id"), &group.group_id, GroupId::new);
        let level = fields.level(&field("max_access_level"), group.max_access_level);
        let Some((group_id, max_access_level)) = group_id.zip(level) else { continue };
        if parsed.iter().any(|earlier| earlier.group_id == group_id) {
            let field = field("group_id");
            fields.add(&field, ViolationReason::Conflict, "must be listed only once");
        }
        parsed.push(GroupOverride { group_id, max_access_level });
    }
    parsed
}

fn preset_durations(fields: &mut Fields, presets: &[ProtoDuration]) -> Vec<Span> {
    if !fields.length("preset_durations.durations", presets.len(), PRESETS_MAX) {
        return Vec::new();
    }
    let numbered = presets.iter().enumerate();
    numbered
        .filter_map(|(index, preset)| {
            fields.span(&format!("preset_durations.durations[{index}]"), *preset)
        })
        .collect()
}

pub(in crate::api::grpc) fn support_policy(
    tenant_id: &TenantId,
    policy: &SupportPolicy,
) -> pb::SupportPolicy {
    let etag = etag(policy);
    let SupportPolicy {
        groups,
        preset_durations,
        default_duration,
        max_duration,
        until_revoked_allowed,
        reason_required,
        ticket_required,
        max_schedule_ahead,
        agent_kinds: kinds,
    } = policy;
    pb::SupportPolicy {
        tenant_id: tenant_id.to_string(),
        groups: groups.iter().map(support_group).collect(),
        preset_durations: preset_durations.iter().map(|span| duration(span.0)).collect(),
        default_duration: Some(duration(default_duration.0)),
        max_duration: Some(duration(max_duration.0)),
        until_revoked_allowed: *until_revoked_allowed,
        reason_required: *reason_required,
        ticket_required: *ticket_required,
        max_schedule_ahead: Some(duration(max_schedule_ahead.0)),
        agent_kinds: Some(agent_kinds(kinds.iter().copied())),
        etag,
    }
}

fn support_group(group: &SupportGroup) -> pb::SupportGroup {
    let SupportGroup { group_id, display_name, description, max_access_level } = group;
    pb::SupportGroup {
        group_id: group_id.to_string(),
        display_name: display_name.clone(),
        description: description.clone(),
        max_access_level: max_access_level.to_proto(),
    }
}

pub(in crate::api::grpc) fn policy_overrides(overrides: &PolicyOverrides) -> pb::PolicyOverrides {
    let PolicyOverrides {
        groups,
        preset_durations,
        default_duration,
        max_duration,
        until_revoked_allowed,
        reason_required,
        ticket_required,
        max_schedule_ahead,
        agent_kinds: kinds,
    } = overrides;
    let group = |group: &GroupOverride| pb::GroupOverride {
        group_id: group.group_id.to_string(),
        max_access_level: group.max_access_level.to_proto(),
    };
    let durations = |spans: &Vec<Span>| spans.iter().map(|span| duration(span.0)).collect();
    pb::PolicyOverrides {
        groups: groups
            .as_ref()
            .map(|groups| pb::GroupOverrides { groups: groups.iter().map(group).collect() }),
        preset_durations: preset_durations
            .as_ref()
            .map(|spans| pb::PresetDurations { durations: durations(spans) }),
        default_duration: default_duration.map(|span| duration(span.0)),
        max_duration: max_duration.map(|span| duration(span.0)),
        until_revoked_allowed: *until_revoked_allowed,
        reason_required: *reason_required,
        ticket_required: *ticket_required,
        max_schedule_ahead: max_schedule_ahead.map(|span| duration(span.0)),
        agent_kinds: kinds.as_ref().map(|kinds| agent_kinds(kinds.iter().copied())),
    }
}
