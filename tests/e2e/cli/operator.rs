//! `node list`, `tenant list`, `version` and `whoami`.

use crate::cli::{Output, fake::Fake, json, output, program, run_at};

#[test]
fn nodes_are_listed() {
    let server = Fake::default().start();
    let stdout = "\
NODE  KIND     VERSION  REVISION  LAG  LEASE AGE  SILENT FOR  UPSTREAM
n1    REPLICA  0.1.0    7         0    none       -           -

The log ends at revision 0. A node with a lease older than - denies every check.
";
    let result = run_at(&server, &["node", "list"]);
    assert_eq!(result, Output { code: 0, stdout: stdout.into(), stderr: String::new() });
    let list = json(&run_at(&server, &["node", "list", "--output", "json"]).stdout);
    assert_eq!(list["check_nodes"][0]["kind"], "NODE_KIND_REPLICA");
    assert_eq!(list["head_revision"], "0");
}

#[test]
fn tenants_are_listed_from_all_pages() {
    let server = Fake::default().start();
    let result = run_at(&server, &["tenant", "list", "--limit", "2"]);
    let stdout = "TENANT\nt0\nt1\n\nThe list is longer; --limit shows more.\n";
    assert_eq!((result.code, result.stdout.as_str()), (0, stdout));
    let list = json(&run_at(&server, &["tenant", "list", "--limit", "9999", "-o", "json"]).stdout);
    assert_eq!(list["tenants"].as_array().unwrap().len(), 1_001);
}

#[test]
fn version_shows_the_client_and_a_reachable_server() {
    let server = Fake::default().start();
    let own = env!("CARGO_PKG_VERSION");
    let result = run_at(&server, &["version"]);
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    let start = format!("PROGRAM  VERSION  COMMIT\nclient   {own}    ");
    assert!(result.stdout.starts_with(&start), "{}", result.stdout);
    assert!(result.stdout.ends_with("\nsidecar  0.2.0    0123456789ab\n"), "{}", result.stdout);
    let versions = json(&run_at(&server, &["version", "-o", "json"]).stdout);
    assert_eq!(versions["client"]["version"], own);
    assert_eq!(versions["server"]["commit"], "0123456789ab");

    let unreachable = run_at("unix:/no/such/socket", &["version"]);
    assert_eq!(unreachable.code, 0);
    let start = "warning: no server version: the connection to unix:/no/such/socket failed";
    assert!(unreachable.stderr.starts_with(start), "{unreachable:?}");
    let versions = json(&run_at("unix:/no/such/socket", &["version", "-o", "json"]).stdout);
    assert_eq!(versions["server"], serde_json::Value::Null);
}

#[test]
fn whoami_shows_the_caller_as_the_server_sees_it() {
    let server = Fake::default().start();
    let stdout = "\
Name            maria@acme
Authentication  none: every local caller has every role
Roles           tenant_admin, operator
Tenants         all
";
    let mut command = program(&["whoami", "--server", &server]);
    let result = output(command.env("SUPPORT_ACCESS_ACTOR", "maria@acme"));
    assert_eq!(result, Output { code: 0, stdout: stdout.into(), stderr: String::new() });
}

#[test]
fn an_accepted_clock_is_shown_with_the_step() {
    let server = Fake::default().start();
    let stdout = "\
Clock         accepted (1h behind)
Moved grants  12
Token         t7
";
    let args = ["clock", "accept", "--reason", "NTP is right", "--request-id", "r"];
    let result = run_at(&server, &args);
    assert_eq!(result, Output { code: 0, stdout: stdout.into(), stderr: String::new() });
    let accepted = json(&run_at(&server, &[&args[..], &["-o", "json"]].concat()).stdout);
    assert_eq!(accepted["step"], "-3600s");
    assert_eq!(accepted["moved_count"], 12);

    let trusted = run_at(&server, &["clock", "accept", "--reason", "trusted"]);
    let start = "Clock         trusted already; nothing has changed\n";
    assert!(trusted.stdout.starts_with(start), "{trusted:?}");
    let unreasoned = run_at(&server, &["clock", "accept"]);
    assert!(unreasoned.stderr.contains("--reason"), "{unreasoned:?}");
}

#[test]
fn a_failed_acceptance_names_the_request_id() {
    let server = Fake::default().start();
    let args =
        ["clock", "accept", "--reason", "unavailable", "--request-id", "r", "--timeout", "1s"];
    let result = run_at(&server, &args);
    assert_ne!(result.code, 0);
    assert!(result.stderr.contains("--request-id r"), "{result:?}");
}
