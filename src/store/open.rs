//! Which store a URL names.

use std::sync::Arc;

use crate::{
    domain::Clock,
    store::{OpenError, Store, memory::MemoryStore, postgres, sqlite},
};

/// Opens the store that `url` names: `sqlite://PATH`, `postgres://…` or `memory:`. Creates its schema, or migrates it, first;
/// refuses one that it does not understand.
pub async fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Store>, OpenError> {
    match Place::of(url)? {
        Place::Memory => Ok(Arc::new(MemoryStore::new(clock))),
        Place::Sqlite => sqlite::open(url, clock).await,
        Place::Postgres => postgres::open(url, clock).await,
    }
}

/// Brings the schema of the database that `url` names to this version of the program, as [`open`] does, and no more.
pub async fn migrate(url: &str) -> Result<(), OpenError> {
    match Place::of(url)? {
        Place::Memory => {
            Err(OpenError("database-url is memory:, where there is nothing to migrate".into()))
        }
        Place::Sqlite => sqlite::migrate(url).await,
        Place::Postgres => postgres::migrate(url).await,
    }
}

/// Where a store can be.
enum Place {
    Memory,
    Sqlite,
    Postgres,
}

impl Place {
    fn of(url: &str) -> Result<Self, OpenError> {
        // Only the scheme is ever shown: the rest may hold a password.
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
