//! What is promised of hints.

use std::{sync::Arc, time::Duration};

use support_access::store::{Listener, Notification, Store, StoreError};
use tokio::time::timeout;

use crate::{
    bench::Bench,
    membership::registered,
    samples::{ack, begin, granted, make_grant, new_grant},
};

/// How long a hint may take on a machine that is busy with other tests. Much longer than it takes to look unasked.
const SOON: Duration = Duration::from_secs(10);

async fn next(hints: &mut dyn Listener) -> Notification {
    timeout(SOON, hints.next()).await.expect("a hint comes").unwrap()
}

/// The store itself, or another on the same database where there can be two.
async fn another(bench: &Bench, store: &Arc<dyn Store>) -> Arc<dyn Store> {
    if bench.url.starts_with("postgres") { bench.open().await } else { Arc::clone(store) }
}

pub async fn hints_come_with_what_was_committed(bench: &Bench) {
    let store = bench.open().await;
    let other = another(bench, &store).await;
    let mut hints = store.notifications().listen().await.unwrap();
    let mut twice = other.notifications().listen().await.unwrap();
    for _ in 0..3 {
        make_grant(other.as_ref(), "acme", "support").await;
        assert_eq!(next(hints.as_mut()).await, Notification::Log);
        assert_eq!(next(twice.as_mut()).await, Notification::Log, "all who listen are told");
    }
    let id = registered(other.as_ref()).await;
    assert_eq!(next(hints.as_mut()).await, Notification::Membership);
    let head = store.log().head().await.unwrap();
    assert!(other.membership().acknowledge(id, head, ack(3)).await.unwrap());
    assert_eq!(next(hints.as_mut()).await, Notification::Membership);
}

/// Listener come in the order of commits, so that what comes first shows what did not come before it.
pub async fn nobody_is_told_of_what_was_not_done(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let head = store.log().head().await.unwrap();
    let mut hints = store.notifications().listen().await.unwrap();
    // Given up.
    let mut change = begin(store.as_ref()).await;
    change.append(granted(new_grant("acme", "support", change.now()))).await.unwrap();
    drop(change);
    // Of no interest to others.
    store.membership().heartbeat(id, 0, None).await.unwrap().unwrap();
    store.membership().write_followers(id, &[]).await.unwrap();
    // Refused.
    assert!(!store.membership().acknowledge(id, head, ack(1)).await.unwrap());
    assert!(store.membership().acknowledge(id, head, ack(0)).await.unwrap());
    assert_eq!(next(hints.as_mut()).await, Notification::Membership);
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(next(hints.as_mut()).await, Notification::Log);
}

pub async fn whoever_stops_waiting_and_waits_again_misses_nothing(bench: &Bench) {
    let store = bench.open().await;
    let mut hints = store.notifications().listen().await.unwrap();
    for _ in 0..20 {
        assert!(timeout(Duration::from_millis(3), hints.next()).await.is_err());
    }
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(next(hints.as_mut()).await, Notification::Log);
}

pub async fn those_who_listen_hear_that_the_store_is_closed(bench: &Bench) {
    let store = bench.open().await;
    let mut hints = store.notifications().listen().await.unwrap();
    let listening = async {
        let heard = timeout(SOON, hints.next()).await.expect("closing is heard");
        assert!(matches!(heard, Err(StoreError::Unavailable(_))), "{heard:?}");
        let again = timeout(SOON, hints.next()).await.expect("it stays so");
        assert!(matches!(again, Err(StoreError::Unavailable(_))), "{again:?}");
        drop(hints);
    };
    tokio::join!(listening, store.close());
    assert!(matches!(
        store.notifications().listen().await.map(drop),
        Err(StoreError::Unavailable(_))
    ));
}
