//! Environment variables of the commands that call a server.

use crate::cli::{Output, fake::Fake, output, program, run, run_at};

#[test]
fn a_flag_overrides_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let fake = Fake::default();
    fake.start_at(&path);
    let socket = format!("unix:{}", path.display());
    let show = ["show", "acme", "g1"];
    let result = output(program(&show).env("SUPPORT_ACCESS_SERVER", &socket));
    assert_eq!(result.code, 0, "{result:?}");
    let overridden = program(&show)
        .env("SUPPORT_ACCESS_SERVER", &socket)
        .args(["--server", "unix:/no/such/socket"])
        .status();
    assert_eq!(overridden.unwrap().code(), Some(8));
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let server = Fake::default().start();
    let args = ["show", "acme", "g1", "--server", &server];
    let expected = run(&args);
    let mut command = program(&args);
    for name in ["SERVER", "ACTOR", "TIMEOUT", "OUTPUT"] {
        command.env(format!("SUPPORT_ACCESS_{name}"), "");
    }
    assert_eq!(output(&mut command), expected);
    assert_eq!(expected.code, 0);

    let mut default = program(&["policy", "get", "acme", "--timeout", "1s"]);
    let default = output(default.env("SUPPORT_ACCESS_SERVER", ""));
    assert_ne!(default.code, 64, "there is a default: {default:?}");
    let wrong = output(program(&args).env("SUPPORT_ACCESS_TIMEOUT", "nonsense"));
    assert_eq!(wrong.code, 64, "{wrong:?}");
}

#[test]
fn usage_lines_show_no_options_from_the_environment() {
    let usage = |command: &mut std::process::Command| -> String {
        let result = output(command);
        assert_eq!(result.code, 64, "{result:?}");
        let line = result.stderr.lines().find(|line| line.starts_with("Usage:"));
        line.unwrap_or_else(|| panic!("{result:?}")).to_owned()
    };
    let mut command = program(&["list"]);
    command.env("SUPPORT_ACCESS_ACTOR", "maria").env("SUPPORT_ACCESS_TIMEOUT", "1s");
    let expected = "Usage: support-access list [OPTIONS] <TENANT|--all-tenants>";
    assert_eq!(usage(&mut command), expected);
    let mut command = program(&["lock", "lift"]);
    command.env("SUPPORT_ACCESS_ACTOR", "maria");
    assert!(!usage(&mut command).contains("--actor"));
}

#[test]
fn commands_without_a_server_ignore_the_variables() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("a.db").display());
    let with_nonsense = |args: &[&str]| {
        let mut command = program(args);
        for name in ["SERVER", "ACTOR", "TIMEOUT", "OUTPUT"] {
            command.env(format!("SUPPORT_ACCESS_{name}"), "\n");
        }
        output(&mut command)
    };
    let migrated = with_nonsense(&["database", "migrate", "--database-url", &url]);
    assert_eq!((migrated.code, migrated.stderr.as_str()), (0, ""));
    assert_eq!(with_nonsense(&["completions", "bash"]).code, 0);
    let served = with_nonsense(&["serve", "--log", "a=b=c"]);
    assert!(served.stderr.starts_with("error: --log must be"), "{served:?}");
    assert_eq!(with_nonsense(&["list", "acme"]).code, 64, "the variables are invalid");
    let rejected = run(&["database", "migrate", "--database-url", &url, "--output", "json"]);
    assert_eq!((rejected.code, rejected.stdout.as_str()), (64, ""));
}

#[test]
fn options_may_precede_the_arguments() {
    let server = Fake::default().start();
    for args in [
        ["list", "acme", "--output", "json"],
        ["list", "--output", "json", "acme"],
        ["list", "-o", "json", "acme"],
    ] {
        let Output { code, stdout, .. } = run_at(&server, &args);
        assert!(code == 0 && stdout.starts_with('{'), "{args:?}: {stdout}");
    }
}
