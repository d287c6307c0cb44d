//! The contract of transactions.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures::{FutureExt, future::join_all};
use rand::RngExt;
use support_access::{
    domain::{
        AccessLevel, AdmittedKinds, AgentKind, AgentKindEntry, Clock, FreeText, PolicyOverrides,
        Revision, Span, Time, time::from_micros,
    },
    store::{RequestPart, Store, StoreError, Transaction},
};
use tokio::time::{Instant, timeout};

use crate::store::{
    bench::Bench,
    history::seeded,
    locks::all_locks,
    model::Model,
    samples::{
        ENFORCED, ack, agent, all_events, all_grants, begin, expired, extended, grant_of, granted,
        key, make_grant, member, new_grant, new_node, policy_updated, revoked, tenant,
    },
};

pub async fn events_are_read_as_written(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    let mut grant = new_grant("Ünïcode & 'co'", "support", now + TimeDelta::microseconds(1));
    grant.terms.agent_ids = ["b\"ob", "ann", "支援"].into_iter().map(agent).collect();
    let ai = AgentKindEntry {
        agent_kind: AgentKind::Ai,
        max_access_level: Some(AccessLevel::ReadOnly),
        on_behalf_of_required: true,
    };
    grant.terms.agent_kinds = AdmittedKinds::new([ai, AgentKindEntry::HUMAN]).unwrap();
    let made = change.append(granted(grant)).await.unwrap();
    let moved = change.append(extended(&grant_of(&made), None)).await.unwrap();
    let ended = change.append(revoked(&grant_of(&moved), now)).await.unwrap();
    let other = change.append(granted(new_grant("acme", "support", now))).await.unwrap();
    let over = change.append(expired(&grant_of(&other))).await.unwrap();
    let overrides = PolicyOverrides {
        preset_durations: Some(vec![Span(Duration::from_millis(1_500)), Span::days(7)]),
        ticket_required: Some(true),
        ..PolicyOverrides::default()
    };
    let update = policy_updated(Some(tenant("acme")), overrides.clone());
    let updated = change.append(update).await.unwrap();
    assert_eq!(change.commit().await.unwrap(), 6);

    let events = vec![made, moved, ended, other, over, updated];
    for (event, revision) in events.iter().zip(1..) {
        let sequence = if revision < 4 { revision } else { revision - 3 };
        assert_eq!((event.revision, event.sequence, event.time), (revision, sequence, now));
        assert_eq!(event.reason, FreeText::new("because").unwrap());
        if let Some(grant) = event.kind.grant() {
            assert_eq!((grant.create_sequence, grant.sequence), (1, sequence));
        }
    }
    assert_eq!(store.log().events_after(0, 100).await.unwrap(), events);
    assert_eq!(store.log().events_after(2, 3).await.unwrap(), events[2..5]);
    assert_eq!(store.log().events_after(6, 3).await.unwrap(), []);
    let last = grant_of(&events[2]);
    assert_eq!(store.queries().grant(&last.tenant_id, last.id()).await.unwrap(), Some(last));
    assert_eq!(store.queries().overrides(&tenant("acme")).await.unwrap(), overrides);
}

pub async fn uncommitted_events_are_visible_in_their_transaction_only(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let grant = new_grant("acme", "support", change.now());
    let event = change.append(granted(grant)).await.unwrap();
    let grant = grant_of(&event);
    let id = grant.id();
    let acme = tenant("acme");
    assert_eq!(change.grant(&acme, id).await.unwrap(), Some(grant.clone()));
    assert_eq!(change.live_grants(&acme, None, 9).await.unwrap(), std::slice::from_ref(&grant));
    let key = key(Some("acme"), "r", 1);
    change.record_request(&key, 0).await.unwrap();
    let parts = change.request(Some(&acme), &key.request_id).await.unwrap();
    let part = RequestPart { part: 0, fingerprint: [1; 32], first_revision: 1, last_revision: 1 };
    assert_eq!(parts, [part]);

    assert_eq!(store.log().head().await.unwrap().revision, 0);
    assert_eq!(store.queries().grant(&acme, id).await.unwrap(), None);
    assert_eq!(store.log().events_after(0, 9).await.unwrap(), []);
    assert_eq!(store.queries().events(&all_events("acme")).await.unwrap(), []);
    assert_eq!(store.queries().next_expiry().await.unwrap(), None);
    assert_eq!(visited(store.as_ref()).await, 0);

    change.commit().await.unwrap();
    assert_eq!(store.log().head().await.unwrap().revision, 1);
    assert_eq!(store.queries().grant(&acme, id).await.unwrap(), Some(grant.clone()));
    assert_eq!(store.queries().next_expiry().await.unwrap(), grant.terms.expire_time);
    assert_eq!(visited(store.as_ref()).await, 1);
}

async fn visited(store: &Store) -> usize {
    let mut count = 0;
    store.log().load(&mut |_, _, _| count += 1).await.unwrap();
    count
}

pub async fn a_dropped_transaction_changes_nothing_and_blocks_no_other(bench: &Bench) {
    let store = bench.open().await;
    for round in 0..50 {
        let mut change = begin(store.as_ref()).await;
        let grant = new_grant("acme", "support", change.now());
        change.append(granted(grant)).await.unwrap();
        change.record_request(&key(Some("acme"), "r", 1), 0).await.unwrap();
        drop(change);
        let started = Instant::now();
        let mut change = begin(store.as_ref()).await;
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "round {round}: the transaction must not wait"
        );
        let request_id = key(None, "r", 1).request_id;
        assert_eq!(change.request(Some(&tenant("acme")), &request_id).await.unwrap(), []);
        assert_eq!(change.commit().await.unwrap(), 0, "an empty transaction changes nothing");
    }
    assert_eq!(store.log().head().await.unwrap().revision, 0);
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 1);
}

pub async fn a_second_transaction_waits_for_a_bounded_time(bench: &Bench) {
    let store = bench.open().await;
    let open = begin(store.as_ref()).await;
    let waiting = store.begin();
    tokio::pin!(waiting);
    let early = timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "the second transaction must wait");
    let rejected = timeout(Duration::from_secs(10), waiting).await.expect("the wait is bounded");
    assert!(matches!(rejected, Err(StoreError::Unavailable(_))));
    assert_eq!(store.log().head().await.unwrap().revision, 0, "readers do not wait");
    drop(open);
    make_grant(store.as_ref(), "acme", "support").await;
}

/// Many tasks, and two stores if the database allows two. Each transaction updates the state that
/// it has read.
pub async fn concurrent_transactions_lose_no_update_and_leave_no_gap(bench: &Bench) {
    const TASKS: usize = 8;
    const CHANGES: usize = 12;
    let store = bench.open().await;
    let is_shared = bench.url.starts_with("postgres");
    let other = if is_shared { bench.open().await } else { Arc::clone(&store) };
    let shared = make_grant(store.as_ref(), "acme", "shared").await;
    let tasks = (0..TASKS).map(|task| {
        let store = if task % 2 == 0 { Arc::clone(&store) } else { Arc::clone(&other) };
        let id = shared.id();
        async move {
            let mut written = Vec::new();
            for _ in 0..CHANGES {
                let mut change = begin(store.as_ref()).await;
                let now = change.now();
                written.push(change.append(granted(new_grant("acme", "own", now))).await.unwrap());
                // Each transaction adds a second to the end. No second may be lost.
                let found = change.grant(&tenant("acme"), id).await.unwrap().unwrap();
                let later = found.terms.expire_time.unwrap() + TimeDelta::seconds(1);
                written.push(change.append(extended(&found, Some(later))).await.unwrap());
                let revision = change.commit().await.unwrap();
                assert_eq!(revision, written.last().unwrap().revision);
                assert!(
                    store.log().head().await.unwrap().revision >= revision,
                    "a commit is visible at once"
                );
            }
            written
        }
    });
    let mut written: Vec<_> = join_all(tasks).await.into_iter().flatten().collect();
    written.sort_by_key(|event| event.revision);
    let events = store.log().events_after(1, 10_000).await.unwrap();
    assert_eq!(events, written);
    let revisions: Vec<Revision> = events.iter().map(|event| event.revision).collect();
    let all: Vec<Revision> = (2..).take(2 * TASKS * CHANGES).collect();
    assert_eq!(revisions, all);
    assert!(events.is_sorted_by_key(|event| event.time));
    let seconds = TimeDelta::seconds((TASKS * CHANGES).try_into().unwrap());
    let found = other.queries().grant(&tenant("acme"), shared.id()).await.unwrap().unwrap();
    assert_eq!(found.terms.expire_time, shared.terms.expire_time.map(|end| end + seconds));
}

/// Every transaction appends two events. The caller cancels at a random time, even during the
/// commit.
pub async fn a_cancelled_transaction_commits_all_events_or_none(bench: &Bench) {
    let store = bench.open().await;
    let mut rng = seeded();
    let mut committed = 0;
    for _ in 0..300 {
        let limit = Duration::from_micros(rng.random_range(0..6_000));
        let change = async {
            let mut change = store.begin().await?;
            let event = change.append(granted(new_grant("acme", "support", change.now()))).await?;
            change.append(revoked(&grant_of(&event), change.now())).await?;
            change.commit().await
        };
        if let Ok(result) = timeout(limit, change).await {
            result.unwrap();
            committed += 1;
        }
        let limit = Duration::from_micros(rng.random_range(0..2_000));
        let reads = async {
            store.queries().grants(&all_grants("acme", bench.clock.now())).await.unwrap();
            store.log().load(&mut |_, _, _| {}).await.unwrap();
        };
        let _ = timeout(limit, reads).await;
    }
    println!("{committed} of 300 transactions were confirmed");
    let last = make_grant(store.as_ref(), "acme", "support").await;
    let events = store.log().events_after(0, 10_000).await.unwrap();
    assert_eq!(events.len(), usize::try_from(last.sequence).unwrap());
    assert!(events.len() > 2 * committed, "acknowledged changes are kept");
    for (pair, revision) in events.chunks_exact(2).zip((1..).step_by(2)) {
        assert_eq!(pair[0].revision, revision);
        assert_eq!(pair[1].revision, revision + 1);
        assert_eq!(
            pair[0].grant_id(),
            pair[1].grant_id(),
            "both events of a transaction are committed"
        );
    }
    let model = Model { events };
    let grants = store.queries().grants(&all_grants("acme", bench.clock.now())).await.unwrap();
    assert_eq!(grants, model.list_grants(&all_grants("acme", bench.clock.now())));
}

pub async fn event_times_never_decrease(bench: &Bench) {
    let store = bench.open().await;
    let mut last = None;
    for step in [0, 10, -3_600, 5, -1, 7_200] {
        bench.clock.set(TimeDelta::seconds(step));
        let mut change = begin(store.as_ref()).await;
        let event =
            change.append(granted(new_grant("acme", "support", change.now()))).await.unwrap();
        assert_eq!(event.time, change.now());
        assert!(Some(event.time) >= last);
        last = Some(event.time);
        change.commit().await.unwrap();
    }
    if bench.url != "memory:" {
        // As if another machine with a later clock had made the last change.
        bench.sql("UPDATE head SET time = 4000000000000000").await.unwrap();
        assert_eq!(begin(store.as_ref()).await.now(), from_micros(4_000_000_000_000_000).unwrap());
    }
}

pub async fn a_caller_may_set_the_time_of_a_change(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let earlier = change.clock() - TimeDelta::hours(1);
    change.set_now(earlier);
    let event = change.append(granted(new_grant("acme", "support", earlier))).await.unwrap();
    assert_eq!((event.time, change.now()), (earlier, earlier));
    change.commit().await.unwrap();
    let mut change = begin(store.as_ref()).await;
    change.set_now(earlier - TimeDelta::hours(1));
    assert_eq!(change.now(), earlier, "not before the last event");
}

pub async fn requests_are_stored_by_tenant_and_part(bench: &Bench) {
    let store = bench.open().await;
    let owners = [(Some("acme"), 1), (Some("bolt"), 2), (None, 3)];
    for (owner, byte) in owners {
        let owner_key = key(owner, "same", byte);
        for part in 0..2 {
            let mut change = begin(store.as_ref()).await;
            let parts = change.request(owner_key.tenant_id.as_ref(), &owner_key.request_id).await;
            assert_eq!(parts.unwrap().len(), usize::try_from(part).unwrap());
            let new = granted(new_grant("acme", "support", change.now()));
            let grant = grant_of(&change.append(new).await.unwrap());
            change.append(revoked(&grant, change.now())).await.unwrap();
            change.record_request(&owner_key, part).await.unwrap();
            change.commit().await.unwrap();
        }
    }
    let mut change = begin(store.as_ref()).await;
    for ((owner, byte), first) in owners.into_iter().zip([1, 5, 9]) {
        let part = |part: u32| {
            let first_revision = first + 2 * i64::from(part);
            let last_revision = first_revision + 1;
            RequestPart { part, fingerprint: [byte; 32], first_revision, last_revision }
        };
        let owner_key = key(owner, "same", 0);
        let parts = change.request(owner_key.tenant_id.as_ref(), &owner_key.request_id).await;
        assert_eq!(parts.unwrap(), [part(0), part(1)]);
    }
    for (owner, request_id) in [(Some("other"), "same"), (Some("acme"), "Same"), (None, "Same")] {
        let unknown = key(owner, request_id, 0);
        let parts = change.request(unknown.tenant_id.as_ref(), &unknown.request_id).await;
        assert_eq!(parts.unwrap(), []);
    }
}

pub async fn a_transaction_without_events_stores_no_request(bench: &Bench) {
    let store = bench.open().await;
    let key = key(Some("acme"), "r", 1);
    let mut change = begin(store.as_ref()).await;
    change.record_request(&key, 0).await.unwrap();
    assert_eq!(change.commit().await.unwrap(), 0);
    let mut change = begin(store.as_ref()).await;
    assert_eq!(change.request(Some(&tenant("acme")), &key.request_id).await.unwrap(), []);
}

pub async fn a_closed_store_is_unavailable(bench: &Bench) {
    let store = bench.open().await;
    let held = store.log().head().await.unwrap();
    let change = begin(store.as_ref()).await;
    // Open transactions delay the close for a bounded time.
    timeout(Duration::from_secs(10), store.close()).await.expect("the close ends");
    drop(change);
    let id = new_node();
    let results = [
        store.begin().await.map(drop),
        store.log().head().await.map(drop),
        store.log().load(&mut |_, _, _| {}).await.map(drop),
        store.log().events_after(0, 1).await.map(drop),
        store.queries().grants(&all_grants("acme", bench.clock.now())).await.map(drop),
        store.queries().events(&all_events("acme")).await.map(drop),
        store.queries().overrides(&tenant("acme")).await.map(drop),
        store.queries().tenants("", 1).await.map(drop),
        store.log().replace_epoch().await.map(drop),
        store.queries().next_expiry().await.map(drop),
        store.queries().locks(&all_locks(bench.clock.now())).await.map(drop),
        store.membership().register(&member(id)).await,
        store.membership().heartbeat(id, 0, None).await.map(drop),
        store.membership().acknowledge(id, held, ack(0)).await.map(drop),
        store.membership().write_followers(id, &[]).await,
        store.membership().read_followers().await.map(drop),
        store.membership().members().await.map(drop),
        store.membership().evict(id, 0).await.map(drop),
        store.history().record_enforced(1, 1, Time::UNIX_EPOCH, ENFORCED).await,
        store.history().enforced(1).await.map(drop),
        store.notifications().listen().await.map(drop),
    ];
    for result in results {
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
}

pub async fn committed_events_survive_a_reopening(bench: &Bench) {
    let store = bench.open().await;
    let grant = make_grant(store.as_ref(), "acme", "support").await;
    let events = store.log().events_after(0, 9).await.unwrap();
    store.close().await;
    let store = bench.open().await;
    assert_eq!(store.log().events_after(0, 9).await.unwrap(), events);
    assert_eq!(store.queries().grant(&grant.tenant_id, grant.id()).await.unwrap(), Some(grant));
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 2);
}

/// A caller may drop the future of an append, and then commit. A part of an event must not become
/// permanent.
pub async fn a_transaction_with_a_cancelled_append_cannot_be_committed(bench: &Bench) {
    let store = bench.open().await;
    let mut change = loop {
        let mut change = begin(store.as_ref()).await;
        change.append(granted(new_grant("acme", "support", change.now()))).await.unwrap();
        let entry = granted(new_grant("acme", "support", change.now()));
        // Polled once. A database rarely completes the append in that time.
        if change.append(entry).now_or_never().is_none() {
            break change;
        }
    };
    let again = change.append(granted(new_grant("acme", "support", change.now()))).await;
    assert!(matches!(again, Err(StoreError::Unavailable(_))));
    assert!(matches!(change.commit().await, Err(StoreError::Unavailable(_))));
    assert_eq!(make_grant(store.as_ref(), "acme", "support").await.sequence, 1);
}

pub async fn a_grant_event_must_be_about_a_live_grant(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let grant = grant_of(&change.append(granted(new_grant("a", "g", change.now()))).await.unwrap());
    let ended = grant_of(&change.append(expired(&grant)).await.unwrap());
    change.commit().await.unwrap();
    let unknown = new_grant("a", "g", ended.create_time);
    for wrong in [extended(&ended, None), revoked(&unknown, ended.create_time), granted(ended)] {
        let mut change: Box<dyn Transaction> = begin(store.as_ref()).await;
        let appended = change.append(wrong).await;
        let committed = change.commit().await;
        let rejected = appended.map(drop).and(committed.map(drop));
        assert!(matches!(rejected, Err(StoreError::Broken(_))), "{rejected:?}");
    }
    assert_eq!(store.log().head().await.unwrap().revision, 2);
    assert_eq!(make_grant(store.as_ref(), "a", "g").await.sequence, 3);
}
