//! The README, played word for word: what it says is shown, is shown. The walk-through on both back ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod backend;
#[allow(dead_code, unreachable_pub, reason = "shared; not every test needs all of it")]
#[path = "../common/postgres.rs"]
mod postgres;
mod shell;
mod text;

use std::path::Path;

use backend::{Backend, PROGRAM, Server, free_addresses};
use shell::Session;
use text::{commands, matches};

#[test]
fn the_walk_through_on_sqlite() {
    play(&Backend::Sqlite);
}

#[test]
fn the_walk_through_on_postgres() {
    play(&Backend::Postgres(postgres::Cluster::launch()));
}

#[test]
fn what_serves_it_to_others() {
    play_section(&Backend::Sqlite, "## In production");
}

fn play(backend: &Backend) {
    play_section(backend, "## Walk-through");
}

fn play_section(backend: &Backend, section: &str) {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("there is a README.md");
    let mut commands = commands(&readme, section);
    assert!(!commands.is_empty(), "no ```console blocks under {section}");

    let directory = tempfile::tempdir().expect("a place to play");
    let [address, http_address] = free_addresses();
    let database_url = backend.database_url();
    let starts_itself =
        commands.iter().any(|command| command.text.contains("support-access serve"));
    // Ports that are free here: all else is word for word.
    if starts_itself {
        let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
        for command in &mut commands {
            let text = command.text.replace("50051", &port(&address));
            command.text = text.replace("9464", &port(&http_address));
        }
    }
    let server = (!starts_itself).then(|| Server::start(directory.path(), &database_url));
    let url = server.as_ref().map_or(format!("http://{address}"), |server| server.url.clone());
    let environment = [
        ("HOME", directory.path().display().to_string()),
        ("LANG", "C.UTF-8".into()),
        // Who acts, unless the text says so.
        ("USER", "alice".into()),
        ("TZ", "UTC".into()),
        ("SUPPORT_ACCESS_SERVER", url),
    ];
    let session = Session {
        directory: directory.path(),
        programs: Path::new(PROGRAM).parent().expect("it is in a folder"),
        environment: environment.map(|(name, value)| (name.into(), value)).into(),
    };
    let typed: Vec<&str> = commands.iter().map(|command| command.text.as_str()).collect();
    let shown = session.run(&typed);

    let differences: Vec<String> = commands
        .iter()
        .zip(&shown)
        .filter(|(command, shown)| !matches(&command.output, shown))
        .map(|(command, shown)| {
            let (line, text) = (command.line, &command.text);
            let (expected, shown) = (command.output.join("\n  "), shown.join("\n  "));
            format!("README.md:{line}: $ {text}\nexpected:\n  {expected}\nshown:\n  {shown}")
        })
        .collect();
    assert!(differences.is_empty(), "\n{}\n", differences.join("\n\n"));
}
