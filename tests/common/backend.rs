//! A database to keep data in for the length of a test, of either kind.

use tempfile::TempDir;

use crate::postgres::Cluster;

/// An empty database of its own.
#[derive(Debug)]
pub enum Backend {
    /// In a file.
    Sqlite(TempDir),
    /// In a cluster that can be stopped and killed.
    Postgres(Box<Cluster>, String),
}

impl Backend {
    /// A SQLite database.
    pub fn sqlite() -> Self {
        Self::Sqlite(TempDir::with_prefix("support-access-").unwrap())
    }

    /// A PostgreSQL database.
    pub fn postgres() -> Self {
        let cluster = Cluster::begin();
        let url = cluster.fresh_database();
        Self::Postgres(Box::new(cluster), url)
    }

    /// Where it is.
    pub fn database_url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite://{}", folder.path().join("test.db").display()),
            Self::Postgres(_, url) => url.clone(),
        }
    }
}
