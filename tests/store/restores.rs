//! The memory store as the model of a database that is restored, or fails over and loses its last commits.

use std::sync::Arc;

use support_access::{
    domain::{Position, clock::ManualClock, time::from_parts},
    store::{Store, StoreError, memory::MemoryStore},
};
use tokio::time::timeout;

use crate::{
    membership::{registered, row},
    samples::{ENFORCED, ack, begin, make_grant, record},
};

fn store() -> (Arc<ManualClock>, MemoryStore) {
    let clock = Arc::new(ManualClock::at(from_parts(1_800_000_000, 0).unwrap()));
    (clock.clone(), MemoryStore::new(clock))
}

async fn made(clock: &ManualClock, store: &MemoryStore) -> Position {
    clock.pass(std::time::Duration::from_millis(1));
    make_grant(store, "acme", "support").await;
    store.log().head().await.unwrap()
}

#[tokio::test]
async fn what_was_lost_is_no_longer_held_though_its_place_is_taken() {
    let (clock, store) = store();
    let id = registered(&store).await;
    let kept = made(&clock, &store).await;
    assert!(store.membership().acknowledge(id, kept, ack(1)).await.unwrap());
    let backup = store.backup().unwrap();
    let lost = made(&clock, &store).await;
    let late = registered(&store).await;
    store.membership().heartbeat(id, 0, Some(lost)).await.unwrap().unwrap();
    assert!(store.membership().acknowledge(id, lost, ack(2)).await.unwrap());
    record(&store, 2, 2, ENFORCED).await;

    store.restore(backup);
    assert_eq!(store.log().head().await.unwrap(), kept);
    assert_eq!(
        store.membership().heartbeat(late, 0, Some(kept)).await.unwrap(),
        None,
        "it has no row any more"
    );
    let restored = row(&store, id).await.unwrap();
    assert_eq!((restored.heartbeat_seq, restored.ack), (0, ack(1)));
    let other = made(&clock, &store).await;
    assert_eq!((other.epoch, other.revision), (lost.epoch, lost.revision));
    assert!(
        !store.membership().acknowledge(id, lost, ack(2)).await.unwrap(),
        "that is another event 2"
    );
    let renewal = store.membership().heartbeat(id, 0, Some(lost)).await.unwrap().unwrap();
    assert_eq!((renewal.head, renewal.is_held), (other, false));
    store.history().record_enforced(2, 2, lost.time.unwrap(), ENFORCED).await.unwrap();
    assert_eq!(store.history().enforced(2).await.unwrap(), None, "that is of another event 2");
    for (held, revision) in [(kept, 1), (other, 2)] {
        assert!(store.membership().heartbeat(id, 0, Some(held)).await.unwrap().unwrap().is_held);
        assert!(store.membership().acknowledge(id, held, ack(revision)).await.unwrap());
    }
}

#[tokio::test]
async fn a_restore_cuts_off_whoever_changes_or_listens() {
    let (clock, store) = store();
    made(&clock, &store).await;
    let backup = store.backup().unwrap();
    let mut hints = store.notifications().listen().await.unwrap();
    let change = begin(&store).await;
    store.restore(backup);
    assert!(matches!(change.commit().await, Err(StoreError::Unavailable(_))));
    let soon = std::time::Duration::from_secs(5);
    let heard = timeout(soon, hints.next()).await.expect("it is heard");
    assert!(matches!(heard, Err(StoreError::Unavailable(_))));
    assert!(hints.next().await.is_err(), "it stays so");
    store.notifications().listen().await.unwrap();
    assert_eq!(made(&clock, &store).await.revision, 2);
}

#[tokio::test]
async fn another_database_in_its_place_has_another_log() {
    let (clock, store) = store();
    let id = registered(&store).await;
    let beginning = store.log().head().await.unwrap();
    let old = made(&clock, &store).await;
    store.new_log();
    let new = store.log().head().await.unwrap();
    assert_eq!((new.revision, new.time), (0, None));
    assert_ne!(new.epoch, old.epoch);
    assert_eq!(store.membership().heartbeat(id, 0, Some(old)).await.unwrap(), None);
    store.membership().register(&crate::samples::member(id)).await.unwrap();
    for held in [beginning, old] {
        assert!(!store.membership().heartbeat(id, 0, Some(held)).await.unwrap().unwrap().is_held);
        assert!(!store.membership().acknowledge(id, held, ack(held.revision)).await.unwrap());
    }
}
