//! The cost of the authentication of rows when a replica loads its grants.
//!
//! Each round loads all grants through the real store, and then computes the hashes of the same
//! grants alone. Their ratio is the share of the authentication, so that the speed of the machine
//! hardly matters. docs/sizing.md has the results.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark panics on failure, prints results and shares code with the tests"
)]

#[path = "../tests/common/backend.rs"]
mod backend;
#[path = "../tests/common/event_key.rs"]
mod event_key;
#[path = "../tests/common/grants.rs"]
mod grants;
#[path = "../tests/common/postgres.rs"]
mod postgres;

use std::{
    fs,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use backend::Backend;
use event_key::event_key_file;
use grants::new_grant;
use support_access::{
    domain::{
        GrantTerms, LogName, TenantId,
        authenticity::{EventKey, StateRow, StateSum},
    },
    server::SystemClock,
    store::{self, Store},
};
use uuid::Uuid;

const GRANTS_PER_TENANT: usize = 10;
const ROUNDS: usize = 5;

/// The elapsed time, and the processor time of this process.
type Cost = (Duration, Duration);

fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn cost<T>(work: impl Future<Output = T>) -> (Cost, T) {
    let (start, before) = (Instant::now(), processor_time());
    let result = work.await;
    ((start.elapsed(), processor_time().saturating_sub(before)), result)
}

fn median(mut costs: Vec<Cost>) -> Cost {
    let middle = costs.len() / 2;
    costs.sort_unstable();
    let elapsed = costs[middle].0;
    costs.sort_unstable_by_key(|(_, processor)| *processor);
    (elapsed, costs[middle].1)
}

async fn fill(store: &Store, count: usize) {
    let mut change = store.begin().await.unwrap();
    let now = change.now();
    for number in 0..count {
        let tenant = format!("tenant-{:06}", number / GRANTS_PER_TENANT);
        let group = format!("group-{}", number % 5);
        let end = now + Duration::from_hours(24);
        change.append(new_grant(&tenant, &group, now, Some(end))).await.unwrap();
    }
    change.commit().await.unwrap();
}

async fn measure(name: &str, backend: &Backend, count: usize) {
    let url = backend.database_url();
    let store = store::open(&url, Arc::new(SystemClock), event_key_file(&url)).await.unwrap();
    fill(&store, count).await;
    let keys = EventKey::generate().unwrap().of_log(LogName(Uuid::nil()));
    let (mut loads, mut hashes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut grants = Vec::with_capacity(count);
        let mut visit = |tenant_id, terms, _| grants.push((tenant_id, terms));
        let (spent, loaded) = cost(store.log().load(&mut visit)).await;
        assert!(loaded.unwrap().is_authentic && grants.len() == count);
        loads.push(spent);
        let hash = |sum: StateSum, (tenant_id, terms): &(TenantId, GrantTerms)| {
            sum.plus(keys.hash(StateRow::LiveGrant(tenant_id, terms)))
        };
        let sum = async { grants.iter().fold(StateSum::ZERO, hash) };
        let (spent, sum) = cost(sum).await;
        black_box(sum);
        hashes.push(spent);
    }
    let ((elapsed, processor), (hash_elapsed, hash_processor)) = (median(loads), median(hashes));
    let ratio = |whole: Duration, part: Duration| {
        whole.as_secs_f64() / whole.saturating_sub(part).as_secs_f64()
    };
    println!(
        "{name}, {count} grants: a load takes {elapsed:?} ({processor:?} of processor time), the \
         hashes alone {hash_elapsed:?} ({hash_processor:?}): {:.2} times the time, and {:.2} times \
         the processor time, of a load without authentication",
        ratio(elapsed, hash_elapsed),
        ratio(processor, hash_processor),
    );
    store.close().await;
}

#[tokio::main]
async fn main() {
    let count = std::env::var("LOAD_GRANTS").map_or(1_000_000, |count| count.parse().unwrap());
    measure("SQLite", &Backend::sqlite(), count).await;
    measure("PostgreSQL", &Backend::postgres(), count).await;
}
