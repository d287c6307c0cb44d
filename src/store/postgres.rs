//! The store in a PostgreSQL database, for any number of replicas.
//!
//! Every wait is bounded: the server limits waits for locks, statements and idle transactions, and
//! this program stops waiting for a server that does not respond.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use futures::{StreamExt, TryFutureExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres,
    SqlSafeStr,
    error::DatabaseError,
    migrate::MigrateError,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tracing::info;

use crate::{
    domain::Clock,
    store::{
        OpenError, Store, TIMEOUT,
        event_key_file::KeySource,
        migrations::POSTGRES,
        postgres::{
            errors::{describe, open_error},
            listener::Listeners,
            session::SessionCheck,
            url::connect_options,
        },
        sql::{Backend, Dialect, Results, Row, SqlStore, Statement, arguments, log_keys, schema},
    },
};

/// The prefixes of channel names. The name of the log follows, because a channel belongs to the
/// whole database, and a log to one schema.
macro_rules! channel {
    (log) => {
        "support_access_log_"
    };
    (membership) => {
        "support_access_members_"
    };
}

macro_rules! notify_membership {
    () => {
        concat!("pg_notify('", channel!(membership), "' || (SELECT log_name FROM head), '')::text")
    };
}

/// The settings of every session, and again of every transaction of a change: a session may lose
/// its settings. Locks and statements time out before this program does, because an error of the
/// server releases locks. sqlx reads only the hexadecimal form of `bytea` in text messages.
macro_rules! settings {
    ($set:literal) => {
        concat!(
            $set,
            " lock_timeout = '4s'; ",
            $set,
            " statement_timeout = '4500ms'; ",
            $set,
            " idle_in_transaction_session_timeout = '10s'; ",
            $set,
            " bytea_output = 'hex'; "
        )
    };
}

/// Makes the commit of the current transaction durable. `remote_apply` is kept, because an operator
/// chose this setting. A setting below `on` could lose acknowledged changes.
macro_rules! commit_durably {
    () => {
        "set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
         WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"
    };
}

mod errors;
mod listener;
mod session;
mod url;

/// The oldest supported release.
const VERSION_MIN: i32 = 140_000;
/// How long to wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an idle connection may take to respond before the connection counts as dead.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Transactions run one at a time. Further connections let the next transaction start at once.
const WRITERS: u32 = 4;
/// Separate from the writers, so that readers do not queue behind transactions.
const READERS: u32 = 8;
/// For writes of check nodes. Separate from both, so that heartbeats queue behind neither.
const NODE_WRITERS: u32 = 3;
/// For reads of check nodes. Separate from the reads of callers.
const NODE_READERS: u32 = 3;
/// For listeners. One is enough for a process. The others replace connections that hang because the
/// server disappeared.
const LISTENERS: u32 = 8;

/// For every session, and so for single statements. With `read committed`, a statement that waited
/// for a lock sees the changes that were committed meanwhile, and does not fail.
const SESSION: &str =
    concat!(settings!("SET"), "SET default_transaction_isolation = 'read committed'");
/// For the session that migrates. The statements may take long. But while this session waits for a
/// lock, all later sessions wait, too, and so do heartbeats. The session must therefore give up
/// soon, and retry.
const MIGRATION_SESSION: &str = "
    SET lock_timeout = '500ms';
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = '60s';
    SET synchronous_commit = on;
";

/// How long a migration retries to acquire the locks.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(1);
/// The pause between two attempts, in which other sessions proceed.
const MIGRATION_PAUSE: Duration = Duration::from_secs(1);

impl Backend for Postgres {
    const DIALECT: Dialect = Dialect {
        // Without READ WRITE: a standby rejects that as unsupported, and not as read-only. The
        // subquery locks the row. The clock is read after that wait, and not before.
        begin_at_head: concat!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; ",
            settings!("SET LOCAL"),
            "SELECT revision, time, max_staleness, \
             (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock, log_name, epoch, \
             event_key_id, state_nonce, state_sum, ",
            commit_durably!(),
            " FROM (SELECT revision, time, max_staleness, log_name, epoch, event_key_id, \
             state_nonce, state_sum FROM head WHERE id = 1 FOR UPDATE) AS head"
        ),
        begin_snapshot: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                         SET LOCAL statement_timeout = '10min'",
        clock: Some("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"),
        is_standby: "pg_is_in_recovery()",
        notify_log: concat!("pg_notify('", channel!(log), "' || log_name, '')::text"),
        notify_membership: notify_membership!(),
        // These settings are local to the transaction, and take effect at the commit.
        commit_durably: commit_durably!(),
        notify_membership_lazily: concat!(
            notify_membership!(),
            " || set_config('synchronous_commit', 'off', true)"
        ),
        each_text: |array| format!("json_array_elements_text({array}::json)"),
        agent_count: "json_array_length(agent_ids::json)",
        is_remote: true,
    };

    fn fetch<T: Row>(
        connection: &mut PgConnection,
        statement: Statement,
    ) -> BoxStream<'_, Result<T, sqlx::Error>> {
        match arguments(statement.values) {
            Ok(values) => {
                sqlx::query_as_with::<Self, T, PgArguments>(AssertSqlSafe(statement.sql), values)
                    .fetch(connection)
            }
            Err(error) => futures::stream::iter([Err(sqlx::Error::Encode(error))]).boxed(),
        }
    }

    fn execute(
        connection: &mut PgConnection,
        statement: Statement,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
        Box::pin(async move {
            let values: PgArguments = arguments(statement.values).map_err(sqlx::Error::Encode)?;
            let done =
                sqlx::query_with(AssertSqlSafe(statement.sql), values).execute(connection).await?;
            Ok(done.rows_affected())
        })
    }

    fn script(connection: &mut PgConnection, sql: impl SqlSafeStr) -> Results<'_, Self> {
        sqlx::raw_sql(sql).fetch_many(connection)
    }

    fn row<T: Row>(row: &PgRow) -> Result<T, sqlx::Error> {
        T::from_row(row)
    }

    fn command<'c>(
        connection: &'c mut PgConnection,
        sql: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(connection.execute(sql).map_ok(drop))
    }

    /// See <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
    fn is_transient(error: &dyn DatabaseError) -> bool {
        let code = error.code().unwrap_or_default();
        match code.as_ref() {
            "25006" // read_only_sql_transaction: the server is a standby, or read-only
            | "25P03" // idle_in_transaction_session_timeout
            | "40001" // serialization_failure
            | "40P01" // deadlock_detected
            | "55P03" // lock_not_available
            => true,
            // connection, insufficient resources, operator intervention (shutdown, cancel), system
            // error
            other => matches!(other.get(..2), Some("08" | "53" | "57" | "58")),
        }
    }
}

/// Opens the database at `url`. The clock of the database decides, not that of the process.
pub(super) async fn open(
    url: &str,
    clock: Arc<dyn Clock>,
    event_key_file: Option<&Path>,
) -> Result<Arc<Store>, OpenError> {
    let options = connect_options(url)?;
    let event_key = KeySource::configured(event_key_file)?;
    let check = Arc::new(SessionCheck::new(&options));
    prepare(&options, &check).await?;
    let writers = pool(WRITERS, &check).connect_lazy_with(options.clone());
    let readers = pool(READERS, &check).connect_lazy_with(options.clone());
    let node_writers = statement_pool(NODE_WRITERS, &check).connect_lazy_with(options.clone());
    let node_readers = statement_pool(NODE_READERS, &check).connect_lazy_with(options.clone());
    for pool in [&writers, &readers, &node_writers, &node_readers] {
        connect(pool).await.map_err(|error| open_error(&options, &error))?;
    }
    let keys = log_keys(&writers, &event_key).await?;
    let notifier = Arc::new(Listeners(pool(LISTENERS, &check).connect_lazy_with(options)));
    Ok(Store::new(Arc::new(SqlStore {
        writers,
        readers,
        node_writers,
        node_readers,
        transactions: Arc::new(Semaphore::new(WRITERS as usize)),
        lists: Semaphore::new(READERS as usize),
        known_head: AtomicI64::new(0),
        notifier,
        clock,
        files: None,
        keys,
    })))
}

/// Migrates the schema of the database at `url` to this version.
pub(super) async fn migrate(url: &str) -> Result<(), OpenError> {
    let options = connect_options(url)?;
    prepare(&options, &SessionCheck::new(&options)).await
}

async fn connect(pool: &PgPool) -> Result<(), sqlx::Error> {
    pool.acquire().await.map(drop)
}

/// A pool for transactions.
fn pool(max: u32, check: &Arc<SessionCheck>) -> PgPoolOptions {
    // The ping completes the ROLLBACK of a dropped transaction.
    statement_pool(max, check).after_release(|connection, _| Box::pin(ping(connection)))
}

/// A pool for single statements.
fn statement_pool(max: u32, check: &Arc<SessionCheck>) -> PgPoolOptions {
    let check = Arc::clone(check);
    PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            let check = Arc::clone(&check);
            Box::pin(async move {
                check.run(connection).await?;
                connection.execute(SESSION).await.map(drop)
            })
        })
        // Replaces sqlx's ping, which has no timeout: without keepalive, a connection can be dead
        // without an error.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > PING_TIMEOUT { ping(connection).await } else { Ok(true) }
            })
        })
}

async fn ping(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(response) => response.map(|()| true),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// Checks that the database accepts writes and belongs to support-access, and migrates it.
async fn prepare(options: &PgConnectOptions, check: &SessionCheck) -> Result<(), OpenError> {
    let database = describe(options);
    let to_open_error = |error| open_error(options, &error);
    let connect = async {
        let mut connection = options.connect().await?;
        check.run(&mut connection).await.map(|()| connection)
    };
    let connected = timeout(TIMEOUT, connect).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
    let mut connection = connected.map_err(to_open_error)?;
    connection.execute(MIGRATION_SESSION).await.map_err(to_open_error)?;
    let (version, encoding, in_recovery, read_only, schema): Facts =
        sqlx::query_as(FACTS).fetch_one(&mut connection).await.map_err(to_open_error)?;
    let problem = if version < VERSION_MIN {
        Some("is older than PostgreSQL 14; upgrade the server")
    } else if in_recovery {
        Some("is a standby, in recovery; point database-url at the primary")
    } else if read_only {
        Some(
            "is read-only (default_transaction_read_only), but support-access must write; \
             allow writes, or point database-url at another database",
        )
    } else if encoding != "UTF8" {
        Some("does not have the encoding UTF8; create a database that has")
    } else if schema.is_none() {
        Some("has no schema to create tables in; correct the search_path")
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(OpenError(format!("{database} {problem}")));
    }
    let tables: Vec<String> =
        sqlx::query_scalar(TABLES).fetch_all(&mut connection).await.map_err(to_open_error)?;
    let mut applied = Vec::new();
    let select_applied = || sqlx::query_as(schema::SELECT_APPLIED);
    if tables.iter().any(|table| table == schema::MIGRATIONS_TABLE) {
        applied = select_applied().fetch_all(&mut connection).await.map_err(to_open_error)?;
    }
    schema::check(&database, &tables, &applied, &POSTGRES)?;
    // A database role that never migrates need not own the tables.
    if schema::is_behind(&applied, &POSTGRES) {
        run_migrations(&mut connection).await.map_err(|error| schema::failed(&database, &error))?;
        applied = select_applied().fetch_all(&mut connection).await.map_err(to_open_error)?;
    }
    schema::confirm(&database, &applied, &POSTGRES)?;
    connection.close().await.map_err(to_open_error)
}

/// Migrates as soon as no other session, such as a backup, holds the tables.
async fn run_migrations(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let deadline = Instant::now() + MIGRATION_TIMEOUT;
    loop {
        let result = schema::run(connection, &POSTGRES).await;
        let is_locked = match &result {
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                let code = error.as_database_error().and_then(DatabaseError::code);
                code.as_deref() == Some("55P03") // lock_not_available
            }
            _ => false,
        };
        if !is_locked || Instant::now() >= deadline {
            return result;
        }
        info!("another session holds a table that the migration needs, retrying");
        sleep(MIGRATION_PAUSE).await;
    }
}

/// Version, encoding, whether in recovery, whether read-only, the schema that tables are created
/// in.
type Facts = (i32, String, bool, bool, Option<String>);
const FACTS: &str = "
    SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
        pg_is_in_recovery(), current_setting('transaction_read_only')::bool, current_schema()::text
";
const TABLES: &str = "
    SELECT relname::text FROM pg_class
    WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
";
