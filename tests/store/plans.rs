//! How PostgreSQL finds the rows, told by its own `auto_explain` of what the store really asked: by one index that is in the
//! answer's order. No sort, and no walk through a long history. (SQLite's plans: `src/store/sqlite/plans.rs`.)

use std::time::Duration;

use support_access::{
    domain::{
        EventKind, GrantId, GrantState, LockTarget, Party, PolicyOverrides, SupportPolicy,
        time::from_micros,
    },
    store::{LockQuery, Store},
};
use tokio::time::{Instant, sleep};

use crate::{
    bench::Bench,
    locks::new_lock,
    postgres::Cluster,
    samples::{agent, all_events, all_grants, begin, group, tenant},
};

/// Of one tenant 20,000 grants, all ended but the last ten, and as many of ten others. One of the groups, and one of the
/// agents, is rare: a planner that goes by averages would walk the whole history for them.
const HISTORY: &str = "
    INSERT INTO events (revision, tenant_id, time, actor, reason, kind, grant_id, body)
        SELECT i, CASE WHEN i <= 20000 THEN 'acme' ELSE 'other' || i % 10 END, i, 'admin', '', 'granted',
            md5(i::text)::uuid, '{body}'
        FROM generate_series(1, 40000) AS i;
    INSERT INTO grants (tenant_id, create_revision, revision, ended_revision, grant_id, group_id, agent_ids,
            access_level, start_time, expire_time, revoke_time, reason, ticket, create_time, creator,
            revoker, revoke_reason)
        SELECT tenant_id, i, i, CASE WHEN is_ended THEN i END, grant_id,
            CASE WHEN tenant_id = 'acme' AND i % 1000 <> 0 THEN 'common' ELSE 'rare' END, '[]', 1, i, i + 9,
            CASE WHEN is_revoked THEN i END, '', '', i, 'admin',
            CASE WHEN is_revoked THEN 'x' END, CASE WHEN is_revoked THEN '' END
        FROM (SELECT *, revision AS i, revision % 20000 < 19990 AS is_ended,
            revision % 20000 < 19990 AND revision % 2 = 0 AS is_revoked FROM events) AS events;
    INSERT INTO grant_agents (tenant_id, agent_id, create_revision)
        SELECT tenant_id, CASE WHEN revision % 1000 = 0 THEN 'rare' ELSE 'common' END, revision FROM events;
    INSERT INTO enforcements (last_revision, first_revision, elapsed, nodes_acknowledged, nodes_lapsed)
        SELECT i, i - 1, 1, 1, 0 FROM generate_series(2, 40000, 2) AS i;
    INSERT INTO locks (create_revision, ended_revision, lock_id, tenant_id, side, expire_time, body)
        SELECT revision, CASE WHEN revision % 20000 BETWEEN 1 AND 19990 THEN revision + 1 END, grant_id, tenant_id,
            CASE WHEN revision % 1000 = 0 THEN 'tenant' ELSE 'vendor' END, revision, '{lock}' FROM events;
    UPDATE head SET revision = 40000, time = 40000;
";

/// What the server noted of its plans since `seen`, once it has noted one.
async fn next_plan(seen: &mut usize) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let log = Cluster::shared().log();
        let news = &log[*seen..];
        // A plan ends where the next line of the log begins; `Query Text` is its first line.
        if news.contains("Query Text: SELECT") && news.ends_with('\n') {
            let plan = news.rsplit_once("Query Text: ").unwrap().1.to_owned();
            *seen = log.len();
            return plan;
        }
        assert!(Instant::now() < deadline, "no plan in the log: {news}");
        sleep(Duration::from_millis(5)).await; // between two looks at the log
    }
}

fn check(plan: &str, index: &str) {
    let has_index = plan.contains(&format!("using {index} on "));
    let walks = ["Sort", "Seq Scan", "Bitmap"].iter().any(|bad| plan.contains(bad));
    assert!(has_index && !walks, "expected only {index} in {plan}");
}

/// States, group, and agent that are asked for, and the index that must be used.
type Case = (&'static [GrantState], Option<&'static str>, Option<&'static str>, &'static str);

#[tokio::test]
async fn a_page_of_grants_is_read_off_one_index() {
    use GrantState::{Active, Expired, Revoked, Scheduled};
    let (bench, store, database) = history().await;
    let now = from_micros(i64::from(i32::MAX)).unwrap();
    let cases: [Case; 14] = [
        (&[], None, None, "grants_pkey"),
        (&[Active], None, None, "grants_live"),
        (&[Scheduled, Active], None, None, "grants_live"),
        (&[Active], Some("rare"), None, "grants_live"),
        (&[Active], Some("common"), None, "grants_live"),
        (&[Active], None, Some("rare"), "grants_live"),
        (&[Active], None, Some("common"), "grants_live"),
        (&[Revoked], None, None, "grants_revoked"),
        (&[Expired], None, None, "grants_unrevoked"),
        (&[], Some("rare"), None, "grants_of_group"),
        (&[], Some("common"), None, "grants_of_group"),
        (&[], None, Some("rare"), "grant_agents_pkey"),
        (&[], None, Some("common"), "grant_agents_pkey"),
        (&[Expired], None, Some("rare"), "grant_agents_pkey"),
    ];
    // As long as the server knows nothing of the tables, and once it does.
    for command in ["SELECT", "VACUUM ANALYZE"] {
        Cluster::shared().psql(&database, command);
        let mut seen = Cluster::shared().log().len();
        for (states, group_id, agent_id, index) in cases {
            // From the sixth time on, the server may use a plan that is not made for the values.
            for _ in 0..7 {
                let mut query = all_grants("acme", now);
                query.states = states.to_vec();
                query.group_id = group_id.map(group);
                query.agent_id = agent_id.map(agent);
                query.limit = 50;
                store.queries().grants(&query).await.unwrap();
                let plan = next_plan(&mut seen).await;
                println!("{command} {states:?} {group_id:?} {agent_id:?}\n{plan}");
                check(&plan, index);
            }
        }
    }
    drop(bench);
}

#[tokio::test]
async fn everything_else_is_found_by_an_index_too() {
    let (_bench, store, database) = history().await;
    Cluster::shared().psql(&database, "VACUUM ANALYZE");
    let mut seen = Cluster::shared().log().len();
    let id = GrantId(uuid::Uuid::nil());
    let mut events = all_events("acme");
    events.limit = 50;
    for (grant_id, index) in [(None, "events_of_tenant"), (Some(id), "events_of_grant")] {
        events.grant_id = grant_id;
        // From the sixth time on, the server may use a plan that is not made for the values.
        for _ in 0..7 {
            store.queries().events(&events).await.unwrap();
            let plan = next_plan(&mut seen).await;
            check(&plan, index);
            check(&plan, "enforcements_pkey");
            check(&plan, "chain_pkey");
        }
    }
    let acme = tenant("acme");
    for _ in 0..7 {
        store.history().records(Some(&acme), 7, 50).await.unwrap();
        let plan = next_plan(&mut seen).await;
        check(&plan, "chain_tenant_id_sequence_key");
        check(&plan, "events_pkey");
        store.history().chain_head(Some(&acme)).await.unwrap();
        check(&next_plan(&mut seen).await, "chain_tenant_id_sequence_key");
        store.history().tenant_after("acme").await.unwrap();
        check(&next_plan(&mut seen).await, "chain_tenant_id_sequence_key");
    }
    store.history().enforced(20_000).await.unwrap();
    check(&next_plan(&mut seen).await, "enforcements_pkey");
    store.queries().grant(&tenant("acme"), id).await.unwrap();
    check(&next_plan(&mut seen).await, "grants_grant_id_key");
    store.queries().next_expiry().await.unwrap();
    let plan = next_plan(&mut seen).await;
    check(&plan, "grants_due");
    check(&plan, "locks_due");
    let mut change = begin(store.as_ref()).await;
    next_plan(&mut seen).await;
    change.live_grants(&tenant("acme"), 50).await.unwrap();
    check(&next_plan(&mut seen).await, "grants_live");
    change.count_live_grants(&tenant("acme")).await.unwrap();
    check(&next_plan(&mut seen).await, "grants_live");
    change.due_grants(change.now(), 50).await.unwrap();
    check(&next_plan(&mut seen).await, "grants_due");
}

#[tokio::test]
async fn locks_are_found_by_an_index_too() {
    let (_bench, store, database) = history().await;
    Cluster::shared().psql(&database, "VACUUM ANALYZE");
    let mut seen = Cluster::shared().log().len();
    let now = from_micros(0).unwrap();
    let cases = [
        (None, true, "locks_pkey"),
        (None, false, "locks_live"),
        (Some("acme"), true, "locks_of_tenant"),
        (Some("acme"), false, "locks_live_of_tenant"),
    ];
    for (tenant_id, include_ended, index) in cases {
        // From the sixth time on, the server may use a plan that is not made for the values.
        for _ in 0..7 {
            let tenant_id = tenant_id.map(tenant);
            let query = LockQuery { tenant_id, include_ended, now, before: None, limit: 50 };
            assert!(!store.queries().locks(&query).await.unwrap().is_empty());
            check(&next_plan(&mut seen).await, index);
        }
    }
    let mut change = begin(store.as_ref()).await;
    next_plan(&mut seen).await;
    let lock = new_lock(LockTarget::Everything, Party::Vendor, now);
    change.lock(lock.id()).await.unwrap();
    check(&next_plan(&mut seen).await, "locks_lock_id_key");
    change.count_live_locks(Party::Vendor, None).await.unwrap();
    check(&next_plan(&mut seen).await, "locks_live_of_side");
    change.count_live_locks(Party::Tenant, Some(&tenant("acme"))).await.unwrap();
    check(&next_plan(&mut seen).await, "locks_live_of_side");
    change.due_locks(change.now(), 50).await.unwrap();
    check(&next_plan(&mut seen).await, "locks_due");
}

/// A store whose server explains what it is asked, with a history behind it.
async fn history() -> (Bench, std::sync::Arc<dyn Store>, String) {
    let mut bench = Bench::postgres();
    bench.open().await.close().await;
    let database = bench.url.split(['/', '?']).nth(3).unwrap().to_owned();
    let (overrides, policy) = (PolicyOverrides::default(), SupportPolicy::default());
    let body = EventKind::PolicyUpdated { overrides, policy };
    let body = serde_json::to_string(&body).unwrap();
    let lock = new_lock(LockTarget::Everything, Party::Vendor, from_micros(0).unwrap());
    let lock = serde_json::to_string(&lock).unwrap();
    Cluster::shared().psql(&database, &HISTORY.replace("{body}", &body).replace("{lock}", &lock));
    // Before anything is explained: here all of it is put into its chain.
    bench.open().await.close().await;
    bench.url += "&options[session_preload_libraries]=auto_explain\
                  &options[auto_explain.log_min_duration]=0\
                  &options[auto_explain.log_analyze]=on";
    let store = bench.open().await;
    (bench, store, database)
}
