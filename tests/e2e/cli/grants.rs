//! `grant`, `extend`, `revoke`, `list` and `show`.

use support_access::api::proto::v1;
use uuid::Uuid;

use crate::cli::{Output, PENDING, fake::Fake, json, run_at, seconds};

#[test]
fn grant_sends_every_argument() {
    let fake = Fake::default();
    let args = "grant acme support --level read-only --for 7d --agent bob --agent eve \
                --start 2026-12-01T09:00Z --kind human --kind AI:read-only:on-behalf-of --reason why --ticket T-1 \
                --request-id r1 --actor carol";
    let result = run_at(&fake.start(), &args.split_whitespace().collect::<Vec<_>>());
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    assert!(result.stdout.starts_with("Grant    g1\nState    ACTIVE\n"), "{}", result.stdout);
    let received = fake.0.lock();
    let human = v1::AgentKindEntry {
        agent_kind: v1::AgentKind::Human.into(),
        ..v1::AgentKindEntry::default()
    };
    let ai = v1::AgentKindEntry {
        agent_kind: v1::AgentKind::Ai.into(),
        max_access_level: v1::AccessLevel::ReadOnly.into(),
        on_behalf_of_required: true,
    };
    let entries = vec![human, ai];
    let expected = v1::GrantAccessRequest {
        request_id: "r1".into(),
        tenant_id: "acme".into(),
        group_id: "support".into(),
        named_agents: Some(v1::NamedAgents { agent_ids: vec!["bob".into(), "eve".into()] }),
        access_level: v1::AccessLevel::ReadOnly.into(),
        agent_kinds: Some(v1::AgentKinds { entries }),
        start_time: Some(prost_types::Timestamp { seconds: 1_796_115_600, nanos: 0 }),
        reason: "why".into(),
        ticket: "T-1".into(),
        duration: Some(seconds(604_800)),
        ..v1::GrantAccessRequest::default()
    };
    assert_eq!(received.grants, [expected]);
    assert_eq!(received.actors, [Some("carol".to_owned())]);
    assert_eq!(received.has_deadline, [true]);
}

#[test]
fn a_grant_without_an_end_lasts_for_the_default_duration_of_the_policy() {
    let fake = Fake::default();
    let server = fake.start();
    let until = prost_types::Timestamp { seconds: 1_796_115_600, nanos: 0 };
    let cases = [
        (vec!["--until", "2026-12-01T10:00+01:00"], (Some(until), None, false)),
        (vec!["--until-revoked"], (None, None, true)),
        (vec![], (None, Some(seconds(4_321)), false)),
    ];
    for (args, expected) in cases {
        let args = [vec!["grant", "acme", "support", "--level", "ADMIN"], args].concat();
        assert_eq!(run_at(&server, &args).code, 0);
        let received = fake.0.lock();
        let request = received.grants.last().unwrap();
        let v1::GrantAccessRequest { expire_time, duration, until_revoked, .. } = *request;
        assert_eq!((expire_time, duration, until_revoked), expected);
        assert!(request.request_id.parse::<Uuid>().is_ok(), "{}", request.request_id);
        assert_eq!((&request.agent_kinds, &request.named_agents), (&None, &None));
        assert_eq!(received.actors.last().unwrap().as_deref(), Some("alice"), "the user");
    }
}

#[test]
fn an_error_names_the_argument_and_a_hint() {
    let args = ["grant", "strict", "support", "--level", "ADMIN", "--for", "60d"];
    let stderr = "error: --for: must be at most 30d\u{fffd}[31m\n\
                  hint: `support-access policy get TENANT` shows what the policy allows\n";
    assert_eq!(run_at(&Fake::default().start(), &args), Output::error(6, stderr));
}

#[test]
fn a_change_is_retried_with_the_same_request_id_while_the_database_is_unavailable() {
    let fake = Fake::default();
    let server = fake.start();
    let grant = |tenant, more: &[&str]| {
        let args = ["grant", tenant, "support", "--level", "ADMIN", "--for", "1h"];
        run_at(&server, &[&args, more].concat())
    };
    assert_eq!(grant("unavailable once", &[]).code, 0);
    {
        let received = fake.0.lock();
        let [first, second] = received.grants.as_slice() else { panic!("{:?}", received.grants) };
        assert_eq!(first, second);
    }
    let stderr = "error: the database is unavailable\n\
                  hint: the change may have been made; repeat the command with --request-id r7 \
                  to make the change only once\n";
    let result = grant("unavailable", &["--timeout", "300ms", "--request-id", "r7"]);
    assert_eq!(result, Output::error(8, stderr));

    let extend = ["extend", "acme", "g1", "--for", "1h", "--timeout", "300ms"];
    assert_eq!(run_at(&server, &extend).code, 8);
    let received = fake.0.lock();
    assert!(received.extensions.len() > 1, "an extension is retried");
    assert!(received.extensions.iter().all(|extension| *extension == received.extensions[0]));
}

#[test]
fn every_change_that_may_have_been_made_names_its_request_id() {
    let server = Fake::default().start();
    let stderr = "error: the database is unavailable\n\
                  hint: the change may have been made; repeat the command with --request-id r7 \
                  to make the change only once\n";
    for change in [
        "extend unavailable g1 --for 1h",
        "policy set unavailable --reason-required true",
        "lock create unavailable --everything --reason why",
        "lock lift unavailable l1 --reason over",
    ] {
        let args = change.split(' ').chain(["--timeout", "300ms", "--request-id", "r7"]);
        let result = run_at(&server, &args.collect::<Vec<_>>());
        assert_eq!(result, Output::error(8, stderr), "{change}");
    }
}

#[test]
fn extend_by_moves_the_present_end_and_passes_its_etag() {
    let fake = Fake::default();
    let server = fake.start();
    let result = run_at(&server, &["extend", "complete", "g1", "--by", "1d"]);
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    let end = "End       2026-12-02 09:00:00 UTC (before: 2026-12-01 09:00:00 UTC)\n";
    assert!(result.stdout.contains(end), "{}", result.stdout);
    let sent = fake.0.lock().extensions[0].clone();
    let moved = prost_types::Timestamp { seconds: 1_796_115_600 + 86_400, nanos: 0 };
    assert_eq!((sent.expire_time, sent.etag.as_str(), sent.duration), (Some(moved), "e1", None));

    let stderr = "error: --by: the grant lasts until it is revoked, and has no end\n\
                  hint: --for or --until sets an end\n";
    let unlimited = run_at(&server, &["extend", "unlimited", "g1", "--by", "1d"]);
    assert_eq!(unlimited, Output::error(64, stderr));
    assert_eq!(fake.0.lock().extensions.len(), 1, "no change was sent");
}

#[test]
fn extend_states_the_change_and_warns_about_an_earlier_end() {
    let server = Fake::default().start();
    let extend = |until: &str| run_at(&server, &["extend", "complete", "g1", "--until", until]);
    let later = extend("2026-12-01T10:00Z");
    assert_eq!((later.code, later.stderr.as_str()), (0, ""));
    let end = "End       2026-12-01 10:00:00 UTC (before: 2026-12-01 09:00:00 UTC)\n";
    assert!(later.stdout.contains(end), "{}", later.stdout);

    let earlier = extend("2026-12-01T08:00Z");
    let stderr = "warning: access now ends earlier: 2026-12-01 08:00:00 UTC (before: 2026-12-01 \
                  09:00:00 UTC)\n";
    assert_eq!((earlier.code, earlier.stderr.as_str()), (0, stderr));
    let end = "End       2026-12-01 08:00:00 UTC (before: 2026-12-01 09:00:00 UTC)\n";
    assert!(earlier.stdout.contains(end), "{}", earlier.stdout);
}

#[test]
fn revoke_takes_one_grant_or_all() {
    let fake = Fake::default();
    let server = fake.start();
    let result = run_at(&server, &["revoke", "acme", "g1", "--reason", "done", "--etag", "e"]);
    let stderr = "error: GRANT: there is no such grant\n\
                  hint: `support-access list TENANT` lists the tenant's grants\n";
    assert_eq!(result, Output::error(4, stderr));
    let sent = fake.0.lock().revocations[0].clone();
    assert!(!sent.request_id.is_empty());
    let expected = v1::RevokeAccessRequest {
        request_id: sent.request_id.clone(),
        tenant_id: "acme".into(),
        grant_id: "g1".into(),
        etag: "e".into(),
        reason: "done".into(),
    };
    assert_eq!(sent, expected);
    let result = run_at(&server, &["revoke", "complete", "--all"]);
    assert!(result.code == 0 && result.stdout.starts_with("Revoked   2\n"), "{result:?}");
    for args in [&["revoke", "acme"][..], &["revoke", "acme", "g1", "--all"]] {
        assert_eq!(run_at(&server, args).code, 64, "{args:?}");
    }
}

#[test]
fn a_change_that_is_not_enforced_everywhere_exits_with_3() {
    let server = Fake::default().start();
    for (tenant, code, stderr) in [
        ("complete", 0, ""),
        ("pending", 3, PENDING),
        ("unknown-state", 3, PENDING),
        ("no-enforcement", 3, PENDING),
    ] {
        for args in [
            &["revoke", tenant, "g1"][..],
            &["revoke", tenant, "--all"],
            &["extend", tenant, "g1", "--for", "1h"],
            &["policy", "set", tenant, "--reason-required", "true"],
        ] {
            let result = run_at(&server, args);
            assert_eq!((result.code, result.stderr.as_str()), (code, stderr), "{args:?}");
            assert!(result.stdout.contains("Enforced "), "{args:?}: {result:?}");
        }
    }
}

#[test]
fn list_joins_all_pages() {
    let fake = Fake::default();
    let server = fake.start();
    let list = |limit: &str| {
        let args = ["list", "acme", "--state", "active", "--state", "SCHEDULED", "-o", "json"];
        let result = run_at(&server, &[&args[..], &["--limit", limit]].concat());
        assert_eq!((result.code, result.stderr.as_str()), (0, ""));
        let list = json(&result.stdout);
        let grants = list["grants"].as_array().unwrap();
        let ids: Vec<_> = grants.iter().map(|grant| grant["grant_id"].as_str().unwrap()).collect();
        let expected: Vec<_> = (0..ids.len()).map(|number| format!("g{number}")).collect();
        assert_eq!(ids, expected);
        (ids.len(), list["next_page_token"].as_str().unwrap().to_owned())
    };
    assert_eq!(list("1500"), (1_500, "1500".to_owned()));
    let sizes: Vec<_> = fake.0.lock().lists.iter().map(|list| list.page_size).collect();
    assert_eq!(sizes, [1_000, 500]);
    assert_eq!(fake.0.lock().lists[0].states, [2, 1], "ACTIVE and SCHEDULED");
    assert_eq!(list("9999"), (2_500, String::new()));
}

#[test]
fn only_an_explicit_option_lists_all_tenants() {
    let fake = Fake::default();
    let server = fake.start();
    let all = run_at(&server, &["list", "--all-tenants", "--limit", "1"]);
    let expected = "\
GRANT  TENANT  STATE   GROUP    AGENTS       LEVEL        KINDS  START (UTC)  END (UTC)         BY  TICKET  REASON
g0     acme    ACTIVE  support  every agent  UNSPECIFIED  -      -            2026-12-01 09:00  -   -       -

The list is longer; --limit shows more.
";
    assert_eq!((all.code, all.stdout.as_str()), (0, expected));
    assert_eq!(run_at(&server, &["list", "acme"]).code, 0);
    let scopes: Vec<_> =
        fake.0.lock().lists.iter().map(|list| (list.scope(), list.tenant_id.clone())).collect();
    let expected = [(v1::Scope::All, String::new()), (v1::Scope::Tenant, "acme".into())];
    assert_eq!(scopes, expected);
    assert_eq!(run_at(&server, &["list"]).code, 64);
}
