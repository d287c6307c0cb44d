//! What is promised of the chains: that each history is one, whoever wrote it, and that it can be verified.

use std::{collections::HashMap, fmt::Write, path::Path, sync::Arc};

use rand::RngExt;
use serde_json::{Value, json};
use sqlx::{
    ConnectOptions, Connection, Executor,
    migrate::{Migrate, Migrator},
};
use support_access::{
    domain::{
        Attribution, Event, EventKind, FreeText, PolicyOverrides, SupportPolicy, TenantId,
        chain::{ChainError, Link, Record, Verifier, VerifyError, VerifyReport, time_text},
    },
    store::{EventQuery, HistoryEvent, NewEvent, Store},
};

use crate::{
    bench::Bench,
    history::{TENANTS, live_on, seeded},
    model::Model,
    samples::{actor, begin, granted, make_grant, new_grant, tenant},
};

/// A change of the vendor's own history.
fn of_vendor() -> NewEvent {
    let (overrides, policy) = (PolicyOverrides::default(), SupportPolicy::default());
    let author = Attribution::direct(actor("operator"));
    let kind = EventKind::PolicyUpdated { overrides, policy };
    NewEvent { tenant_id: None, author, reason: FreeText::default(), kind, request: None }
}

async fn records(store: &dyn Store, tenant_id: Option<&TenantId>) -> Vec<Record> {
    store.records(tenant_id, 0, usize::MAX).await.unwrap()
}

fn verify(records: &[Record]) -> Result<VerifyReport, VerifyError> {
    let mut verifier = Verifier::new(None, None).unwrap();
    for record in records {
        verifier.line(record.line.as_bytes())?;
    }
    verifier.finish()
}

/// The chain of one history, verified, and compared with all else that tells of it.
async fn check(store: &dyn Store, tenant_id: Option<&TenantId>, events: &[Event]) {
    let records = records(store, tenant_id).await;
    let head = store.chain_head(tenant_id).await.unwrap();
    assert_eq!(head.log, store.head().await.unwrap().epoch);
    assert_eq!(head.link, records.last().map_or(Link::START, |record| record.link));
    assert_eq!(records.len(), events.len());
    if let Some(first) = records.first() {
        let verdict = verify(&records).unwrap();
        assert_eq!((verdict.last, verdict.log), (head.link, head.log.to_string()));
        assert_eq!(verdict.tenant_id, tenant_id.map_or("", TenantId::as_str));
        assert_eq!(first.link.sequence, 1);
    }
    let query =
        EventQuery { tenant_id: tenant_id.cloned(), grant_id: None, before: None, limit: 9_999 };
    let mut listed = store.list_events(&query).await.unwrap();
    listed.reverse();
    for ((record, event), listed) in records.iter().zip(events).zip(&listed) {
        assert_eq!((&listed.event, listed.link), (event, Some(record.link)));
        assert_eq!(serde_json::from_str::<Value>(&record.line).unwrap(), told(event, record));
    }
    for (after, limit) in [(0, 1), (1, 2), (records.len(), 1), (usize::MAX >> 1, 1), (0, 0)] {
        let page = store.records(tenant_id, i64::try_from(after).unwrap(), limit).await.unwrap();
        let expected: Vec<Record> = records.iter().skip(after).take(limit).cloned().collect();
        assert_eq!(page, expected, "{limit} after {after}");
    }
}

/// What a record must say, but for the hash before it.
fn told(event: &Event, record: &Record) -> Value {
    let line: Value = serde_json::from_str(&record.line).unwrap();
    let mut told = json!({
        "format": "support-access.history.record.v1",
        "log": line["log"],
        "tenant_id": event.tenant_id.as_ref().map_or("", TenantId::as_str),
        "sequence": record.link.sequence,
        "revision": event.revision,
        "time": time_text(event.time),
        "actor": event.author.actor.as_str(),
        "reason": event.reason.as_str(),
        "event": serde_json::to_value(&event.kind).unwrap(),
        "previous_hash": line["previous_hash"],
        "hash": record.link.hash.to_string(),
    });
    if let Some(via) = &event.author.via {
        told["via"] = via.as_str().into();
    }
    if event.author.is_asserted {
        told["is_asserted"] = true.into();
    }
    told
}

pub async fn every_history_is_a_chain_of_its_own(bench: &Bench) {
    let store = bench.open().await;
    let mut rng = seeded();
    let mut model = Model::default();
    check(store.as_ref(), Some(&tenant("nobody")), &[]).await;
    for _ in 0..4 {
        live_on(store.as_ref(), &mut model, &mut rng, 12).await;
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

pub async fn histories_that_grow_at_once_are_chained_without_a_gap(bench: &Bench) {
    const TASKS: usize = 6;
    const CHANGES: usize = 15;
    let store = bench.open().await;
    // Another process, where there can be one.
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

/// The same record is made of an event for ever: of one that was not committed, nothing is left.
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

pub async fn links_can_be_neither_changed_nor_deleted(bench: &Bench) {
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    make_grant(store.as_ref(), "acme", "support").await;
    let acme = tenant("acme");
    let before = records(store.as_ref(), Some(&acme)).await;
    let only_here = if bench.url.starts_with("postgres") {
        "TRUNCATE chain"
    } else {
        "INSERT OR REPLACE INTO chain SELECT revision + 2, tenant_id, sequence, hash FROM chain WHERE revision = 1"
    };
    for sql in [
        "UPDATE chain SET hash = hash",
        "DELETE FROM chain",
        "INSERT INTO chain SELECT revision + 3, tenant_id, sequence + 3, hash FROM chain",
        "INSERT INTO chain SELECT 3, 'bolt', 1, hash FROM chain WHERE revision = 1",
        only_here,
    ] {
        let complaint = bench.sql(sql).await.expect_err(sql).to_string();
        assert!(complaint.contains("history is permanent"), "{sql}: {complaint}");
    }
    assert_eq!(records(store.as_ref(), Some(&acme)).await, before);
}

/// As a server of an earlier version writes it, which knows of no chains.
const OLDER_WRITER: &str = "
    INSERT INTO events (revision, tenant_id, time, actor, reason, kind, grant_id, body)
    SELECT revision + 1, 'acme', coalesce(time, 0), 'admin', 'by an older server', 'policy_updated', NULL,
        '{\"type\": \"policy_updated\", \"overrides\": {}, \"policy\": {}}' FROM head;
    UPDATE head SET revision = revision + 1
";

pub async fn what_an_older_server_writes_is_chained_by_the_next_who_comes(bench: &Bench) {
    let store = bench.open().await;
    let acme = tenant("acme");
    let newest = || async {
        let query =
            EventQuery { tenant_id: Some(tenant("acme")), grant_id: None, before: None, limit: 1 };
        let listed = store.list_events(&query).await.unwrap();
        listed.into_iter().next().map(|HistoryEvent { link, .. }| link.map(|link| link.sequence))
    };
    make_grant(store.as_ref(), "acme", "support").await;
    bench.sql(OLDER_WRITER).await.unwrap();
    assert_eq!(newest().await, Some(None), "nobody has linked it yet");
    // Whoever asks how far the chain goes is told of all that was committed.
    assert_eq!(store.chain_head(Some(&acme)).await.unwrap().link.sequence, 2);
    assert_eq!(newest().await, Some(Some(2)));
    bench.sql(OLDER_WRITER).await.unwrap();
    assert_eq!(records(store.as_ref(), Some(&acme)).await.len(), 3);
    bench.sql(OLDER_WRITER).await.unwrap();
    bench.sql(OLDER_WRITER).await.unwrap();
    make_grant(store.as_ref(), "bolt", "support").await;
    assert_eq!(newest().await, Some(Some(5)), "another tenant's change has linked them");
    make_grant(store.as_ref(), "acme", "support").await;
    bench.sql(OLDER_WRITER).await.unwrap();
    store.close().await;
    let store = bench.open().await;
    let query =
        EventQuery { tenant_id: Some(acme.clone()), grant_id: None, before: None, limit: 1 };
    let listed = store.list_events(&query).await.unwrap();
    assert_eq!(listed[0].link.unwrap().sequence, 7, "so has the start");
    let all = records(store.as_ref(), Some(&acme)).await;
    assert_eq!((all.len(), verify(&all).unwrap().last.sequence), (7, 7));
    verify(&records(store.as_ref(), Some(&tenant("bolt"))).await).unwrap();
}

/// The events themselves are changed, by somebody who may do everything with the database.
pub async fn what_was_changed_in_the_database_is_named(bench: &Bench) {
    let store = bench.open().await;
    for _ in 0..4 {
        make_grant(store.as_ref(), "acme", "support").await;
    }
    let acme = tenant("acme");
    verify(&records(store.as_ref(), Some(&acme)).await).unwrap();
    let disarm = if bench.url.starts_with("postgres") {
        "ALTER TABLE events DISABLE TRIGGER events_are_permanent; \
         ALTER TABLE chain DISABLE TRIGGER chain_is_permanent"
    } else {
        "DROP TRIGGER events_are_never_updated; DROP TRIGGER chain_is_never_updated; \
         DROP TRIGGER chain_is_never_deleted"
    };
    bench.sql(disarm).await.unwrap();
    let fault = |line, misfit| VerifyError { line, misfit };
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
        bench.sql(sql).await.unwrap();
        assert_eq!(verify(&records(store.as_ref(), Some(&acme)).await), Err(expected), "{sql}");
    }
    bench.sql("DELETE FROM chain WHERE revision = 1").await.unwrap();
    let found = verify(&records(store.as_ref(), Some(&acme)).await).unwrap_err();
    assert_eq!(found.line, 1);
}

const EVENTS: usize = 1_234;

/// A database that a version without chains has left, with the events of several tenants in it.
async fn without_chains<C: Migrate>(connection: &mut C, migrator: &Migrator)
where
    for<'c> &'c mut C: Executor<'c>,
{
    let before = migrator.iter().take(3).cloned().collect();
    Migrator::with_migrations(before).run_direct(None, connection, false).await.unwrap();
    let mut sql = String::new();
    for revision in 1..=EVENTS {
        let tenant_id = ["acme", "Zoë & söhne", "_", ""][revision * 7 % 4];
        write!(
            sql,
            "INSERT INTO events (revision, tenant_id, time, actor, reason, kind, grant_id, body) \
             VALUES ({revision}, '{tenant_id}', {revision}, 'admin', '', 'other', NULL, \
             '{{\"type\":\"of another version\", \"n\": {revision}}}');"
        )
        .unwrap();
    }
    write!(sql, "UPDATE head SET revision = {EVENTS}, time = {EVENTS}").unwrap();
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.unwrap();
}

async fn are_chained(bench: &Bench) {
    let store = bench.open().await;
    let mut sequences = HashMap::new();
    for tenant_id in TENANTS.map(|id| Some(tenant(id))).into_iter().chain([None]) {
        let records = records(store.as_ref(), tenant_id.as_ref()).await;
        verify(&records).unwrap();
        sequences.insert(tenant_id, records.len());
    }
    assert_eq!(
        sequences.values().sum::<usize>(),
        EVENTS,
        "also those that this version cannot read"
    );
    make_grant(store.as_ref(), "acme", "support").await;
    let acme = records(store.as_ref(), Some(&tenant("acme"))).await;
    assert_eq!(acme.len(), sequences[&Some(tenant("acme"))] + 1);
    verify(&acme).unwrap();
}

#[tokio::test]
async fn a_sqlite_file_without_chains_is_given_them() {
    let bench = Bench::sqlite();
    let options: sqlx::sqlite::SqliteConnectOptions = bench.url.parse().unwrap();
    let mut connection = options.create_if_missing(true).connect().await.unwrap();
    without_chains(&mut connection, &Migrator::new(Path::new("migrations/sqlite")).await.unwrap())
        .await;
    connection.close().await.unwrap();
    are_chained(&bench).await;
}

#[tokio::test]
async fn a_postgres_database_without_chains_is_given_them() {
    let bench = Bench::postgres();
    let options: sqlx::postgres::PgConnectOptions = bench.url.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    without_chains(
        &mut connection,
        &Migrator::new(Path::new("migrations/postgres")).await.unwrap(),
    )
    .await;
    connection.close().await.unwrap();
    // Several servers of this version, started at once, share the work.
    let stores = futures::future::join_all((0..3).map(|_| bench.open())).await;
    drop(stores);
    are_chained(&bench).await;
}
