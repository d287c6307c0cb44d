use super::*;
use crate::cli::json::to_json;

const START: i64 = 1_796_115_600; // 2026-12-01T09:00:00Z

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn mk_grant(grant_id: &str) -> v1::Grant {
    v1::Grant {
        grant_id: grant_id.into(),
        tenant_id: "acme".into(),
        group_id: "support".into(),
        access_level: v1::AccessLevel::ReadOnly.into(),
        state: v1::GrantState::Active.into(),
        start_time: Some(at(START)),
        expire_time: Some(at(START + 7 * 86_400)),
        reason: "Ticket 7".into(),
        create_time: Some(at(START)),
        creator: "alice".into(),
        etag: "e1".into(),
        ..v1::Grant::default()
    }
}

fn mk_revoked(grant_id: &str) -> v1::Grant {
    v1::Grant {
        state: v1::GrantState::Revoked.into(),
        named_agents: Some(v1::NamedAgents { agent_ids: vec!["bob".into(), "eve".into()] }),
        access_level: v1::AccessLevel::ReadWrite.into(),
        expire_time: None,
        reason: "two\nlines \u{1b}[31m".into(),
        ticket: "T-1".into(),
        revoke_time: Some(at(START + 60)),
        revoker: "carol".into(),
        ..mk_grant(grant_id)
    }
}

fn mk_enforcement(state: v1::EnforcementState) -> v1::Enforcement {
    v1::Enforcement {
        state: state.into(),
        consistency_token: "token".into(),
        elapsed: Some(Duration { seconds: 0, nanos: 12_345_678 }),
        nodes_acknowledged: 1,
        nodes_lapsed: 0,
        nodes_pending: 2,
        complete_by: Some(at(START)),
    }
}

/// Shows `answer` as it is shown where there is neither a terminal nor colour.
fn check(answer: &impl Answer, expected: &str) {
    assert_eq!(answer.for_people(Look::default()), expected);
}

#[test]
fn one_grant_is_shown_with_all_there_is_to_know() {
    check(
        &v1::GetGrantResponse { grant: Some(mk_revoked("g1")) },
        "\
Grant    g1
State    REVOKED
Tenant   acme
Group    support
Agents   only bob, eve
Level    READ_WRITE
Start    2026-12-01 09:00:00 UTC
End      until revoked
Reason   two lines \u{fffd}[31m
Ticket   T-1
Granted  2026-12-01 09:00:00 UTC by alice
Revoked  2026-12-01 09:01:00 UTC by carol
Because  -
Etag     e1
",
    );
}

#[test]
fn grants_are_a_table() {
    let grants = vec![mk_grant("g1"), mk_revoked("g2")];
    check(
        &v1::ListGrantsResponse { grants, next_page_token: "more".into(), ..Default::default() },
        "\
GRANT  STATE    GROUP                    LEVEL       START (UTC)          END (UTC)            BY     REASON
g1     ACTIVE   support                  READ_ONLY   2026-12-01 09:00:00  2026-12-08 09:00:00  alice  Ticket 7
g2     REVOKED  support (only bob, eve)  READ_WRITE  2026-12-01 09:00:00  until revoked        alice  two lines \u{fffd}[31m

There are more; --limit shows them.
",
    );
    check(&v1::ListGrantsResponse::default(), "No grants.\n");
}

#[test]
fn a_revocation_says_how_far_it_got_and_what_is_still_open() {
    let mut answer = v1::RevokeAccessResponse {
        grant: Some(mk_grant("g1")),
        enforcement: Some(mk_enforcement(v1::EnforcementState::Complete)),
        remaining_grants: vec![],
    };
    let text = answer.for_people(Look::default());
    let (_, tail) = text.split_once("Etag      e1\n").unwrap();
    assert_eq!(
        tail,
        "\
In force  at every check node, after 12ms (1 acknowledged, 0 lapsed)
Token     token

No other grant of the tenant lets anybody in.
"
    );
    answer.enforcement = Some(mk_enforcement(v1::EnforcementState::Pending));
    answer.remaining_grants = vec![mk_grant("g3")];
    let text = answer.for_people(Look::default());
    let (_, tail) = text.split_once("Etag      e1\n").unwrap();
    assert_eq!(
        tail,
        "\
In force  NOT YET at every check node (1 acknowledged, 0 lapsed, 2 pending); at the latest at 2026-12-01 09:00:00 UTC
Token     token

Other grants of the tenant still let somebody in:

GRANT  STATE   GROUP    LEVEL      START (UTC)          END (UTC)            BY     REASON
g3     ACTIVE  support  READ_ONLY  2026-12-01 09:00:00  2026-12-08 09:00:00  alice  Ticket 7
"
    );
}

#[test]
fn a_revocation_of_all_counts_them() {
    check(
        &v1::RevokeAllAccessResponse {
            grants: vec![],
            enforcement: Some(mk_enforcement(v1::EnforcementState::Complete)),
            revoked_count: 0,
        },
        "\
Revoked   0
In force  at every check node, after 12ms (1 acknowledged, 0 lapsed)
Token     token
",
    );
}

fn mk_denial() -> v1::CheckAccessResponse {
    v1::CheckAccessResponse {
        decision: v1::Decision::Denied.into(),
        reason: v1::DecisionReason::Expired.into(),
        grant_id: "g1".into(),
        message: "Access ended.".into(),
        ..v1::CheckAccessResponse::default()
    }
}

#[test]
fn a_check_shows_decision_reason_and_message() {
    check(
        &mk_denial(),
        "\
Decision  DENIED
Reason    EXPIRED
Message   Access ended.
Grant     g1
",
    );
    check(
        &v1::CheckAccessResponse {
            decision: v1::Decision::Allowed.into(),
            reason: v1::DecisionReason::GrantActive.into(),
            access_level: v1::AccessLevel::Admin.into(),
            valid_for: Some(Duration { seconds: 2, nanos: 0 }),
            ..mk_denial()
        },
        "\
Decision   ALLOWED
Reason     GRANT_ACTIVE
Message    Access ended.
Grant      g1
Level      ADMIN
End        until revoked
Valid for  2s
",
    );
}

#[test]
fn colours_are_around_the_words_they_colour() {
    let text = mk_denial().for_people(Look { terminal: false, colours: true });
    assert!(text.starts_with("Decision  \u{1b}[1m\u{1b}[31mDENIED\u{1b}[0m\n"), "{text:?}");
}

#[test]
fn an_explanation_has_the_checklist_and_the_candidates() {
    let item = |question: v1::ChecklistQuestion, answer: v1::ChecklistAnswer, detail: &str| {
        v1::ChecklistItem {
            question: question.into(),
            answer: answer.into(),
            detail: detail.into(),
        }
    };
    let answer = v1::ExplainAccessResponse {
        result: Some(mk_denial()),
        checklist: vec![
            item(v1::ChecklistQuestion::AccessGranted, v1::ChecklistAnswer::Yes, "1 grant"),
            item(v1::ChecklistQuestion::PeriodNotExpired, v1::ChecklistAnswer::No, "It is over."),
            item(v1::ChecklistQuestion::EntryActive, v1::ChecklistAnswer::NotApplicable, ""),
        ],
        candidates: vec![v1::CandidateGrant {
            grant: Some(mk_grant("g1")),
            reasons: vec![
                v1::DecisionReason::Expired.into(),
                v1::DecisionReason::LevelExceeded.into(),
            ],
        }],
        candidates_truncated: true,
        ignored_group_ids: vec![],
    };
    check(
        &answer,
        "\
Decision  DENIED
Reason    EXPIRED
Message   Access ended.
Grant     g1

CHECKLIST                   ANSWER          DETAIL
Access has been granted     yes             1 grant
The period has not expired  NO              It is over.
The entry is active         does not arise  -

GRANT  STATE   GROUP    LEVEL      START (UTC)          END (UTC)            FINDING
g1     ACTIVE  support  READ_ONLY  2026-12-01 09:00:00  2026-12-08 09:00:00  EXPIRED, LEVEL_EXCEEDED

There may be more grants; `support-access list`, at a server, shows them all.
",
    );
}

fn mk_policy() -> v1::SupportPolicy {
    v1::SupportPolicy {
        tenant_id: "acme".into(),
        groups: vec![v1::SupportGroup {
            group_id: "support".into(),
            display_name: "Support".into(),
            description: "Analysts.".into(),
            max_access_level: v1::AccessLevel::Admin.into(),
        }],
        preset_durations: vec![
            Duration { seconds: 3_600, nanos: 0 },
            Duration { seconds: 604_800, nanos: 0 },
        ],
        default_duration: Some(Duration { seconds: 604_800, nanos: 0 }),
        max_duration: Some(Duration { seconds: 7_776_000, nanos: 0 }),
        until_revoked_allowed: true,
        max_schedule_ahead: Some(Duration { seconds: 1_209_600, nanos: 0 }),
        etag: "e7".into(),
        ..v1::SupportPolicy::default()
    }
}

#[test]
fn a_policy_shows_what_may_be_chosen() {
    check(
        &v1::GetSupportPolicyResponse { support_policy: Some(mk_policy()), policy_overrides: None },
        "\
Tenant                 acme
Preset durations       1h, 7d
Default duration       7d
Max duration           90d
Until revoked allowed  yes
Reason required        no
Ticket required        no
Max schedule ahead     14d
Etag                   e7

GROUP    MAX LEVEL  NAME     DESCRIPTION
support  ADMIN      Support  Analysts.
",
    );
}

#[test]
fn history_says_what_happened() {
    use v1::event::Payload;
    let grant = || Some(mk_grant("g1"));
    let event = |sequence, payload| v1::Event {
        sequence,
        tenant_id: Some("acme".into()),
        create_time: Some(at(START)),
        actor: "alice".into(),
        reason: "because".into(),
        payload: Some(payload),
        ..v1::Event::default()
    };
    let enforcement = Some(v1::Enforcement {
        elapsed: Some(Duration { seconds: 0, nanos: 4_999_999 }),
        nodes_acknowledged: 3,
        ..mk_enforcement(v1::EnforcementState::Complete)
    });
    let enforced = |event| v1::Event { enforcement: enforcement.clone(), ..event };
    let updated = v1::PolicyUpdated { support_policy: Some(mk_policy()), policy_overrides: None };
    let extended = v1::Extended { grant: grant(), previous_expire_time: None };
    let events = vec![
        enforced(event(4, Payload::Revoked(v1::Revoked { grant: grant() }))),
        event(3, Payload::PolicyUpdated(updated)),
        enforced(event(2, Payload::Extended(extended))),
        event(1, Payload::Granted(v1::Granted { grant: grant() })),
    ];
    check(
        &v1::ListEventsResponse { events, ..Default::default() },
        "\
SEQUENCE  TIME (UTC)           EVENT           GRANT  BY     WHAT                                                                                                           REASON
4         2026-12-01 09:00:00  REVOKED         g1     alice  in force everywhere after 4ms (3 acknowledged, 0 lapsed)                                                       because
3         2026-12-01 09:00:00  POLICY_UPDATED  -      alice  groups support:ADMIN; at most 90d; starts up to 14d ahead; until revoked allowed                               because
2         2026-12-01 09:00:00  EXTENDED        g1     alice  until 2026-12-08 09:00:00 UTC, before until revoked; in force everywhere after 4ms (3 acknowledged, 0 lapsed)  because
1         2026-12-01 09:00:00  GRANTED         g1     alice  support at READ_ONLY until 2026-12-08 09:00:00 UTC                                                             because
",
    );
}

#[test]
fn json_is_the_message_under_the_names_of_the_proto_files() {
    let answer = v1::RevokeAllAccessResponse {
        grants: vec![mk_grant("g1")],
        enforcement: Some(mk_enforcement(v1::EnforcementState::Complete)),
        revoked_count: 1,
    };
    let expected = r#"{
  "grants": [
    {
      "grant_id": "g1",
      "tenant_id": "acme",
      "group_id": "support",
      "access_level": "ACCESS_LEVEL_READ_ONLY",
      "state": "GRANT_STATE_ACTIVE",
      "start_time": "2026-12-01T09:00:00Z",
      "expire_time": "2026-12-08T09:00:00Z",
      "reason": "Ticket 7",
      "ticket": "",
      "create_time": "2026-12-01T09:00:00Z",
      "creator": "alice",
      "revoker": "",
      "revoke_reason": "",
      "end_cause": "END_CAUSE_UNSPECIFIED",
      "etag": "e1"
    }
  ],
  "enforcement": {
    "state": "ENFORCEMENT_STATE_COMPLETE",
    "consistency_token": "token",
    "elapsed": "0.012345678s",
    "nodes_acknowledged": 1,
    "nodes_lapsed": 0,
    "nodes_pending": 2,
    "complete_by": "2026-12-01T09:00:00Z"
  },
  "revoked_count": 1
}
"#;
    assert_eq!(to_json(v1::RevokeAllAccessResponse::NAME, &answer).unwrap(), expected);
}

#[test]
fn every_answer_can_be_json() {
    fn check<A: Answer + Default>() {
        to_json(A::NAME, &A::default()).unwrap();
    }
    check::<v1::GrantAccessResponse>();
    check::<v1::ExtendAccessResponse>();
    check::<v1::RevokeAccessResponse>();
    check::<v1::RevokeAllAccessResponse>();
    check::<v1::GetGrantResponse>();
    check::<v1::ListGrantsResponse>();
    check::<v1::ListEventsResponse>();
    check::<v1::GetSupportPolicyResponse>();
    check::<v1::UpdateSupportPolicyResponse>();
    check::<v1::WaitEnforcedResponse>();
    check::<v1::ListCheckNodesResponse>();
    check::<v1::CheckAccessResponse>();
    check::<v1::ExplainAccessResponse>();
}
