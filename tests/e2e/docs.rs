//! Plays the `console` blocks of the documents: each command must print the documented output.

mod backend;
mod page;
mod shell;

use crate::common::{event_key::event_key_variable, postgres, terminal};

use std::path::Path;

use backend::{Backend, Server, free_ports};
use page::{commands, matches};
use shell::Session;

const README: &str = "README.md";
const WALKTHROUGH: &str = "docs/walkthrough.md";
const SECURE_SETUP: &str = "docs/secure-setup.md";
const GATEWAYS: &str = "docs/gateways.md";

#[test]
fn readme_on_sqlite() {
    play(README, &Backend::Sqlite);
}

#[test]
fn readme_on_postgresql() {
    play(README, &Backend::Postgres(postgres::Cluster::launch()));
}

#[test]
fn walkthrough_on_sqlite() {
    play(WALKTHROUGH, &Backend::Sqlite);
}

#[test]
fn walkthrough_on_postgresql() {
    play(WALKTHROUGH, &Backend::Postgres(postgres::Cluster::launch()));
}

#[test]
fn secure_setup_on_sqlite() {
    play(SECURE_SETUP, &Backend::Sqlite);
}

#[test]
fn secure_setup_on_postgresql() {
    play(SECURE_SETUP, &Backend::Postgres(postgres::Cluster::launch()));
}

#[test]
fn gateways_without_a_database() {
    play(GATEWAYS, &Backend::Sqlite);
}

/// Types the commands of a document into one shell, and compares the output of each. A server is
/// started first, unless the document starts one.
fn play(document: &str, backend: &Backend) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).expect("the document exists");
    let mut commands = commands(&text);
    assert!(!commands.is_empty(), "{document} has no console blocks");

    let directory = tempfile::tempdir().expect("a directory for the shell");
    let database_url = backend.database_url();
    let starts_server =
        commands.iter().any(|command| command.text.contains("support-access serve"));
    let mut environment = vec![
        ("HOME".to_owned(), directory.path().display().to_string()),
        ("LANG".into(), "C.UTF-8".into()),
        ("NO_COLOR".into(), "1".into()),
        ("USER".into(), "alice".into()),
        ("TZ".into(), "UTC".into()),
    ];
    let server = if starts_server {
        // The document names the default ports, which other processes of this machine may use.
        let [port, metrics_port, web_port] = free_ports();
        for command in &mut commands {
            for (default, free) in [("50051", &port), ("9464", &metrics_port), ("8080", &web_port)]
            {
                command.text = command.text.replace(default, free);
            }
        }
        let event_key = event_key_variable(&database_url);
        environment.extend(event_key.map(|(name, file)| (name.into(), file.display().to_string())));
        environment.push(("SUPPORT_ACCESS_DATABASE_URL".into(), database_url));
        None
    } else {
        let server = Server::start(directory.path(), &database_url);
        environment.push(("SUPPORT_ACCESS_SERVER".into(), server.address.clone()));
        Some(server)
    };
    let session = Session { directory: directory.path(), environment };
    let typed: Vec<&str> = commands.iter().map(|command| command.text.as_str()).collect();
    let outputs = session.run(&typed);
    drop(server);

    let differences: Vec<String> = commands
        .iter()
        .zip(&outputs)
        .filter(|(command, output)| !matches(&command.output, output))
        .map(|(command, output)| {
            let (line, text) = (command.line, &command.text);
            let (expected, actual) = (command.output.join("\n"), output.join("\n"));
            format!("{document}:{line}: $ {text}\nexpected:\n{expected}\nactual:\n{actual}")
        })
        .collect();
    assert!(differences.is_empty(), "\n{}\n", differences.join("\n\n"));
}
