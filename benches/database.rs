//! The cost of check nodes and changes for PostgreSQL, and the size of a history on disk.
//!
//! Measures the server's processor time, the WAL bytes and the elapsed time of each statement,
//! through the real store. docs/sizing.md lists the results. Criterion cannot measure another
//! process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark panics on failure, prints results and shares code with the tests"
)]

#[path = "../tests/common/event_key.rs"]
mod event_key;
#[path = "../tests/common/postgres.rs"]
mod postgres;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use event_key::event_key_file;
use postgres::Cluster;
use sqlx::{Connection, PgConnection};
use support_access::{
    domain::{
        AccessLevel, Ack, AdmittedKinds, Attribution, EventKind, FreeText, Grant, GrantId,
        GrantTerms, GroupId, NodeId, NodeInfo, NodeKind, Position, Revocation, TenantId, Ticket,
        Time, ids::Actor,
    },
    server::SystemClock,
    store::{self, NewEvent, Registration, Store},
};
use uuid::Uuid;

const ROUNDS: u32 = 2_000;
const LEASE: Duration = Duration::from_secs(2);
/// The number of grants that are created and revoked to measure the size on disk.
const GRANTS: u32 = 5_000;

/// A database on a dedicated server, and the server's resource usage.
struct Server {
    cluster: Cluster,
    store: Arc<Store>,
    url: String,
    own: PgConnection,
    postmaster: u32,
}

/// Processor time in nanoseconds, by process id.
type Spent = BTreeMap<u32, u64>;

impl Server {
    async fn start() -> Self {
        let cluster = Cluster::launch();
        let url = cluster.fresh_database();
        let store = store::open(&url, Arc::new(SystemClock), event_key_file(&url)).await.unwrap();
        let mut own = PgConnection::connect(&url).await.unwrap();
        let (pid,): (i32,) =
            sqlx::query_as("SELECT pg_backend_pid()").fetch_one(&mut own).await.unwrap();
        let postmaster = parent(pid.unsigned_abs()).unwrap();
        Self { cluster, store, url, own, postmaster }
    }

    fn spent(&self) -> Spent {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of_server = pids.filter(|pid| parent(*pid) == Some(self.postmaster));
        let time = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
            Some((pid, text.split_whitespace().next()?.parse().ok()?))
        };
        of_server.filter_map(time).collect()
    }

    async fn wal(&mut self) -> i64 {
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        sqlx::query_scalar(sql).fetch_one(&mut self.own).await.unwrap()
    }

    /// Repeats an operation and prints the costs of one round. Returns the server's processor time
    /// per round.
    async fn cost<F: Future<Output = ()>>(
        &mut self,
        name: &str,
        rounds: u32,
        operation: impl Fn(Arc<Store>, u32) -> F,
    ) -> Duration {
        for round in 0..100 {
            operation(Arc::clone(&self.store), round).await; // warms up plans and caches
        }
        let (before, wal, started) = (self.spent(), self.wal().await, Instant::now());
        for round in 100..100 + rounds {
            operation(Arc::clone(&self.store), round).await;
        }
        let elapsed = started.elapsed() / rounds;
        let wal = (self.wal().await - wal) / i64::from(rounds);
        let grown = self
            .spent()
            .into_iter()
            .map(|(pid, spent)| spent.saturating_sub(before.get(&pid).copied().unwrap_or(0)));
        let busy = Duration::from_nanos(grown.sum::<u64>()) / rounds;
        println!("{name:<44} {:>9.0} {:>9.0} {wal:>9}", micros(busy), micros(elapsed));
        busy
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number + 1))
}

async fn register(store: &Store, numbers: std::ops::Range<u128>) {
    for number in numbers {
        let node_id = node(number);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let member = Registration { node_id, version, max_staleness: LEASE, first_heartbeat: 0 };
        store.membership().register(&member).await.unwrap();
    }
}

fn grant(number: u32, now: Time) -> Grant {
    let terms = GrantTerms {
        grant_id: GrantId(Uuid::now_v7()),
        group_id: GroupId::new("support").unwrap(),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::ReadWrite,
        agent_kinds: AdmittedKinds::HUMAN,
        start_time: now,
        expire_time: Some(now + Duration::from_hours(24)),
        revoke_time: None,
        is_expired: false,
    };
    Grant {
        tenant_id: TenantId::new(&format!("tenant-{:06}", number % 1_000)).unwrap(),
        terms,
        reason: FreeText::new("cannot log in since the last upgrade").unwrap(),
        ticket: Ticket::default(),
        create_time: now,
        creator: Actor::new("admin@example.com").unwrap(),
        revocation: None,
        create_sequence: 0,
        sequence: 0,
    }
}

fn entry(kind: EventKind, grant: &Grant) -> NewEvent {
    let author = Attribution::direct(grant.creator.clone());
    let tenant_id = Some(grant.tenant_id.clone());
    NewEvent { tenant_id, author, reason: grant.reason.clone(), kind }
}

/// Creates a grant and revokes it: two changes.
async fn grant_and_revoke(store: &Store, number: u32) {
    let mut change = store.begin().await.unwrap();
    let mut grant = grant(number, change.now());
    let kind = EventKind::Granted { grant: grant.clone() };
    let event = change.append(entry(kind, &grant)).await.unwrap();
    change.commit().await.unwrap();
    let mut change = store.begin().await.unwrap();
    grant = event.kind.grant().unwrap().clone();
    grant.terms.revoke_time = Some(change.now());
    let revoker = grant.creator.clone();
    grant.revocation = Some(Revocation { revoker, reason: FreeText::default() });
    let kind = EventKind::Revoked { grant: grant.clone() };
    change.append(entry(kind, &grant)).await.unwrap();
    change.commit().await.unwrap();
}

async fn statements(server: &mut Server) {
    println!("{:<44} {:>9} {:>9} {:>9}", "each, in PostgreSQL", "µs of CPU", "µs", "WAL bytes");
    server
        .cost("a grant and a revocation (two changes)", 1_000, |store, round| async move {
            grant_and_revoke(store.as_ref(), round).await;
        })
        .await;
    let head = server.store.log().head().await.unwrap();
    let ack = Ack { revision: head.revision, nodes: 101, nodes_lapsed: 0 };
    let acknowledge = move |store: Arc<Store>, round: u32| async move {
        store.membership().acknowledge(node(u128::from(round) % 10), head, ack).await.unwrap();
    };
    let mut rows = 0;
    for count in [10, 100, 1_000] {
        register(server.store.as_ref(), rows..count).await;
        rows = count;
        let renew = move |store: Arc<Store>, round: u32| async move {
            let node_id = node(u128::from(round) % count);
            store
                .membership()
                .heartbeat(node_id, i64::from(round), Some(head))
                .await
                .unwrap()
                .unwrap();
        };
        server.cost(&format!("a heartbeat, {count} members"), ROUNDS, renew).await;
        let read = |store: Arc<Store>, _| async move {
            store.membership().members().await.unwrap();
        };
        server.cost(&format!("a read of the membership, {count} members"), ROUNDS / 2, read).await;
    }
    server.cost("an acknowledgement, no listener", ROUNDS, acknowledge).await;
    let read = move |store: Arc<Store>, _| async move {
        store.log().events_after(head.revision - 1, 1_000).await.unwrap();
    };
    server.cost("a read of the log, nothing new", ROUNDS, read).await;
    for number in 0..100 {
        grant_and_revoke(server.store.as_ref(), number * 1_000).await; // all of one tenant
    }
    let tenant_id = grant(0, Time::UNIX_EPOCH).tenant_id;
    let page = |store: Arc<Store>, _| {
        let tenant_id = tenant_id.clone();
        async move {
            assert_eq!(store.history().records(Some(&tenant_id), 0, 200).await.unwrap().len(), 200);
        }
    };
    server.cost("a page of 200 records, for verification", ROUNDS / 10, page).await;
    let infos: Vec<_> = (0..100).map(|number| info(number, head)).collect();
    let report = |store: Arc<Store>, _| {
        let infos = infos.clone();
        async move { store.membership().write_followers(node(0), &infos).await.unwrap() }
    };
    server.cost("a report of 100 followers", ROUNDS / 10, report).await;
    notifications(server, head, ack).await;
}

/// Measures the cost of a notification for each listening connection.
async fn notifications(server: &mut Server, head: Position, ack: Ack) {
    let mut listeners = Vec::new();
    for count in [8, 32] {
        while listeners.len() < count {
            // A store has connections for eight listeners.
            let other =
                store::open(&server.url, Arc::new(SystemClock), event_key_file(&server.url))
                    .await
                    .unwrap();
            for _ in 0..8 {
                let mut listener = other.notifications().listen().await.unwrap();
                listeners.push(tokio::spawn(async move { while listener.next().await.is_ok() {} }));
            }
        }
        let acknowledge = move |store: Arc<Store>, round: u32| async move {
            // A store has connections for three concurrent acknowledgements.
            let one = |number: u128| store.membership().acknowledge(node(number % 10), head, ack);
            let number = u128::from(round) * 3;
            let (a, b, c) = tokio::join!(one(number), one(number + 1), one(number + 2));
            assert!([a, b, c].into_iter().all(|written| written.unwrap()));
        };
        let name = format!("three acknowledgements, {count} listeners");
        server.cost(&name, ROUNDS / 2, acknowledge).await;
    }
    for listener in listeners {
        listener.abort();
    }
}

fn info(number: u128, head: Position) -> NodeInfo {
    NodeInfo {
        node_id: node(number),
        kind: NodeKind::Sidecar,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        upstream: Some(node(1_000)),
        revision: head.revision,
        lease_age: Some(Duration::from_millis(120)),
        silent_for: Duration::from_millis(80),
    }
}

/// Measures the size of revoked grants on disk.
async fn disk() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("history.db");
    let url = format!("sqlite://{}", file.display());
    let sqlite = store::open(&url, Arc::new(SystemClock), None).await.unwrap();
    let database =
        server.url.trim_start_matches("postgres:///").split('?').next().unwrap().to_owned();
    let size = || -> i64 {
        let sql = "SELECT pg_database_size(current_database())";
        server.cluster.psql(&database, sql).parse().unwrap()
    };
    let before = size();
    for number in 0..GRANTS {
        grant_and_revoke(server.store.as_ref(), number).await;
        grant_and_revoke(sqlite.as_ref(), number).await;
    }
    server.cluster.psql(&database, "VACUUM");
    let events = i64::from(2 * GRANTS);
    println!("{events} events: {} bytes each in PostgreSQL", (size() - before) / events);
    let tables = "SELECT string_agg(\
             relname || ' ' || pg_total_relation_size(oid) / 1024 || ' kB', ', ') \
         FROM (SELECT * FROM pg_class \
               WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
               ORDER BY pg_total_relation_size(oid) DESC LIMIT 6) AS c";
    println!("  {}", server.cluster.psql(&database, tables));
    sqlite.close().await;
    println!(
        "{events} events: {} bytes each in SQLite",
        fs::metadata(&file).unwrap().len() / events.unsigned_abs()
    );
}

#[tokio::main]
async fn main() {
    let mut server = Server::start().await;
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'support-access'";
    println!(
        "connections after the store was opened: {}",
        server.cluster.psql("postgres", sessions)
    );
    statements(&mut server).await;
    println!("connections after all statements: {}", server.cluster.psql("postgres", sessions));
    drop(server);
    disk().await;
}
