//! The ends of many grants in one transaction.

use rand::RngExt;
use support_access::{
    domain::{Grant, GrantTerms},
    store::StoreError,
};

use crate::store::{
    bench::Bench,
    history::seeded,
    model::Model,
    samples::{agent, all_grants, begin, expired, extended, grant_of, granted, new_grant, revoked},
};

/// Ends more grants than one statement does, in several groups, some of which have ended grants.
pub async fn many_grants_of_a_tenant_are_ended_together(bench: &Bench) {
    let store = bench.open().await;
    let mut rng = seeded();
    let mut model = Model::default();
    for _ in 0..2 {
        let mut change = begin(store.as_ref()).await;
        let now = change.now();
        let mut live = Vec::new();
        for number in 0..130 {
            let group = format!("group-{}", rng.random_range(0..7));
            let mut grant = new_grant("acme", &group, now);
            if number % 3 == 0 {
                grant.terms.agent_ids = ["ann", "bob"].into_iter().map(agent).collect();
            }
            model.events.push(change.append(granted(grant)).await.unwrap());
            live.push(grant_of(model.events.last().unwrap()));
        }
        model.events.push(change.append(granted(new_grant("bolt", "group-0", now))).await.unwrap());
        change.commit().await.unwrap();

        let mut change = begin(store.as_ref()).await;
        let now = change.now();
        let mut end = |grant: &Grant| {
            if rng.random_bool(0.2) { expired(grant) } else { revoked(grant, now) }
        };
        let ends = live.iter().rev().skip(1).map(&mut end).collect();
        let ended = change.append_all(ends).await.unwrap();
        assert_eq!(ended.len(), 129);
        let kept = live.last().unwrap();
        let left = change.live_grants(&kept.tenant_id, None, 1).await.unwrap();
        assert_eq!(left, std::slice::from_ref(kept));
        model.events.extend(ended);
        model.events.push(change.append(extended(kept, None)).await.unwrap());
        assert_eq!(change.commit().await.unwrap(), model.head());

        assert_eq!(store.log().events_after(0, 1_000).await.unwrap(), model.events);
        let mut visited = Vec::new();
        let mut visit = |tenant, terms, retained| visited.push((tenant, terms, retained));
        assert!(store.log().load(&mut visit).await.unwrap().is_authentic, "the sum is right");
        visited.sort_by_key(|(_, terms, _): &(_, GrantTerms, _)| terms.grant_id);
        assert_eq!(visited, model.load());
        let all = all_grants("acme", now);
        assert_eq!(store.queries().grants(&all).await.unwrap(), model.list_grants(&all));

        let mut change = begin(store.as_ref()).await;
        let twice = live.iter().take(60).map(|grant| revoked(grant, now)).collect();
        if bench.url != "memory:" {
            let rejected = change.append_all(twice).await;
            assert!(matches!(rejected, Err(StoreError::Broken(_))), "{rejected:?}");
            assert!(change.commit().await.is_err(), "a rejected event is not committed");
        }
    }
}
