//! What the environment says to the commands that ask a server, and does not say to the others.

use crate::{fake::Fake, program, run, said};

#[test]
fn the_server_is_taken_from_the_flag_then_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let fake = Fake::default();
    fake.start_at(&path);
    let socket = format!("unix:{}", path.display());
    let show = ["show", "acme", "g1"];
    let by_env = said(program(&show).env("SUPPORT_ACCESS_SERVER", &socket));
    assert_eq!(by_env.code, 0, "{by_env:?}");
    let other = program(&show)
        .env("SUPPORT_ACCESS_SERVER", &socket)
        .args(["--server", "unix:/no/such/socket"])
        .status();
    assert_eq!(other.unwrap().code(), Some(1));
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let server = Fake::default().start();
    let args = ["show", "acme", "g1", "--server", &server];
    let expected = said(&mut program(&args));
    let mut command = program(&args);
    for name in ["SERVER", "ACTOR", "TIMEOUT", "OUTPUT"] {
        command.env(format!("SUPPORT_ACCESS_{name}"), "");
    }
    assert_eq!(said(&mut command), expected);
    assert_eq!(expected.code, 0);

    let default = said(
        program(&["policy", "show", "acme", "--timeout", "1s"]).env("SUPPORT_ACCESS_SERVER", ""),
    );
    assert_ne!(default.code, 64, "there is a default: {default:?}");
    let wrong = said(program(&args).env("SUPPORT_ACCESS_TIMEOUT", "nonsense"));
    assert_eq!(wrong.code, 64, "{wrong:?}");
}

#[test]
fn commands_that_ask_no_server_do_not_read_how_to() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("a.db").display());
    let with_nonsense = |args: &[&str]| {
        let mut command = program(args);
        for name in ["SERVER", "ACTOR", "TIMEOUT", "OUTPUT"] {
            command.env(format!("SUPPORT_ACCESS_{name}"), "\n");
        }
        said(&mut command)
    };
    let migrated = with_nonsense(&["database", "migrate", "--database-url", &url]);
    assert_eq!((migrated.code, migrated.stderr.as_str()), (0, ""));
    assert_eq!(with_nonsense(&["completions", "bash"]).code, 0);
    let served = with_nonsense(&["serve", "--log", "a=b=c"]);
    assert!(served.stderr.starts_with("error: --log must be like"), "{served:?}");
    assert_eq!(with_nonsense(&["list", "acme"]).code, 64, "or else this test could not fail");

    let refused = run(&["database", "migrate", "--database-url", &url, "--output", "json"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (64, ""));
}

#[test]
fn how_to_ask_can_be_said_anywhere_after_the_command() {
    let server = Fake::default().start();
    for args in [
        ["list", "acme", "--server", &server, "--output", "json"],
        ["list", "--server", &server, "--output", "json", "acme"],
    ] {
        let said = run(&args);
        assert!(said.code == 0 && said.stdout.starts_with('{'), "{args:?}: {said:?}");
    }
    for args in [
        ["policy", "show", "acme", "--server", &server, "--output", "json"],
        ["policy", "--server", &server, "--output", "json", "show", "acme"],
    ] {
        let said = run(&args);
        assert!(said.code == 0 && said.stdout.starts_with('{'), "{args:?}: {said:?}");
    }
}
