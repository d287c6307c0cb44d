//! The contract of hash chains: each history is one chain, written by any process, and verifies.

use std::sync::Arc;

use rand::RngExt;
use serde_json::{Value, json};
use support_access::{
    domain::{
        Event, PolicyOverrides, TenantId,
        chain::{ChainError, Link, Record, Verifier, VerifyError, VerifyReport, time_text},
    },
    store::{ListOrder, NewEvent, QueryScope, Store},
};

use crate::store::{
    bench::Bench,
    history::{TENANTS, make_random_changes, seeded},
    model::Model,
    samples::{begin, events_in, granted, items, make_grant, new_grant, policy_updated, tenant},
};

/// An event of the vendor's own history.
fn of_vendor() -> NewEvent {
    policy_updated(None, PolicyOverrides::default())
}

async fn records(store: &Store, tenant_id: Option<&TenantId>) -> Vec<Record> {
    store.history().records(tenant_id, 0, usize::MAX).await.unwrap()
}

fn verify(records: &[Record]) -> Result<VerifyReport, VerifyError> {
    let mut verifier = Verifier::new(None, None).unwrap();
    for record in records {
        verifier.line(record.line.as_bytes())?;
    }
    verifier.finish()
}

/// Verifies the chain of one history, and compares the chain with the list of events.
async fn check(store: &Store, tenant_id: Option<&TenantId>, events: &[Event]) {
    let records = records(store, tenant_id).await;
    let head = store.history().chain_head(tenant_id).await.unwrap();
    assert_eq!(head.link, records.last().map_or(Link::START, |record| record.link));
    assert_eq!(records.len(), events.len());
    if let Some(first) = records.first() {
        let report = verify(&records).unwrap();
        assert_eq!((report.last, report.log), (head.link, head.log.to_string()));
        assert_eq!(report.tenant_id, tenant_id.map_or("", TenantId::as_str));
        assert_eq!(first.link.sequence, 1);
    }
    let mut query = events_in(QueryScope::of(tenant_id.cloned()));
    query.page.order = ListOrder::OldestFirst;
    let listed = items(store.queries().events(&query).await.unwrap());
    assert_eq!(listed.len(), events.len());
    for ((record, event), listed) in records.iter().zip(events).zip(&listed) {
        assert_eq!((&listed.event, listed.hash), (event, record.link.hash));
        assert_eq!((event.sequence, event.revision), (record.link.sequence, record.revision));
        assert_eq!(
            serde_json::from_str::<Value>(&record.line).unwrap(),
            expected_record(event, record)
        );
    }
    for (after, limit) in [(0, 1), (1, 2), (records.len(), 1), (usize::MAX >> 1, 1), (0, 0)] {
        let page =
            store.history().records(tenant_id, i64::try_from(after).unwrap(), limit).await.unwrap();
        let expected: Vec<Record> = records.iter().skip(after).take(limit).cloned().collect();
        assert_eq!(page, expected, "{limit} after {after}");
    }
}

/// The expected content of a record, with its own previous hash.
fn expected_record(event: &Event, record: &Record) -> Value {
    let line: Value = serde_json::from_str(&record.line).unwrap();
    let mut expected = json!({
        "format": "support-access.history.record.v1",
        "log": line["log"],
        "tenant_id": event.tenant_id.as_ref().map_or("", TenantId::as_str),
        "sequence": record.link.sequence,
        "time": time_text(event.time),
        "actor": event.author.actor.as_str(),
        "reason": event.reason.as_str(),
        "event": serde_json::to_value(&event.kind).unwrap(),
        "previous_hash": line["previous_hash"],
        "hash": record.link.hash.to_string(),
    });
    if let Some(via) = &event.author.via {
        expected["via"] = via.as_str().into();
    }
    if event.author.is_asserted {
        expected["actor_asserted"] = true.into();
    }
    expected
}

pub async fn every_history_is_a_separate_chain(bench: &Bench) {
    let store = bench.open().await;
    let mut rng = seeded();
    let mut model = Model::default();
    check(store.as_ref(), Some(&tenant("empty")), &[]).await;
    for _ in 0..4 {
        make_random_changes(store.as_ref(), &mut model, &mut rng, 12).await;
        let mut change = begin(store.as_ref()).await;
        model.events.push(change.append(of_vendor()).await.unwrap());
        if rng.random_bool(0.5) {
            model.events.push(change.append(of_vendor()).await.unwrap());
        }
        change.commit().await.unwrap();
    }
    let histories = TENANTS.map(|id| Some(tenant(id))).into_iter().chain([None]);
    for tenant_id in histories {
        let own = model.events.iter().filter(|event| event.tenant_id == tenant_id);
        let own: Vec<Event> = own.cloned().collect();
        assert!(!own.is_empty());
        check(store.as_ref(), tenant_id.as_ref(), &own).await;
    }
}

pub async fn concurrent_histories_are_chained_without_a_gap(bench: &Bench) {
    const TASKS: usize = 6;
    const CHANGES: usize = 15;
    let store = bench.open().await;
    // Another process, if the database allows one.
    let other = if bench.url.starts_with("postgres") { bench.open().await } else { store.clone() };
    let tasks = (0..TASKS).map(|number| {
        let store = Arc::clone(if number % 2 == 0 { &store } else { &other });
        tokio::spawn(async move {
            for round in 0..CHANGES {
                let tenant_id = TENANTS[(number + round) % TENANTS.len()];
                make_grant(store.as_ref(), tenant_id, "support").await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut total = 0;
    for tenant_id in TENANTS {
        let records = records(other.as_ref(), Some(&tenant(tenant_id))).await;
        verify(&records).unwrap();
        total += records.len();
    }
    assert_eq!(total, TASKS * CHANGES);
}

/// An event always has the same record. An uncommitted event has none.
pub async fn a_record_never_changes(bench: &Bench) {
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let acme = tenant("acme");
    let before = records(store.as_ref(), Some(&acme)).await;
    let mut change = begin(store.as_ref()).await;
    change.append(granted(new_grant("acme", "support", change.now()))).await.unwrap();
    drop(change);
    assert_eq!(records(store.as_ref(), Some(&acme)).await, before);
    make_grant(store.as_ref(), "acme", "support").await;
    let after = records(store.as_ref(), Some(&acme)).await;
    assert_eq!((after.len(), &after[..1]), (2, before.as_slice()));
}

/// An attacker who owns the database changes events.
pub async fn a_changed_row_is_named_by_the_verifier(bench: &Bench) {
    let store = bench.open().await;
    for _ in 0..4 {
        make_grant(store.as_ref(), "acme", "support").await;
    }
    let acme = tenant("acme");
    verify(&records(store.as_ref(), Some(&acme)).await).unwrap();
    let fault = |line, mismatch| VerifyError { line, mismatch };
    for (sql, expected) in [
        (
            "UPDATE events SET reason = 'never mind' WHERE revision = 3",
            fault(3, ChainError::Changed),
        ),
        (
            "UPDATE events SET body = replace(body, 'support', 'others') WHERE revision = 2",
            fault(2, ChainError::Changed),
        ),
        ("UPDATE events SET time = time + 1 WHERE revision = 1", fault(1, ChainError::Changed)),
    ] {
        bench.forge(sql).await;
        assert_eq!(verify(&records(store.as_ref(), Some(&acme)).await), Err(expected), "{sql}");
    }
    bench.forge("UPDATE events SET sequence = 9 WHERE revision = 4").await;
    let last = store.history().records(Some(&acme), 3, 1).await.unwrap().remove(0);
    assert_eq!((last.link.sequence, last.revision), (9, 4));
}
