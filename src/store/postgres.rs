//! The store in a PostgreSQL database, for any number of replicas.
//!
//! Nothing here waits for ever: the server is told to give up on a lock, a statement or an idle transaction, and whoever
//! waits for a server that has fallen silent gives up by itself.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use futures::{StreamExt, TryFutureExt, future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres,
    error::DatabaseError,
    migrate::MigrateError,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions},
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
        migrations::POSTGRES,
        postgres::listener::Listeners,
        sql::{Answer, Backend, Dialect, SqlStore, Statement, arguments, schema},
    },
};

/// What the names of channels begin with. The log's epoch follows: channels belong to the whole database, a log to a schema.
macro_rules! channel {
    (log) => {
        "support_access_log_"
    };
    (roll) => {
        "support_access_roll_"
    };
}

macro_rules! tell_roll {
    () => {
        concat!("pg_notify('", channel!(roll), "' || (SELECT epoch FROM head), '')::text")
    };
}

mod listener;

/// The oldest release that we test the likes of.
const VERSION_MIN: i32 = 140_000;
/// How long to wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection that lay idle may take to prove that it is alive.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Changes wait for each other anyhow. A few, so that the next one has its connection ready.
const WRITERS: u32 = 4;
/// Apart from the writers, so that readers need not wait behind a queue of changes.
const READERS: u32 = 8;
/// For check nodes: apart from both, so that they need not wait behind either.
const ROLL: u32 = 3;
/// For what a node must read to go on answering: the log and the roll. Apart from callers' reads, however many those are.
const WATCHERS: u32 = 3;
/// Those who wait for news. One is enough for a process; the others are for those that hang when a server falls silent.
const LISTENERS: u32 = 8;

/// For every session. The time limits are shorter than our own patience where that is useful: the server's refusal is clean,
/// and frees what was held. Whoever set `remote_apply` meant it; anything less than `on` could lose what was acknowledged.
/// A statement alone must see what was committed before it got its locks, and not fail because of it.
/// For all that we ask, there is an index in the answer's order, and what is joined is found by its key. Without statistics,
/// or by averages that a tenant does not keep to, the planner would rather read and sort a tenant's whole history. What is
/// switched off has a price beyond measure in its books, where it cannot be avoided; that must not be taken for a reason to
/// compile the statement, which takes a second.
const SESSION: &str = "
    SET lock_timeout = '4s';
    SET statement_timeout = '4500ms';
    SET idle_in_transaction_session_timeout = '10s';
    SET default_transaction_isolation = 'read committed';
    SET enable_sort = off;
    SET enable_incremental_sort = off;
    SET enable_bitmapscan = off;
    SET enable_seqscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') <> 'remote_apply';
";
/// For the session that migrates: what it does may take its time. But while it waits for a lock, all who come after it wait behind it,
/// nodes that renew their leases among them: so it gives up soon, and asks again later.
const MIGRATION_SESSION: &str = "
    SET lock_timeout = '500ms';
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = '60s';
    SET synchronous_commit = on;
";

/// For how long a migration asks again for its locks, and how long others are let in between.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(1);
const MIGRATION_PAUSE: Duration = Duration::from_secs(1);

impl Backend for Postgres {
    const DIALECT: Dialect = Dialect {
        // Not READ WRITE: of that, a standby says that it is not supported, not that it is read-only.
        begin_change: "BEGIN ISOLATION LEVEL READ COMMITTED",
        begin_snapshot: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                         SET LOCAL statement_timeout = '10min'; SET LOCAL enable_seqscan = on; \
                         SET LOCAL enable_hashjoin = on",
        // The clock is read outside, when the lock is held: not before waiting for it.
        // The end of the chains may be from before the wait: then it is too little, never too much.
        lock_head: "SELECT revision, time, max_staleness, \
                    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock, epoch, \
                    (SELECT coalesce(max(revision), 0) FROM chain) AS linked FROM \
                    (SELECT revision, time, max_staleness, epoch FROM head WHERE id = 1 FOR UPDATE) AS head",
        clock: Some("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"),
        is_standby: "pg_is_in_recovery()",
        tell_log: concat!("pg_notify('", channel!(log), "' || epoch, '')::text"),
        tell_roll: tell_roll!(),
        // The setting is this transaction's alone, and looked at when it commits.
        tell_roll_soon: concat!(tell_roll!(), " || set_config('synchronous_commit', 'off', true)"),
        each_text: "json_array_elements_text($3::json)",
        names_indexes: false,
    };

    fn fetch<T: Answer>(
        connection: &mut PgConnection,
        ask: Statement,
    ) -> BoxStream<'_, Result<T, sqlx::Error>> {
        match arguments(ask.values) {
            Ok(values) => {
                sqlx::query_as_with::<Self, T, PgArguments>(AssertSqlSafe(ask.sql), values)
                    .fetch(connection)
            }
            Err(error) => futures::stream::iter([Err(sqlx::Error::Encode(error))]).boxed(),
        }
    }

    fn execute(
        connection: &mut PgConnection,
        ask: Statement,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
        Box::pin(async move {
            let values: PgArguments = arguments(ask.values).map_err(sqlx::Error::Encode)?;
            let done = sqlx::query_with(AssertSqlSafe(ask.sql), values).execute(connection).await?;
            Ok(done.rows_affected())
        })
    }

    fn command<'c>(
        connection: &'c mut PgConnection,
        sql: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(connection.execute(sql).map_ok(drop))
    }

    /// See <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
    fn passes(error: &dyn DatabaseError) -> bool {
        let code = error.code().unwrap_or_default();
        match code.as_ref() {
            "25006" // read_only_sql_transaction: a standby, or being one
            | "25P03" // idle_in_transaction_session_timeout
            | "40001" // serialization_failure
            | "40P01" // deadlock_detected
            | "55P03" // lock_not_available
            => true,
            // connection, insufficient resources, operator intervention (shutdown, cancel), system error
            other => matches!(other.get(..2), Some("08" | "53" | "57" | "58")),
        }
    }
}

/// Opens the database that `url` names. Its clock is the one that counts.
pub(super) async fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Store>, OpenError> {
    let options = parse(url)?;
    prepare(&options).await?;
    let writers = pool(WRITERS).connect_lazy_with(options.clone());
    let readers = pool(READERS).connect_lazy_with(options.clone());
    let roll = plain_pool(ROLL).connect_lazy_with(options.clone());
    let watchers = plain_pool(WATCHERS).connect_lazy_with(options.clone());
    for pool in [&writers, &readers, &roll, &watchers] {
        connect(pool).await.map_err(|error| refusal(&options, &error))?;
    }
    let place = place(&options);
    let notifier = Arc::new(Listeners(pool(LISTENERS).connect_lazy_with(options)));
    let store = SqlStore {
        writers,
        readers,
        roll_writers: roll.clone(),
        roll_readers: watchers,
        turns: Arc::new(Semaphore::new(WRITERS as usize)),
        known_head: AtomicI64::new(0),
        notifier,
        clock,
        lock: Mutex::new(None),
    };
    store.link_all().await.map_err(|error| schema::unlinked(&place, &error))?;
    Ok(Arc::new(store))
}

/// Brings the schema of the database that `url` names to this version.
pub(super) async fn migrate(url: &str) -> Result<(), OpenError> {
    prepare(&parse(url)?).await
}

async fn connect(pool: &PgPool) -> Result<(), sqlx::Error> {
    pool.acquire().await.map(drop)
}

/// For transactions.
fn pool(max: u32) -> PgPoolOptions {
    // Sends the ROLLBACK of a change that was dropped.
    plain_pool(max).after_release(|connection, _| Box::pin(ping(connection)))
}

/// For statements that are transactions of their own.
fn plain_pool(max: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SESSION).await.map(drop) })
        })
        // Instead of a ping that could hang: sqlx knows no keepalive, so a connection may be dead without a word.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > PING_TIMEOUT { ping(connection).await } else { Ok(true) }
            })
        })
}

async fn ping(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

fn parse(url: &str) -> Result<PgConnectOptions, OpenError> {
    let options: PgConnectOptions = url.parse().map_err(|error| {
        let cause = schema::plain(&error); // tells what is wrong, never the URL
        OpenError(format!(
            "database-url is not a PostgreSQL URL ({cause}): \
             write postgres://USER:PASSWORD@HOST/DATABASE"
        ))
    })?;
    Ok(match options.get_application_name() {
        None => options.application_name("support-access"),
        Some(_) => options,
    })
}

/// Checks that the database can be written and is ours, and migrates it.
async fn prepare(options: &PgConnectOptions) -> Result<(), OpenError> {
    let place = place(options);
    let refuse = |error| refusal(options, &error);
    let mut connection = match timeout(TIMEOUT, options.connect()).await {
        Ok(connected) => connected.map_err(refuse)?,
        Err(_) => return Err(refuse(sqlx::Error::PoolTimedOut)),
    };
    connection.execute(MIGRATION_SESSION).await.map_err(refuse)?;
    let (version, encoding, in_recovery, read_only, schema): Facts =
        sqlx::query_as(FACTS).fetch_one(&mut connection).await.map_err(refuse)?;
    let complaint = if version < VERSION_MIN {
        Some("is older than PostgreSQL 14: upgrade it")
    } else if in_recovery {
        Some("is a standby, in recovery: point database-url at the primary")
    } else if read_only {
        Some(
            "is read-only (default_transaction_read_only), but support-access must write: \
             allow it, or point database-url at another",
        )
    } else if encoding != "UTF8" {
        Some("does not have the encoding UTF8: create one that has")
    } else if schema.is_none() {
        Some("has no schema to create tables in: correct the search_path")
    } else {
        None
    };
    if let Some(complaint) = complaint {
        return Err(OpenError(format!("{place} {complaint}")));
    }
    let tables: Vec<String> =
        sqlx::query_scalar(TABLES).fetch_all(&mut connection).await.map_err(refuse)?;
    let mut applied = Vec::new();
    let ask = || sqlx::query_as(schema::SELECT_APPLIED);
    if tables.iter().any(|table| table == schema::MIGRATIONS_TABLE) {
        applied = ask().fetch_all(&mut connection).await.map_err(refuse)?;
    }
    schema::check(&place, &tables, &applied, &POSTGRES)?;
    // Whoever only serves need not own the tables.
    if schema::is_behind(&applied, &POSTGRES) {
        run_migrations(&mut connection).await.map_err(|error| schema::failed(&place, &error))?;
        applied = ask().fetch_all(&mut connection).await.map_err(refuse)?;
    }
    schema::confirm(&place, &applied, &POSTGRES)?;
    connection.close().await.map_err(refuse)
}

/// Migrates as soon as nobody holds what has to be locked, such as a backup that reads the tables.
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
        info!("somebody holds a table that has to be changed, or is changing it: asking again");
        sleep(MIGRATION_PAUSE).await;
    }
}

/// Version, encoding, whether in recovery, whether read-only, the schema that tables are created in.
type Facts = (i32, String, bool, bool, Option<String>);
const FACTS: &str = "
    SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
        pg_is_in_recovery(), current_setting('transaction_read_only')::bool, current_schema()::text
";
const TABLES: &str = "
    SELECT relname::text FROM pg_class
    WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
";

fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    format!("the database {database:?} on {}", server(options))
}

fn server(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("PostgreSQL at {}", socket.display()),
        None => format!("PostgreSQL at {}:{}", options.get_host(), options.get_port()),
    }
}

fn refusal(options: &PgConnectOptions, error: &sqlx::Error) -> OpenError {
    let cause = schema::plain(error);
    let server = server(options);
    let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default();
    OpenError(match (code.as_ref(), error) {
        ("28000" | "28P01", _) => {
            format!("{server} refuses the user ({cause}): correct database-url")
        }
        ("3D000", _) => format!("{} does not exist: create it", place(options)),
        (_, sqlx::Error::Io(_)) => {
            format!("{server} cannot be reached ({cause}): start it, or correct database-url")
        }
        (_, sqlx::Error::PoolTimedOut) => {
            format!("{server} does not answer: see that it runs, or correct database-url")
        }
        _ => format!("{} cannot be used: {cause}", place(options)),
    })
}
