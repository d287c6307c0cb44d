//! Check nodes against others who hold what they need, in PostgreSQL.

use std::time::Duration;

use futures::future::join_all;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use support_access::store::StoreError;
use tokio::time::timeout;

use crate::{
    bench::Bench,
    membership::{registered, row},
    postgres::Cluster,
    samples::{ENFORCED, ack, make_grant, member, new_node, record, tenant},
};

/// Long enough to see that somebody waits.
const A_WHILE: Duration = Duration::from_millis(300);
/// Shorter than anybody's patience: whoever answers within it has not waited for what is held up.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A session of somebody else.
async fn session(bench: &Bench) -> PgConnection {
    bench.url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
}

/// A bench whose sessions would fail rather than wait, if the store did not see to it.
fn bench() -> Bench {
    let mut bench = Bench::postgres();
    bench.url += "&options[default_transaction_isolation]=serializable";
    bench
}

/// As a renewal that another replica has sent, and that has not committed yet.
const RENEWAL_IN_FLIGHT: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE members SET heartbeat_seq = heartbeat_seq + 1";

#[tokio::test]
async fn a_strike_off_waits_for_a_renewal_in_flight() {
    for is_committed in [true, false] {
        let bench = bench();
        let store = bench.open().await;
        let id = registered(store.as_ref()).await;
        let mut renewing = session(&bench).await;
        renewing.execute(RENEWAL_IN_FLIGHT).await.unwrap();
        let striking = store.membership().evict(id, 0);
        tokio::pin!(striking);
        assert!(timeout(A_WHILE, &mut striking).await.is_err(), "it did not wait");
        renewing.execute(if is_committed { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
        assert_eq!(striking.await.unwrap(), !is_committed);
        assert_eq!(row(store.as_ref(), id).await.is_some(), is_committed);
        assert_eq!(
            store.membership().heartbeat(id, 0, None).await.unwrap().is_some(),
            is_committed
        );
        renewing.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_renewal_waits_for_a_strike_off_in_flight() {
    for is_committed in [true, false] {
        let bench = bench();
        let store = bench.open().await;
        let id = registered(store.as_ref()).await;
        let head = store.log().head().await.unwrap();
        let mut striking = session(&bench).await;
        striking.execute("BEGIN; DELETE FROM members WHERE heartbeat_seq = 0").await.unwrap();
        let renewing = store.membership().heartbeat(id, 0, Some(head));
        tokio::pin!(renewing);
        assert!(timeout(A_WHILE, &mut renewing).await.is_err(), "it did not wait");
        striking.execute(if is_committed { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
        assert_eq!(renewing.await.unwrap().is_some(), !is_committed);
        striking.close().await.unwrap();
    }
}

/// A renewal that had to wait tells the head as it was when it was asked, or later; both are safe. But what it writes must come
/// on top of what it waited for.
#[tokio::test]
async fn a_renewal_and_an_acknowledgement_at_once_are_both_kept() {
    let bench = bench();
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    make_grant(store.as_ref(), "acme", "support").await;
    let head = store.log().head().await.unwrap();
    let mut other = session(&bench).await;
    other.execute(RENEWAL_IN_FLIGHT).await.unwrap();
    let (renewed, acknowledged, ()) = tokio::join!(
        store.membership().heartbeat(id, 0, Some(head)),
        store.membership().acknowledge(id, head, ack(1)),
        async {
            other.execute("SELECT pg_sleep(0.3); COMMIT").await.unwrap();
        }
    );
    assert!(renewed.unwrap().unwrap().is_held && acknowledged.unwrap());
    let row = row(store.as_ref(), id).await.unwrap();
    assert_eq!((row.heartbeat_seq, row.ack), (2, ack(1)));
    other.close().await.unwrap();
}

/// Each looks at all rows once it has the head, or else the longest could be missed by both.
#[tokio::test]
async fn of_two_that_register_at_once_both_count() {
    let bench = bench();
    let store = bench.open().await;
    let mut other = session(&bench).await;
    other.execute("BEGIN; SELECT * FROM head FOR UPDATE").await.unwrap();
    let new = member(new_node());
    let registering = store.membership().register(&new);
    tokio::pin!(registering);
    assert!(timeout(A_WHILE, &mut registering).await.is_err(), "it did not wait");
    let insert =
        "INSERT INTO members VALUES (gen_random_uuid()::text, 0, 0, 0, 0, 60000000, '', 0, '[]')";
    other.execute(insert).await.unwrap();
    other.execute("COMMIT").await.unwrap();
    registering.await.unwrap();
    assert_eq!(store.log().begin().await.unwrap().max_staleness(), Duration::from_mins(1));
    other.close().await.unwrap();
}

#[tokio::test]
async fn nodes_wait_neither_for_changes_nor_for_readers() {
    let bench = bench();
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let (id, dead) = (registered(store.as_ref()).await, registered(store.as_ref()).await);
    let head = store.log().head().await.unwrap();
    let mut holder = session(&bench).await;
    let hold = "BEGIN; SELECT * FROM head FOR UPDATE; LOCK TABLE policy_overrides IN ACCESS EXCLUSIVE MODE";
    holder.execute(hold).await.unwrap();
    let tenant = tenant("acme");
    // More than there are connections for either.
    let changes = join_all((0..8).map(|_| async { store.log().begin().await.map(drop) }));
    let readers = join_all((0..16).map(|_| store.queries().overrides(&tenant)));
    let nodes = async {
        tokio::task::yield_now().await;
        assert!(store.membership().heartbeat(id, 0, Some(head)).await.unwrap().unwrap().is_held);
        assert!(store.membership().acknowledge(id, head, ack(1)).await.unwrap());
        store.membership().write_followers(id, &[]).await.unwrap();
        assert_eq!(store.membership().members().await.unwrap().members.len(), 2);
        assert!(store.membership().evict(dead, 0).await.unwrap());
        record(store.as_ref(), 1, 1, ENFORCED).await;
    };
    let held_up = async { tokio::join!(changes, readers) };
    tokio::pin!(held_up);
    tokio::select! {
        biased;
        _ = &mut held_up => panic!("nobody was held up"),
        done = timeout(AT_ONCE, nodes) => done.expect("nodes wait behind others"),
    }
    // Whoever registers is a change.
    let registering = store.membership().register(&member(new_node())).await;
    assert!(matches!(registering, Err(StoreError::Unavailable(_))));
    let (changes, readers) = held_up.await;
    assert!(changes.iter().all(|change| matches!(change, Err(StoreError::Unavailable(_)))));
    assert!(readers.iter().all(|read| matches!(read, Err(StoreError::Unavailable(_)))));
    assert_eq!(
        store.membership().members().await.unwrap().members.len(),
        1,
        "it is not in the roll"
    );
    holder.close().await.unwrap();
}

/// What counts only once it cannot be lost waits for the disk; an acknowledgement does not.
#[tokio::test]
async fn a_renewal_is_durable_and_an_acknowledgement_need_not_be() {
    let bench = Bench::postgres();
    let database = bench.url.split(['/', '?']).nth(3).unwrap().to_owned();
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let head = store.log().head().await.unwrap();
    Cluster::shared().psql(&database, SPY);
    store.membership().heartbeat(id, 0, None).await.unwrap().unwrap();
    for _ in 0..8 {
        // More often than there are connections, so that every one has done both.
        assert!(store.membership().acknowledge(id, head, ack(0)).await.unwrap());
        store.membership().heartbeat(id, 0, None).await.unwrap().unwrap();
    }
    assert!(store.membership().evict(id, 9).await.unwrap());
    let seen = Cluster::shared()
        .psql(&database, "SELECT DISTINCT what || ' ' || setting FROM settings_seen ORDER BY 1");
    assert_eq!(seen, "acknowledgement off\nrenewal on\nstrike-off on");
}

/// Notes how durable each is, at the end of the statement.
const SPY: &str = "
    CREATE TABLE settings_seen (what text, setting text);
    CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO settings_seen VALUES (
            CASE WHEN TG_OP = 'DELETE' THEN 'strike-off'
                WHEN NEW.heartbeat_seq > OLD.heartbeat_seq THEN 'renewal' ELSE 'acknowledgement' END,
            current_setting('synchronous_commit'));
        RETURN NULL;
    END; $$;
    CREATE TRIGGER spy AFTER UPDATE OR DELETE ON members FOR EACH ROW EXECUTE FUNCTION spy();
";
