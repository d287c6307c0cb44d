//! A database with a later schema, left by a later version of the program, which may still run.

use sqlx::{ConnectOptions, Connection};
use support_access::store::{OpenError, migrate, open};

use crate::{
    common::event_key::event_key_file,
    store::{
        bench::Bench,
        chains, changes, enforced,
        later::{self, CONTRACT, EXPAND},
        locks, membership, permanence, reads,
        samples::make_grant,
    },
};

/// Applies the migrations of a later version.
async fn apply_later(bench: &Bench, migrations: &[(&str, &str)]) {
    if bench.url.starts_with("sqlite:") {
        let options: sqlx::sqlite::SqliteConnectOptions = bench.url.parse().unwrap();
        let mut connection = options.create_if_missing(true).connect().await.unwrap();
        later::migrate("sqlite", &mut connection, migrations).await.unwrap();
        connection.close().await.unwrap();
    } else {
        let options: sqlx::postgres::PgConnectOptions = bench.url.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        later::migrate("postgres", &mut connection, migrations).await.unwrap();
        connection.close().await.unwrap();
    }
}

/// An open store continues, and a new one can be opened.
async fn expanding_migrations_are_accepted(bench: &Bench) {
    let store = bench.open().await;
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 1);
    apply_later(bench, &[EXPAND]).await;
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 2);
    store.close().await;

    migrate(&bench.url).await.unwrap();
    let store = bench.open().await;
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 3);
    store.close().await;
    // The later version accepts the schema that it left.
    apply_later(bench, &[EXPAND]).await;
}

/// A store cannot be opened, and the error states the fix.
async fn contracting_migrations_are_rejected(bench: &Bench) {
    bench.open().await.close().await;
    apply_later(bench, &[EXPAND, CONTRACT]).await;
    let expected = "has schema version 3, but this program knows only 1; run the version of \
                    support-access that wrote it, or a later one";
    let OpenError(rejected) =
        open(&bench.url, bench.clock.clone(), event_key_file(&bench.url)).await.unwrap_err();
    assert!(rejected.ends_with(expected), "{rejected}");
    let OpenError(rejected) = migrate(&bench.url).await.unwrap_err();
    assert!(rejected.ends_with(expected), "{rejected}");
}

/// Runs cases of the contract on a later schema.
async fn run_contract_on_a_later_schema(fresh: fn() -> Bench) {
    let ahead = async || {
        let bench = fresh();
        apply_later(&bench, &[EXPAND]).await;
        bench
    };
    reads::reads_agree_with_a_naive_model_of_the_log(&ahead().await).await;
    changes::committed_events_survive_a_reopening(&ahead().await).await;
    permanence::history_is_permanent(&ahead().await).await;
    enforced::an_enforcement_is_listed_with_every_event_of_the_change(&ahead().await).await;
    chains::every_history_is_a_separate_chain(&ahead().await).await;
    locks::locks_are_read_as_written(&ahead().await).await;
    membership::a_node_is_a_member_until_its_eviction(&ahead().await).await;
}

#[tokio::test]
async fn sqlite_accepts_expanding_migrations_only() {
    expanding_migrations_are_accepted(&Bench::sqlite()).await;
    contracting_migrations_are_rejected(&Bench::sqlite()).await;
}

#[tokio::test]
async fn postgres_accepts_expanding_migrations_only() {
    expanding_migrations_are_accepted(&Bench::postgres()).await;
    contracting_migrations_are_rejected(&Bench::postgres()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract_on_a_later_schema() {
    run_contract_on_a_later_schema(Bench::sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract_on_a_later_schema() {
    run_contract_on_a_later_schema(Bench::postgres).await;
}
