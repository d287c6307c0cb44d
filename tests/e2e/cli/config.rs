//! `config check`: problems, and the effective settings.

use std::fs;

use crate::cli::{Output, output, program, run};

fn invalid(problems: &[&str]) -> Output {
    let lines: Vec<String> = problems.iter().map(|problem| format!("error: {problem}\n")).collect();
    Output { code: 64, stdout: String::new(), stderr: lines.concat() }
}

#[test]
fn a_valid_configuration_is_printed_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.toml");
    fs::write(&file, "drain_timeout = '3s'\n[limits]\nconnections = 7\n").unwrap();
    let file = file.to_str().unwrap();
    let check = ["config", "check", "--config", file, "--listen", "127.0.0.1:0"];
    let mut command = program(&check);
    command.env("SUPPORT_ACCESS_DATABASE_URL", "postgres://me:secret@db/access");
    let checked = output(&mut command);
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
    for line in [
        "listen = [\"127.0.0.1:0\"]  # --listen",
        &format!("drain_timeout = \"3s\"  # drain_timeout in {file}"),
        "database_url = \"postgres\"  # SUPPORT_ACCESS_DATABASE_URL",
        "max_staleness = \"2s\"  # default",
        "connections = 7",
    ] {
        assert!(checked.stdout.lines().any(|found| found == line), "{line}: {}", checked.stdout);
    }
    assert!(!checked.stdout.contains("secret"), "{}", checked.stdout);

    // The output is a configuration file, but for the redacted URL.
    let printed = dir.path().join("printed.toml");
    fs::write(&printed, &checked.stdout).unwrap();
    let again = ["config", "check", "--config", printed.to_str().unwrap()];
    let again = run(&[&again[..], &["--database-url", "memory:"]].concat());
    assert_eq!((again.code, again.stderr.as_str()), (0, ""));
}

#[test]
fn every_problem_is_reported() {
    assert_eq!(
        run(&["config", "check", "--log-format", "xml", "--max-staleness", "1ms", "--insecure"]),
        invalid(&[
            "--max-staleness must be a duration from 200ms to 5m, such as 2s, but is \"1ms\"",
            "--log-format must be auto, text or json, but is \"xml\"",
        ])
    );
}

#[test]
fn certificate_and_key_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.toml");
    let keys = dir.path().join("keys.json").display().to_string();
    let issuer = format!(
        "[[issuers]]\nissuer = 'https://id.example'\naudience = 'a'\nkeys = '{keys}'\n\
         roles = {{ operator = ['b'] }}\n"
    );
    fs::write(&file, issuer).unwrap();
    let check = ["config", "check", "--config", file.to_str().unwrap()];
    let tls = ["--tls-certificate", "no.pem", "--tls-key", "no.key"];
    let missing = "cannot be read: No such file or directory (os error 2)";
    assert_eq!(
        run(&[&check[..], &tls].concat()),
        invalid(&[
            &format!("TLS cannot be set up: no.pem {missing}"),
            &format!("keys of the issuer \"https://id.example\": {keys} {missing}"),
        ])
    );
}

#[test]
fn sidecars_have_their_own_settings() {
    let check = ["config", "check", "sidecar"];
    let expected = invalid(&["--upstream must be given, such as https://replica:50051"]);
    assert_eq!(run(&check), expected);
    let upstream = ["--upstream", "https://replica:50051"];
    let missing = ["--upstream-ca", "no.pem", "--upstream-token-file", "no-token"];
    let not_found = "cannot be read: No such file or directory (os error 2)";
    assert_eq!(
        run(&[&check[..], &upstream, &missing].concat()),
        invalid(&[&format!("no-token {not_found}"), &format!("no.pem {not_found}")])
    );
    let checked = run(&[&check[..], &upstream].concat());
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""));
    let line = "upstream = [\"https://replica:50051\"]  # --upstream";
    assert!(checked.stdout.lines().any(|found| found == line), "{}", checked.stdout);
    assert!(!checked.stdout.contains("max_staleness"), "{}", checked.stdout);
    assert_eq!(run(&["config", "check", "--upstream", "https://a"]).code, 64, "a flag of sidecars");
}
