//! The contract of reads.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use support_access::{
    domain::{Clock, Event, Grant, GrantState, Sequence},
    store::Listed,
};

use crate::store::{
    bench::Bench,
    history::{TENANTS, make_random_changes, random_event_query, random_grant_query, seeded},
    locks::random_lock_query,
    model::{Known, Model},
    samples::{
        all_events, all_grants, begin, events_of, grant_of, granted, items, key, make_grant,
        new_grant, revoked, tenant,
    },
};

pub async fn reads_agree_with_a_naive_model_of_the_log(bench: &Bench) {
    let store = bench.open().await;
    let mut model = Model::default();
    let mut rng = seeded();
    for _ in 0..6 {
        make_random_changes(store.as_ref(), &mut model, &mut rng, 20).await;
        assert_eq!(store.log().events_after(0, usize::MAX).await.unwrap(), model.events);
        assert_eq!(store.log().head().await.unwrap().revision, model.head());
        let mut visited = Vec::new();
        let loaded =
            store.log().load(&mut |tenant, terms, held| visited.push((tenant, terms, held))).await;
        let mut loaded = loaded.unwrap();
        assert_eq!(loaded.position.revision, model.head());
        loaded.locks.sort_by_key(|terms| terms.lock_id);
        assert_eq!(loaded.locks, model.load_locks());
        visited.sort_by_key(|(_, terms, _)| terms.grant_id);
        assert_eq!(visited, model.load());
        assert_eq!(store.queries().next_expiry().await.unwrap(), model.next_expiry());
        let now = model.events.last().map_or(bench.clock.now(), |event| event.time);
        for _ in 0..60 {
            let query = random_grant_query(&mut rng, &model, now);
            assert_eq!(
                store.queries().grants(&query).await.unwrap(),
                model.list_grants(&query),
                "{query:?}"
            );
            let query = random_lock_query(&mut rng, &model, now);
            assert_eq!(
                store.queries().locks(&query).await.unwrap(),
                model.list_locks(&query),
                "{query:?}"
            );
            let query = random_event_query(&mut rng, &model);
            let events = store.queries().events(&query).await.unwrap().into_iter();
            let events =
                events.map(|Listed { position, item }| Listed { position, item: item.event });
            assert_eq!(events.collect::<Vec<_>>(), model.list_events(&query), "{query:?}");
        }
        let tenants = model.tenants();
        for limit in [0, 1, 2, 100] {
            let first: Vec<_> = tenants.iter().take(limit).cloned().collect();
            assert_eq!(store.queries().tenants("", limit).await.unwrap(), first);
            let after = tenants.first().map_or("", |first| first);
            let rest: Vec<_> = tenants.iter().skip(1).take(limit).cloned().collect();
            assert_eq!(store.queries().tenants(after, limit).await.unwrap(), rest);
        }
        for id in TENANTS.map(tenant) {
            assert_eq!(store.queries().overrides(&id).await.unwrap(), model.overrides(&id));
            for Known { item: grant, .. } in model.grants() {
                let expected = model.grant(&id, grant.id());
                assert_eq!(store.queries().grant(&id, grant.id()).await.unwrap(), expected);
            }
        }
    }
}

pub async fn pages_show_each_grant_once_while_others_are_created(bench: &Bench) {
    let store = bench.open().await;
    let mut before = Vec::new();
    for _ in 0..20 {
        before.push(make_grant(store.as_ref(), "acme", "support").await.id());
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = async {
        while !done.load(Ordering::Relaxed) {
            make_grant(store.as_ref(), "acme", "support").await;
        }
    };
    let reader = async {
        for limit in 1..=4 {
            let pages: Vec<Grant> = page_through(bench, store.as_ref(), limit).await;
            let sequences: Vec<Sequence> =
                pages.iter().map(|grant| grant.create_sequence).collect();
            assert!(sequences.is_sorted_by(|a, b| a > b), "newest first, none twice");
            let oldest: Vec<_> = pages.iter().rev().map(Grant::id).take(before.len()).collect();
            assert_eq!(oldest, before);
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(writer, reader);
    let events: Vec<Event> = events_of(store.queries().events(&all_events("acme")).await.unwrap());
    assert!(events.is_sorted_by(|a, b| a.revision > b.revision));
}

async fn page_through(
    bench: &Bench,
    store: &support_access::store::Store,
    limit: usize,
) -> Vec<Grant> {
    let mut query = all_grants("acme", bench.clock.now());
    query.page.limit = limit;
    let mut grants = Vec::new();
    loop {
        let page = store.queries().grants(&query).await.unwrap();
        assert!(page.len() <= limit);
        query.page.after = page.last().map(|grant| grant.position);
        grants.extend(items(page));
        if query.page.after.is_none() {
            return grants;
        }
    }
}

pub async fn tenants_do_not_see_each_other(bench: &Bench) {
    let store = bench.open().await;
    let acme = make_grant(store.as_ref(), "acme", "support").await;
    let bolt = make_grant(store.as_ref(), "bolt", "support").await;
    let mut change = begin(store.as_ref()).await;
    let new = granted(new_grant("bolt", "support", change.now()));
    let ended = grant_of(&change.append(new).await.unwrap());
    change.append(revoked(&ended, change.now())).await.unwrap();
    change.record_request(&key(Some("bolt"), "r", 1), 0).await.unwrap();
    change.commit().await.unwrap();

    for id in [bolt.id(), ended.id()] {
        assert_eq!(store.queries().grant(&acme.tenant_id, id).await.unwrap(), None);
        let mut of_grant = all_events("acme");
        of_grant.filter.grant_id = Some(id);
        assert_eq!(store.queries().events(&of_grant).await.unwrap(), []);
    }
    let now = acme.create_time;
    for states in [vec![], vec![GrantState::Active], GrantState::ALL.to_vec()] {
        let mut query = all_grants("acme", now);
        query.filter.states = states;
        let listed = items(store.queries().grants(&query).await.unwrap());
        assert_eq!(listed, std::slice::from_ref(&acme));
    }
    assert_eq!(store.queries().events(&all_events("acme")).await.unwrap().len(), 1);
    let mut change = begin(store.as_ref()).await;
    assert_eq!(change.grant(&acme.tenant_id, bolt.id()).await.unwrap(), None);
    let request_id = key(None, "r", 1).request_id;
    assert_eq!(change.request(Some(&acme.tenant_id), &request_id).await.unwrap(), []);
    assert_eq!(change.request(None, &request_id).await.unwrap(), []);
    let live = change.live_grants(&acme.tenant_id, None, 9).await.unwrap();
    assert_eq!(live, std::slice::from_ref(&acme));
    assert_eq!(change.size_of_live_grants(&acme.tenant_id).await.unwrap(), 1);
}
