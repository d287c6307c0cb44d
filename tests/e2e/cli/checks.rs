//! `check` and `explain`.

use support_access::api::proto::v1;

use crate::cli::{Output, fake::Fake, run, run_at};

#[test]
fn check_exits_with_0_only_if_allowed_and_with_2_only_if_denied() {
    let server = Fake::default().start();
    let check = |tenant: &str, more: &[&str]| {
        let args = ["check", tenant, "bob", "--group", "support", "--level", "READ_WRITE"];
        run_at(&server, &[&args, more].concat())
    };
    let allowed = check("open", &[]);
    assert_eq!((allowed.code, allowed.stderr.as_str()), (0, ""));
    let stdout =
        "Decision  DENIED\nReason    NO_GRANT\nMessage   the \u{fffd}message\nGrant     -\n";
    let denied = Output { code: 2, stdout: stdout.into(), stderr: String::new() };
    assert_eq!(check("closed", &[]), denied);
    assert_eq!(check("closed", &["--expect", "denied"]).code, 0);
    assert_eq!(check("open", &["--expect", "denied"]).code, 2);
    assert_eq!(check("stale", &[]).code, 8);
    assert_eq!(check("stale", &["--expect", "denied"]).code, 8);
    assert_eq!(check("broken", &[]), Output::error(1, "error: broken\n"));
    let slow = check("slow", &["--timeout", "100ms"]);
    assert_eq!(slow.code, 8);
    assert!(slow.stderr.starts_with("error: the server did not respond before"), "{slow:?}");
    assert_eq!(check("open", &["--kind", "robot"]).code, 64);
    assert_eq!(run(&["check", "open", "bob"]).code, 64, "no level");
}

#[test]
fn check_sends_every_argument() {
    let fake = Fake::default();
    let args = "check open bob --group support --group engineering --level admin --kind ai \
                --on-behalf-of eve --token t7";
    assert_eq!(run_at(&fake.start(), &args.split_whitespace().collect::<Vec<_>>()).code, 0);
    let expected = v1::CheckAccessRequest {
        check: Some(v1::AccessCheck {
            tenant_id: "open".into(),
            agent_id: "bob".into(),
            group_ids: vec!["support".into(), "engineering".into()],
            required_level: v1::AccessLevel::Admin.into(),
            agent_kind: v1::AgentKind::Ai.into(),
            on_behalf_of: "eve".into(),
        }),
        consistency_token: "t7".into(),
    };
    assert_eq!(fake.0.lock().checks, [expected]);
}

#[test]
fn a_list_of_groups_in_one_option_is_a_warning() {
    let server = Fake::default().start();
    let args = ["check", "closed", "bob", "--group", "support,engineering", "--level", "admin"];
    let stderr = "warning: \"support,engineering\" is the id of one group; repeat --group for \
                  several groups\n";
    let result = run_at(&server, &args);
    assert_eq!((result.code, result.stderr.as_str()), (2, stderr));
}

#[test]
fn explain_shows_the_checklist_and_the_candidates() {
    let server = Fake::default().start();
    let stdout = "\
Decision  DENIED
Reason    EXPIRED
Message   bob may not enter
Grant     -

CHECKLIST                   ANSWER  DETAIL
The period has not expired  NO      The grant has expired.

GRANT  STATE   GROUP    AGENTS       LEVEL        KINDS  START (UTC)  END (UTC)         FINDING
g1     ACTIVE  support  every agent  UNSPECIFIED  -      -            2026-12-01 09:00  EXPIRED

The tenant may have more grants; `support-access list` at a replica shows all.
";
    let result = run_at(&server, &["explain", "acme", "bob", "--level", "admin"]);
    assert_eq!(result, Output { code: 0, stdout: stdout.into(), stderr: String::new() });
}
