//! The contract of recorded enforcements.

use std::time::Duration;

use support_access::{
    domain::{Enforced, Revision},
    store::Store,
};

use crate::store::{
    bench::Bench,
    samples::{ENFORCED, all_events, begin, grant_of, granted, new_grant, record, revoked},
};

const OTHER: Enforced =
    Enforced { elapsed: Duration::from_secs(2), nodes_acknowledged: 1, nodes_lapsed: 0 };

/// Appends events of two tenants in turn, in one transaction.
async fn change(store: &Store, events: usize) {
    let mut change = begin(store).await;
    for number in 0..events {
        let tenant = if number % 2 == 0 { "acme" } else { "bolt" };
        change.append(granted(new_grant(tenant, "support", change.now()))).await.unwrap();
    }
    change.commit().await.unwrap();
}

/// The revisions of a tenant's events, newest first, with the recorded enforcements.
async fn listed(store: &Store, tenant: &str) -> Vec<(Revision, Option<Enforced>)> {
    let events = store.queries().events(&all_events(tenant)).await.unwrap();
    events.into_iter().map(|listed| (listed.item.event.revision, listed.item.enforced)).collect()
}

pub async fn an_enforcement_is_listed_with_every_event_of_the_change(bench: &Bench) {
    let store = bench.open().await;
    for events in [2, 1, 3, 1] {
        change(store.as_ref(), events).await;
    }
    record(store.as_ref(), 1, 2, ENFORCED).await;
    record(store.as_ref(), 4, 6, OTHER).await;
    let expected =
        [(1, Some(ENFORCED)), (2, Some(ENFORCED)), (3, None), (4, Some(OTHER)), (5, Some(OTHER))];
    let expected = [&expected[..], &[(6, Some(OTHER)), (7, None)]].concat();
    for (revision, enforced) in &expected {
        assert_eq!(store.history().enforced(*revision).await.unwrap(), *enforced, "{revision}");
    }
    let of = |tenant: &str| {
        let own = |revision: &Revision| [2, 5].contains(revision) == (tenant == "bolt");
        expected.iter().rev().filter(|(revision, _)| own(revision)).copied().collect::<Vec<_>>()
    };
    for tenant in ["acme", "bolt"] {
        assert_eq!(listed(store.as_ref(), tenant).await, of(tenant));
    }
    for revision in [0, 8, Revision::MAX] {
        assert_eq!(store.history().enforced(revision).await.unwrap(), None);
    }
}

pub async fn only_the_first_enforcement_of_a_change_is_kept(bench: &Bench) {
    let store = bench.open().await;
    change(store.as_ref(), 2).await;
    record(store.as_ref(), 1, 2, ENFORCED).await;
    record(store.as_ref(), 1, 2, OTHER).await;
    assert_eq!(store.history().enforced(1).await.unwrap(), Some(ENFORCED));
    // No enforcement is kept for a revision that the log does not have yet.
    record(store.as_ref(), 3, 3, OTHER).await;
    change(store.as_ref(), 1).await;
    assert_eq!(store.history().enforced(3).await.unwrap(), None);
}

pub async fn an_enforcement_is_listed_with_the_events_of_a_grant(bench: &Bench) {
    let store = bench.open().await;
    change(store.as_ref(), 1).await;
    let mut change = begin(store.as_ref()).await;
    let grant = grant_of(&store.log().events_after(0, 1).await.unwrap()[0]);
    change.append(revoked(&grant, change.now())).await.unwrap();
    change.commit().await.unwrap();
    record(store.as_ref(), 2, 2, ENFORCED).await;
    let mut query = all_events("acme");
    query.filter.grant_id = Some(grant.id());
    query.page.limit = 1;
    let events = store.queries().events(&query).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].item.event.revision, events[0].item.enforced), (2, Some(ENFORCED)));
}

pub async fn members_and_enforcements_survive_a_reopening(bench: &Bench) {
    let store = bench.open().await;
    change(store.as_ref(), 1).await;
    record(store.as_ref(), 1, 1, ENFORCED).await;
    let id = crate::store::membership::registered(store.as_ref()).await;
    let head = store.log().head().await.unwrap();
    store.membership().heartbeat(id, 0, Some(head)).await.unwrap().unwrap();
    assert!(store.membership().acknowledge(id, head, crate::store::samples::ack(1)).await.unwrap());
    store.close().await;
    let store = bench.open().await;
    assert_eq!(store.log().head().await.unwrap(), head, "the epoch is kept");
    assert_eq!(store.history().enforced(1).await.unwrap(), Some(ENFORCED));
    let row = crate::store::membership::row(store.as_ref(), id).await.unwrap();
    assert_eq!((row.heartbeat_seq, row.ack), (1, crate::store::samples::ack(1)));
    assert_eq!(begin(store.as_ref()).await.max_staleness(), Duration::from_secs(2));
}
