//! A temporary SQLite or PostgreSQL database for one test.

use tempfile::TempDir;

use super::postgres::Cluster;

/// An empty database that no other test uses.
#[derive(Debug)]
pub enum Backend {
    /// A SQLite file in a temporary directory.
    Sqlite(TempDir),
    /// A cluster that the test can stop and kill, and the URL of a database in the cluster.
    Postgres(Box<Cluster>, String),
}

impl Backend {
    /// Makes an empty SQLite database.
    pub fn sqlite() -> Self {
        Self::Sqlite(TempDir::with_prefix("support-access-").unwrap())
    }

    /// Makes an empty PostgreSQL database in a new cluster.
    pub fn postgres() -> Self {
        let cluster = Cluster::launch();
        let url = cluster.fresh_database();
        Self::Postgres(Box::new(cluster), url)
    }

    /// Returns the URL to pass as `--database-url`.
    pub fn database_url(&self) -> String {
        match self {
            Self::Sqlite(directory) => {
                format!("sqlite://{}", directory.path().join("test.db").display())
            }
            Self::Postgres(_, url) => url.clone(),
        }
    }
}
