//! The database of a test: empty at the start, and deleted afterwards.

use std::sync::Arc;

use support_access::{
    domain::{clock::ManualClock, time::from_parts},
    store::{Store, open},
};
use tempfile::TempDir;

use crate::{common::event_key::event_key_file, store::postgres::Cluster};

/// A database.
pub struct Bench {
    /// The URL of the database.
    pub url: String,
    /// The clock of stores whose database has no clock.
    pub clock: Arc<ManualClock>,
    /// The directory of a SQLite file.
    directory: Option<TempDir>,
}

impl Bench {
    pub fn memory() -> Self {
        Self::at("memory:".into(), None)
    }

    pub fn sqlite() -> Self {
        let directory = TempDir::new().unwrap();
        let url = format!("sqlite://{}", directory.path().join("test.db").display());
        Self::at(url, Some(directory))
    }

    pub fn postgres() -> Self {
        Self::at(Cluster::shared().fresh_database(), None)
    }

    /// A database whose lifetime the caller manages.
    pub fn of_url(url: String) -> Self {
        Self::at(url, None)
    }

    fn at(url: String, directory: Option<TempDir>) -> Self {
        let clock = Arc::new(ManualClock::at(from_parts(1_800_000_000, 123_456_000).unwrap()));
        Self { url, clock, directory }
    }

    /// Opens the store, also after a close. A memory store is a new, empty one each time.
    pub async fn open(&self) -> Arc<Store> {
        open(&self.url, self.clock.clone(), event_key_file(&self.url)).await.unwrap()
    }

    /// Changes rows that triggers and foreign keys protect, like an attacker who owns the database.
    pub async fn forge(&self, sql: impl Into<String>) {
        let sql: String = sql.into();
        let sql = if self.directory.is_some() {
            let triggers: Vec<String> = self.sqlite_triggers().await.unwrap();
            let drops = triggers.iter().map(|name| format!("DROP TRIGGER {name}; "));
            format!("PRAGMA foreign_keys = OFF; {}{sql}", drops.collect::<String>())
        } else {
            format!("SET session_replication_role = replica; {sql}")
        };
        self.sql(sql).await.unwrap();
    }

    async fn sqlite_triggers(&self) -> Result<Vec<String>, sqlx::Error> {
        use sqlx::{ConnectOptions, Row};
        let options: sqlx::sqlite::SqliteConnectOptions = self.url.parse()?;
        let mut connection = options.connect().await?;
        let select = sqlx::query("SELECT name FROM sqlite_schema WHERE type = 'trigger'");
        let rows = select.fetch_all(&mut connection).await?;
        Ok(rows.iter().map(|row| row.get("name")).collect())
    }

    /// Runs SQL without the store, and returns the error of the database.
    pub async fn sql(&self, sql: impl Into<String>) -> Result<(), sqlx::Error> {
        use sqlx::{ConnectOptions, Executor};
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.into()));
        if self.directory.is_some() {
            let options: sqlx::sqlite::SqliteConnectOptions = self.url.parse()?;
            options.connect().await?.execute(sql).await.map(drop)
        } else {
            let options: sqlx::postgres::PgConnectOptions = self.url.parse()?;
            options.connect().await?.execute(sql).await.map(drop)
        }
    }
}
