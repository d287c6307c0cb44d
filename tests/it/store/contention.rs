//! Check nodes in PostgreSQL while other sessions hold locks.

use std::time::Duration;

use futures::future::join_all;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use support_access::{domain::GrantId, store::StoreError};
use tokio::time::timeout;
use uuid::Uuid;

use crate::store::{
    bench::Bench,
    membership::{registered, row},
    postgres::Cluster,
    samples::{ENFORCED, ack, make_grant, member, new_node, record, tenant},
};

/// Long enough to show that an operation waits.
const A_WHILE: Duration = Duration::from_millis(300);
/// Shorter than every timeout. An operation within this time has waited for no lock.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Another session.
async fn session(bench: &Bench) -> PgConnection {
    bench.url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
}

/// A database whose sessions fail instead of waiting, unless the store sets the isolation level.
fn bench() -> Bench {
    let mut bench = Bench::postgres();
    bench.url += "&options=-c%20default_transaction_isolation=serializable";
    bench
}

/// An uncommitted heartbeat of another session.
const HEARTBEAT_IN_FLIGHT: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE members SET heartbeat_seq = heartbeat_seq + 1";

#[tokio::test]
async fn an_eviction_waits_for_a_heartbeat_in_flight() {
    for is_committed in [true, false] {
        let bench = bench();
        let store = bench.open().await;
        let id = registered(store.as_ref()).await;
        let mut heartbeat = session(&bench).await;
        heartbeat.execute(HEARTBEAT_IN_FLIGHT).await.unwrap();
        let evicting = store.membership().evict(id, 0);
        tokio::pin!(evicting);
        assert!(timeout(A_WHILE, &mut evicting).await.is_err(), "the operation waits");
        heartbeat.execute(if is_committed { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
        assert_eq!(evicting.await.unwrap(), !is_committed);
        assert_eq!(row(store.as_ref(), id).await.is_some(), is_committed);
        assert_eq!(
            store.membership().heartbeat(id, 0, None).await.unwrap().is_some(),
            is_committed
        );
        heartbeat.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_heartbeat_waits_for_an_eviction_in_flight() {
    for is_committed in [true, false] {
        let bench = bench();
        let store = bench.open().await;
        let id = registered(store.as_ref()).await;
        let head = store.log().head().await.unwrap();
        let mut evicting = session(&bench).await;
        evicting.execute("BEGIN; DELETE FROM members WHERE heartbeat_seq = 0").await.unwrap();
        let heartbeat = store.membership().heartbeat(id, 0, Some(head));
        tokio::pin!(heartbeat);
        assert!(timeout(A_WHILE, &mut heartbeat).await.is_err(), "the operation waits");
        evicting.execute(if is_committed { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
        assert_eq!(heartbeat.await.unwrap().is_some(), !is_committed);
        evicting.close().await.unwrap();
    }
}

/// A heartbeat that waited returns the head at the time of the call, or a later head. Both are
/// safe. But the heartbeat must not overwrite the change that it waited for.
#[tokio::test]
async fn a_concurrent_heartbeat_and_acknowledgement_are_both_kept() {
    let bench = bench();
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    make_grant(store.as_ref(), "acme", "support").await;
    let head = store.log().head().await.unwrap();
    let mut other = session(&bench).await;
    other.execute(HEARTBEAT_IN_FLIGHT).await.unwrap();
    let (renewed, acknowledged, ()) = tokio::join!(
        store.membership().heartbeat(id, 0, Some(head)),
        store.membership().acknowledge(id, head, ack(1)),
        async {
            other.execute("SELECT pg_sleep(0.3); COMMIT").await.unwrap();
        }
    );
    assert!(renewed.unwrap().unwrap().is_in_log && acknowledged.unwrap());
    let row = row(store.as_ref(), id).await.unwrap();
    assert_eq!((row.heartbeat_seq, row.ack), (2, ack(1)));
    other.close().await.unwrap();
}

/// Each registration reads all rows after the head is locked. Otherwise both could miss the longest
/// lease.
#[tokio::test]
async fn concurrent_registrations_both_raise_max_staleness() {
    let bench = bench();
    let store = bench.open().await;
    let mut other = session(&bench).await;
    other.execute("BEGIN; SELECT * FROM head FOR UPDATE").await.unwrap();
    let new = member(new_node());
    let registering = store.membership().register(&new);
    tokio::pin!(registering);
    assert!(timeout(A_WHILE, &mut registering).await.is_err(), "the operation waits");
    let insert =
        "INSERT INTO members VALUES (gen_random_uuid()::text, 0, 0, 0, 0, 60000000, '', 0, '[]')";
    other.execute(insert).await.unwrap();
    other.execute("COMMIT").await.unwrap();
    registering.await.unwrap();
    assert_eq!(store.begin().await.unwrap().max_staleness(), Duration::from_mins(1));
    other.close().await.unwrap();
}

#[tokio::test]
async fn nodes_wait_neither_for_transactions_nor_for_readers() {
    let bench = bench();
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let (id, dead) = (registered(store.as_ref()).await, registered(store.as_ref()).await);
    let head = store.log().head().await.unwrap();
    let mut holder = session(&bench).await;
    let hold = "BEGIN; SELECT * FROM head FOR UPDATE; \
                LOCK TABLE grants IN ACCESS EXCLUSIVE MODE";
    holder.execute(hold).await.unwrap();
    let (tenant, grant_id) = (tenant("acme"), GrantId(Uuid::nil()));
    // More than the pools have connections.
    let changes = join_all((0..8).map(|_| async { store.begin().await.map(drop) }));
    let readers = join_all((0..16).map(|_| store.queries().grant(&tenant, grant_id)));
    let nodes = async {
        tokio::task::yield_now().await;
        assert!(store.membership().heartbeat(id, 0, Some(head)).await.unwrap().unwrap().is_in_log);
        assert!(store.membership().acknowledge(id, head, ack(1)).await.unwrap());
        store.membership().write_followers(id, &[]).await.unwrap();
        assert_eq!(store.membership().members().await.unwrap().members.len(), 2);
        assert!(store.membership().evict(dead, 0).await.unwrap());
        record(store.as_ref(), 1, 1, ENFORCED).await;
    };
    let blocked = async { tokio::join!(changes, readers) };
    tokio::pin!(blocked);
    tokio::select! {
        biased;
        _ = &mut blocked => panic!("transactions and readers must wait"),
        done = timeout(AT_ONCE, nodes) => done.expect("nodes do not wait"),
    }
    // A registration is ordered with transactions, and waits.
    let registering = store.membership().register(&member(new_node())).await;
    assert!(matches!(registering, Err(StoreError::Unavailable(_))));
    let (changes, readers) = blocked.await;
    assert!(changes.iter().all(|change| matches!(change, Err(StoreError::Unavailable(_)))));
    assert!(readers.iter().all(|read| matches!(read, Err(StoreError::Unavailable(_)))));
    assert_eq!(
        store.membership().members().await.unwrap().members.len(),
        1,
        "the node is no member"
    );
    holder.close().await.unwrap();
}

/// Heartbeats and evictions wait for the disk, whatever the session has set. An acknowledgement
/// does not.
#[tokio::test]
async fn heartbeats_are_durable_and_acknowledgements_are_not() {
    let bench = Bench::postgres();
    let database = bench.url.split(['/', '?']).nth(3).unwrap().to_owned();
    let not_durable = format!("ALTER DATABASE {database} SET synchronous_commit = off");
    Cluster::shared().psql(&database, &not_durable);
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let head = store.log().head().await.unwrap();
    Cluster::shared().psql(&database, SPY);
    store.membership().heartbeat(id, 0, None).await.unwrap().unwrap();
    for _ in 0..8 {
        // More often than the pool has connections, so that every connection has done both.
        assert!(store.membership().acknowledge(id, head, ack(0)).await.unwrap());
        store.membership().heartbeat(id, 0, None).await.unwrap().unwrap();
    }
    assert!(store.membership().evict(id, 9).await.unwrap());
    let seen = Cluster::shared()
        .psql(&database, "SELECT DISTINCT what || ' ' || setting FROM settings_seen ORDER BY 1");
    assert_eq!(seen, "acknowledgement off\neviction on\nheartbeat on");
}

/// Records the durability of each write at the end of the statement.
const SPY: &str = "
    CREATE TABLE settings_seen (what text, setting text);
    CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO settings_seen VALUES (
            CASE WHEN TG_OP = 'DELETE' THEN 'eviction'
                WHEN NEW.heartbeat_seq > OLD.heartbeat_seq THEN 'heartbeat'
                ELSE 'acknowledgement' END,
            current_setting('synchronous_commit'));
        RETURN NULL;
    END; $$;
    CREATE TRIGGER spy AFTER UPDATE OR DELETE ON members FOR EACH ROW EXECUTE FUNCTION spy();
";
