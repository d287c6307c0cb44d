use chrono::TimeDelta;

use super::*;
use crate::domain::{End, GrantId, GrantTerms, TenantId, Ticket, text::Actor, time::from_micros};

fn now() -> Time {
    from_micros(1_700_000_000_000_000).unwrap()
}

fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

/// A grant that the default policy admits.
fn mk_request() -> GrantRequest {
    GrantRequest {
        request_id: None,
        tenant_id: TenantId::new("acme").unwrap(),
        group_id: group("support"),
        agent_ids: [].into(),
        access_level: AccessLevel::ReadOnly,
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
            start_time,
            expire_time,
            revoke_time: None,
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

/// The fields that a refusal is about.
fn fields<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Vec<String> {
    match result {
        Ok(admitted) => panic!("admitted: {admitted:?}"),
        Err(Refusal::GroupNotOffered { .. }) => vec!["group_id".into()],
        Err(Refusal::Invalid(violations)) => {
            violations.as_slice().iter().map(|violation| violation.field.clone()).collect()
        }
    }
}

#[test]
fn a_grant_holds_from_its_start_until_its_end() {
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
        // Clocks differ: a start a moment ago means now.
        (Some(now() - TimeDelta::minutes(5)), End::At(in_an_hour), now(), Some(in_an_hour)),
    ];
    for (asked, end, start_time, expire_time) in cases {
        let request = GrantRequest { start_time: asked, end, ..mk_request() };
        assert_eq!(policy.admit(&request, now()), Ok(Period { start_time, expire_time }));
    }
}

#[test]
fn what_policy_forbids_is_refused_by_field() {
    let strict = SupportPolicy {
        until_revoked_allowed: false,
        reason_required: true,
        ticket_required: true,
        longest_schedule_ahead: Span::days(1),
        groups: vec![SupportGroup {
            group_id: group("support"),
            display_name: String::new(),
            description: String::new(),
            highest_level: AccessLevel::ReadWrite,
        }],
        ..SupportPolicy::default()
    };
    let base = GrantRequest {
        reason: FreeText::new("broken").unwrap(),
        ticket: Ticket::new("T-1").unwrap(),
        ..mk_request()
    };
    assert!(strict.admit(&base, now()).is_ok());
    let late = now() + TimeDelta::days(2);
    let cases: Vec<(GrantRequest, &[&str])> = vec![
        (GrantRequest { group_id: group("engineering"), ..base.clone() }, &["group_id"]),
        (GrantRequest { access_level: AccessLevel::Admin, ..base.clone() }, &["access_level"]),
        (GrantRequest { end: End::UntilRevoked, ..base.clone() }, &["until_revoked"]),
        (GrantRequest { end: End::After(Span::days(91)), ..base.clone() }, &["duration"]),
        (GrantRequest { end: End::After(Span::default()), ..base.clone() }, &["duration"]),
        (GrantRequest { end: End::At(now()), ..base.clone() }, &["expire_time"]),
        (
            GrantRequest { end: End::At(now() + TimeDelta::days(91)), ..base.clone() },
            &["expire_time"],
        ),
        (GrantRequest { start_time: Some(late), ..base.clone() }, &["start_time"]),
        (
            GrantRequest { start_time: Some(now() - TimeDelta::minutes(6)), ..base.clone() },
            &["start_time"],
        ),
        (
            GrantRequest {
                start_time: Some(now() + TimeDelta::hours(2)),
                end: End::At(now() + TimeDelta::hours(1)),
                ..base.clone()
            },
            &["expire_time"],
        ),
        (GrantRequest { reason: FreeText::new(" \n").unwrap(), ..base.clone() }, &["reason"]),
        (GrantRequest { ticket: Ticket::default(), ..base.clone() }, &["ticket"]),
        (
            GrantRequest {
                reason: FreeText::default(),
                ticket: Ticket::default(),
                start_time: Some(late),
                end: End::UntilRevoked,
                ..base
            },
            &["reason", "ticket", "start_time", "until_revoked"],
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(fields(strict.admit(&request, now())), expected, "{request:?}");
    }
}

#[test]
fn an_end_can_always_be_moved_closer_and_further_within_policy() {
    let policy = SupportPolicy { groups: Vec::new(), ..SupportPolicy::default() };
    let started = now() - TimeDelta::days(80);
    let grant = mk_grant(started, Some(now() + TimeDelta::days(5)));
    let extend =
        |policy: &SupportPolicy, end| policy.admit_extension(&grant, &extension(end), now());
    let sooner = now() + TimeDelta::days(1);
    assert_eq!(extend(&policy, End::At(sooner)), Ok(Some(sooner)), "shortening needs no policy");
    assert_eq!(fields(extend(&policy, End::After(Span::days(6)))), ["group_id"]);

    let policy = SupportPolicy { until_revoked_allowed: false, ..SupportPolicy::default() };
    let longest = now() + TimeDelta::days(10);
    assert_eq!(extend(&policy, End::After(Span::days(10))), Ok(Some(longest)), "90 days in all");
    assert_eq!(fields(extend(&policy, End::After(Span::days(11)))), ["duration"]);
    assert_eq!(fields(extend(&policy, End::UntilRevoked)), ["until_revoked"]);
    assert_eq!(fields(extend(&policy, End::At(now()))), ["expire_time"], "that is a revocation");

    let policy = SupportPolicy { reason_required: true, ..SupportPolicy::default() };
    assert_eq!(fields(extend(&policy, End::After(Span::days(6)))), ["reason"]);
    assert!(extend(&policy, End::After(Span::days(4))).is_ok(), "shortening needs no reason");
}

#[test]
fn a_duration_counts_from_a_start_that_is_still_to_come() {
    let start = now() + TimeDelta::days(3);
    let grant = mk_grant(start, None);
    let request = extension(End::After(Span::hours(2)));
    let extended = SupportPolicy::default().admit_extension(&grant, &request, now());
    assert_eq!(extended, Ok(Some(start + TimeDelta::hours(2))));
}

#[test]
fn a_tenant_is_never_looser_than_the_vendor() {
    let own = PolicyOverrides {
        groups: Some(vec![GroupOverrides {
            group_id: group("support"),
            highest_level: AccessLevel::Admin,
        }]),
        preset_durations: Some(vec![Span::hours(1), Span::days(7)]),
        default_duration: Some(Span::days(30)),
        longest_duration: Some(Span::days(30)),
        until_revoked_allowed: Some(true),
        reason_required: Some(false),
        ticket_required: None,
        longest_schedule_ahead: Some(Span::days(60)),
    };
    // The vendor became stricter after the tenant had chosen.
    let vendors = SupportPolicy {
        groups: vec![SupportGroup {
            group_id: group("support"),
            display_name: "Support".into(),
            description: String::new(),
            highest_level: AccessLevel::ReadOnly,
        }],
        preset_durations: vec![Span::hours(1), Span::days(1)],
        default_duration: Span::days(1),
        longest_duration: Span::days(2),
        until_revoked_allowed: false,
        reason_required: true,
        ticket_required: true,
        longest_schedule_ahead: Span::days(5),
    };
    let effective = vendors.tightened(&own);
    let expected = SupportPolicy {
        preset_durations: vec![Span::hours(1)],
        default_duration: Span::days(2),
        ..vendors.clone()
    };
    assert_eq!(effective, expected);
    assert_eq!(vendors.tightened(&PolicyOverrides::default()), vendors);
}

#[test]
fn a_tightening_that_loosens_is_refused_by_field() {
    let vendors = SupportPolicy {
        until_revoked_allowed: false,
        reason_required: true,
        ticket_required: true,
        ..SupportPolicy::default()
    };
    let own = PolicyOverrides {
        groups: Some(vec![GroupOverrides {
            group_id: group("billing"),
            highest_level: AccessLevel::ReadOnly,
        }]),
        preset_durations: Some(vec![Span::days(2)]),
        default_duration: Some(Span::days(91)),
        longest_duration: Some(Span::days(91)),
        until_revoked_allowed: Some(true),
        reason_required: Some(false),
        ticket_required: Some(false),
        longest_schedule_ahead: Some(Span::days(91)),
    };
    let found = own.check(&vendors).unwrap_err();
    let found: Vec<&str> = found.as_slice().iter().map(|found| found.field.as_str()).collect();
    let expected = [
        "groups",
        "preset_durations",
        "default_duration",
        "longest_duration",
        "longest_schedule_ahead",
        "until_revoked_allowed",
        "reason_required",
        "ticket_required",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_built_in_catalogue_is_in_order() {
    assert_eq!(SupportPolicy::default().check(), Ok(()));
}

#[test]
fn what_a_catalogue_says_of_a_group_is_short_and_without_control_characters() {
    let found = |display_name: String, description: String| {
        let mut catalogue = SupportPolicy::default();
        catalogue.groups[1] =
            SupportGroup { display_name, description, ..catalogue.groups[1].clone() };
        match catalogue.check() {
            Ok(()) => String::new(),
            Err(violations) => violations.to_string(),
        }
    };
    assert_eq!(found(String::new(), String::new()), "");
    assert_eq!(found("é".repeat(128), "é".repeat(1_000)), "", "characters are counted, not bytes");
    assert_eq!(
        found("x".repeat(129), "x".repeat(1_001)),
        "groups[1].display_name: must be at most 128 characters long, but has 129; \
         groups[1].description: must be at most 1000 characters long, but has 1001"
    );
    assert_eq!(
        found("a\u{1b}b".into(), "a\nb".into()),
        "groups[1].display_name: must not contain control characters; \
         groups[1].description: must not contain control characters"
    );
}
