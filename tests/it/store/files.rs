//! The files of a SQLite database that are lost during a change.

use std::fs;

use support_access::{
    domain::NodeId,
    store::{FileLost, StoreError},
};
use uuid::Uuid;

use crate::store::{
    bench::Bench,
    samples::{granted, make_grant, new_grant},
};

fn assert_lost<T>(result: Result<T, StoreError>) {
    let Err(StoreError::Unavailable(source)) = result else { panic!("the files are not lost") };
    assert!(source.is::<FileLost>(), "{source:?}");
}

#[tokio::test]
async fn a_change_whose_file_is_removed_before_the_commit_is_not_acknowledged() {
    let bench = Bench::sqlite();
    let store = bench.open().await;
    make_grant(&store, "acme", "support").await;
    let mut transaction = store.begin().await.unwrap();
    let grant = new_grant("acme", "support", transaction.now());
    transaction.append(granted(grant)).await.unwrap();
    let path = bench.url.trim_start_matches("sqlite://").to_owned();
    let aside = format!("{path}.aside");
    fs::rename(&path, &aside).unwrap();
    assert_lost(transaction.commit().await);
    assert_lost(store.begin().await);
    assert_lost(store.membership().heartbeat(NodeId(Uuid::new_v4()), 1, None).await);

    fs::rename(&aside, &path).unwrap();
    make_grant(&store, "acme", "support").await;
    store.close().await;
    let store = bench.open().await;
    assert_eq!(store.log().head().await.unwrap().revision, 3, "the change was committed");
}
