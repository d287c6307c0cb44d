//! The event key of the databases that tests use.

use std::path::Path;

/// The file of the key, if a store at `database_url` does not create one.
pub fn event_key_file(database_url: &str) -> Option<&'static Path> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/event.key");
    database_url.starts_with("postgres").then(|| Path::new(file))
}

/// The environment variable that names this file.
pub fn event_key_variable(database_url: &str) -> Option<(&'static str, &'static Path)> {
    event_key_file(database_url).map(|file| ("SUPPORT_ACCESS_EVENT_KEY_FILE", file))
}
