//! The store in a SQLite file, for a service of one process on one machine.
//!
//! One connection writes, and several read: in WAL mode, readers proceed during a transaction.
//! Every commit waits for the disk (`synchronous = FULL`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicI64},
};

use futures::{
    FutureExt, StreamExt, TryFutureExt,
    future::{BoxFuture, ready},
    stream::BoxStream,
};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, SqlSafeStr, Sqlite, SqliteConnection,
    error::DatabaseError,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use tokio::sync::Semaphore;

use crate::{
    domain::{Clock, Revision},
    store::{
        OpenError, Store, TIMEOUT,
        database_files::{DatabaseFiles, LockFile, describe, read_only},
        event_key_file::KeySource,
        migrations::SQLITE,
        notify::LocalNotifier,
        sql::{Backend, Dialect, Results, Row, SqlStore, Statement, arguments, log_keys, schema},
    },
};

/// Older versions can corrupt a database in WAL mode: <https://sqlite.org/wal.html#walresetbug>.
const VERSION_MIN: [u32; 3] = [3, 51, 3];
/// Marks a file as a database of support-access. The first migration sets it.
const APPLICATION_ID: i64 = 1_400_193_379;
/// Enough to keep a few cores busy.
const READERS: u32 = 4;

impl Backend for Sqlite {
    const DIALECT: Dialect = Dialect {
        begin_at_head: "BEGIN IMMEDIATE; SELECT revision, time, max_staleness, NULL AS clock, \
                        log_name, epoch, event_key_id, state_nonce, state_sum FROM head",
        begin_snapshot: "BEGIN",
        clock: None,
        is_standby: "FALSE",
        notify_log: "''",
        notify_membership: "''",
        commit_durably: "''",
        notify_membership_lazily: "''",
        each_text: |array| format!("json_each({array})"),
        agent_count: "json_array_length(agent_ids)",
        is_remote: false,
    };

    fn fetch<T: Row>(
        connection: &mut SqliteConnection,
        statement: Statement,
    ) -> BoxStream<'_, Result<T, sqlx::Error>> {
        match arguments(statement.values) {
            Ok(values) => sqlx::query_as_with::<Self, T, sqlx::sqlite::SqliteArguments>(
                AssertSqlSafe(statement.sql),
                values,
            )
            .fetch(connection),
            Err(error) => futures::stream::iter([Err(sqlx::Error::Encode(error))]).boxed(),
        }
    }

    fn execute(
        connection: &mut SqliteConnection,
        statement: Statement,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
        Box::pin(async move {
            let values: sqlx::sqlite::SqliteArguments =
                arguments(statement.values).map_err(sqlx::Error::Encode)?;
            let done =
                sqlx::query_with(AssertSqlSafe(statement.sql), values).execute(connection).await?;
            Ok(done.rows_affected())
        })
    }

    fn script(connection: &mut SqliteConnection, sql: impl SqlSafeStr) -> Results<'_, Self> {
        sqlx::raw_sql(sql).fetch_many(connection)
    }

    fn row<T: Row>(row: &SqliteRow) -> Result<T, sqlx::Error> {
        T::from_row(row)
    }

    fn command<'c>(
        connection: &'c mut SqliteConnection,
        sql: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>> {
        Box::pin(connection.execute(sql).map_ok(drop))
    }

    fn is_transient(error: &dyn DatabaseError) -> bool {
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
        matches!(primary_code(error), Some(5..=10 | 13..=15))
    }
}

/// SQLite's result code without details: <https://sqlite.org/rescode.html>.
fn primary_code(error: &dyn DatabaseError) -> Option<u32> {
    Some(error.code()?.parse::<u32>().ok()? & 0xff)
}

/// Opens or creates the file at `url`.
pub(super) async fn open(
    url: &str,
    clock: Arc<dyn Clock>,
    event_key_file: Option<&Path>,
) -> Result<Arc<Store>, OpenError> {
    let configured = parse(url)?;
    let path = canonical(&configured)?;
    let lock = prepare(&path).await?;
    let to_open_error = |error| open_error(&path, &error);
    let files = DatabaseFiles::open(lock, &options(&path), &configured).await;
    let files = Arc::new(files.map_err(to_open_error)?);
    let opened = Arc::clone(&files);
    let pool = SqlitePoolOptions::new().acquire_timeout(TIMEOUT).test_before_acquire(false);
    let pool = pool.after_connect(move |_, _| {
        // The connection may have opened another file.
        let verified = opened.verify().map_err(|error| sqlx::Error::Io(io::Error::other(error)));
        ready(verified).boxed()
    });
    let writers = pool.clone().max_connections(1).connect_with(options(&path));
    let writers = writers.await.map_err(to_open_error)?;
    // Not opened read-only: such a connection could neither recover nor remove the write-ahead log.
    let readers = pool.max_connections(READERS);
    let readers = readers.connect_with(options(&path).pragma("query_only", "ON"));
    let readers = readers.await.map_err(to_open_error)?;
    let keys = log_keys(&writers, &KeySource::embedded(event_key_file, &path)).await;
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => {
            // The lock on the file must not outlive the call.
            tokio::join!(writers.close(), readers.close());
            files.close().await;
            return Err(error);
        }
    };
    Ok(Store::new(Arc::new(SqlStore {
        node_writers: writers.clone(),
        node_readers: readers.clone(),
        writers,
        readers,
        transactions: Arc::new(Semaphore::new(1)),
        lists: Semaphore::new(READERS as usize),
        known_head: AtomicI64::new(0),
        notifier: Arc::new(LocalNotifier::default()),
        clock,
        files: Some(files),
        keys,
    })))
}

/// Migrates the schema of the file at `url` to this version.
pub(super) async fn migrate(url: &str) -> Result<(), OpenError> {
    prepare(&canonical(&parse(url)?)?).await.map(drop)
}

/// Accepts that the file at `url` may lack acknowledged changes, because a backup was restored.
pub(super) fn accept_restored(url: &str) -> Result<(), OpenError> {
    LockFile::acquire(&canonical(&parse(url)?)?)?.reset()
}

/// Reads the whole file at `url`, which may be in use.
pub(super) async fn check_integrity(url: &str) -> Result<(), OpenError> {
    let path = canonical(&parse(url)?)?;
    let to_open_error = |error| open_error(&path, &error);
    let options = options(&path).pragma("query_only", "ON");
    // The check is expected to be slow.
    let options = options.disable_statement_logging();
    let mut connection = options.connect().await.map_err(to_open_error)?;
    let found = text(&mut connection, "PRAGMA quick_check(1)").await.map_err(to_open_error)?;
    connection.close().await.map_err(to_open_error)?;
    if found == "ok" { Ok(()) } else { Err(corrupt(&path)) }
}

/// Checks that the file belongs to support-access, and migrates the schema. The returned lock
/// excludes other processes.
async fn prepare(path: &Path) -> Result<LockFile, OpenError> {
    let lock = LockFile::acquire(path)?;
    let database = describe(path);
    let to_open_error = |error| open_error(path, &error);
    lock.create_database()?;
    // This connection sets nothing in the file, because the file may belong to another program.
    let probe = SqliteConnectOptions::new().filename(path);
    let mut connection = probe.connect().await.map_err(to_open_error)?;
    check_version(&text(&mut connection, "SELECT sqlite_version()").await.map_err(to_open_error)?)?;
    let revision = check_owner(&database, &mut connection).map_err(to_open_error).await??;
    // Before the migration, which would prevent the return of a lost write-ahead log.
    lock.check(revision)?;
    connection.close().await.map_err(to_open_error)?;

    let mut connection = options(path).connect().await.map_err(to_open_error)?;
    let migrated = schema::run(&mut connection, &SQLITE).await;
    migrated.map_err(|error| schema::failed(&database, &error))?;
    let applied = sqlx::query_as(schema::SELECT_APPLIED).fetch_all(&mut connection).await;
    let applied: Vec<schema::Applied> = applied.map_err(to_open_error)?;
    schema::confirm(&database, &applied, &SQLITE)?;
    connection.close().await.map_err(to_open_error)?;
    Ok(lock)
}

/// The options of every connection after the checks.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(TIMEOUT)
}

/// Returns the end of the log.
async fn check_owner(
    database: &str,
    connection: &mut SqliteConnection,
) -> Result<Result<Revision, OpenError>, sqlx::Error> {
    // Writing a pragma fails if the file is read-only. `BEGIN IMMEDIATE` alone does not fail. The
    // rollback leaves the file unchanged.
    let mut attempt = connection.begin_with("BEGIN IMMEDIATE").await?;
    attempt.execute("PRAGMA user_version = 1").await?;
    attempt.rollback().await?;
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *connection).await?;
    let mut applied = Vec::new();
    if tables.iter().any(|table| table == schema::MIGRATIONS_TABLE) {
        applied = sqlx::query_as(schema::SELECT_APPLIED).fetch_all(&mut *connection).await?;
    }
    if id != 0 && id != APPLICATION_ID {
        tables.push("the tables of another application".into());
        applied.clear();
    }
    if let Err(error) = schema::check(database, &tables, &applied, &SQLITE) {
        return Ok(Err(error));
    }
    let revision = if tables.iter().any(|table| table == "head") {
        sqlx::query_scalar("SELECT revision FROM head").fetch_optional(connection).await?
    } else {
        None
    };
    Ok(Ok(revision.unwrap_or(0)))
}

async fn text(connection: &mut SqliteConnection, sql: &'static str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(connection).await
}

fn check_version(version: &str) -> Result<(), OpenError> {
    let numbers: Vec<u32> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    if *numbers >= VERSION_MIN[..] {
        return Ok(());
    }
    Err(OpenError(format!(
        "the SQLite library is version {version}, which can corrupt databases; \
         build support-access with 3.51.3 or later"
    )))
}

/// The name of the file in a URL.
fn parse(url: &str) -> Result<PathBuf, OpenError> {
    let reject = |problem: &str| Err(OpenError(format!("database-url {problem}")));
    let in_memory = "names a SQLite database in memory, which support-access cannot share between \
                     its connections; write memory: to keep nothing, or the path of a file";
    if url.contains(":memory:") {
        return reject(in_memory);
    }
    let (_, parameters) = url.split_once('?').unwrap_or_default();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter {
            "mode=rw" | "mode=rwc" => {}
            "mode=memory" => return reject(in_memory),
            "mode=ro" | "immutable=1" | "immutable=true" => {
                return reject(&format!(
                    "requests read-only access, but support-access must write; leave out \
                     {parameter}"
                ));
            }
            other => {
                return reject(&format!(
                    "has {other:?}, which is not supported; leave out the parameter"
                ));
            }
        }
    }
    let Ok(options) = url.parse::<SqliteConnectOptions>() else {
        return reject("is not a SQLite URL; write sqlite://PATH");
    };
    let path = options.get_filename();
    if path.file_name().is_none() {
        return reject("names no file; write sqlite://PATH");
    }
    if path.is_dir() {
        let path = path.display();
        return reject(&format!(
            "names {path}, which is a directory; name a file in this directory"
        ));
    }
    Ok(path.to_owned())
}

/// The canonical path of the file, so that two names of one file share one lock.
fn canonical(path: &Path) -> Result<PathBuf, OpenError> {
    if let Ok(path) = fs::canonicalize(path) {
        return Ok(path);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match fs::canonicalize(directory.unwrap_or(Path::new("."))) {
        Ok(directory) => Ok(directory.join(path.file_name().unwrap_or_default())),
        Err(error) => Err(OpenError(format!(
            "database-url names {}, but its directory cannot be used ({error}); create the \
             directory",
            path.display()
        ))),
    }
}

fn corrupt(path: &Path) -> OpenError {
    let database = describe(path);
    OpenError(format!("{database} is corrupt or not a SQLite database; restore a backup"))
}

fn open_error(path: &Path, error: &sqlx::Error) -> OpenError {
    let code = error.as_database_error().and_then(primary_code);
    match code {
        Some(8) => read_only(path),
        Some(11 | 26) => corrupt(path),
        _ => OpenError(format!("{} cannot be opened: {}", describe(path), schema::plain(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_corrupt_databases_are_rejected() {
        for version in ["3.51.3", "3.51.10", "3.52.0", "4.0.0"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        for version in ["3.51.2", "3.51", "3.9.9", "", "nonsense"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }
}
