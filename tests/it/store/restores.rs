//! The memory store models a database that is restored, or that loses the last commits in a
//! failover.

use std::sync::Arc;

use support_access::{
    domain::{Position, clock::ManualClock, time::from_parts},
    store::{Store, StoreError, memory::MemoryStore},
};
use tokio::time::timeout;

use crate::store::{
    membership::{registered, row},
    samples::{ENFORCED, ack, begin, make_grant, record},
};

fn store() -> (Arc<ManualClock>, Arc<MemoryStore>, Arc<Store>) {
    let clock = Arc::new(ManualClock::at(from_parts(1_800_000_000, 0).unwrap()));
    let memory = Arc::new(MemoryStore::new(clock.clone()));
    (clock, memory.clone(), Store::new(memory))
}

async fn made(clock: &ManualClock, store: &Store) -> Position {
    clock.pass(std::time::Duration::from_millis(1));
    make_grant(store, "acme", "support").await;
    store.log().head().await.unwrap()
}

#[tokio::test]
async fn lost_events_are_not_held_even_if_their_revisions_are_reused() {
    let (clock, memory, store) = store();
    let id = registered(&store).await;
    let kept = made(&clock, &store).await;
    assert!(store.membership().acknowledge(id, kept, ack(1)).await.unwrap());
    let backup = memory.backup().unwrap();
    let lost = made(&clock, &store).await;
    let late = registered(&store).await;
    store.membership().heartbeat(id, 0, Some(lost)).await.unwrap().unwrap();
    assert!(store.membership().acknowledge(id, lost, ack(2)).await.unwrap());
    record(&store, 2, 2, ENFORCED).await;

    memory.restore(backup);
    assert_eq!(store.log().head().await.unwrap(), kept);
    assert_eq!(
        store.membership().heartbeat(late, 0, Some(kept)).await.unwrap(),
        None,
        "the row is lost"
    );
    let restored = row(&store, id).await.unwrap();
    assert_eq!((restored.heartbeat_seq, restored.ack), (0, ack(1)));
    let other = made(&clock, &store).await;
    assert_eq!((other.epoch, other.revision), (lost.epoch, lost.revision));
    assert!(
        !store.membership().acknowledge(id, lost, ack(2)).await.unwrap(),
        "the log has another event 2"
    );
    let response = store.membership().heartbeat(id, 0, Some(lost)).await.unwrap().unwrap();
    assert_eq!((response.head, response.is_in_log), (other, false));
    store.history().record_enforced(2, 2, lost.time.unwrap(), ENFORCED).await.unwrap();
    assert_eq!(store.history().enforced(2).await.unwrap(), None, "the log has another event 2");
    for (held, revision) in [(kept, 1), (other, 2)] {
        assert!(store.membership().heartbeat(id, 0, Some(held)).await.unwrap().unwrap().is_in_log);
        assert!(store.membership().acknowledge(id, held, ack(revision)).await.unwrap());
    }
}

#[tokio::test]
async fn a_restore_ends_transactions_and_subscriptions() {
    let (clock, memory, store) = store();
    made(&clock, &store).await;
    let backup = memory.backup().unwrap();
    let mut listener = store.notifications().listen().await.unwrap();
    let change = begin(&store).await;
    memory.restore(backup);
    assert!(matches!(change.commit().await, Err(StoreError::Unavailable(_))));
    let soon = std::time::Duration::from_secs(5);
    let ended = timeout(soon, listener.next()).await.expect("the subscription ends");
    assert!(matches!(ended, Err(StoreError::Unavailable(_))));
    assert!(listener.next().await.is_err(), "the subscription stays closed");
    store.notifications().listen().await.unwrap();
    assert_eq!(made(&clock, &store).await.revision, 2);
}

#[tokio::test]
async fn an_empty_replacement_database_has_another_log() {
    let (clock, memory, store) = store();
    let id = registered(&store).await;
    let beginning = store.log().head().await.unwrap();
    let old = made(&clock, &store).await;
    memory.new_log();
    let new = store.log().head().await.unwrap();
    assert_eq!((new.revision, new.time), (0, None));
    assert_ne!(new.epoch, old.epoch);
    assert_eq!(store.membership().heartbeat(id, 0, Some(old)).await.unwrap(), None);
    store.membership().register(&crate::store::samples::member(id)).await.unwrap();
    for held in [beginning, old] {
        assert!(!store.membership().heartbeat(id, 0, Some(held)).await.unwrap().unwrap().is_in_log);
        assert!(!store.membership().acknowledge(id, held, ack(held.revision)).await.unwrap());
    }
}
