//! `ListGrants` of one tenant with ten thousand and with a million grants, on both databases. The
//! cost of a page must not grow with the history. One run measures both sizes, so that the results
//! are comparable.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

#[path = "../tests/common/backend.rs"]
mod backend;
#[allow(dead_code, reason = "a benchmark needs only a part")]
#[path = "../tests/common/event_key.rs"]
mod event_key;
#[allow(dead_code, reason = "a benchmark needs only a part")]
#[path = "../tests/common/postgres.rs"]
mod postgres;

use std::{sync::Arc, time::Duration};

use backend::Backend;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use event_key::event_key_file;
use sqlx::{Connection, SqliteConnection};
use support_access::{
    domain::{AgentId, Clock, GrantState, GroupId, TenantId},
    server::SystemClock,
    store::{self, GrantFilter, GrantQuery, PageBounds, QueryScope, Store},
};
use tokio::runtime::Runtime;

const SIZES: [usize; 2] = [10_000, 1_000_000];
const PAGE: usize = 50;

/// Inserts grants of `acme`. All have ended, except for fifty of the newest. The grants belong to
/// three groups, and one in a hundred names an agent.
///
/// `{rows}` stands for a table with the numbers `n` from 1. `{id}` stands for a UUID.
const FILL: &str = "
    INSERT INTO events (revision, tenant_id, sequence, hash, time, actor, actor_asserted, reason,
                        kind, grant_id, body, mac, owner_mac)
    SELECT n, 'acme', n, {hash}, n, 'admin', 0, '', 'granted', {id}, '{}', {hash}, {hash}
    FROM {rows};
    INSERT INTO grants (tenant_id, create_sequence, sequence, ended_sequence, create_revision,
                        grant_id, group_id, agent_ids, access_level, agent_kinds, start_time,
                        expire_time, reason, ticket, create_time, creator)
    SELECT 'acme', n, n + CASE WHEN {live} THEN 0 ELSE 1 END,
           CASE WHEN {live} THEN NULL ELSE n + 1 END, n, {id}, 'group-' || (n % 3),
           CASE WHEN n % 100 = 0 THEN '[\"ada\"]' ELSE '[]' END, 1,
           '[{\"agent_kind\":\"HUMAN\"}]', n,
           CASE WHEN {live} THEN NULL ELSE n + 1 END, 'a reason', 'T-1', n, 'admin' FROM {rows};
    INSERT INTO grant_agents (tenant_id, agent_id, create_sequence)
    SELECT 'acme', 'ada', n FROM {rows} WHERE n % 100 = 0;
    UPDATE head SET revision = {count}, time = {count};
    ANALYZE;
";

async fn open(backend: &Backend) -> Arc<Store> {
    let url = backend.database_url();
    store::open(&url, Arc::new(SystemClock), event_key_file(&url)).await.unwrap()
}

async fn fill(backend: &Backend, count: usize) -> Arc<Store> {
    open(backend).await.close().await;
    let live = "(n > {count} - 5000 AND n % 100 = 0)";
    let sql = FILL.replace("{live}", live).replace("{count}", &count.to_string());
    match backend {
        Backend::Sqlite(directory) => {
            let numbers = format!(
                "(WITH RECURSIVE r(n) AS \
                 (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {count}) \
                 SELECT n FROM r) AS r"
            );
            let id = "printf('%08x-0000-7000-8000-%012x', n, n)";
            // An ended grant refers to the next event, which is missing for the last grant.
            let sql = format!("PRAGMA foreign_keys = OFF; {sql}");
            let sql = sql.replace("{rows}", &numbers).replace("{id}", id);
            let sql = sql.replace("{hash}", "zeroblob(32)");
            let url = format!("sqlite://{}", directory.path().join("test.db").display());
            let mut connection = SqliteConnection::connect(&url).await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Backend::Postgres(cluster, url) => {
            let id = "lpad(to_hex(n), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0')";
            // Without the triggers that check every row.
            let sql = format!("SET session_replication_role = replica; {sql}")
                .replace("{rows}", &format!("generate_series(1, {count}) AS r(n)"))
                .replace("{id}", id)
                .replace("{hash}", "decode(repeat('00', 32), 'hex')");
            let database = url.split(['/', '?']).nth(3).unwrap();
            cluster.psql(database, &sql);
            cluster.psql(database, "VACUUM");
        }
    }
    open(backend).await
}

fn query(after: Option<i64>, narrow: impl FnOnce(&mut GrantFilter)) -> GrantQuery {
    let mut filter = GrantFilter::all(QueryScope::Tenant(TenantId::new("acme").unwrap()));
    narrow(&mut filter);
    let page = PageBounds { after, ..PageBounds::newest(PAGE) };
    GrantQuery { filter, now: SystemClock.now(), page }
}

/// The queries that administrators commonly make.
fn queries(count: usize) -> Vec<(&'static str, GrantQuery)> {
    let middle = i64::try_from(count / 2).unwrap();
    let group_id = Some(GroupId::new("group-1").unwrap());
    let agent_id = Some(AgentId::new("ada").unwrap());
    vec![
        ("first_page", query(None, |_| {})),
        ("middle_page", query(Some(middle), |_| {})),
        ("active", query(None, |filter| filter.states = vec![GrantState::Active])),
        ("expired", query(Some(middle), |filter| filter.states = vec![GrantState::Expired])),
        ("group", query(Some(middle), |filter| filter.group_id = group_id)),
        ("agent", query(None, |filter| filter.agent_id = agent_id)),
    ]
}

fn list_grants(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for name in ["sqlite", "postgres"] {
        let stores: Vec<(usize, Backend, Arc<Store>)> = SIZES
            .into_iter()
            .map(|count| {
                let backend =
                    if name == "sqlite" { Backend::sqlite() } else { Backend::postgres() };
                let store = runtime.block_on(fill(&backend, count));
                (count, backend, store)
            })
            .collect();
        let mut group = criterion.benchmark_group(format!("list_grants/{name}"));
        for (index, (label, _)) in queries(SIZES[0]).iter().enumerate() {
            for (count, _, store) in &stores {
                let query = queries(*count).remove(index).1;
                group.bench_function(BenchmarkId::new(*label, count), |bencher| {
                    bencher.to_async(&runtime).iter(|| async {
                        let found = store.queries().grants(&query).await.unwrap();
                        assert_eq!(found.len(), PAGE);
                    });
                });
            }
        }
        group.finish();
        for (_, _, store) in &stores {
            runtime.block_on(store.close());
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = list_grants
}
criterion_main!(benches);
