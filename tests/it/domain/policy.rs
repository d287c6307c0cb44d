//! Grants and extensions under a support policy.

use chrono::TimeDelta;
use support_access::domain::{
    AccessLevel, AdmittedKinds, AgentKind, AgentKindEntry, End, ExtendRequest, FreeText, Grant,
    GrantId, GrantRequest, GrantTerms, GroupId, Span, SupportGroup, SupportPolicy, TenantId,
    Ticket, Time, ViolationReason as Reason, Violations,
    ids::Actor,
    policy::{NewTerms, PolicyError},
    time::from_micros,
};

mod kinds;
mod overrides;

fn now() -> Time {
    from_micros(1_700_000_000_000_000).unwrap()
}

fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

/// A request that the default policy allows.
fn mk_request() -> GrantRequest {
    GrantRequest {
        request_id: None,
        tenant_id: TenantId::new("acme").unwrap(),
        group_id: group("support"),
        agent_ids: [].into(),
        access_level: AccessLevel::ReadOnly,
        agent_kinds: None,
        start_time: None,
        end: End::After(Span::days(7)),
        reason: FreeText::default(),
        ticket: Ticket::default(),
    }
}

fn mk_grant(start_time: Time, expire_time: Option<Time>) -> Grant {
    let request = mk_request();
    Grant {
        tenant_id: request.tenant_id,
        terms: GrantTerms {
            grant_id: GrantId(uuid::Uuid::nil()),
            group_id: request.group_id,
            agent_ids: request.agent_ids,
            access_level: request.access_level,
            agent_kinds: AdmittedKinds::HUMAN,
            start_time,
            expire_time,
            revoke_time: None,
            is_expired: false,
        },
        reason: FreeText::default(),
        ticket: Ticket::default(),
        create_time: start_time,
        creator: Actor::new("admin").unwrap(),
        revocation: None,
        create_sequence: 1,
        sequence: 1,
    }
}

fn extension(end: End) -> ExtendRequest {
    ExtendRequest { request_id: None, etag: None, end, reason: FreeText::default() }
}

fn found(violations: &Violations) -> Vec<(&str, Reason)> {
    let all = violations.as_slice().iter();
    all.map(|violation| (violation.field.as_str(), violation.reason)).collect()
}

/// The violations of a request that no policy allows.
#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: Result<T, PolicyError>, expected: &[(&str, Reason)]) {
    match result {
        Err(PolicyError::Invalid(violations)) => assert_eq!(found(&violations), expected),
        other => panic!("must be invalid: {other:?}"),
    }
}

/// The violations of a request that this policy forbids, and the exceeded limits.
#[track_caller]
fn assert_forbidden<T: std::fmt::Debug>(
    result: Result<T, PolicyError>,
    expected: &[(&str, Reason)],
    limits: &[(&str, &str)],
) {
    match result {
        Err(PolicyError::Forbidden(forbidden)) => {
            assert_eq!(found(&forbidden.violations), expected);
            let actual: Vec<_> =
                forbidden.limits.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(actual, limits);
        }
        other => panic!("must be forbidden: {other:?}"),
    }
}

#[test]
fn a_grant_applies_from_its_start_until_its_end() {
    let policy = SupportPolicy::default();
    let in_an_hour = now() + TimeDelta::hours(1);
    let cases = [
        (None, End::After(Span::days(7)), now(), Some(now() + TimeDelta::days(7))),
        (None, End::UntilRevoked, now(), None),
        (None, End::At(in_an_hour), now(), Some(in_an_hour)),
        (
            Some(in_an_hour),
            End::After(Span::hours(1)),
            in_an_hour,
            Some(now() + TimeDelta::hours(2)),
        ),
        // Clocks differ: a start a few minutes ago means now.
        (Some(now() - TimeDelta::minutes(5)), End::At(in_an_hour), now(), Some(in_an_hour)),
    ];
    for (start, end, start_time, expire_time) in cases {
        let request = GrantRequest { start_time: start, end, ..mk_request() };
        let expected = NewTerms { start_time, expire_time, agent_kinds: AdmittedKinds::HUMAN };
        assert_eq!(policy.check_grant(&request, now()), Ok(expected));
    }
}

#[test]
fn times_that_no_policy_allows_are_invalid() {
    let policy = SupportPolicy::default();
    let base = mk_request();
    let cases: Vec<(GrantRequest, &[(&str, Reason)])> = vec![
        (
            GrantRequest { end: End::After(Span::default()), ..base.clone() },
            &[("duration", Reason::OutOfRange)],
        ),
        (
            GrantRequest { end: End::At(now()), ..base.clone() },
            &[("expire_time", Reason::OutOfRange)],
        ),
        (
            GrantRequest { start_time: Some(now() - TimeDelta::minutes(6)), ..base.clone() },
            &[("start_time", Reason::OutOfRange)],
        ),
        (
            GrantRequest {
                start_time: Some(now() + TimeDelta::hours(2)),
                end: End::At(now() + TimeDelta::hours(1)),
                ..base
            },
            &[("expire_time", Reason::OutOfRange)],
        ),
    ];
    for (request, expected) in cases {
        assert_invalid(policy.check_grant(&request, now()), expected);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_policy_forbids_by_field_and_states_its_limits() {
    type Case<'a> = (GrantRequest, &'a [(&'a str, Reason)], &'a [(&'a str, &'a str)]);
    let strict = SupportPolicy {
        until_revoked_allowed: false,
        reason_required: true,
        ticket_required: true,
        max_schedule_ahead: Span::days(1),
        groups: vec![SupportGroup {
            group_id: group("support"),
            display_name: String::new(),
            description: String::new(),
            max_access_level: AccessLevel::ReadWrite,
        }],
        ..SupportPolicy::default()
    };
    let base = GrantRequest {
        reason: FreeText::new("broken").unwrap(),
        ticket: Ticket::new("T-1").unwrap(),
        ..mk_request()
    };
    assert!(strict.check_grant(&base, now()).is_ok());
    let late = now() + TimeDelta::days(2);
    let too_long = now() + TimeDelta::days(91);
    let cases: Vec<Case<'_>> = vec![
        (
            GrantRequest { group_id: group("engineering"), ..base.clone() },
            &[("group_id", Reason::GroupNotAllowed)],
            &[("groups", "support")],
        ),
        (
            GrantRequest { access_level: AccessLevel::Admin, ..base.clone() },
            &[("access_level", Reason::LevelNotAllowed)],
            &[("max_access_level", "READ_WRITE")],
        ),
        (
            GrantRequest { end: End::UntilRevoked, ..base.clone() },
            &[("until_revoked", Reason::UntilRevokedNotAllowed)],
            &[("until_revoked_allowed", "false")],
        ),
        (
            GrantRequest { end: End::After(Span::days(91)), ..base.clone() },
            &[("duration", Reason::DurationNotAllowed)],
            &[("max_duration", "7776000s")],
        ),
        (
            GrantRequest { end: End::At(too_long), ..base.clone() },
            &[("expire_time", Reason::DurationNotAllowed)],
            &[("max_duration", "7776000s")],
        ),
        (
            GrantRequest { start_time: Some(late), ..base.clone() },
            &[("start_time", Reason::StartNotAllowed)],
            &[("max_schedule_ahead", "86400s")],
        ),
        (
            GrantRequest { reason: FreeText::new(" \n").unwrap(), ..base.clone() },
            &[("reason", Reason::ReasonRequired)],
            &[("reason_required", "true")],
        ),
        (
            GrantRequest { ticket: Ticket::default(), ..base.clone() },
            &[("ticket", Reason::TicketRequired)],
            &[("ticket_required", "true")],
        ),
        (
            GrantRequest {
                reason: FreeText::default(),
                ticket: Ticket::default(),
                start_time: Some(late),
                end: End::UntilRevoked,
                ..base
            },
            &[
                ("reason", Reason::ReasonRequired),
                ("ticket", Reason::TicketRequired),
                ("start_time", Reason::StartNotAllowed),
                ("until_revoked", Reason::UntilRevokedNotAllowed),
            ],
            &[
                ("max_schedule_ahead", "86400s"),
                ("reason_required", "true"),
                ("ticket_required", "true"),
                ("until_revoked_allowed", "false"),
            ],
        ),
    ];
    for (request, expected, limits) in cases {
        assert_forbidden(strict.check_grant(&request, now()), expected, limits);
    }
}

#[test]
fn an_earlier_end_is_always_allowed_and_a_later_one_within_the_policy() {
    let policy = SupportPolicy { groups: Vec::new(), ..SupportPolicy::default() };
    let started = now() - TimeDelta::days(80);
    let grant = mk_grant(started, Some(now() + TimeDelta::days(5)));
    let extend =
        |policy: &SupportPolicy, end| policy.check_extension(&grant, &extension(end), now());
    let sooner = now() + TimeDelta::days(1);
    assert_eq!(extend(&policy, End::At(sooner)), Ok(Some(sooner)), "no policy is needed");
    let six_days = End::After(Span::days(6));
    let groups: &[_] = &[("grant_id", Reason::GroupNotAllowed)];
    assert_forbidden(extend(&policy, six_days), groups, &[("groups", "none")]);

    let policy = SupportPolicy { until_revoked_allowed: false, ..SupportPolicy::default() };
    let latest = now() + TimeDelta::days(10);
    assert_eq!(extend(&policy, End::After(Span::days(10))), Ok(Some(latest)), "90 days in all");
    assert_forbidden(
        extend(&policy, End::After(Span::days(11))),
        &[("duration", Reason::DurationNotAllowed)],
        &[("max_duration", "7776000s")],
    );
    assert_forbidden(
        extend(&policy, End::UntilRevoked),
        &[("until_revoked", Reason::UntilRevokedNotAllowed)],
        &[("until_revoked_allowed", "false")],
    );
    // An end now is a revocation.
    assert_invalid(extend(&policy, End::At(now())), &[("expire_time", Reason::OutOfRange)]);

    let policy = SupportPolicy { reason_required: true, ..SupportPolicy::default() };
    let reason: &[_] = &[("reason", Reason::ReasonRequired)];
    assert_forbidden(extend(&policy, six_days), reason, &[("reason_required", "true")]);
    assert!(extend(&policy, End::After(Span::days(4))).is_ok(), "an earlier end needs no reason");
}

#[test]
fn a_duration_counts_from_the_start_of_a_scheduled_grant() {
    let start = now() + TimeDelta::days(3);
    let grant = mk_grant(start, None);
    let request = extension(End::After(Span::hours(2)));
    let extended = SupportPolicy::default().check_extension(&grant, &request, now());
    assert_eq!(extended, Ok(Some(start + TimeDelta::hours(2))));
}

#[test]
fn the_default_catalogue_is_valid() {
    assert_eq!(SupportPolicy::default().check(), Ok(()));
}

#[test]
fn the_texts_of_a_group_are_short_and_without_control_characters() {
    let check = |display_name: String, description: String| {
        let mut catalogue = SupportPolicy::default();
        catalogue.groups[1] =
            SupportGroup { display_name, description, ..catalogue.groups[1].clone() };
        match catalogue.check() {
            Ok(()) => String::new(),
            Err(violations) => violations.to_string(),
        }
    };
    assert_eq!(check(String::new(), String::new()), "");
    assert_eq!(check("é".repeat(128), "é".repeat(1_000)), "", "characters are counted, not bytes");
    assert_eq!(
        check("x".repeat(129), "x".repeat(1_001)),
        "groups[1].display_name: must be at most 128 characters long, but has 129; \
         groups[1].description: must be at most 1000 characters long, but has 1001"
    );
    assert_eq!(
        check("a\u{1b}b".into(), "a\nb".into()),
        "groups[1].display_name: must not contain control characters; \
         groups[1].description: must not contain control characters"
    );
}
