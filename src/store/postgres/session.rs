//! Detection of connection poolers that do not keep sessions.
//!
//! In transaction or statement mode, a pooler executes the transactions of one connection in
//! several sessions of the server. It also executes those of several connections in one session.
//! Settings, prepared statements and `LISTEN` are then lost, or reach other clients.
//!
//! A change sets in its own transaction what its durability needs. The rest of this program needs
//! sessions, and so rejects such a connection.

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgExecutor, Row,
    postgres::PgConnectOptions,
};
use tokio::sync::Mutex;
use uuid::Uuid;

/// Simple queries read the session: a pooler may lose prepared statements.
const READ: &str =
    "SELECT coalesce(current_setting('support_access.session', true), ''), pg_backend_pid()::text";

/// A connection pooler executes the statements of this connection in several sessions.
#[derive(Debug, thiserror::Error)]
#[error(
    "a connection pooler does not keep sessions (transaction or statement mode); connect to \
     PostgreSQL directly, or set the pooler to session mode (PgBouncer: pool_mode = session)"
)]
struct Shared;

/// The identity of a session: a mark that a connection has set, and the server process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session {
    mark: String,
    pid: String,
}

/// Checks that new connections have a session each. Only one check runs at a time, so that all
/// checks together need one further connection.
#[derive(Debug)]
pub(super) struct SessionCheck(Mutex<PgConnectOptions>);

// === impl SessionCheck ===

impl SessionCheck {
    pub(super) fn new(options: &PgConnectOptions) -> Self {
        Self(Mutex::new(options.clone()))
    }

    /// Fails if a new connection and a second one share a session, or if their sessions change. The
    /// second connection reveals a pooler whose only idle session both would use, and one that
    /// takes its sessions in turn.
    pub(super) async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let options = self.0.lock().await;
        let session = Session::mark(&mut *connection).await?;
        let mut second = options.connect().await?;
        let other = Session::mark(&mut second).await?;
        other.confirm(&mut second).await?;
        session.confirm(connection).await?;
        second.close().await
    }
}

// === impl Session ===

impl Session {
    /// Marks the session of a new connection. Another connection has set an earlier mark.
    async fn mark(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let mark = Uuid::new_v4().simple().to_string();
        let sql = format!("{READ}, set_config('support_access.session', '{mark}', false)");
        let before = Self::fetch(connection, sql).await?;
        if before.mark.is_empty() { Ok(Self { mark, pid: before.pid }) } else { Err(shared()) }
    }

    /// The session of a connection that was checked.
    pub(super) async fn of(connection: impl PgExecutor<'_>) -> Result<Self, sqlx::Error> {
        Self::fetch(connection, READ.to_owned()).await
    }

    /// Fails if a connection is now in another session.
    pub(super) async fn confirm(&self, connection: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
        if Self::of(connection).await? == *self { Ok(()) } else { Err(shared()) }
    }

    async fn fetch(connection: impl PgExecutor<'_>, sql: String) -> Result<Self, sqlx::Error> {
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?;
        Ok(Self { mark: row.try_get(0)?, pid: row.try_get(1)? })
    }
}

fn shared() -> sqlx::Error {
    sqlx::Error::Configuration(Box::new(Shared))
}
