//! Opens the store at a URL.

use std::{path::Path, sync::Arc};

use crate::{
    domain::Clock,
    store::{OpenError, Store, memory::MemoryStore, postgres, sqlite},
};

/// Opens the store at `url`: `sqlite://PATH`, `postgres://…` or `memory:`. Creates or migrates its
/// schema, and rejects a schema of another application or of an incompatible version. The event key
/// in `event_key_file` authenticates the database. PostgreSQL requires a file. Without a file, the
/// key of a SQLite database is in a file beside the database. The store commits in groups.
pub async fn open(
    url: &str,
    clock: Arc<dyn Clock>,
    event_key_file: Option<&Path>,
) -> Result<Arc<Store>, OpenError> {
    let store = match Backend::of(url)? {
        Backend::Memory => Store::new(Arc::new(MemoryStore::new(clock))),
        Backend::Sqlite => sqlite::open(url, clock, event_key_file).await?,
        Backend::Postgres => postgres::open(url, clock, event_key_file).await?,
    };
    Ok(store.with_groups())
}

/// Migrates the schema of the database at `url` to this version, as [`open`] does.
pub async fn migrate(url: &str) -> Result<(), OpenError> {
    match Backend::of(url)? {
        Backend::Memory => Err(OpenError(
            "database-url is memory:, which has no schema to migrate; write sqlite://PATH or \
                 postgres://USER:PASSWORD@HOST/DATABASE"
                .into(),
        )),
        Backend::Sqlite => sqlite::migrate(url).await,
        Backend::Postgres => postgres::migrate(url).await,
    }
}

/// Checks that the file at `url` is intact, while the store is open: compares each table with its
/// indexes. Takes seconds with a long history. Decisions do not depend on the result, because a
/// load authenticates what it reads. PostgreSQL has tools of its own.
pub async fn check_integrity(url: &str) -> Result<(), OpenError> {
    match Backend::of(url)? {
        Backend::Sqlite => sqlite::check_integrity(url).await,
        Backend::Memory | Backend::Postgres => Ok(()),
    }
}

/// Declares that the database at `url` was restored from a backup, and may therefore lack
/// acknowledged changes. Otherwise, [`open`] rejects a SQLite file that lacks them.
pub fn accept_restored(url: &str) -> Result<(), OpenError> {
    match Backend::of(url)? {
        Backend::Sqlite => sqlite::accept_restored(url),
        Backend::Memory | Backend::Postgres => Ok(()),
    }
}

/// The kind of store at a URL.
enum Backend {
    Memory,
    Sqlite,
    Postgres,
}

impl Backend {
    fn of(url: &str) -> Result<Self, OpenError> {
        // Only the scheme may be shown: the rest can contain a password.
        match url.split_once(':').unwrap_or_default() {
            ("memory", "") => Ok(Self::Memory),
            ("sqlite", _) => Ok(Self::Sqlite),
            ("postgres" | "postgresql", _) => Ok(Self::Postgres),
            _ => Err(OpenError(
                "database-url must be sqlite://PATH, postgres://USER:PASSWORD@HOST/DATABASE, or \
                 memory:"
                    .into(),
            )),
        }
    }
}
