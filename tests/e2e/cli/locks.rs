//! `lock create`, `lift` and `list`.

use support_access::api::proto::v1;

use crate::cli::{Output, PENDING, fake::Fake, json, run, run_at, seconds};

#[test]
fn create_sends_the_scope_the_target_and_the_end() {
    let fake = Fake::default();
    let server = fake.start();
    let until = prost_types::Timestamp { seconds: 1_796_115_600, nanos: 0 };
    let request =
        || v1::LockAccessRequest { reason: "why".into(), ..v1::LockAccessRequest::default() };
    let cases: [(&[&str], v1::LockAccessRequest); 5] = [
        (
            &["complete", "--everything"],
            v1::LockAccessRequest {
                tenant_id: Some("complete".into()),
                everything: true,
                ..request()
            },
        ),
        (
            &["--all-tenants", "--agent", "b", "--for", "8h"],
            v1::LockAccessRequest {
                agent_id: "b".into(),
                duration: Some(seconds(28_800)),
                ..request()
            },
        ),
        (
            &["--all-tenants", "--group", "g", "--until", "2026-12-01T09:00Z"],
            v1::LockAccessRequest { group_id: "g".into(), expire_time: Some(until), ..request() },
        ),
        (
            &["--all-tenants", "--kind", "ai"],
            v1::LockAccessRequest { agent_kind: v1::AgentKind::Ai.into(), ..request() },
        ),
        (
            &["--all-tenants", "--everything"],
            v1::LockAccessRequest { everything: true, ..request() },
        ),
    ];
    for (args, expected) in cases {
        let result = run_at(&server, &[&["lock", "create", "--reason", "why"], args].concat());
        assert_eq!((result.code, result.stderr.as_str()), (0, ""), "{args:?}");
        assert!(result.stdout.starts_with("Lock      l1\nState     ACTIVE\n"), "{result:?}");
        let sent = fake.0.lock().locks.last().cloned().unwrap();
        assert!(!sent.request_id.is_empty());
        assert_eq!(v1::LockAccessRequest { request_id: String::new(), ..sent }, expected);
    }
    assert_eq!(fake.0.lock().actors.last().unwrap().as_deref(), Some("alice"));
}

#[test]
fn a_lock_that_is_not_enforced_everywhere_exits_with_3() {
    let server = Fake::default().start();
    for (tenant, code, stderr) in
        [("complete", 0, ""), ("pending", 3, PENDING), ("no-enforcement", 3, PENDING)]
    {
        let args = ["lock", "create", tenant, "--everything", "--reason", "why"];
        let result = run_at(&server, &args);
        assert_eq!((result.code, result.stderr.as_str()), (code, stderr), "{tenant}");
        assert!(result.stdout.contains("Enforced "), "{result:?}");
    }
}

#[test]
fn a_lock_is_retried_with_the_same_request_id_while_the_database_is_unavailable() {
    let fake = Fake::default();
    let args = ["lock", "create", "unavailable", "--everything", "--reason", "why"];
    let result = run_at(&fake.start(), &[&args[..], &["--timeout", "300ms"]].concat());
    assert_eq!(result.code, 8);
    let received = fake.0.lock();
    assert!(received.locks.len() > 1, "the command retries");
    assert!(!received.locks[0].request_id.is_empty());
    assert!(received.locks.iter().all(|lock| *lock == received.locks[0]));
}

#[test]
fn lift_names_the_scope_and_the_lock() {
    let fake = Fake::default();
    let server = fake.start();
    let args = ["lock", "lift", "acme", "l1", "--reason", "over", "--request-id", "r1"];
    let result = run_at(&server, &args);
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    assert!(result.stdout.starts_with("Lock     l1\n"), "{result:?}");
    let args = ["lock", "lift", "--all-tenants", "l2", "--reason", "over", "--request-id", "r2"];
    assert_eq!(run_at(&server, &args).code, 0);
    let request = |tenant: Option<&str>, lock: &str, id: &str| v1::UnlockAccessRequest {
        tenant_id: tenant.map(str::to_owned),
        lock_id: lock.into(),
        reason: "over".into(),
        request_id: id.into(),
        ..v1::UnlockAccessRequest::default()
    };
    let expected = [request(Some("acme"), "l1", "r1"), request(None, "l2", "r2")];
    assert_eq!(fake.0.lock().unlocks, expected);

    let rejected = run_at(&server, &["lock", "lift", "other", "l1", "--reason", "over"]);
    assert_eq!(rejected, Output::error(5, "error: LOCK: only the vendor may lift it\n"));
}

#[test]
fn locks_are_listed_from_all_pages() {
    let fake = Fake::default();
    let server = fake.start();
    let result = run_at(&server, &["lock", "list", "--all-tenants", "--limit", "1"]);
    let stdout = "\
LOCK  STATE   TARGET     TENANT       PARTY   START (UTC)  END (UTC)     BY  REASON
l0    ACTIVE  agent bob  all tenants  VENDOR  -            until lifted  -   -

The list is longer; --limit shows more.
";
    assert_eq!(result, Output { code: 0, stdout: stdout.into(), stderr: String::new() });
    let args = ["lock", "list", "acme", "--ended", "--limit", "9999", "--output", "json"];
    let list = json(&run_at(&server, &args).stdout);
    assert_eq!(list["locks"].as_array().unwrap().len(), 1_200);
    assert_eq!(list["next_page_token"], "");
    let received = fake.0.lock();
    let [first, second, third] = received.lock_lists.as_slice() else { panic!("{received:?}") };
    assert_eq!((first.scope(), first.include_ended, first.page_size), (v1::Scope::All, false, 1));
    assert_eq!((second.scope(), second.tenant_id.as_str()), (v1::Scope::Tenant, "acme"));
    assert!(second.include_ended && third.include_ended);
    assert_eq!(third.page_token, "1000");
}

#[test]
fn invalid_usage_exits_with_64() {
    let cases = [
        "lock create --everything --reason why",
        "lock create acme --reason why",
        "lock create acme --everything",
        "lock create acme --all-tenants --everything --reason why",
        "lock create acme --group g --agent bob --reason why",
        "lock create acme --kind ai --everything --reason why",
        "lock create acme --everything --reason why --for 1h --until 2026-12-01T09:00Z",
        "lock create acme --everything --reason why --for soon",
        "lock lift --reason why",
        "lock lift l1 --reason why",
        "lock lift acme l1",
        "lock lift acme --all-tenants l1 --reason why",
        "lock list",
        "lock list acme --all-tenants",
    ];
    for case in cases {
        let result = run(&case.split_whitespace().collect::<Vec<_>>());
        assert_eq!((result.code, result.stdout.as_str()), (64, ""), "{case}: {result:?}");
    }
}
