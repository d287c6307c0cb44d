//! The contract of notifications.

use std::{sync::Arc, time::Duration};

use support_access::store::{Listener, Notification, Store, StoreError};
use tokio::time::timeout;

use crate::store::{
    bench::Bench,
    membership::registered,
    samples::{ack, begin, granted, make_grant, new_grant},
};

/// The timeout for a notification, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(10);

async fn next(listener: &mut dyn Listener) -> Notification {
    timeout(SOON, listener.next()).await.expect("a notification arrives").unwrap()
}

/// A second store on the same database, or the same store if the database allows only one.
async fn another(bench: &Bench, store: &Arc<Store>) -> Arc<Store> {
    if bench.url.starts_with("postgres") { bench.open().await } else { Arc::clone(store) }
}

pub async fn commits_notify_all_listeners(bench: &Bench) {
    let store = bench.open().await;
    let other = another(bench, &store).await;
    let mut listener = store.notifications().listen().await.unwrap();
    let mut second = other.notifications().listen().await.unwrap();
    for _ in 0..3 {
        make_grant(other.as_ref(), "acme", "support").await;
        assert_eq!(next(listener.as_mut()).await, Notification::Log);
        assert_eq!(next(second.as_mut()).await, Notification::Log, "every listener is notified");
    }
    let id = registered(other.as_ref()).await;
    assert_eq!(next(listener.as_mut()).await, Notification::Membership);
    let head = store.log().head().await.unwrap();
    assert!(other.membership().acknowledge(id, head, ack(3)).await.unwrap());
    assert_eq!(next(listener.as_mut()).await, Notification::Membership);
}

/// Notifications arrive in the order of commits, so that the next one shows that none came before.
pub async fn uncommitted_and_rejected_changes_notify_no_listener(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let head = store.log().head().await.unwrap();
    let mut listener = store.notifications().listen().await.unwrap();
    // Dropped without a commit.
    let mut change = begin(store.as_ref()).await;
    change.append(granted(new_grant("acme", "support", change.now()))).await.unwrap();
    drop(change);
    // Without notifications.
    store.membership().heartbeat(id, 0, None).await.unwrap().unwrap();
    store.membership().write_followers(id, &[]).await.unwrap();
    // The first is rejected.
    assert!(!store.membership().acknowledge(id, head, ack(1)).await.unwrap());
    assert!(store.membership().acknowledge(id, head, ack(0)).await.unwrap());
    assert_eq!(next(listener.as_mut()).await, Notification::Membership);
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(next(listener.as_mut()).await, Notification::Log);
}

pub async fn a_cancelled_wait_loses_no_notification(bench: &Bench) {
    let store = bench.open().await;
    let mut listener = store.notifications().listen().await.unwrap();
    for _ in 0..20 {
        assert!(timeout(Duration::from_millis(3), listener.next()).await.is_err());
    }
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(next(listener.as_mut()).await, Notification::Log);
}

pub async fn closing_the_store_ends_subscriptions(bench: &Bench) {
    let store = bench.open().await;
    let mut listener = store.notifications().listen().await.unwrap();
    let listening = async {
        let closed = timeout(SOON, listener.next()).await.expect("the close ends the wait");
        assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");
        let again = timeout(SOON, listener.next()).await.expect("the subscription stays closed");
        assert!(matches!(again, Err(StoreError::Unavailable(_))), "{again:?}");
        drop(listener);
    };
    tokio::join!(listening, store.close());
    assert!(matches!(
        store.notifications().listen().await.map(drop),
        Err(StoreError::Unavailable(_))
    ));
}
