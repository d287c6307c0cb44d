//! A database that is unavailable, paused or locked: operations fail within a bound, and the store
//! recovers by itself.

use std::{fmt::Debug, future::Future, time::Duration};

use sqlx::{ConnectOptions, Connection, Executor, postgres::PgConnectOptions};
use support_access::{
    domain::Revision,
    store::{Store, StoreError},
};
use tokio::time::{Instant, timeout};

use crate::store::{
    bench::Bench,
    postgres::Cluster,
    samples::{all_grants, begin, granted, make_grant, new_grant},
};

/// The timeout of the store, and a margin for a busy machine.
pub const BOUND: Duration = Duration::from_secs(9);

pub async fn is_unavailable<T: Debug>(work: impl Future<Output = Result<T, StoreError>>) {
    let result = timeout(BOUND, work).await.expect("the wait is bounded");
    assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
}

/// Repeats a change until the store has recovered.
pub async fn recovers(store: &Store) -> Revision {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let attempt = async {
            let mut change = store.begin().await?;
            change.append(granted(new_grant("acme", "support", change.now()))).await?;
            let revision = change.commit().await?;
            store.queries().grants(&all_grants("acme", chrono::DateTime::UNIX_EPOCH)).await?;
            Ok::<_, StoreError>(revision)
        };
        match attempt.await {
            Ok(revision) => return revision,
            Err(StoreError::Unavailable(error)) => {
                assert!(Instant::now() < deadline, "the store recovers: {error}");
            }
            Err(broken) => panic!("{broken:?}"),
        }
    }
}

pub fn own_cluster() -> (Cluster, Bench) {
    let cluster = Cluster::launch();
    let url = cluster.fresh_database();
    (cluster, Bench::of_url(url))
}

#[tokio::test]
async fn a_restarted_database_is_used_again() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let mut cut_off = begin(store.as_ref()).await;
    let now = cut_off.now();
    cut_off.append(granted(new_grant("acme", "support", now))).await.unwrap();
    cluster.stop();
    is_unavailable(cut_off.append(granted(new_grant("acme", "support", now)))).await;
    is_unavailable(cut_off.commit()).await;
    is_unavailable(store.begin().map_drop()).await;
    is_unavailable(store.log().head()).await;
    is_unavailable(store.log().load(&mut |_, _, _| {})).await;
    cluster.start();
    assert_eq!(recovers(store.as_ref()).await, 2, "no part of a transaction is kept");
}

/// Discards a result that has no `Debug`.
pub trait MapDrop<T> {
    fn map_drop(self) -> impl Future<Output = Result<(), StoreError>>;
}

impl<T, F: Future<Output = Result<T, StoreError>>> MapDrop<T> for F {
    async fn map_drop(self) -> Result<(), StoreError> {
        self.await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_survive_a_kill_of_the_database() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    let mut acknowledged = 0;
    for _ in 0..3 {
        let writer = async {
            let mut count = 0;
            loop {
                let work = async {
                    let mut change = store.begin().await?;
                    change.append(granted(new_grant("acme", "support", change.now()))).await?;
                    change.commit().await
                };
                match work.await {
                    Ok(_) => count += 1,
                    Err(StoreError::Unavailable(_)) => return count,
                    Err(broken) => panic!("{broken:?}"),
                }
            }
        };
        let killer = async {
            let goal = store.log().head().await.unwrap().revision + 20;
            while store.log().head().await.is_ok_and(|head| head.revision < goal) {}
            cluster.kill();
        };
        let (count, ()) = tokio::join!(writer, killer);
        acknowledged += count;
        cluster.start();
        recovers(store.as_ref()).await;
        acknowledged += 1;
        let events = store.log().events_after(0, 10_000).await.unwrap();
        let revisions: Vec<Revision> = events.iter().map(|event| event.revision).collect();
        assert!(
            revisions.iter().copied().eq(1..=store.log().head().await.unwrap().revision),
            "{revisions:?}"
        );
        assert!(events.len() >= acknowledged, "{} of {acknowledged}", events.len());
        acknowledged = events.len(); // the last transaction before the kill may be committed
    }
}

#[tokio::test]
async fn a_paused_database_blocks_no_caller() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let mut in_flight = begin(store.as_ref()).await;
    cluster.pause();
    let (now, tenant) = (in_flight.now(), crate::store::samples::tenant("acme"));
    let mut ignore = |_, _, _| {};
    tokio::join!(
        is_unavailable(in_flight.append(granted(new_grant("acme", "support", now)))),
        is_unavailable(store.begin().map_drop()),
        is_unavailable(store.log().head()),
        is_unavailable(store.log().load(&mut ignore)),
        is_unavailable(store.queries().overrides(&tenant)),
        is_unavailable(store.queries().next_expiry()),
    );
    // One transaction is dropped during a statement, and another between statements. Both must
    // release their connections.
    drop(in_flight);
    is_unavailable(store.begin().map_drop()).await;
    cluster.resume();
    assert_eq!(recovers(store.as_ref()).await, 2);
    timeout(BOUND, store.close()).await.expect("the close ends");
}

#[tokio::test]
async fn a_lock_on_the_head_blocks_transactions_only() {
    let bench = Bench::postgres();
    let store = bench.open().await;
    let options: PgConnectOptions = bench.url.parse().unwrap();
    let mut holder = options.connect().await.unwrap();
    holder.execute("BEGIN; SELECT * FROM head FOR UPDATE").await.unwrap();
    is_unavailable(store.begin().map_drop()).await;
    assert_eq!(store.log().head().await.unwrap().revision, 0);
    holder.close().await.unwrap();
    assert_eq!(recovers(store.as_ref()).await, 1);
}

#[tokio::test]
async fn changes_are_durable_and_bounded_whatever_the_session_has_set() {
    let (cluster, bench) = own_cluster();
    let database = bench.url.split(['/', '?']).nth(3).unwrap().to_owned();
    for (given, expected) in [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")] {
        cluster.psql("postgres", &format!("ALTER ROLE postgres SET synchronous_commit = {given}"));
        cluster.psql(
            "postgres",
            "ALTER ROLE postgres SET default_transaction_isolation = serializable",
        );
        cluster.psql("postgres", "ALTER ROLE postgres SET bytea_output = escape");
        cluster.psql(&database, "CREATE TABLE IF NOT EXISTS settings_seen (setting text)");
        cluster.psql(&database, "DROP TABLE settings_seen");
        let store = bench.open().await;
        cluster.psql(&database, SPY);
        for _ in 0..3 {
            make_grant(store.as_ref(), "acme", "support").await;
        }
        let seen = cluster.psql(
            &database,
            "SELECT DISTINCT setting FROM settings_seen; DROP TABLE settings_seen CASCADE; \
             DROP FUNCTION spy CASCADE",
        );
        assert_eq!(seen, format!("{expected} read committed 4s 4500ms 10s hex"));
        store.close().await;
    }
}

/// Records the settings of a transaction. Then gives the session other settings, like a pooler that
/// lets others use the session.
const SPY: &str = "
    CREATE TABLE settings_seen (setting text);
    CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO settings_seen SELECT string_agg(current_setting(name), ' ') FROM unnest(ARRAY[
            'synchronous_commit', 'transaction_isolation', 'lock_timeout', 'statement_timeout',
            'idle_in_transaction_session_timeout', 'bytea_output']) AS name;
        PERFORM set_config('bytea_output', 'escape', false);
        PERFORM set_config('synchronous_commit', 'off', false)
            WHERE current_setting('synchronous_commit') <> 'remote_apply';
        PERFORM set_config('default_transaction_isolation', 'serializable', false);
        PERFORM set_config(name, '0', false) FROM unnest(ARRAY['lock_timeout', 'statement_timeout',
            'idle_in_transaction_session_timeout']) AS name;
        RETURN NEW;
    END; $$;
    CREATE TRIGGER spy AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION spy();
";
