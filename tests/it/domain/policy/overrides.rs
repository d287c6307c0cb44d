//! Overrides of a tenant.

use support_access::domain::overrides::{
    GroupOverride, OverrideField, OverridesUpdate, PolicyOverrides,
};

use super::*;

#[test]
fn an_effective_policy_is_never_less_strict_than_the_catalogue() {
    let own = PolicyOverrides {
        groups: Some(vec![GroupOverride {
            group_id: group("support"),
            max_access_level: AccessLevel::Admin,
        }]),
        preset_durations: Some(vec![Span::hours(1), Span::days(7)]),
        default_duration: Some(Span::days(30)),
        max_duration: Some(Span::days(30)),
        until_revoked_allowed: Some(true),
        reason_required: Some(false),
        ticket_required: None,
        max_schedule_ahead: Some(Span::days(60)),
        agent_kinds: None,
    };
    // The vendor narrowed the catalogue after the tenant had chosen.
    let catalogue = SupportPolicy {
        groups: vec![SupportGroup {
            group_id: group("support"),
            display_name: "Support".into(),
            description: String::new(),
            max_access_level: AccessLevel::ReadOnly,
        }],
        preset_durations: vec![Span::hours(1), Span::days(1)],
        default_duration: Span::days(1),
        max_duration: Span::days(2),
        until_revoked_allowed: false,
        reason_required: true,
        ticket_required: true,
        max_schedule_ahead: Span::days(5),
        agent_kinds: vec![AgentKindEntry::HUMAN],
    };
    let effective = catalogue.narrowed_by(&own);
    let expected = SupportPolicy {
        preset_durations: vec![Span::hours(1)],
        default_duration: Span::days(2),
        ..catalogue.clone()
    };
    assert_eq!(effective, expected);
    assert_eq!(catalogue.narrowed_by(&PolicyOverrides::default()), catalogue);
}

#[test]
fn overrides_that_exceed_the_catalogue_are_forbidden_by_field() {
    let catalogue = SupportPolicy {
        until_revoked_allowed: false,
        reason_required: true,
        ticket_required: true,
        ..SupportPolicy::default()
    };
    let ai = AgentKindEntry { agent_kind: AgentKind::Ai, ..AgentKindEntry::HUMAN };
    let own = PolicyOverrides {
        groups: Some(vec![GroupOverride {
            group_id: group("billing"),
            max_access_level: AccessLevel::ReadOnly,
        }]),
        preset_durations: Some(vec![Span::days(2)]),
        default_duration: Some(Span::days(91)),
        max_duration: Some(Span::days(91)),
        until_revoked_allowed: Some(true),
        reason_required: Some(false),
        ticket_required: Some(false),
        max_schedule_ahead: Some(Span::days(91)),
        agent_kinds: Some(vec![ai]),
    };
    let fields = [
        "groups.groups[0].group_id",
        "preset_durations.durations[0]",
        "default_duration",
        "max_duration",
        "max_schedule_ahead",
        "until_revoked_allowed",
        "reason_required",
        "ticket_required",
        "agent_kinds.entries[0].agent_kind",
    ];
    assert_forbidden(
        own.check(&catalogue).map_err(PolicyError::from),
        &fields.map(|field| (field, Reason::ExceedsCatalogue)),
        &[
            ("agent_kinds", "HUMAN"),
            ("groups", "support, engineering"),
            ("max_duration", "7776000s"),
            ("max_schedule_ahead", "7776000s"),
            ("preset_durations", "3600s, 28800s, 86400s, 604800s, 2592000s"),
            ("reason_required", "true"),
            ("ticket_required", "true"),
            ("until_revoked_allowed", "false"),
        ],
    );
}

#[test]
fn an_update_sets_and_clears_the_named_fields_only() {
    let old = PolicyOverrides {
        reason_required: Some(true),
        max_duration: Some(Span::days(3)),
        ..PolicyOverrides::default()
    };
    let update = OverridesUpdate {
        fields: vec![OverrideField::MaxDuration, OverrideField::TicketRequired],
        overrides: PolicyOverrides {
            ticket_required: Some(true),
            reason_required: Some(false),
            ..PolicyOverrides::default()
        },
    };
    let new = PolicyOverrides {
        reason_required: Some(true),
        ticket_required: Some(true),
        ..PolicyOverrides::default()
    };
    assert_eq!(old.merged(&update), new);
}
