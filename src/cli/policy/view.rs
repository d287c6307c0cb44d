//! Support policies for people.

use crate::{
    api::proto::v1,
    cli::{
        grants::view::grants,
        table::{Cell, Column, Layout, details, table},
        view::{duration, enforcement, kinds, level, yes_or_no},
    },
};

const COLUMNS: [Column; 4] = [
    Column::fixed("GROUP", 0),
    Column::fixed("MAX LEVEL", 0),
    Column::text("NAME", 1),
    Column::text("DESCRIPTION", 2),
];

pub(super) fn got(layout: Layout, response: &v1::GetSupportPolicyResponse) -> String {
    let policy = response.support_policy.clone().unwrap_or_default();
    let rows = rows(&policy, response.policy_overrides.as_ref());
    details(layout, &rows) + "\n" + &groups(layout, &policy)
}

pub(super) fn updated(layout: Layout, response: &v1::UpdateSupportPolicyResponse) -> String {
    let policy = response.support_policy.clone().unwrap_or_default();
    let mut rows = rows(&policy, response.policy_overrides.as_ref());
    rows.extend(enforcement(response.enforcement.as_ref()));
    let text = details(layout, &rows) + "\n" + &groups(layout, &policy);
    if response.grants_outside_policy.is_empty() {
        return text;
    }
    text + "\nThe new policy would not allow these existing grants. They did not change:\n\n"
        + &grants(layout, &response.grants_outside_policy)
}

fn rows(
    policy: &v1::SupportPolicy,
    overrides: Option<&v1::PolicyOverrides>,
) -> Vec<(&'static str, Cell)> {
    let presets = policy.preset_durations.iter().map(|preset| duration(Some(preset)));
    let presets = presets.collect::<Vec<_>>().join(", ");
    vec![
        ("Tenant", Cell::new(&policy.tenant_id)),
        ("Preset durations", Cell::new(presets)),
        ("Default duration", Cell::new(duration(policy.default_duration.as_ref()))),
        ("Max duration", Cell::new(duration(policy.max_duration.as_ref()))),
        ("Until revoked allowed", Cell::new(yes_or_no(policy.until_revoked_allowed))),
        ("Reason required", Cell::new(yes_or_no(policy.reason_required))),
        ("Ticket required", Cell::new(yes_or_no(policy.ticket_required))),
        ("Max schedule ahead", Cell::new(duration(policy.max_schedule_ahead.as_ref()))),
        ("Agent kinds", Cell::new(agent_kinds(policy))),
        ("Overridden", Cell::new(overridden(overrides))),
        ("Etag", Cell::new(&policy.etag)),
    ]
}

fn agent_kinds(policy: &v1::SupportPolicy) -> String {
    kinds(policy.agent_kinds.as_ref(), v1::AccessLevel::Unspecified)
}

/// The names of a tenant's overrides.
fn overridden(overrides: Option<&v1::PolicyOverrides>) -> String {
    let fields = overrides.into_iter().flat_map(v1::PolicyOverrides::fields);
    fields.map(|field| field.name().replace('_', " ")).collect::<Vec<_>>().join(", ")
}

fn groups(layout: Layout, policy: &v1::SupportPolicy) -> String {
    if policy.groups.is_empty() {
        return "No group may be granted access.\n".into();
    }
    let row = |group: &v1::SupportGroup| {
        vec![
            Cell::new(&group.group_id),
            Cell::new(level(group.max_access_level())),
            Cell::new(&group.display_name),
            Cell::new(&group.description),
        ]
    };
    table(layout, &COLUMNS, &policy.groups.iter().map(row).collect::<Vec<_>>())
}

/// A policy in one line.
pub(crate) fn summary(policy: &v1::SupportPolicy) -> String {
    let group = |group: &v1::SupportGroup| {
        format!("{}:{}", group.group_id, level(group.max_access_level()))
    };
    let groups = policy.groups.iter().map(group).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "groups {}; kinds {}; at most {}; starts up to {} ahead",
        if groups.is_empty() { "none" } else { &groups },
        agent_kinds(policy),
        duration(policy.max_duration.as_ref()),
        duration(policy.max_schedule_ahead.as_ref()),
    );
    let rules = [
        (policy.until_revoked_allowed, "; until revoked allowed"),
        (policy.reason_required, "; reason required"),
        (policy.ticket_required, "; ticket required"),
    ];
    rules.iter().filter(|(holds, _)| *holds).for_each(|(_, rule)| text += rule);
    text
}
