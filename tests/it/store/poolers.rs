//! Connection poolers before PostgreSQL. Changes need sessions.

use std::time::Duration;

use support_access::store::{Notification, OpenError, StoreError, migrate, open};
use tokio::time::timeout;

use crate::{
    common::event_key::event_key_file,
    store::{
        bench::Bench,
        faults::{BOUND, MapDrop, is_unavailable},
        membership::registered,
        postgres::{
            Cluster,
            pgbouncer::{PgBouncer, releases},
        },
        samples::{ack, make_grant},
    },
};

const REJECTED: &str = "cannot be used: a connection pooler does not keep sessions (transaction or \
                        statement mode); connect to PostgreSQL directly, or set the pooler to \
                        session mode (PgBouncer: pool_mode = session)";

#[tokio::test]
async fn poolers_that_do_not_keep_sessions_are_rejected() {
    let cluster = Cluster::shared();
    for release in releases() {
        for mode in ["pool_mode = transaction", "pool_mode = statement"] {
            for extra in ["server_round_robin = 0", "server_round_robin = 1", "min_pool_size = 4"] {
                let direct = cluster.fresh_database();
                let pooler = PgBouncer::launch(&release, cluster, &[mode, extra]);
                let url = pooler.url(&direct);
                let bench = Bench::of_url(url.clone());
                let OpenError(opened) =
                    open(&url, bench.clock.clone(), event_key_file(&url)).await.unwrap_err();
                let OpenError(migrated) = migrate(&url).await.unwrap_err();
                let context = format!("{} {mode} {extra}: {opened}", release.display());
                assert!(opened.ends_with(REJECTED), "{context}");
                assert_eq!(opened, migrated, "{context}");
                let database = direct.split(['/', '?']).nth(3).unwrap();
                let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
                assert_eq!(cluster.psql(database, tables), "0", "{context}");
            }
        }
    }
}

/// Also if each server connection was used by another client before.
#[tokio::test]
async fn poolers_in_session_mode_are_used() {
    let cluster = Cluster::shared();
    for release in releases() {
        let direct = cluster.fresh_database();
        let pooler = PgBouncer::launch(&release, cluster, &["pool_mode = session"]);
        let bench = Bench::of_url(pooler.url(&direct));
        for round in 1..=3 {
            let store = bench.open().await;
            let mut listener = store.notifications().listen().await.unwrap();
            make_grant(store.as_ref(), "acme", "support").await;
            let received = timeout(BOUND, listener.next()).await.unwrap().unwrap();
            assert_eq!(received, Notification::Log);
            let head = store.log().head().await.unwrap();
            assert_eq!(head.revision, round);
            let id = registered(store.as_ref()).await;
            assert!(store.membership().acknowledge(id, head, ack(round)).await.unwrap());
            drop(listener);
            store.close().await;
        }
    }
}

/// A full pooler accepts the connection, and lets the first statement wait.
#[tokio::test]
async fn a_pooler_without_a_free_connection_is_reported() {
    let cluster = Cluster::shared();
    let release = releases().pop().unwrap();
    let settings = ["pool_mode = session", "default_pool_size = 1"];
    let pooler = PgBouncer::launch(&release, cluster, &settings);
    let OpenError(error) = migrate(&pooler.url(&cluster.fresh_database())).await.unwrap_err();
    assert!(error.contains("a pooler has free connections"), "{error}");
}

/// The operator changes the mode while the store is in use.
#[tokio::test]
async fn a_pooler_that_no_longer_keeps_sessions_is_rejected() {
    let cluster = Cluster::shared();
    for release in releases() {
        let direct = cluster.fresh_database();
        let mut pooler = PgBouncer::launch(&release, cluster, &["pool_mode = session"]);
        let store = Bench::of_url(pooler.url(&direct)).open().await;
        make_grant(store.as_ref(), "acme", "support").await;
        let mut listener = store.notifications().listen().await.unwrap();

        pooler.replace(&release, cluster, &["pool_mode = transaction"]);
        let lost = timeout(BOUND, listener.next()).await.unwrap();
        assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
        // The first use of each pool reports its closed connection.
        let _ = store.begin().await;
        let _ = store.log().head().await;
        is_unavailable(store.begin().map_drop()).await;
        is_unavailable(store.log().head()).await;
        is_unavailable(store.notifications().listen().map_drop()).await;

        pooler.replace(&release, cluster, &["pool_mode = session"]);
        make_grant(store.as_ref(), "acme", "support").await;
        store.close().await;
    }
}

/// The pooler changes the mode without closing connections, so that a session is lost unnoticed.
#[tokio::test]
async fn a_listener_notices_that_its_session_is_lost() {
    let cluster = Cluster::shared();
    let direct = cluster.fresh_database();
    let database = direct.split(['/', '?']).nth(3).unwrap();
    let release = releases().pop().unwrap();
    let pooler = PgBouncer::launch(&release, cluster, &["pool_mode = session"]);
    let store = Bench::of_url(pooler.url(&direct)).open().await;
    let mut listener = store.notifications().listen().await.unwrap();

    pooler.reload(cluster, &["pool_mode = transaction"]);
    let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    cluster.psql(database, others);
    let silence = Duration::from_secs(5);
    let lost = timeout(silence + BOUND, listener.next()).await.unwrap();
    lost.unwrap_err();
}
