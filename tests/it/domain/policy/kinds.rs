//! Agent kinds in policies, overrides and new grants.

use support_access::domain::overrides::PolicyOverrides;

use super::*;

const HUMAN: AgentKindEntry = AgentKindEntry::HUMAN;
const AI: AgentKindEntry = AgentKindEntry { agent_kind: AgentKind::Ai, ..HUMAN };
const SERVICE: AgentKindEntry = AgentKindEntry { agent_kind: AgentKind::Service, ..HUMAN };

const fn at_most(level: AccessLevel, entry: AgentKindEntry) -> AgentKindEntry {
    AgentKindEntry { max_access_level: Some(level), ..entry }
}

const fn on_behalf(entry: AgentKindEntry) -> AgentKindEntry {
    AgentKindEntry { on_behalf_of_required: true, ..entry }
}

fn policy(agent_kinds: &[AgentKindEntry]) -> SupportPolicy {
    SupportPolicy { agent_kinds: agent_kinds.to_vec(), ..SupportPolicy::default() }
}

fn overrides(agent_kinds: &[AgentKindEntry]) -> PolicyOverrides {
    PolicyOverrides { agent_kinds: Some(agent_kinds.to_vec()), ..PolicyOverrides::default() }
}

fn request(access_level: AccessLevel, agent_kinds: Option<&[AgentKindEntry]>) -> GrantRequest {
    let agent_kinds = agent_kinds.map(<[_]>::to_vec);
    GrantRequest { access_level, agent_kinds, ..mk_request() }
}

#[test]
fn a_grant_admits_humans_unless_the_request_names_other_kinds() {
    let policy = policy(&[HUMAN, on_behalf(at_most(AccessLevel::ReadOnly, AI)), SERVICE]);
    let read_write = AccessLevel::ReadWrite;
    let ai = at_most(AccessLevel::ReadOnly, AI);
    let cases: [(Option<&[_]>, &[_]); 5] = [
        (None, &[HUMAN]),
        // The requirement of the policy becomes part of the grant.
        (Some(&[ai]), &[on_behalf(ai)]),
        (Some(&[HUMAN, ai]), &[HUMAN, on_behalf(ai)]),
        (Some(&[on_behalf(SERVICE)]), &[on_behalf(SERVICE)]),
        // The level of the grant still applies.
        (Some(&[at_most(AccessLevel::Admin, SERVICE)]), &[SERVICE]),
    ];
    for (kinds, expected) in cases {
        let new_terms = policy.check_grant(&request(read_write, kinds), now()).unwrap();
        assert_eq!(new_terms.agent_kinds.entries().collect::<Vec<_>>(), expected, "{kinds:?}");
    }
}

#[test]
fn a_policy_limits_the_kinds_of_a_grant_and_their_levels() {
    let policy = policy(&[HUMAN, on_behalf(at_most(AccessLevel::ReadOnly, AI))]);
    let not_allowed = Reason::AgentKindNotAllowed;
    assert_forbidden(
        policy.check_grant(&request(AccessLevel::ReadOnly, Some(&[HUMAN, SERVICE])), now()),
        &[("agent_kinds.entries[1]", not_allowed)],
        &[("agent_kinds", "HUMAN, AI")],
    );
    for ai in [AI, at_most(AccessLevel::ReadWrite, AI)] {
        assert_forbidden(
            policy.check_grant(&request(AccessLevel::ReadWrite, Some(&[ai])), now()),
            &[("agent_kinds.entries[0]", not_allowed)],
            &[("max_access_level", "READ_ONLY")],
        );
    }
    let without_humans = self::policy(&[AI]);
    assert_forbidden(
        without_humans.check_grant(&request(AccessLevel::ReadOnly, None), now()),
        &[("agent_kinds", not_allowed)],
        &[("agent_kinds", "AI")],
    );
}

#[test]
fn the_level_of_the_group_and_the_level_of_the_kind_both_limit_a_grant() {
    let mut policy = policy(&[at_most(AccessLevel::ReadOnly, HUMAN)]);
    policy.groups[0].max_access_level = AccessLevel::ReadWrite;
    assert_forbidden(
        policy.check_grant(&request(AccessLevel::Admin, None), now()),
        &[("access_level", Reason::LevelNotAllowed), ("agent_kinds", Reason::AgentKindNotAllowed)],
        // The limit of the first field, not of the last.
        &[("max_access_level", "READ_WRITE")],
    );
}

#[test]
fn a_tighter_policy_forbids_a_later_end_and_no_earlier_one() {
    let mut grant = mk_grant(now(), Some(now() + TimeDelta::days(2)));
    grant.terms.agent_kinds = AdmittedKinds::new([HUMAN, AI]).unwrap();
    let read_only = at_most(AccessLevel::ReadOnly, AI);
    grant.terms.access_level = AccessLevel::ReadWrite;
    let kinds = ("agent_kinds", "HUMAN");
    let cases: [(&[_], _); 3] = [
        (&[HUMAN], kinds),
        (&[HUMAN, read_only], ("max_access_level", "READ_ONLY")),
        (&[HUMAN, on_behalf(AI)], ("on_behalf_of_required", "true")),
    ];
    for (allowed, limit) in cases {
        let policy = policy(allowed);
        assert!(!policy.allows(&grant));
        let later = policy.check_extension(&grant, &extension(End::After(Span::days(3))), now());
        assert_forbidden(later, &[("grant_id", Reason::AgentKindNotAllowed)], &[limit]);
        let earlier = policy.check_extension(&grant, &extension(End::After(Span::days(1))), now());
        assert_eq!(earlier, Ok(Some(now() + TimeDelta::days(1))));
    }
    let same = policy(&[HUMAN, at_most(AccessLevel::ReadWrite, AI)]);
    assert!(same.allows(&grant));
    let later = same.check_extension(&grant, &extension(End::After(Span::days(3))), now());
    assert_eq!(later, Ok(Some(now() + TimeDelta::days(3))));
}

#[test]
fn an_override_narrows_the_kinds_and_never_widens_them() {
    let read_only_ai = at_most(AccessLevel::ReadOnly, AI);
    let catalogue = policy(&[HUMAN, on_behalf(read_only_ai)]);
    let narrowed = |own: &PolicyOverrides| catalogue.narrowed_by(own).agent_kinds;
    assert_eq!(narrowed(&PolicyOverrides::default()), catalogue.agent_kinds, "inherited");
    assert_eq!(narrowed(&overrides(&[])), [], "an empty list allows no kind");
    assert_eq!(narrowed(&overrides(&[HUMAN])), [HUMAN]);
    assert_eq!(narrowed(&overrides(&[AI])), [on_behalf(read_only_ai)]);
    // Such overrides are rejected, but the catalogue may have been narrowed later.
    let wider = overrides(&[SERVICE, at_most(AccessLevel::Admin, AI)]);
    assert_eq!(narrowed(&wider), [on_behalf(read_only_ai)]);
    assert_forbidden(
        wider.check(&catalogue).map_err(PolicyError::from),
        &[
            ("agent_kinds.entries[0].agent_kind", Reason::ExceedsCatalogue),
            ("agent_kinds.entries[1].max_access_level", Reason::ExceedsCatalogue),
        ],
        &[("agent_kinds", "HUMAN, AI"), ("max_access_level", "READ_ONLY")],
    );
    for own in [&[][..], &[AI], &[HUMAN, read_only_ai], &[on_behalf(AI)]] {
        assert_eq!(overrides(own).check(&catalogue), Ok(()), "{own:?}");
    }
    let strict = catalogue.narrowed_by(&overrides(&[]));
    assert_forbidden(
        strict.check_grant(&request(AccessLevel::ReadOnly, None), now()),
        &[("agent_kinds", Reason::AgentKindNotAllowed)],
        &[("agent_kinds", "none")],
    );
}

#[test]
fn a_catalogue_has_each_kind_once_and_no_condition_for_humans() {
    let check = |kinds: &[_]| policy(kinds).check().map_err(|violations| violations.to_string());
    for valid in [&[AI][..], &[HUMAN, on_behalf(AI), at_most(AccessLevel::ReadOnly, SERVICE)]] {
        assert_eq!(check(valid), Ok(()), "{valid:?}");
    }
    let error = |kinds: &[_]| check(kinds).unwrap_err();
    assert_eq!(error(&[]), "agent_kinds: must not be empty; omit it to allow HUMAN only");
    assert_eq!(error(&[AI, AI]), "agent_kinds: must name AI only once");
    let expected = "agent_kinds[0].on_behalf_of_required: must be false for HUMAN";
    assert_eq!(error(&[on_behalf(HUMAN)]), expected);
}

#[test]
fn admitted_kinds_are_stored_as_a_list_that_is_never_empty() {
    let limited = on_behalf(at_most(AccessLevel::ReadOnly, AI));
    let kinds = AdmittedKinds::new([limited, HUMAN]).unwrap();
    let text = serde_json::to_string(&kinds).unwrap();
    let ai = r#"{"agent_kind":"AI","max_access_level":"READ_ONLY","on_behalf_of_required":true}"#;
    assert_eq!(text, format!(r#"[{{"agent_kind":"HUMAN"}},{ai}]"#));
    assert_eq!(serde_json::from_str::<AdmittedKinds>(&text).unwrap(), kinds);
    let invalid = [
        "[]".to_owned(),
        "null".to_owned(),
        format!("[{ai},{ai}]"),
        r#"[{"agent_kind":"ROBOT"}]"#.to_owned(),
        r#"[{"agent_kind":"AI","level":"ADMIN"}]"#.to_owned(),
    ];
    for text in invalid {
        assert!(serde_json::from_str::<AdmittedKinds>(&text).is_err(), "{text}");
    }
}
