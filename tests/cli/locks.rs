//! Locks: set, lifted and listed.

use support_access::api::proto::v1;

use crate::{Said, fake::Fake, run, run_at, seconds};

#[test]
fn lock_sends_what_is_to_be_locked_and_until_when() {
    let fake = Fake::default();
    let server = fake.start();
    let until = prost_types::Timestamp { seconds: 1_796_115_600, nanos: 0 };
    let request =
        || v1::LockAccessRequest { reason: "why".into(), ..v1::LockAccessRequest::default() };
    let cases: [(&[&str], v1::LockAccessRequest); 5] = [
        (
            &["--tenant", "complete", "--everything"],
            v1::LockAccessRequest {
                tenant_id: Some("complete".into()),
                everything: true,
                ..request()
            },
        ),
        (
            &["--agent", "b", "--for", "8h"],
            v1::LockAccessRequest {
                agent_id: "b".into(),
                duration: Some(seconds(28_800)),
                ..request()
            },
        ),
        (
            &["--group", "g", "--until", "2026-12-01T09:00Z"],
            v1::LockAccessRequest { group_id: "g".into(), expire_time: Some(until), ..request() },
        ),
        (
            &["--kind", "ai"],
            v1::LockAccessRequest { agent_kind: v1::AgentKind::Ai.into(), ..request() },
        ),
        (&["--everything"], v1::LockAccessRequest { everything: true, ..request() }),
    ];
    for (args, expected) in cases {
        let said = run_at(&server, &[&["lock", "--reason", "why"], args].concat());
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{args:?}");
        assert!(said.stdout.starts_with("Lock      l1\nState     ACTIVE\n"), "{said:?}");
        let sent = fake.0.lock().locks.last().cloned().unwrap();
        assert!(!sent.request_id.is_empty());
        assert_eq!(v1::LockAccessRequest { request_id: String::new(), ..sent }, expected);
    }
    assert_eq!(fake.0.lock().actors.last().unwrap().as_deref(), Some("alice"));
}

#[test]
fn a_lock_that_is_not_known_to_be_in_force_exits_with_2_and_its_answer() {
    let server = Fake::default().start();
    let warning = "warning: the change is permanent, but not yet known at every check node\n";
    for (tenant, code, stderr) in
        [("complete", 0, ""), ("pending", 2, warning), ("silent", 2, warning)]
    {
        let said =
            run_at(&server, &["lock", "--tenant", tenant, "--everything", "--reason", "why"]);
        assert_eq!((said.code, said.stderr.as_str()), (code, stderr), "{tenant}");
        assert!(said.stdout.contains("In force "), "{said:?}");
    }
    let args =
        ["lock", "--tenant", "pending", "--everything", "--reason", "why", "--output", "json"];
    let json = run_at(&server, &args);
    assert!(json.stdout.contains("\"ENFORCEMENT_STATE_PENDING\""), "{json:?}");
    assert_eq!(json.code, 2);
}

#[test]
fn a_lock_is_retried_with_the_same_request_id_when_the_server_is_busy() {
    let fake = Fake::default();
    let args = ["lock", "--tenant", "unknown", "--everything", "--reason", "why"];
    let said = run_at(&fake.start(), &[&args[..], &["--timeout", "300ms"]].concat());
    assert_eq!(said.code, 1);
    let heard = fake.0.lock();
    assert!(heard.locks.len() > 1, "the command must retry");
    assert!(!heard.locks[0].request_id.is_empty());
    assert!(heard.locks.iter().all(|lock| *lock == heard.locks[0]));
}

#[test]
fn unlock_names_the_lock_and_says_why() {
    let fake = Fake::default();
    let server = fake.start();
    let said = run_at(&server, &["unlock", "l1", "--tenant", "acme", "--reason", "over"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(said.stdout.starts_with("Lock    l1\n"), "{said:?}");
    assert_eq!(run_at(&server, &["unlock", "l2", "--reason", "over"]).code, 0);
    let request = |tenant: Option<&str>, lock: &str| v1::UnlockAccessRequest {
        tenant_id: tenant.map(str::to_owned),
        lock_id: lock.into(),
        reason: "over".into(),
        ..v1::UnlockAccessRequest::default()
    };
    assert_eq!(fake.0.lock().unlocks, [request(Some("acme"), "l1"), request(None, "l2")]);

    let refused = run_at(&server, &["unlock", "l1", "--tenant", "other", "--reason", "over"]);
    let stderr = "error: LOCK_ID: only the vendor may lift it\n";
    assert_eq!(refused, Said { code: 1, stdout: String::new(), stderr: stderr.into() });
}

#[test]
fn locks_are_listed_from_all_pages() {
    let fake = Fake::default();
    let server = fake.start();
    let said = run_at(&server, &["locks", "--limit", "1"]);
    let stdout = "\
LOCK  STATE   LOCKED                    PARTY   SINCE (UTC)  UNTIL (UTC)   BY  REASON
l0    ACTIVE  agent bob in all tenants  VENDOR  -            until lifted  -   -

There are more; --limit shows them.
";
    assert_eq!(said, Said { code: 0, stdout: stdout.into(), stderr: String::new() });
    let args = ["locks", "--tenant", "acme", "--all", "--limit", "9999", "--output", "json"];
    let answer: serde_json::Value = serde_json::from_str(&run_at(&server, &args).stdout).unwrap();
    assert_eq!(answer["locks"].as_array().unwrap().len(), 1_200);
    assert_eq!(answer["next_page_token"], "");
    let heard = fake.0.lock();
    let [first, second, third] = heard.lock_lists.as_slice() else { panic!("{heard:?}") };
    assert_eq!((first.tenant_id.as_str(), first.include_ended, first.page_size), ("", false, 1));
    assert_eq!((second.tenant_id.as_str(), second.include_ended), ("acme", true));
    assert_eq!((third.page_token.as_str(), third.include_ended), ("1000", true));
}

#[test]
fn the_vendors_own_history_has_no_tenant() {
    let fake = Fake::default();
    let server = fake.start();
    assert_eq!(run_at(&server, &["history", "--vendor"]).code, 0);
    assert_eq!(fake.0.lock().events[0].tenant_id, "");
}

#[test]
fn wrong_usage_exits_with_64() {
    let cases: [&[&str]; 10] = [
        &["lock", "--reason", "why"],
        &["lock", "--everything"],
        &["lock", "--tenant", "acme", "--reason", "why"],
        &["lock", "--group", "g", "--agent", "bob", "--reason", "why"],
        &["lock", "--kind", "ai", "--everything", "--reason", "why"],
        &["lock", "--everything", "--reason", "why", "--for", "1h", "--until", "2026-12-01T09:00Z"],
        &["lock", "--everything", "--reason", "why", "--for", "soon"],
        &["unlock", "--reason", "why"],
        &["unlock", "l1"],
        &["history", "acme", "--vendor"],
    ];
    for args in cases {
        assert_eq!(run(args).code, 64, "{args:?}");
    }
    assert_eq!(run(&["history"]).code, 64);
}
