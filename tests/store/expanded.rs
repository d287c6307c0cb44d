//! A database whose schema is ahead: a later version of the program was there, and may still be.

use sqlx::{ConnectOptions, Connection};
use support_access::store::{OpenError, migrate, open};

use crate::{
    bench::Bench,
    chains, changes, enforced,
    later::{self, CONTRACT, EXPAND},
    locks, membership, permanence, reads,
    samples::make_grant,
};

/// Does what a later version would.
async fn go_ahead(bench: &Bench, migrations: &[(&str, &str)]) {
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

/// Whoever has the database open goes on, and whoever comes is let in.
async fn what_only_adds_is_lived_with(bench: &Bench) {
    let store = bench.open().await;
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 1);
    go_ahead(bench, &[EXPAND]).await;
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 2);
    store.close().await;

    migrate(&bench.url).await.unwrap();
    let store = bench.open().await;
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 3);
    store.close().await;
    // The later version comes back to what it has left.
    go_ahead(bench, &[EXPAND]).await;
}

/// Whoever comes is refused, and told what to do.
async fn what_takes_away_is_not(bench: &Bench) {
    bench.open().await.close().await;
    go_ahead(bench, &[EXPAND, CONTRACT]).await;
    let expected = "has schema version 3, but this program knows only 1: run the version of support-access that \
                    wrote it, or a later one";
    let OpenError(refused) = open(&bench.url, bench.clock.clone()).await.unwrap_err();
    assert!(refused.ends_with(expected), "{refused}");
    let OpenError(refused) = migrate(&bench.url).await.unwrap_err();
    assert!(refused.ends_with(expected), "{refused}");
}

/// What is promised of a store is true of one whose schema is ahead, too.
async fn the_contract_is_kept(fresh: fn() -> Bench) {
    let ahead = async || {
        let bench = fresh();
        go_ahead(&bench, &[EXPAND]).await;
        bench
    };
    reads::reads_agree_with_a_naive_model_of_the_log(&ahead().await).await;
    changes::what_was_committed_is_there_after_reopening(&ahead().await).await;
    permanence::history_is_permanent(&ahead().await).await;
    enforced::what_was_enforced_is_told_with_every_event_of_the_change(&ahead().await).await;
    chains::every_history_is_a_chain_of_its_own(&ahead().await).await;
    locks::locks_are_read_as_they_were_written(&ahead().await).await;
    membership::a_node_is_in_the_roll_until_it_is_struck_off(&ahead().await).await;
}

#[tokio::test]
async fn sqlite_lives_with_what_only_adds() {
    what_only_adds_is_lived_with(&Bench::sqlite()).await;
    what_takes_away_is_not(&Bench::sqlite()).await;
}

#[tokio::test]
async fn postgres_lives_with_what_only_adds() {
    what_only_adds_is_lived_with(&Bench::postgres()).await;
    what_takes_away_is_not(&Bench::postgres()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract_on_a_schema_that_is_ahead() {
    the_contract_is_kept(Bench::sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract_on_a_schema_that_is_ahead() {
    the_contract_is_kept(Bench::postgres).await;
}
