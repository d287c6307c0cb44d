//! The program as scripts and people meet it: a process with arguments, an environment, two streams and an exit code.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "these are tests")]

mod environment;
mod fake;
mod health;
mod history;
mod locks;
mod operator;

use std::{
    io::pipe,
    process::{Command, Stdio},
};

use fake::Fake;
use support_access::api::proto::v1;
use uuid::Uuid;

/// What a process said, and how it left.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The program, with nothing in its environment but a user's name.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
    command.args(args).env_clear().env("USER", "alice").stdin(Stdio::null());
    command
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(args: &[&str]) -> Said {
    said(&mut program(args))
}

fn run_at(server: &str, args: &[&str]) -> Said {
    said(program(args).args(["--server", server]))
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

#[test]
fn grant_sends_what_was_asked_for() {
    let fake = Fake::default();
    let args = "grant acme support --level read-only --for 7d --agent bob --agent eve --start 2026-12-01T09:00Z \
                --reason why --ticket T-1 --request-id r1 --actor carol";
    let said = run_at(&fake.start(), &args.split_whitespace().collect::<Vec<_>>());
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(said.stdout.starts_with("Grant    g1\nState    ACTIVE\n"), "{}", said.stdout);
    let heard = fake.0.lock();
    let expected = v1::GrantAccessRequest {
        request_id: "r1".into(),
        tenant_id: "acme".into(),
        group_id: "support".into(),
        named_agents: Some(v1::NamedAgents { agent_ids: vec!["bob".into(), "eve".into()] }),
        access_level: v1::AccessLevel::ReadOnly.into(),
        start_time: Some(prost_types::Timestamp { seconds: 1_796_115_600, nanos: 0 }),
        reason: "why".into(),
        ticket: "T-1".into(),
        duration: Some(seconds(604_800)),
        ..v1::GrantAccessRequest::default()
    };
    assert_eq!(heard.grants, [expected]);
    assert_eq!(heard.actors, [Some("carol".to_owned())]);
    assert_eq!(heard.timeouts, [true], "the server is told the deadline");
}

#[test]
fn a_grant_ends_as_asked_or_after_the_default_of_the_policy() {
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
        let heard = fake.0.lock();
        let request = heard.grants.last().unwrap();
        let v1::GrantAccessRequest { expire_time, duration, until_revoked, .. } = *request;
        assert_eq!((expire_time, duration, until_revoked), expected);
        assert!(request.request_id.parse::<Uuid>().is_ok(), "{}", request.request_id);
        assert_eq!(heard.actors.last().unwrap().as_deref(), Some("alice"), "the user's name");
    }
}

#[test]
fn a_refusal_names_the_argument_and_a_hint() {
    let said = run_at(
        &Fake::default().start(),
        &["grant", "strict", "support", "--level", "ADMIN", "--for", "60d"],
    );
    let stderr = "error: --for: must be at most 30d\u{fffd}[31m\n\
                  hint: `support-access policy show TENANT` shows what may be chosen\n";
    assert_eq!(said, Said { code: 1, stdout: String::new(), stderr: stderr.into() });
}

#[test]
fn what_may_be_repeated_is_repeated_while_the_server_is_away() {
    let fake = Fake::default();
    let server = fake.start();
    let grant = |tenant, more: &[&str]| {
        let args = ["grant", tenant, "support", "--level", "ADMIN", "--for", "1h"];
        run_at(&server, &[&args, more].concat())
    };
    assert_eq!(grant("busy once", &[]).code, 0);
    {
        let heard = fake.0.lock();
        let [first, second] = heard.grants.as_slice() else { panic!("{:?}", heard.grants) };
        assert_eq!(first, second, "the same request_id, too");
    }
    let said = grant("busy", &["--timeout", "300ms", "--request-id", "r7"]);
    let stderr = "error: the database is not available\n\
                  hint: access may have been granted all the same; with --request-id r7 the command may be given \
                  again, and grants once\n";
    assert_eq!(said, Said { code: 1, stdout: String::new(), stderr: stderr.into() });

    let extend = ["extend", "acme", "g1", "--for", "1h", "--timeout", "300ms"];
    assert_eq!(run_at(&server, &extend).code, 1);
    let heard = fake.0.lock();
    assert!(heard.extensions.len() > 1, "an extension is retried");
    assert!(heard.extensions.iter().all(|extension| *extension == heard.extensions[0]));
}

#[test]
fn check_exits_with_0_only_when_allowed_and_with_1_only_when_denied() {
    let server = Fake::default().start();
    let check = |tenant: &str, more: &[&str]| {
        let args = ["check", tenant, "bob", "--group", "support", "--level", "READ_WRITE"];
        run_at(&server, &[&args, more].concat())
    };
    let allowed = check("open", &[]);
    assert_eq!((allowed.code, allowed.stderr.as_str()), (0, ""));
    assert_eq!(
        check("closed", &[]),
        Said {
            code: 1,
            stdout: "Decision  DENIED\nReason    NO_GRANT\nMessage   What it \u{fffd}means\n\
                     Grant     -\n"
                .into(),
            stderr: String::new(),
        }
    );
    assert_eq!(check("stale", &[]).code, 2);
    let broken = Said { code: 2, stdout: String::new(), stderr: "error: broken\n".into() };
    assert_eq!(check("broken", &[]), broken);
    let slow = check("slow", &["--timeout", "100ms"]);
    assert_eq!(slow.code, 2);
    assert!(slow.stderr.starts_with("error: the server did not answer in time\n"), "{slow:?}");
    assert_eq!(check("open", &["--kind", "robot"]).code, 64);
    assert_eq!(run(&["check", "open", "bob"]).code, 64, "no level");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    // Taken and given back, so that nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let stderr = format!(
        "error: the server at {server} cannot be reached: Connection refused (os error 111)\n\
         hint: `support-access serve` starts one on this machine; --server, or SUPPORT_ACCESS_SERVER, names another\n"
    );
    let said = run_at(&server, &["show", "acme", "g1"]);
    assert_eq!(said, Said { code: 1, stdout: String::new(), stderr });
    assert_eq!(run_at(&server, &["check", "acme", "bob", "--level", "ADMIN"]).code, 2);
}

#[test]
fn list_merges_pages_into_one_answer() {
    let fake = Fake::default();
    let server = fake.start();
    let list = |limit: &str| {
        let args = ["list", "acme", "--state", "active,SCHEDULED", "--output", "json"];
        let said = run_at(&server, &[&args[..], &["--limit", limit]].concat());
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        let answer: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        let grants = answer["grants"].as_array().unwrap();
        let ids: Vec<_> = grants.iter().map(|grant| grant["grant_id"].as_str().unwrap()).collect();
        let expected: Vec<_> = (0..ids.len()).map(|number| format!("g{number}")).collect();
        assert_eq!(ids, expected);
        (ids.len(), answer["next_page_token"].as_str().unwrap().to_owned())
    };
    assert_eq!(list("1500"), (1_500, "1500".to_owned()));
    let sizes: Vec<_> = fake.0.lock().lists.iter().map(|list| list.page_size).collect();
    assert_eq!(sizes, [1_000, 500]);
    assert_eq!(fake.0.lock().lists[0].states, [2, 1], "ACTIVE and SCHEDULED");
    assert_eq!(list("9999"), (2_500, String::new()));
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let server = Fake::default().start();
    for args in [vec!["list", "acme"], vec!["show", "acme", "g1"], vec!["revoke", "acme", "g1"]] {
        let Said { stdout, stderr, .. } = run_at(&server, &args);
        assert!(!format!("{stdout}{stderr}").contains('\u{1b}'), "{args:?}");
    }
    let coloured =
        said(program(&["show", "acme", "g1", "--server", &server]).env("CLICOLOR_FORCE", "1"));
    assert!(coloured.stdout.contains('\u{1b}'), "or else this test could not fail");
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let server = Fake::default().start();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = program(&["list", "acme", "--limit", "2500", "--server", &server]);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let server = Fake::default().start();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = program(&["check", "open", "bob", "--level", "ADMIN", "--server", &server]);
    assert_eq!(command.stdout(full).status().unwrap().code(), Some(2));
}

#[test]
fn revoke_takes_a_grant_or_all() {
    let fake = Fake::default();
    let server = fake.start();
    let said = run_at(&server, &["revoke", "acme", "g1", "--reason", "done", "--etag", "e"]);
    let stderr = "error: no such grant\n\
                  hint: `support-access list TENANT` shows the grants that the tenant has\n";
    assert_eq!(said, Said { code: 1, stdout: String::new(), stderr: stderr.into() });
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
    let said = run_at(&server, &["revoke", "--all", "complete"]);
    assert!(said.code == 0 && said.stdout.starts_with("Revoked   2\n"), "{said:?}");
    for args in [&["revoke", "acme"][..], &["revoke", "--all", "acme", "g1"]] {
        assert_eq!(run_at(&server, args).code, 64, "{args:?}");
    }
}

#[test]
fn policy_set_updates_what_was_given_and_nothing_else() {
    let fake = Fake::default();
    let server = fake.start();
    let set = |args: &str| {
        let args = args.split_whitespace();
        let args: Vec<_> = ["policy", "set", "complete"].into_iter().chain(args).collect();
        run_at(&server, &args).code
    };
    assert_eq!(set("--etag e"), 64, "nothing to set");
    let args = "--group support:read-write --preset 7d --preset 1h --until-revoked-allowed false \
                --max-duration 30d --etag e --reason why";
    assert_eq!(set(args), 0);
    assert_eq!(set("--no-groups --ticket-required true"), 0);
    let heard = fake.0.lock();
    let mask = |paths: &[&str]| {
        Some(prost_types::FieldMask { paths: paths.iter().copied().map(str::to_owned).collect() })
    };
    let groups = |groups| Some(v1::GroupOverrides { groups });
    let presets = |durations| Some(v1::PresetDurations { durations });
    let first = v1::UpdateSupportPolicyRequest {
        tenant_id: "complete".into(),
        policy_overrides: Some(v1::PolicyOverrides {
            groups: groups(vec![v1::GroupOverride {
                group_id: "support".into(),
                max_access_level: v1::AccessLevel::ReadWrite.into(),
            }]),
            preset_durations: presets(vec![seconds(3_600), seconds(604_800)]),
            until_revoked_allowed: Some(false),
            max_duration: Some(seconds(2_592_000)),
            ..Default::default()
        }),
        update_mask: mask(&["groups", "preset_durations", "max_duration", "until_revoked_allowed"]),
        etag: "e".into(),
        reason: "why".into(),
        request_id: heard.policies[0].request_id.clone(),
    };
    let second = v1::UpdateSupportPolicyRequest {
        tenant_id: "complete".into(),
        policy_overrides: Some(v1::PolicyOverrides {
            groups: groups(vec![]),
            preset_durations: presets(vec![]),
            ticket_required: Some(true),
            ..Default::default()
        }),
        update_mask: mask(&["groups", "ticket_required"]),
        request_id: heard.policies[1].request_id.clone(),
        ..Default::default()
    };
    assert_eq!(heard.policies, [first, second]);
}

#[test]
fn a_change_that_is_not_known_to_be_in_force_exits_with_2_and_its_answer() {
    let server = Fake::default().start();
    let warning = "warning: the change is permanent, but not yet known at every check node\n";
    for (tenant, code, stderr) in [
        ("complete", 0, ""),
        ("pending", 2, warning),
        ("unheard-of", 2, warning),
        ("silent", 2, warning),
    ] {
        for args in [
            &["revoke", tenant, "g1"][..],
            &["revoke", "--all", tenant],
            &["extend", tenant, "g1", "--for", "1h"],
            &["policy", "set", tenant, "--reason-required", "true"],
        ] {
            let said = run_at(&server, args);
            assert_eq!((said.code, said.stderr.as_str()), (code, stderr), "{args:?}");
            assert!(said.stdout.contains("In force "), "{args:?}: {said:?}");
        }
    }
    let json = run_at(&server, &["revoke", "pending", "g1", "--output", "json"]);
    assert!(json.stdout.contains("\"ENFORCEMENT_STATE_PENDING\""), "{json:?}");
    assert_eq!((json.code, json.stderr.as_str()), (2, warning));
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    let cases: [(&[&str], i32); 12] = [
        (&["--help"], 0),
        (&["check", "--help"], 0),
        (&["--version"], 0),
        (&["completions", "bash"], 0),
        (&[], 64),
        (&["nonsense"], 64),
        (&["grant", "acme", "support"], 64),
        (&["grant", "acme", "support", "--level", "root"], 64),
        (&["grant", "acme", "support", "--level", "ADMIN", "--for", "1h", "--until-revoked"], 64),
        (&["grant", "acme", "support", "--level", "ADMIN", "--until", "2026-12-01T09:00"], 64),
        (&["extend", "acme", "g1"], 64),
        (&["list", "acme", "--server", "https://example.com/path"], 64),
    ];
    for (args, code) in cases {
        let said = run(args);
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert_eq!(said.stdout.is_empty(), code == 64, "{args:?}: {said:?}");
        assert_eq!(said.stderr.is_empty(), code == 0, "{args:?}: {said:?}");
    }
    assert!(run(&["--help"]).stdout.contains("could not tell"), "the exit codes are in it");
}

#[test]
fn a_wrong_configuration_exits_with_64_and_a_sentence() {
    let refused = |stderr: &str| Said { code: 64, stdout: String::new(), stderr: stderr.into() };
    assert_eq!(
        run(&["serve", "--listen", "127.0.0.1:0", "--max-staleness", "1ms"]),
        refused(
            "error: --max-staleness must be a duration from 200ms to 5m, such as 2s, but is \"1ms\"\n"
        )
    );
    assert_eq!(
        said(program(&["serve"]).env("SUPPORT_ACCESS_LISTEN", "127.0.0.1:0,0.0.0.0:50051")),
        refused(
            "error: listen must be a loopback address such as 127.0.0.1:50051, but is 0.0.0.0:50051: nothing is \
             configured to tell who is calling (client certificates, or issuers of tokens), so whoever reaches it could grant access\n"
        )
    );
    assert_eq!(
        run(&["database", "migrate", "--database-url", "mysql:x"]),
        refused(
            "error: --database-url must begin with sqlite:, postgres: or memory:, such as sqlite://support-access.db, \
             but begins with \"mysql\"\n"
        )
    );
    let memory = run(&["database", "migrate", "--database-url", "memory:"]);
    assert_eq!(memory.code, 1, "there is nothing to migrate");
}
