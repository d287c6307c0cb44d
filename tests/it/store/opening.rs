//! Databases that cannot be opened, and the error with the reason and the fix.

use std::{fs, os::unix::fs::FileExt, sync::Arc};

use sqlx::{ConnectOptions, Connection, Executor};
use support_access::store::{OpenError, check_integrity, migrate, open};

use crate::{
    common::{event_key::event_key_file, server::eventually},
    store::{bench::Bench, postgres::Cluster, samples::make_grant},
};

/// The error of an `open`, after checks that apply to every such error.
async fn open_error(bench: &Bench, url: &str) -> String {
    let OpenError(sentence) =
        open(url, bench.clock.clone(), event_key_file(url)).await.expect_err(url);
    let OpenError(same) = migrate(url).await.expect_err(url);
    assert_eq!(sentence, same, "open and migrate return the same error");
    assert!(!sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
    assert!(!sentence.contains("s3cret"), "{sentence}");
    sentence
}

/// Checks the error. `PATH` in `expected` stands for the path of the file.
async fn expect_error(bench: &Bench, url: &str, expected: &str) {
    let path = bench.url.trim_start_matches("sqlite://");
    assert_eq!(open_error(bench, url).await, expected.replace("PATH", path));
}

#[tokio::test]
async fn urls_are_validated_and_passwords_are_not_shown() {
    let bench = Bench::memory();
    let schemes =
        "database-url must be sqlite://PATH, postgres://USER:PASSWORD@HOST/DATABASE, or memory:";
    for url in ["", "support.db", "mysql://root:s3cret@localhost/x", "memory:x", "s3cret:"] {
        assert_eq!(open_error(&bench, url).await, schemes);
    }
    let in_memory = "database-url names a SQLite database in memory, which support-access cannot \
                     share between its connections; write memory: to keep nothing, or the path \
                     of a file";
    for url in ["sqlite::memory:", "sqlite://:memory:", "sqlite://x?mode=memory"] {
        assert_eq!(open_error(&bench, url).await, in_memory);
    }
    let none = "database-url names no file; write sqlite://PATH";
    for url in ["sqlite:", "sqlite://", "sqlite://?mode=rwc", "sqlite:///"] {
        assert_eq!(open_error(&bench, url).await, none);
    }
    let port = open_error(&bench, "postgres://me:s3cret@localhost:99999/x").await;
    assert_eq!(port, "port in database-url must be a number from 1 to 65535");
    let several = open_error(&bench, "postgres://me:s3cret@one:5432,two:5432/x").await;
    assert_eq!(
        several,
        "database-url is not a PostgreSQL URL (the host or the port is invalid); write \
         postgres://USER:PASSWORD@HOST/DATABASE"
    );
    let OpenError(memory) = migrate("memory:").await.unwrap_err();
    let no_schema = "database-url is memory:, which has no schema to migrate; write sqlite://PATH \
                     or postgres://USER:PASSWORD@HOST/DATABASE";
    assert_eq!(memory, no_schema);
}

#[tokio::test]
async fn a_sqlite_file_must_be_writable_intact_and_of_this_program() {
    let bench = Bench::sqlite();
    let path = bench.url.trim_start_matches("sqlite://").to_owned();
    let url = bench.url.as_str();
    expect_error(
        &bench,
        &format!("{url}?mode=ro"),
        "database-url requests read-only access, but support-access must write; leave out \
         mode=ro",
    )
    .await;
    expect_error(
        &bench,
        &format!("{url}?cache=shared"),
        "database-url has \"cache=shared\", which is not supported; leave out the parameter",
    )
    .await;
    let nowhere = open_error(&bench, &format!("{url}/nowhere/file.db")).await;
    assert!(nowhere.contains("but its directory cannot be used"), "{nowhere}");

    fs::write(&path, "This text is not a SQLite database. ".repeat(100)).unwrap();
    let corrupt = "the database PATH is corrupt or not a SQLite database; restore a backup";
    expect_error(&bench, url, corrupt).await;

    fs::remove_file(&path).unwrap();
    sql(&path, "CREATE TABLE customers (id INTEGER); PRAGMA user_version = 7").await;
    let before = fs::read(&path).unwrap();
    let theirs = "the database PATH contains tables of another program; give support-access a \
                  separate database";
    expect_error(&bench, url, theirs).await;
    assert_eq!(fs::read(&path).unwrap(), before, "the file is unchanged");

    fs::remove_file(&path).unwrap();
    sql(&path, "PRAGMA application_id = 42").await;
    expect_error(&bench, url, theirs).await;
}

/// Runs SQL on a SQLite file that the store has not opened.
async fn sql(path: &str, sql: &'static str) {
    use sqlx::sqlite::SqliteConnectOptions;
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_sqlite_file_is_rejected() {
    let bench = Bench::sqlite();
    let store = bench.open().await;
    for _ in 0..50 {
        make_grant(store.as_ref(), "acme", "support").await;
    }
    store.close().await;
    let path = bench.url.trim_start_matches("sqlite://").to_owned();
    assert!(!fs::exists(format!("{path}-wal")).unwrap(), "a closed store has one file");
    let whole = fs::read(&path).unwrap();

    // The write version in the header. SQLite reads such a file, but does not write to the file.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[9], 18).unwrap();
    let expected = "the database PATH is read-only, but support-access must write; make the file \
                    and its directory writable";
    expect_error(&bench, &bench.url, expected).await;

    // A page in the middle, which only the integrity check reads.
    fs::write(&path, &whole).unwrap();
    check_integrity(&bench.url).await.unwrap();
    let middle = u64::try_from(whole.len() / 2 / 4096 * 4096).unwrap();
    file.write_all_at(&[0xa5; 4096], middle).unwrap();
    let OpenError(error) = check_integrity(&bench.url).await.unwrap_err();
    let expected = "is corrupt or not a SQLite database; restore a backup";
    assert!(error.ends_with(expected), "{error}");

    fs::write(&path, &whole).unwrap();
    let store = bench.open().await;
    assert_eq!(store.log().head().await.unwrap().revision, 50);
}

#[tokio::test]
async fn a_sqlite_file_has_one_process() {
    let bench = Bench::sqlite();
    let store = bench.open().await;
    let expected = "the database PATH is in use by another process, and SQLite serves only one; \
                    stop the other process, or use PostgreSQL";
    expect_error(&bench, &bench.url, expected).await;
    let path = bench.url.trim_start_matches("sqlite://");
    let link = format!("{path}.link");
    std::os::unix::fs::symlink(path, &link).unwrap();
    expect_error(&bench, &format!("sqlite:{link}"), expected).await;
    store.close().await;
    bench.open().await;
}

async fn damaged_schemas_are_rejected(bench: &Bench, place: &str) {
    bench.open().await.close().await;
    migrate(&bench.url).await.unwrap();
    let expect = |problem: &str| format!("{place} {problem}");
    bench.sql("UPDATE _sqlx_migrations SET checksum = 'x'").await.unwrap();
    let changed = "was migrated to schema version 1 by another build of support-access; run that \
                   build, or restore the database from a backup";
    assert_eq!(open_error(bench, &bench.url).await, expect(changed));
    bench.sql("UPDATE _sqlx_migrations SET success = FALSE").await.unwrap();
    let dirty = "is in the middle of migration 1, which failed; restore the database from a backup";
    assert_eq!(open_error(bench, &bench.url).await, expect(dirty));
    bench
        .sql("UPDATE _sqlx_migrations SET version = version + 8, description = 'x'")
        .await
        .unwrap();
    let theirs = "contains tables of another program; give support-access a separate database";
    assert_eq!(open_error(bench, &bench.url).await, expect(theirs));
}

async fn a_later_schema_is_rejected(bench: &Bench, place: &str) {
    bench.open().await.close().await;
    let newer = "INSERT INTO _sqlx_migrations \
                 (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', TRUE, 'x', 0)";
    bench.sql(newer).await.unwrap();
    let expected = "has schema version 9999, but this program knows only 1; run the version of \
                    support-access that wrote it, or a later one";
    assert_eq!(open_error(bench, &bench.url).await, format!("{place} {expected}"));
}

#[tokio::test]
async fn a_sqlite_file_must_have_a_known_schema() {
    for newer in [false, true] {
        let bench = Bench::sqlite();
        let place = format!("the database {}", bench.url.trim_start_matches("sqlite://"));
        if newer {
            a_later_schema_is_rejected(&bench, &place).await;
        } else {
            damaged_schemas_are_rejected(&bench, &place).await;
        }
    }
}

/// The names of the database and of the server in errors.
fn place(url: &str) -> (String, String) {
    let (_, rest) = url.split_once("///").unwrap();
    let (database, rest) = rest.split_once("?host=").unwrap();
    let (socket, _) = rest.split_once('&').unwrap();
    let server = format!("PostgreSQL at {socket}");
    (format!("the database {database:?} on {server}"), server)
}

#[tokio::test]
async fn a_postgres_database_must_have_a_known_schema() {
    for newer in [false, true] {
        let bench = Bench::postgres();
        let (place, _) = place(&bench.url);
        if newer {
            a_later_schema_is_rejected(&bench, &place).await;
        } else {
            damaged_schemas_are_rejected(&bench, &place).await;
        }
    }
}

#[tokio::test]
async fn a_postgres_database_must_exist_be_writable_and_of_this_program() {
    let bench = Bench::postgres();
    let (here, server) = place(&bench.url);
    bench.sql("CREATE TABLE customers (id bigint)").await.unwrap();
    let theirs = "contains tables of another program; give support-access a separate database";
    assert_eq!(open_error(&bench, &bench.url).await, format!("{here} {theirs}"));

    let bench = Bench::postgres();
    let (here, _) = place(&bench.url);
    let name = here.split('"').nth(1).unwrap().to_owned();
    let alter = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    Cluster::shared().psql("postgres", &alter);
    let read_only = "is read-only (default_transaction_read_only), but support-access must write; \
                     allow writes, or point database-url at another database";
    assert_eq!(open_error(&bench, &bench.url).await, format!("{here} {read_only}"));

    let cluster = Cluster::shared();
    let missing = open_error(&bench, &cluster.url("nosuch")).await;
    assert_eq!(
        missing,
        format!("the database \"nosuch\" on {server} does not exist; create the database")
    );

    let latin = cluster.fresh_database_with("ENCODING LATIN1 LOCALE 'C' TEMPLATE template0");
    let (here, _) = place(&latin);
    let encoding = "does not have the encoding UTF8; create a database that has";
    assert_eq!(open_error(&bench, &latin).await, format!("{here} {encoding}"));

    let unknown = cluster.url("postgres").replace("user=postgres", "user=mallory&password=s3cret");
    let rejected = open_error(&bench, &unknown).await;
    let expected = "rejects the user (role \"mallory\" does not exist); correct database-url";
    assert_eq!(rejected, format!("{server} {expected}"));

    let unreachable = open_error(&bench, "postgres://me:s3cret@127.0.0.1:1/x").await;
    let expected = "PostgreSQL at 127.0.0.1:1 cannot be reached (Connection refused (os error \
                    111)); start the server, or correct database-url";
    assert_eq!(unreachable, expected);
}

#[tokio::test]
async fn a_standby_is_rejected() {
    let standby = Cluster::launch_standby();
    let url = standby.url("postgres");
    let (here, _) = place(&url);
    let expected = "is a standby, in recovery; point database-url at the primary";
    assert_eq!(open_error(&Bench::memory(), &url).await, format!("{here} {expected}"));
}

#[tokio::test]
async fn replicas_may_start_concurrently_on_an_empty_database() {
    let bench = Arc::new(Bench::postgres());
    let stores = futures::future::join_all((0..4).map(|_| bench.open())).await;
    for (store, revision) in stores.iter().zip(1..) {
        assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, revision);
    }
}

/// Whether a session waits for a lock. Later sessions would then wait, too.
async fn waits_for_a_lock(observer: &mut sqlx::PgConnection) -> bool {
    const WAITING: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted \
         AND locktype = 'relation' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    sqlx::query_scalar(WAITING).fetch_one(observer).await.unwrap()
}

/// Another session holds a table that the migration needs, and later sessions proceed.
#[tokio::test]
async fn a_waiting_postgres_migration_blocks_no_other_session() {
    let bench = Bench::postgres();
    bench.open().await.close().await;
    let options: sqlx::postgres::PgConnectOptions = bench.url.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    // As after an interrupted first start.
    let cut_short = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; \
                     CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, \
                     description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(), \
                     success boolean NOT NULL, \
                     checksum bytea NOT NULL, execution_time bigint NOT NULL)";
    connection.execute(cut_short).await.unwrap();
    connection.execute("BEGIN; LOCK TABLE _sqlx_migrations IN SHARE MODE").await.unwrap();
    let url = bench.url.clone();
    let migrating = tokio::spawn(async move { migrate(&url).await });

    // The migration requests the lock, and gives up, repeatedly.
    let mut observer = options.connect().await.unwrap();
    for is_waiting in [true, false, true, false] {
        let description = format!("the migration waits for the lock: {is_waiting}");
        eventually(&description, async || waits_for_a_lock(&mut observer).await == is_waiting)
            .await;
    }
    assert!(!migrating.is_finished());
    connection.execute("COMMIT").await.unwrap();
    migrating.await.unwrap().unwrap();
    assert_eq!(make_grant(bench.open().await.as_ref(), "acme", "support").await.sequence, 1);
}

#[tokio::test]
async fn every_table_and_column_has_a_comment() {
    let bench = Bench::postgres();
    bench.open().await.close().await;
    let (here, _) = place(&bench.url);
    let name = here.split('"').nth(1).unwrap();
    let silent = Cluster::shared().psql(
        name,
        "SELECT relname, attname FROM pg_class
         JOIN pg_attribute ON attrelid = pg_class.oid AND attnum >= 0 AND NOT attisdropped
         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
             AND relname <> '_sqlx_migrations'
             AND (col_description(attrelid, attnum) IS NULL OR obj_description(attrelid) IS NULL)",
    );
    assert_eq!(silent, "");
}

/// Otherwise anyone who can write to the database could grant access.
#[tokio::test]
async fn postgresql_requires_an_event_key() {
    let bench = Bench::postgres();
    let opened = open(&bench.url, bench.clock.clone(), None).await;
    let expected = "event-key-file is not set, so a party with access to the database could grant \
                    access; set event-key-file to a file from `openssl rand -hex 32`, the same for \
                    all replicas";
    assert_eq!(opened.unwrap_err().to_string(), expected);
    let missing = open(&bench.url, bench.clock.clone(), Some("no.key".as_ref())).await;
    let expected = "the event key no.key does not exist; create it with `openssl rand -hex 32`, \
                    readable by the server only";
    assert_eq!(missing.unwrap_err().to_string(), expected);
}
