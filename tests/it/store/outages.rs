//! Check nodes while the database is unavailable, paused, or no longer the primary.

use std::time::Duration;

use support_access::{
    domain::{NodeId, Time},
    store::{Listener, Notification, Store, StoreError},
};
use tokio::time::{Instant, timeout};

use crate::store::{
    bench::Bench,
    faults::{BOUND, is_unavailable, own_cluster, recovers},
    membership::{registered, row},
    postgres::Cluster,
    proxy::{Proxy, Target},
    samples::{ENFORCED, ack, all_events, granted, make_grant, member, new_grant, new_node},
};

/// Calls every operation of a node, and expects each to be unavailable within the bound.
async fn expect_unavailable(store: &Store) {
    let held = support_access::domain::Position {
        epoch: support_access::domain::Epoch(uuid::Uuid::nil()),
        revision: 0,
        time: None,
    };
    let (id, new) = (new_node(), member(new_node()));
    tokio::join!(
        is_unavailable(store.membership().register(&new)),
        is_unavailable(store.membership().heartbeat(id, 0, None)),
        is_unavailable(store.membership().acknowledge(id, held, ack(0))),
        is_unavailable(store.membership().write_followers(id, &[])),
        is_unavailable(store.membership().read_followers()),
        is_unavailable(store.membership().members()),
        is_unavailable(store.membership().evict(id, 0)),
        is_unavailable(store.history().record_enforced(1, 1, Time::UNIX_EPOCH, ENFORCED)),
        is_unavailable(store.history().enforced(1)),
        is_unavailable(async { store.notifications().listen().await.map(drop) }),
    );
}

/// Skips earlier notifications, and expects the subscription to fail.
async fn is_lost(listener: &mut dyn Listener) {
    let deadline = Instant::now() + BOUND;
    loop {
        match timeout(deadline - Instant::now(), listener.next())
            .await
            .expect("the subscription fails")
        {
            Ok(_) => {}
            Err(StoreError::Unavailable(_)) => break,
            Err(broken) => panic!("{broken:?}"),
        }
    }
    is_unavailable(listener.next()).await;
}

async fn expect_notification(store: &Store) {
    let mut listener = store.notifications().listen().await.unwrap();
    make_grant(store, "acme", "support").await;
    assert_eq!(timeout(BOUND, listener.next()).await.unwrap().unwrap(), Notification::Log);
}

/// A read never fails because of lost connections, however many the pool has.
#[tokio::test]
async fn a_read_after_an_outage_succeeds() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let query = all_events("acme");
    for is_killed in [true, false] {
        let reads = (0..8).map(|_| store.queries().events(&query));
        for read in futures::future::join_all(reads).await {
            read.unwrap();
        }
        if is_killed {
            cluster.kill();
        } else {
            cluster.stop();
        }
        cluster.start();
        for _ in 0..8 {
            assert_eq!(store.queries().events(&query).await.unwrap().len(), 1);
        }
    }
}

#[tokio::test]
async fn listeners_fail_when_the_database_stops() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    for is_killed in [true, false] {
        let mut listener = store.notifications().listen().await.unwrap();
        if is_killed {
            cluster.kill();
        } else {
            cluster.stop();
        }
        is_lost(listener.as_mut()).await;
        expect_unavailable(store.as_ref()).await;
        cluster.start();
        recovers(store.as_ref()).await;
        expect_notification(store.as_ref()).await;
        // The pool may return a broken connection first. A node retries.
        let renewed = timeout(BOUND, async {
            loop {
                if let Ok(renewed) = store.membership().heartbeat(id, 0, None).await {
                    break renewed;
                }
            }
        });
        assert!(renewed.await.unwrap().is_some());
    }
    assert_eq!(row(store.as_ref(), id).await.unwrap().heartbeat_seq, 2);
}

#[tokio::test]
async fn listeners_fail_when_the_database_does_not_respond() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let mut listener = store.notifications().listen().await.unwrap();
    let mut polled = store.notifications().listen().await.unwrap();
    cluster.pause();
    // A caller that waits in short intervals also receives the error.
    let in_short_waits = async {
        let deadline = Instant::now() + BOUND;
        loop {
            assert!(Instant::now() < deadline, "the listener notices");
            match timeout(Duration::from_millis(100), polled.next()).await {
                Err(_) => {}
                Ok(notification) => {
                    assert!(
                        matches!(notification, Err(StoreError::Unavailable(_))),
                        "{notification:?}"
                    );
                    break;
                }
            }
        }
    };
    tokio::join!(is_lost(listener.as_mut()), in_short_waits, expect_unavailable(store.as_ref()));
    drop((listener, polled));
    cluster.resume();
    recovers(store.as_ref()).await;
    expect_notification(store.as_ref()).await;
    assert!(store.membership().heartbeat(id, 0, None).await.unwrap().is_some());
    timeout(BOUND, store.close()).await.expect("the close ends");
}

/// An idle listener still receives later notifications.
#[tokio::test]
async fn idle_listeners_stay_subscribed() {
    let (_cluster, bench) = own_cluster();
    let store = bench.open().await;
    let mut listener = store.notifications().listen().await.unwrap();
    let idle = timeout(Duration::from_secs(12), listener.next()).await;
    assert!(idle.is_err(), "{idle:?}");
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(timeout(BOUND, listener.next()).await.unwrap().unwrap(), Notification::Log);
}

/// Waits until commits wait for the missing standby.
async fn wait_until_commits_wait(store: &Store, witness: NodeId) {
    let deadline = Instant::now() + BOUND;
    let commit = async || store.membership().write_followers(witness, &[]).await;
    while timeout(Duration::from_millis(300), commit()).await.is_ok() {
        assert!(Instant::now() < deadline, "commits must wait for the standby");
    }
}

/// With synchronous replication, a primary without its standby commits nothing. The standby may
/// have been promoted. No timeout of the server may end the wait and report a success. An
/// acknowledgement does not wait.
#[tokio::test]
async fn a_primary_that_cannot_replicate_renews_no_lease() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    let (id, other) = (registered(store.as_ref()).await, registered(store.as_ref()).await);
    let (dead, witness) = (registered(store.as_ref()).await, registered(store.as_ref()).await);
    let head = store.log().head().await.unwrap();
    cluster.replicate_to("missing");
    wait_until_commits_wait(store.as_ref(), witness).await;
    assert!(store.membership().acknowledge(other, head, ack(0)).await.unwrap());
    let change = async {
        let mut change = store.begin().await?;
        change.append(granted(new_grant("acme", "support", change.now()))).await?;
        change.commit().await
    };
    tokio::join!(
        is_unavailable(store.membership().heartbeat(id, 0, Some(head))),
        is_unavailable(store.membership().evict(dead, 0)),
        is_unavailable(change),
    );
    assert_eq!(store.log().head().await.unwrap(), head, "unreplicated changes are not visible");
    cluster.replicate_to("");
    recovers(store.as_ref()).await;
    assert!(store.membership().heartbeat(id, 0, Some(head)).await.unwrap().unwrap().is_in_log);
}

/// A primary without its standby does not confirm existing state either: unreplicated state may be
/// lost.
#[tokio::test]
async fn a_primary_that_cannot_replicate_acknowledges_no_request() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    let grant = make_grant(store.as_ref(), "acme", "support").await;
    let witness = registered(store.as_ref()).await;
    cluster.replicate_to("missing");
    wait_until_commits_wait(store.as_ref(), witness).await;
    let mut change = store.begin().await.unwrap();
    assert!(change.grant(&grant.tenant_id, grant.id()).await.unwrap().is_some());
    is_unavailable(change.commit()).await;
    cluster.replicate_to("");
    recovers(store.as_ref()).await;
    assert!(store.begin().await.unwrap().commit().await.unwrap() >= grant.sequence);
}

/// The address may lead to a standby after a failover. Reads would succeed with old data.
#[tokio::test]
async fn a_standby_renews_no_lease() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let head = store.log().head().await.unwrap();
    cluster.demote();
    let new = member(new_node());
    is_rejected(async || store.membership().members().await.map(drop)).await;
    is_rejected(async || store.membership().heartbeat(id, 0, Some(head)).await.map(drop)).await;
    is_rejected(async || store.membership().acknowledge(id, head, ack(0)).await.map(drop)).await;
    is_rejected(async || store.membership().write_followers(id, &[]).await).await;
    is_rejected(async || store.membership().evict(id, 0).await.map(drop)).await;
    is_rejected(async || store.membership().register(&new).await).await;
    is_rejected(async || store.notifications().listen().await.map(drop)).await;
    is_rejected(async || store.begin().await.map(drop)).await;
    assert_eq!(store.log().head().await.unwrap(), head, "reads succeed");
}

/// After a failover, the old primary may continue to run, with the connections that were opened
/// before. The old primary cannot commit, but serves outdated reads.
#[tokio::test]
async fn a_deposed_primary_is_not_read() {
    let (old, bench) = own_cluster();
    let before = bench.open().await;
    let id = registered(before.as_ref()).await;
    make_grant(before.as_ref(), "acme", "support").await;
    let new = Cluster::launch();
    old.stop();
    new.stop();
    new.replace_data(&old.copy_aside());
    old.start();
    new.start();
    let proxy = Proxy::start(Target::Unix(old.socket())).await;
    let through = format!("postgres://postgres@{}/test_0", proxy.address);
    let store = Bench::of_url(through).open().await;
    let renewed = store.membership().heartbeat(id, 0, None).await.unwrap().unwrap();
    assert_eq!(renewed.head.revision, 1);
    assert_eq!(store.log().events_after(1, 9).await.unwrap(), []);

    proxy.set_target(Target::Unix(new.socket()));
    old.replicate_to("missing");
    let elsewhere = Bench::of_url(new.url("test_0")).open().await;
    make_grant(elsewhere.as_ref(), "acme", "support").await;
    let other = registered(elsewhere.as_ref()).await;
    let deadline = Instant::now() + BOUND;
    let head = loop {
        assert!(Instant::now() < deadline, "heartbeats move to the new primary");
        let response =
            timeout(Duration::from_millis(300), store.membership().heartbeat(id, 0, None)).await;
        if let Ok(Ok(Some(response))) = response
            && response.head.revision == 2
        {
            break response.head;
        }
    };
    // No read returns data of the old primary.
    let events = until_available(async || store.log().events_after(1, 9).await).await;
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [2]);
    let list = until_available(async || store.membership().members().await).await;
    assert!(list.members.iter().any(|member| member.node_id == other), "{list:?}");
    let loaded = until_available(async || store.log().load(&mut |_, _, _| {}).await).await;
    assert_eq!(loaded.position, head);
}

/// Repeats a read while the store is unavailable, once for each connection of the pool.
async fn until_available<T>(operation: impl AsyncFn() -> Result<T, StoreError>) -> T {
    for _ in 0..16 {
        match operation().await {
            Ok(value) => return value,
            Err(StoreError::Unavailable(_)) => {}
            Err(broken) => panic!("{broken:?}"),
        }
    }
    panic!("the store must recover")
}

/// Repeats an operation until the standby rejects it. Earlier errors come from connections that
/// were lost with the primary.
async fn is_rejected(operation: impl AsyncFn() -> Result<(), StoreError>) {
    let deadline = Instant::now() + BOUND;
    loop {
        let error = match operation().await {
            Err(StoreError::Unavailable(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        if ["recovery", "read-only", "standby"].iter().any(|word| error.contains(word)) {
            return;
        }
        assert!(Instant::now() < deadline, "{error}");
    }
}
