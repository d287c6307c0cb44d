//! The plans of SQLite: every list must read the intended index. (PostgreSQL:
//! `tests/it/store/plans.rs`.)

use sqlx::{Connection, Row, Sqlite, SqliteConnection};

use super::{Statement, grants, history, lists, locks, log};
use crate::{
    domain::{AgentId, GrantId, GrantState, GroupId, Party, TenantId, Time},
    store::{
        EventFilter, EventQuery, GrantFilter, GrantQuery, ListOrder, LockFilter, LockQuery,
        PageBounds, QueryScope, migrations, sql::Backend,
    },
};

/// The plan of SQLite for `statement` in a new database: a line for each table.
async fn plan(statement: Statement) -> String {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrations::SQLITE.run(&mut connection).await.unwrap();
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", statement.sql));
    let rows = sqlx::query(explain).fetch_all(&mut connection).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    lines.join("\n")
}

/// Checks that the statement reads `index`, scans no table, and sorts nothing.
async fn expect(statement: Statement, index: &str) {
    let plan = plan(statement).await;
    assert!(plan.contains(&format!("{index} (")), "the statement should read {index}: {plan}");
    for table in ["e", "g", "a", "l", "events", "grants", "locks", "enforcements"] {
        let scan = format!("SCAN {table}");
        let is_scan = |line: &str| line == scan || line.starts_with(&format!("{scan} USING"));
        let is_ordered = |line: &str| line.ends_with(index);
        let is_scanned = plan.lines().any(|line| is_scan(line) && !is_ordered(line));
        assert!(!is_scanned, "the statement should not scan {table}: {plan}");
    }
    assert!(!plan.contains("TEMP B-TREE"), "the statement should not sort: {plan}");
}

fn pages() -> [PageBounds; 2] {
    let first = PageBounds::newest(50);
    [first, PageBounds { order: ListOrder::OldestFirst, after: Some(7), ..first }]
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

async fn expect_grants(filter: &GrantFilter, index: &str) {
    for page in pages() {
        let query = GrantQuery { filter: filter.clone(), now: Time::UNIX_EPOCH, page };
        expect(lists::grants(&query), index).await;
    }
}

#[tokio::test]
async fn lists_of_grants_read_their_indexes() {
    let primary_key = "sqlite_autoindex_grants_1";
    let all = GrantFilter::all(QueryScope::Tenant(acme()));
    expect_grants(&all, primary_key).await;
    let states = vec![GrantState::Revoked, GrantState::Expired];
    expect_grants(&GrantFilter { states, ..all.clone() }, primary_key).await;
    let states = vec![GrantState::Scheduled, GrantState::Active];
    let live = GrantFilter { states, ..all.clone() };
    expect_grants(&live, "grants_live_tenant_id_create_sequence_idx").await;
    let group_id = Some(GroupId::new("group").unwrap());
    let of_group = GrantFilter { group_id, ..all.clone() };
    expect_grants(&of_group, "grants_tenant_id_group_id_create_sequence_idx").await;
    let agent_id = Some(AgentId::new("agent").unwrap());
    let of_agent = GrantFilter { agent_id, ..all };
    expect_grants(&of_agent, "PRIMARY KEY").await;
}

#[tokio::test]
async fn lists_of_grants_of_all_tenants_read_their_indexes() {
    let all = GrantFilter::all(QueryScope::All);
    expect_grants(&all, "sqlite_autoindex_grants_2").await;
    let live = GrantFilter { states: vec![GrantState::Active], ..all };
    expect_grants(&live, "grants_live_create_revision_idx").await;
}

#[tokio::test]
async fn lists_of_events_read_their_indexes() {
    let grant_id = Some(GrantId(uuid::Uuid::nil()));
    for (scope, grant_id, index) in [
        (QueryScope::Vendor, None, "sqlite_autoindex_events_1"),
        (QueryScope::Vendor, grant_id, "events_tenant_id_grant_id_sequence_idx"),
        (QueryScope::All, None, "INTEGER PRIMARY KEY"),
    ] {
        for page in pages() {
            let filter = EventFilter { scope: scope.clone(), grant_id };
            expect(lists::events(&EventQuery { filter, page }), index).await;
        }
    }
}

#[tokio::test]
async fn lists_of_locks_read_their_indexes() {
    for (scope, include_ended, index) in [
        (QueryScope::Vendor, true, "sqlite_autoindex_locks_1"),
        (QueryScope::Vendor, false, "locks_live_tenant_id_create_sequence_idx"),
        (QueryScope::All, true, "sqlite_autoindex_locks_2"),
        (QueryScope::All, false, "locks_live_create_revision_idx"),
    ] {
        for page in pages() {
            let filter = LockFilter { scope: scope.clone(), include_ended };
            let query = LockQuery { filter, now: Time::UNIX_EPOCH, page };
            expect(lists::locks(&query), index).await;
        }
    }
}

#[tokio::test]
async fn the_list_of_tenants_reads_its_index() {
    let plan = plan(lists::tenants("acme", 50)).await;
    assert!(plan.contains("SEARCH events USING COVERING INDEX"), "{plan}");
    assert!(!plan.contains("SCAN e"), "{plan}");
}

#[tokio::test]
async fn histories_are_read_from_their_index() {
    let index = "sqlite_autoindex_events_1";
    expect(history::records(None, 7, 50), index).await;
    expect(log::last_event(""), index).await;
    expect(log::event_at("", 7), index).await;
    expect(history::enforced(7), "INTEGER PRIMARY KEY").await;
}

#[tokio::test]
async fn transactions_read_the_indexes_of_live_grants_and_locks() {
    let (acme, now) = (acme(), Time::UNIX_EPOCH);
    let live_grants = "grants_live_tenant_id_create_sequence_idx";
    let live_in_group = "grants_live_tenant_id_group_id_idx";
    for index in [live_in_group, "grants_live_named_tenant_id_idx"] {
        expect(grants::size_of_live(&Sqlite::DIALECT, &acme), index).await;
    }
    let support = GroupId::fixed("support");
    expect(grants::count_live(&acme, &support), live_in_group).await;
    expect(grants::live(&acme, None, 50), live_grants).await;
    expect(grants::due(now, 50), "grants_live_expire_time_create_revision_idx").await;
    expect(grants::last_events_of_live(9, 50), "grants_live_create_revision_idx").await;
    let last_events = log::last_grant_events(&Sqlite::DIALECT, &acme, &["grant".into()]).unwrap();
    expect(last_events.clone(), "events_tenant_id_grant_id_sequence_idx").await;
    expect(last_events, "sqlite_autoindex_events_1").await;
    let latest_ended = log::latest_ended_events(&Sqlite::DIALECT, &acme, &["support"]).unwrap();
    expect(latest_ended, "PRIMARY KEY").await;
    // The index contains only these events.
    let accepted = plan(log::clock_events()).await;
    assert_eq!(accepted, "SCAN e USING INDEX events_clock_accepted_revision_idx");
    let live_locks = "locks_live_party_tenant_id_idx";
    expect(locks::count_live(Party::Vendor, None), live_locks).await;
    expect(locks::count_live(Party::Tenant, Some(&acme)), live_locks).await;
    expect(locks::due(now, 50), "locks_live_expire_time_create_revision_idx").await;
}
