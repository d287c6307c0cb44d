//! The program as a process: arguments, environment, stdout, stderr and exit code.

mod checks;
mod completions;
mod config;
mod connection;
mod environment;
mod fake;
mod grants;
mod health;
mod history;
mod locks;
mod operator;
mod policy;
mod tables;

use crate::common::{authority, server, terminal};

use std::{
    io::pipe,
    process::{Command, Stdio},
};

use fake::Fake;

/// The warning of a change that is not yet enforced everywhere.
const PENDING: &str = "warning: the change is durable, but not yet known to be enforced at every \
                       check node; `support-access history wait` waits for it\n";

/// The result of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The result of a command that has failed.
    fn error(code: i32, stderr: &str) -> Self {
        Self { code, stdout: String::new(), stderr: stderr.into() }
    }
}

/// The program, with an environment that contains only the name of the user.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_support-access"));
    command.args(args).env_clear().env("USER", "alice").stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    Output {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(args: &[&str]) -> Output {
    output(&mut program(args))
}

pub(crate) fn run_at(server: &str, args: &[&str]) -> Output {
    output(program(args).args(["--server", server]))
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

#[test]
fn output_in_a_pipe_has_no_colors() {
    let server = Fake::default().start();
    for args in [vec!["list", "acme"], vec!["show", "acme", "g1"], vec!["revoke", "acme", "g1"]] {
        let Output { stdout, stderr, .. } = run_at(&server, &args);
        assert!(!format!("{stdout}{stderr}").contains('\u{1b}'), "{args:?}");
    }
    let mut forced = program(&["show", "acme", "g1", "--server", &server]);
    let forced = output(forced.env("CLICOLOR_FORCE", "1"));
    assert!(forced.stdout.contains('\u{1b}'), "colors exist: {forced:?}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let server = Fake::default().start();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = program(&["list", "acme", "--limit", "2500", "--server", &server]);
    let process = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let result = process.wait_with_output().unwrap();
    assert_eq!((result.status.code(), result.stderr), (Some(0), vec![]));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let server = Fake::default().start();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = program(&["check", "open", "bob", "--level", "ADMIN", "--server", &server]);
    assert_eq!(command.stdout(full).status().unwrap().code(), Some(1), "not 0: not allowed");
}

#[test]
fn invalid_usage_exits_with_64_and_help_with_0() {
    let cases: [(&[&str], i32); 18] = [
        (&["--help"], 0),
        (&["check", "--help"], 0),
        (&["--version"], 0),
        (&["completions", "bash"], 0),
        (&[], 64),
        (&["nonsense"], 64),
        (&["lock"], 64),
        (&["grant", "acme", "support"], 64),
        (&["grant", "acme", "support", "--level", "root"], 64),
        (&["grant", "acme", "support", "--level", "ADMIN", "--for", "1h", "--until-revoked"], 64),
        (&["grant", "acme", "support", "--level", "ADMIN", "--until", "2026-12-01T09:00"], 64),
        (&["grant", "acme", "support", "--level", "ADMIN", "--for", "1M"], 64),
        (&["extend", "acme", "g1"], 64),
        (&["extend", "acme", "g1", "--for", "1h", "--by", "1h"], 64),
        (&["list"], 64),
        (&["list", "acme", "--all-tenants"], 64),
        (&["list", "acme", "--state", "active,revoked"], 64),
        (&["list", "acme", "--server", "https://example.com/path"], 64),
    ];
    for (args, code) in cases {
        let result = run(args);
        assert_eq!(result.code, code, "{args:?}: {result:?}");
        assert_eq!(result.stdout.is_empty(), code == 64, "{args:?}: {result:?}");
        assert_eq!(result.stderr.is_empty(), code == 0, "{args:?}: {result:?}");
    }
}

#[test]
fn exit_codes_distinguish_the_outcomes() {
    let server = Fake::default().start();
    let cases = [
        ("show acme g1", 0),
        ("check open bob --level admin", 0),
        ("check closed bob --level admin", 2),
        ("revoke pending g1", 3),
        ("show empty g1", 4),
        ("lock lift other l1 --reason over", 5),
        ("grant strict support --level admin --for 60d", 6),
        ("show foreign g1", 7),
        ("check stale bob --level admin", 8),
        ("show acme", 64),
    ];
    for (args, code) in cases {
        let result = run_at(&server, &args.split(' ').collect::<Vec<_>>());
        assert_eq!(result.code, code, "{args}: {result:?}");
    }
    let help = run(&["--help"]).stdout;
    for (_, code) in cases {
        assert!(help.lines().any(|line| line.starts_with(&format!("  {code}   "))), "{code}");
    }
}

/// Daily verbs are commands. Everything else is a noun, then a verb. The tenant always comes first.
#[test]
fn the_command_line_has_one_grammar() {
    let usages = [
        "grant [OPTIONS] --level <LEVEL> <TENANT> <GROUP>",
        "extend [OPTIONS] <TENANT> <GRANT> \
         <--for <DURATION>|--until <TIME>|--until-revoked|--by <DURATION>>",
        "revoke [OPTIONS] <TENANT> <GRANT|--all>",
        "list [OPTIONS] <TENANT|--all-tenants>",
        "show [OPTIONS] <TENANT> <GRANT>",
        "check [OPTIONS] --level <LEVEL> <TENANT> <AGENT>",
        "explain [OPTIONS] --level <LEVEL> <TENANT> <AGENT>",
        "lock create [OPTIONS] --reason <TEXT> <TENANT|--all-tenants> \
         <--agent <ID>|--group <ID>|--kind <KIND>|--everything>",
        "lock lift [OPTIONS] --reason <TEXT> <TENANT|--all-tenants> <LOCK>",
        "lock list [OPTIONS] <TENANT|--all-tenants>",
        "policy get [OPTIONS] <TENANT>",
        "policy set [OPTIONS] <TENANT>",
        "history list [OPTIONS] <TENANT|--vendor|--all>",
        "history export [OPTIONS] <TENANT|--vendor>",
        "history checkpoint [OPTIONS] <TENANT|--vendor>",
        "history wait [OPTIONS] <TENANT|--vendor> <TOKEN>",
        "history verify [OPTIONS] <FILE>...",
        "tenant list [OPTIONS]",
        "node list [OPTIONS]",
        "serve [OPTIONS]",
        "sidecar [OPTIONS]",
        "database migrate [OPTIONS]",
        "database restored [OPTIONS]",
        "database rotate-event-key [OPTIONS] --new-event-key-file <FILE>",
        "health check [OPTIONS]",
        "version [OPTIONS]",
        "whoami [OPTIONS]",
        "completions <SHELL>",
    ];
    for usage in usages {
        let words = usage.split(' ').take_while(|word| !word.starts_with(['[', '<']));
        let help = run(&words.chain(["--help"]).collect::<Vec<_>>()).stdout;
        let line = help.lines().find_map(|line| line.strip_prefix("Usage: support-access "));
        assert_eq!(line, Some(usage));
        assert!(help.contains("\nExample"), "{usage} has an example");
        assert!(!help.contains("--tenant"), "{usage}");
    }
}

#[test]
fn help_has_groups_and_exit_codes() {
    let help = run(&["--help"]).stdout;
    for text in ["\nAccess:\n  grant ", "\nServer:\n", "\nInformation:\n", "  64           invalid"]
    {
        assert!(help.contains(text), "{text:?}: {help}");
    }
    let help = run(&["grant", "-h"]).stdout;
    let (arguments, connection) = help.split_once("\nConnection:\n").unwrap();
    assert!(arguments.contains("--level") && connection.contains("--server"), "{help}");
    assert!(help.contains("\nExamples:\n"), "{help}");
}

#[test]
fn errors_are_json_if_the_output_is_json() {
    let server = Fake::default().start();
    let args = ["grant", "strict", "support", "--level", "ADMIN", "--for", "60d", "-o", "json"];
    let result = run_at(&server, &args);
    assert_eq!((result.code, result.stdout.as_str()), (6, ""));
    assert_eq!(result.stderr.lines().count(), 1);
    let expected = serde_json::json!({"error": {
        "code": "FAILED_PRECONDITION",
        "reason": "POLICY_VIOLATION",
        "message": "must be at most 30d\u{fffd}[31m",
        "violations": [{
            "field": "duration",
            "argument": "--for",
            "reason": "",
            "description": "must be at most 30d\u{fffd}[31m",
        }],
        "metadata": {"max_duration": "2592000s"},
        "hint": "`support-access policy get TENANT` shows what the policy allows",
    }});
    assert_eq!(json(&result.stderr), expected);

    let usage = run(&["list", "--output=json"]);
    assert_eq!((usage.code, usage.stdout.as_str()), (64, ""));
    let error = json(&usage.stderr);
    assert_eq!(error["error"]["code"], "INVALID_ARGUMENT");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("TENANT") && !message.contains("Usage"), "{message}");

    let pending = run_at(&server, &["revoke", "pending", "g1", "-o", "json"]);
    assert_eq!(pending.code, 3);
    assert_eq!(json(&pending.stdout)["enforcement"]["state"], "ENFORCEMENT_STATE_PENDING");
    assert!(json(&pending.stderr)["warning"]["message"].is_string(), "{pending:?}");
}

#[test]
fn an_invalid_configuration_exits_with_64() {
    assert_eq!(
        run(&["serve", "--listen", "127.0.0.1:0", "--max-staleness", "1ms"]),
        Output::error(
            64,
            "error: --max-staleness must be a duration from 200ms to 5m, such as 2s, but is \
             \"1ms\"\n"
        )
    );
    let mut open = program(&["serve"]);
    let open = output(open.env("SUPPORT_ACCESS_LISTEN", "127.0.0.1:0,0.0.0.0:50051"));
    let start = "error: listen must be a loopback address such as 127.0.0.1:50051, but is 0.0.0.0";
    assert!(open.code == 64 && open.stderr.starts_with(start), "{open:?}");
    let unknown = run(&["database", "migrate", "--database-url", "mysql:x"]);
    assert_eq!(unknown.code, 64);
    assert!(unknown.stderr.starts_with("error: --database-url must start with"), "{unknown:?}");
    let memory = run(&["database", "migrate", "--database-url", "memory:"]);
    assert_eq!(memory.code, 1, "{memory:?}");
    let memory = run(&["database", "restored", "--database-url", "memory:"]);
    assert_eq!(memory.code, 64, "{memory:?}");
}
