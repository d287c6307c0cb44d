//! `completions`: the scripts, in real shells.

use std::{fs, process::Command};

use crate::cli::{run, terminal::run_on_terminal};

/// The key sequence by which readline inserts every completion.
const INSERT_COMPLETIONS: &str = "\x1b*";

/// Types lines into an interactive bash with the completions, and returns the completed arguments.
fn complete(typed: &[&str]) -> Vec<String> {
    let program = env!("CARGO_BIN_EXE_support-access");
    let directory = tempfile::tempdir().unwrap();
    // The function stands for the program, and prints the arguments.
    let startup = format!(
        "eval \"$({program} completions bash)\"\nsupport-access() {{ echo ARGUMENTS: \"$@\"; }}\n"
    );
    fs::write(directory.path().join("bashrc"), startup).unwrap();
    fs::write(directory.path().join("certificate.pem"), "").unwrap();
    let variables = [("PATH", std::env::var("PATH").unwrap()), ("INPUTRC", "/dev/null".into())];
    let environment = variables.map(|(name, value)| (name.to_owned(), value));
    let typed: Vec<String> = typed.iter().map(|line| format!("support-access {line}\n")).collect();
    let command = "bash --noprofile --rcfile bashrc -i";
    let typed = typed.concat() + "exit\n";
    let output = run_on_terminal(500, command, directory.path(), &environment, &typed);
    let arguments = output.lines().filter_map(|line| line.split_once("ARGUMENTS: "));
    arguments.map(|(_, arguments)| arguments.trim_end().to_owned()).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let cases = [
        ("gran\t", "grant"),
        ("li\tacme", "list acme"),
        ("list acme --output j\t", "list acme --output json"),
        ("list acme -o j\t", "list acme -o json"),
        ("list acme --overlap-s\t", "list acme --overlap-start"),
        ("lock cr\tacme", "lock create acme"),
        ("history verify --public-key cert\t", "history verify --public-key certificate.pem"),
        (
            &format!("check acme dana --level {INSERT_COMPLETIONS}"),
            "check acme dana --level read-only read-write admin",
        ),
        (
            &format!("list acme --state {INSERT_COMPLETIONS}"),
            "list acme --state scheduled active expired revoked",
        ),
        (
            &format!("lock create acme --kind {INSERT_COMPLETIONS}"),
            "lock create acme --kind human ai service",
        ),
        (&format!("policy {INSERT_COMPLETIONS}"), "policy -h --help get set help"),
    ];
    let typed: Vec<&str> = cases.iter().map(|(typed, _)| *typed).collect();
    let expected: Vec<&str> = cases.iter().map(|(_, expected)| *expected).collect();
    assert_eq!(complete(&typed), expected);
}

#[test]
fn every_script_is_valid_in_its_shell() {
    let directory = tempfile::tempdir().unwrap();
    let checks = [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")];
    for (shell, check) in checks {
        let script = run(&["completions", shell]);
        assert!(script.code == 0 && script.stdout.contains("whoami"), "{shell}");
        let file = directory.path().join(shell);
        fs::write(&file, script.stdout).unwrap();
        // zsh and fish are not installed everywhere.
        if let Ok(status) = Command::new(shell).arg(check).arg(&file).status() {
            assert!(status.success(), "{shell}");
        }
    }
}
