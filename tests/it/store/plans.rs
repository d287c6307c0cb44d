//! The plans of PostgreSQL for the statements of the store, as `auto_explain` logs them. Every list
//! must read its index, and never a whole table. (SQLite: `src/store/sql/statements/plans.rs`.)

use std::{future::Future, sync::Arc};

use support_access::{
    domain::{
        EventKind, GrantId, GrantState, PolicyOverrides, SupportPolicy, TenantId, Time,
        time::from_micros,
    },
    store::{
        EventFilter, EventQuery, GrantFilter, GrantQuery, LockFilter, LockQuery, PageBounds,
        QueryScope, Store, StoreError,
    },
};

use crate::store::{
    bench::Bench,
    postgres::Cluster,
    samples::{agent, begin, group, tenant},
};

/// The tenant `acme` has 10,000 grants, of which the last ten have not ended. Ten other tenants
/// have 1,000 live grants each. There are as many locks, of which few are live. One group and one
/// agent are rare.
const HISTORY: &str = "
    SET session_replication_role = replica;
    CREATE TEMPORARY TABLE items AS
        SELECT i, tenant_id, md5(i::text)::uuid::text AS id, 2 * number + 1 AS create_sequence,
            CASE WHEN is_live THEN NULL ELSE 2 * number + 2 END AS ended_sequence,
            CASE WHEN i % 1000 = 0 THEN 'rare' ELSE 'common' END AS name
        FROM (SELECT i, 'acme' AS tenant_id, i - 1 AS number, i > 9990 AS is_live
                FROM generate_series(1, 10000) AS i
            UNION ALL
            SELECT i, 'other' || i % 10, (i - 10001) / 10, true
                FROM generate_series(10001, 20000) AS i) AS numbered;
    INSERT INTO events (revision, tenant_id, sequence, hash, time, actor, actor_asserted, reason,
            kind, grant_id, body, mac, owner_mac)
        SELECT 2 * i - 1 + n, tenant_id, create_sequence + n, sha256(id::bytea), i, 'admin', 0, '',
            CASE n WHEN 0 THEN 'granted' ELSE 'expired' END, id, '{body}', sha256(''), sha256('')
        FROM items, generate_series(0, 1) AS n;
    INSERT INTO grants (tenant_id, create_sequence, sequence, ended_sequence, create_revision,
            grant_id, group_id, agent_ids, access_level, agent_kinds, start_time, expire_time,
            revoke_time, reason, ticket, create_time, creator, revoker, revoke_reason)
        SELECT tenant_id, create_sequence, coalesce(ended_sequence, create_sequence),
            ended_sequence, 2 * i - 1, id, name, '[]', 1, '[{\"agent_kind\":\"HUMAN\"}]', i,
            i + 1000000,
            CASE WHEN is_revoked THEN i END, '', '', i, 'admin',
            CASE WHEN is_revoked THEN 'admin' END, CASE WHEN is_revoked THEN '' END
        FROM (SELECT *, ended_sequence IS NOT NULL AND i % 2 = 0 AS is_revoked FROM items) AS ended;
    INSERT INTO grant_agents (tenant_id, agent_id, create_sequence)
        SELECT tenant_id, name, create_sequence FROM items;
    INSERT INTO locks (tenant_id, create_sequence, sequence, ended_sequence, create_revision,
            lock_id, target, target_id, party, expire_time, reason, create_time, creator)
        SELECT tenant_id, create_sequence, coalesce(ended_sequence, create_sequence),
            ended_sequence, 2 * i - 1, id, 'agent_id', name,
            CASE name WHEN 'rare' THEN 'tenant' ELSE 'vendor' END, i + 9, '', i, 'admin'
        FROM (SELECT i, tenant_id, create_sequence, id, name,
            CASE WHEN i % 1000 > 9 THEN create_sequence + 1 END AS ended_sequence FROM items) AS l;
    INSERT INTO enforcements (last_revision, first_revision, elapsed, nodes_acknowledged,
            nodes_lapsed)
        SELECT 2 * i, 2 * i - 1, 1, 1, 0 FROM items;
    UPDATE head SET revision = 40000, time = 40000;
    VACUUM ANALYZE;
";

/// The tables that no statement may scan.
const LARGE_TABLES: [&str; 5] = ["events", "grants", "grant_agents", "locks", "enforcements"];
/// PostgreSQL can switch to a generic plan at the sixth execution of a prepared statement.
const EXECUTIONS: usize = 7;

const NEWEST: PageBounds = PageBounds::newest(50);

/// A store on [`HISTORY`], whose server logs its plans.
struct ExplainedStore {
    store: Arc<Store>,
    _bench: Bench,
}

impl ExplainedStore {
    async fn open() -> Self {
        let mut bench = Bench::postgres();
        bench.open().await.close().await;
        let database = bench.url.split(['/', '?']).nth(3).unwrap().to_owned();
        let (policy_overrides, support_policy) =
            (PolicyOverrides::default(), SupportPolicy::default());
        let body = EventKind::PolicyUpdated { policy_overrides, support_policy };
        let body = serde_json::to_string(&body).unwrap();
        Cluster::shared().psql(&database, &HISTORY.replace("{body}", &body));
        bench.url += "&options=-c%20session_preload_libraries=auto_explain\
                      %20-c%20auto_explain.log_min_duration=0";
        Self { store: bench.open().await, _bench: bench }
    }

    /// Runs `read` several times. Each time, indexes whose names begin with each of `indexes` must
    /// be read, and no large table.
    async fn expect<T, F>(&self, indexes: &[&str], read: impl Fn(Arc<Store>) -> F)
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        for _ in 0..EXECUTIONS {
            let logged = Cluster::shared().log().len();
            read(self.store.clone()).await.unwrap();
            let plans = Cluster::shared().log().split_off(logged);
            for index in indexes {
                let is_read = plans.contains(&format!("using {index}"))
                    || plans.contains(&format!("Bitmap Index Scan on {index}"));
                assert!(is_read, "the statement should read {index}: {plans}");
            }
            for table in LARGE_TABLES {
                let is_scanned = plans.contains(&format!("Seq Scan on {table} "));
                assert!(!is_scanned, "the statement should not scan {table}: {plans}");
            }
        }
    }

    async fn expect_grants(&self, filter: GrantFilter, indexes: &[&str]) {
        let query = GrantQuery { filter, now: now(), page: NEWEST };
        self.expect(indexes, |store| {
            let query = query.clone();
            async move { store.queries().grants(&query).await }
        })
        .await;
    }
}

fn now() -> Time {
    from_micros(40_000).unwrap()
}

fn acme() -> QueryScope {
    QueryScope::Tenant(tenant("acme"))
}

#[tokio::test]
async fn lists_of_grants_read_their_indexes() {
    let explained = ExplainedStore::open().await;
    let all = GrantFilter::all(acme());
    explained.expect_grants(all.clone(), &["grants_pkey"]).await;
    for states in [vec![GrantState::Revoked], vec![GrantState::Expired]] {
        explained.expect_grants(GrantFilter { states, ..all.clone() }, &["grants_pkey"]).await;
    }
    for states in [vec![GrantState::Active], vec![GrantState::Scheduled, GrantState::Active]] {
        let live = GrantFilter { states, ..all.clone() };
        explained.expect_grants(live, &["grants_live_tenant_id_create_sequence_idx"]).await;
    }
    // For a common group, PostgreSQL may read the newest grants of the tenant instead.
    let of_group = GrantFilter { group_id: Some(group("rare")), ..all.clone() };
    let index = "grants_tenant_id_group_id_create_sequence_idx";
    explained.expect_grants(of_group, &[index]).await;
    let of_agent = GrantFilter { agent_id: Some(agent("rare")), ..all };
    explained.expect_grants(of_agent, &["grant_agents_pkey", "grants_pkey"]).await;
    let everywhere = GrantFilter::all(QueryScope::All);
    explained.expect_grants(everywhere.clone(), &["grants_create_revision_key"]).await;
    let live = GrantFilter { states: vec![GrantState::Active], ..everywhere };
    explained.expect_grants(live, &["grants_live_create_revision_idx"]).await;
}

#[tokio::test]
async fn lists_of_events_read_their_indexes() {
    let explained = ExplainedStore::open().await;
    let grant_id = Some(GrantId(uuid::Uuid::nil()));
    for (scope, grant_id, index) in [
        (acme(), None, "events_tenant_id_sequence_key"),
        (acme(), grant_id, "events_tenant_id_grant_id_sequence_idx"),
        (QueryScope::Vendor, None, "events_tenant_id_sequence_key"),
        (QueryScope::All, None, "events_pkey"),
    ] {
        let query = EventQuery { filter: EventFilter { scope, grant_id }, page: NEWEST };
        explained
            .expect(&[index, "enforcements_pkey"], |store| {
                let query = query.clone();
                async move {
                    // The events are read, and then rejected: their HMAC is wrong.
                    let read = store.queries().events(&query).await;
                    if matches!(read, Err(StoreError::Broken(_))) { Ok(Vec::new()) } else { read }
                }
            })
            .await;
    }
}

/// Few locks are live. PostgreSQL may therefore read any index of live locks.
#[tokio::test]
async fn lists_of_locks_read_their_indexes() {
    let explained = ExplainedStore::open().await;
    for (scope, include_ended, index) in [
        (acme(), true, "locks_pkey"),
        (acme(), false, "locks_live_"),
        (QueryScope::All, true, "locks_create_revision_key"),
        (QueryScope::All, false, "locks_live_"),
    ] {
        let filter = LockFilter { scope, include_ended };
        let query = LockQuery { filter, now: from_micros(0).unwrap(), page: NEWEST };
        explained
            .expect(&[index], |store| {
                let query = query.clone();
                async move { store.queries().locks(&query).await }
            })
            .await;
    }
}

#[tokio::test]
async fn the_list_of_tenants_reads_its_index() {
    let explained = ExplainedStore::open().await;
    let index = "events_tenant_id_sequence_key";
    explained.expect(&[index], async |store| store.queries().tenants("acme", 5).await).await;
}

#[tokio::test]
async fn histories_are_read_from_their_index() {
    let explained = ExplainedStore::open().await;
    let index = "events_tenant_id_sequence_key";
    let read =
        async |store: Arc<Store>| store.history().records(Some(&tenant("acme")), 7, 50).await;
    explained.expect(&[index], read).await;
    // The filler events are not authentic, so the chain must have none.
    let read = async |store: Arc<Store>| store.history().chain_head(Some(&tenant("none"))).await;
    explained.expect(&[index], read).await;
    let read = async |store: Arc<Store>| store.history().enforced(20_000).await;
    explained.expect(&["enforcements_pkey"], read).await;
}

#[tokio::test]
async fn transactions_read_the_indexes_of_live_grants_and_locks() {
    use support_access::domain::Party;
    let explained = ExplainedStore::open().await;
    let acme: TenantId = tenant("acme");
    let live = "grants_live_tenant_id_create_sequence_idx";
    let due = "grants_live_expire_time_create_revision_idx";
    let live_locks = "locks_live_";
    let named = "grants_live_named_tenant_id_idx";
    explained
        .expect(&["grants_live_tenant_id_", named], async |store| {
            begin(store.as_ref()).await.size_of_live_grants(&acme).await
        })
        .await;
    explained
        .expect(&["grants_live_tenant_id_group_id_idx"], async |store| {
            begin(store.as_ref()).await.count_live_grants(&acme, &group("support")).await
        })
        .await;
    explained
        .expect(&[live], async |store| {
            begin(store.as_ref()).await.live_grants(&acme, Some(15_000), 50).await
        })
        .await;
    explained
        .expect(&[due], async |store| begin(store.as_ref()).await.due_grants(now(), 5).await)
        .await;
    explained
        .expect(&["locks_live_expire_time_create_revision_idx"], async |store| {
            // The filler events are not authentic, so no lock must be due.
            begin(store.as_ref()).await.due_locks(Time::UNIX_EPOCH, 5).await
        })
        .await;
    for (party, tenant_id) in [(Party::Vendor, None), (Party::Tenant, Some(&acme))] {
        explained
            .expect(&[live_locks], async |store| {
                begin(store.as_ref()).await.count_live_locks(party, tenant_id).await
            })
            .await;
    }
    explained.expect(&[due], async |store| store.queries().next_expiry().await).await;
    let events_of_live =
        ["grants_live_create_revision_idx", "events_tenant_id_grant_id_sequence_idx"];
    explained
        .expect(&events_of_live, async |store| {
            // The filler events are not authentic, so the read must return none.
            begin(store.as_ref()).await.last_events_of_live_grants(40_000, 50).await
        })
        .await;
    explained
        .expect(&["events_clock_accepted_revision_idx"], async |store| {
            begin(store.as_ref()).await.clock_events().await
        })
        .await;
}
