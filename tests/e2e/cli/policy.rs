//! `policy`.

use support_access::api::proto::v1;

use crate::cli::{fake::Fake, run_at, seconds};

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn set_sends_the_given_overrides_only() {
    let fake = Fake::default();
    let server = fake.start();
    let set = |args: &str| {
        let args = args.split_whitespace();
        let args: Vec<_> = ["policy", "set", "complete"].into_iter().chain(args).collect();
        run_at(&server, &args)
    };
    assert_eq!(set("--etag e").code, 64, "no override");
    let args = "--group support:read-write --preset 7d --preset 1h --until-revoked-allowed false \
                --max-duration 30d --kind human --kind ai:read-only:on-behalf-of --etag e \
                --reason why --request-id r1";
    assert_eq!(set(args).stderr, "");
    assert_eq!(set("--no-groups --no-kinds --ticket-required true --request-id r2").code, 0);
    let invalid = set("--kind ai:sometimes");
    assert_eq!(invalid.code, 64);
    assert!(invalid.stderr.contains("write a kind such as human, ai:read-only"), "{invalid:?}");
    assert_eq!(set("--clear max-duration --clear preset-durations --request-id r3").code, 0);
    let both = set("--max-duration 7d --clear max-duration");
    let stderr = "error: --clear: max_duration is also set; set or clear, not both\n";
    assert_eq!((both.code, both.stderr.as_str()), (64, stderr));

    let received = fake.0.lock();
    let mask = |paths: &[&str]| {
        Some(prost_types::FieldMask { paths: paths.iter().copied().map(str::to_owned).collect() })
    };
    let human = v1::AgentKindEntry {
        agent_kind: v1::AgentKind::Human.into(),
        ..v1::AgentKindEntry::default()
    };
    let ai = v1::AgentKindEntry {
        agent_kind: v1::AgentKind::Ai.into(),
        max_access_level: v1::AccessLevel::ReadOnly.into(),
        on_behalf_of_required: true,
    };
    let first = v1::UpdateSupportPolicyRequest {
        tenant_id: "complete".into(),
        policy_overrides: Some(v1::PolicyOverrides {
            groups: Some(v1::GroupOverrides {
                groups: vec![v1::GroupOverride {
                    group_id: "support".into(),
                    max_access_level: v1::AccessLevel::ReadWrite.into(),
                }],
            }),
            preset_durations: Some(v1::PresetDurations {
                durations: vec![seconds(3_600), seconds(604_800)],
            }),
            until_revoked_allowed: Some(false),
            max_duration: Some(seconds(2_592_000)),
            agent_kinds: Some(v1::AgentKinds { entries: vec![human, ai] }),
            ..Default::default()
        }),
        update_mask: mask(&[
            "groups",
            "preset_durations",
            "max_duration",
            "until_revoked_allowed",
            "agent_kinds",
        ]),
        etag: "e".into(),
        reason: "why".into(),
        request_id: "r1".into(),
    };
    let second = v1::UpdateSupportPolicyRequest {
        tenant_id: "complete".into(),
        policy_overrides: Some(v1::PolicyOverrides {
            groups: Some(v1::GroupOverrides::default()),
            ticket_required: Some(true),
            agent_kinds: Some(v1::AgentKinds::default()),
            ..Default::default()
        }),
        update_mask: mask(&["groups", "ticket_required", "agent_kinds"]),
        request_id: "r2".into(),
        ..Default::default()
    };
    let third = v1::UpdateSupportPolicyRequest {
        tenant_id: "complete".into(),
        policy_overrides: Some(v1::PolicyOverrides::default()),
        update_mask: mask(&["max_duration", "preset_durations"]),
        request_id: "r3".into(),
        ..Default::default()
    };
    assert_eq!(received.policies, [first, second, third]);
}

#[test]
fn a_maximum_duration_that_leaves_grants_until_revoked_is_a_warning() {
    let server = Fake::default().start();
    let set = |more: &[&str]| {
        let args = ["policy", "set", "complete", "--max-duration", "7d"];
        run_at(&server, &[&args, more].concat()).stderr
    };
    let warning = "warning: grants until revoked are still allowed; --until-revoked-allowed false \
                   forbids them\n";
    assert_eq!(set(&[]), warning);
    assert_eq!(set(&["--until-revoked-allowed", "true"]), "");
}

#[test]
fn get_names_the_overrides() {
    let server = Fake::default().start();
    let result = run_at(&server, &["policy", "get", "acme"]);
    assert_eq!(result.code, 0);
    let line = "Overridden             default duration\n";
    assert!(result.stdout.contains(line), "{}", result.stdout);
    assert!(result.stdout.ends_with("\nNo group may be granted access.\n"), "{}", result.stdout);
}
