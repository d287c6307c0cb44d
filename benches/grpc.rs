//! A check over gRPC with a million live grants, compared with a health check of the same server. A
//! health check makes no decision, so the difference is the cost of the decision.
//!
//! Measures sequential calls, and concurrent calls over several connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

#[allow(dead_code, reason = "a benchmark needs only a part")]
#[path = "../tests/common/event_key.rs"]
mod event_key;
#[path = "../tests/common/grants.rs"]
mod grants;
#[allow(dead_code, reason = "a benchmark needs only a part")]
#[path = "../tests/common/server.rs"]
mod server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use grants::new_grant;
use server::Server;
use support_access::{
    api::proto::v1::{
        AccessCheck, AccessLevel as ProtoLevel, AgentKind, BatchCheckAccessRequest,
        CheckAccessRequest, Decision, support_access_client::SupportAccessClient,
    },
    server::SystemClock,
    store,
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const LIVE_GRANTS: usize = 1_000_000;
const GRANTS_PER_TENANT: usize = 10;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;
const BATCH: usize = 1_000;

fn tenant(number: usize) -> String {
    format!("tenant-{:06}", number % (LIVE_GRANTS / GRANTS_PER_TENANT))
}

/// Fills a database with a million live grants.
async fn fill(database_url: &str) {
    let store = store::open(database_url, Arc::new(SystemClock), None).await.unwrap();
    let mut change = store.begin().await.unwrap();
    let now = change.now();
    for number in 0..LIVE_GRANTS {
        let (tenant, group) = (tenant(number / GRANTS_PER_TENANT), format!("group-{}", number % 5));
        change.append(new_grant(&tenant, &group, now, None)).await.unwrap();
    }
    change.commit().await.unwrap();
    store.close().await;
}

fn access_check(number: usize, group_id: &str) -> AccessCheck {
    AccessCheck {
        // Spreads the tenants, so that the processor's cache cannot hold all grants.
        tenant_id: tenant(number.wrapping_mul(7_919)),
        agent_id: "ada".into(),
        group_ids: vec![group_id.into()],
        required_level: ProtoLevel::ReadOnly.into(),
        agent_kind: AgentKind::Human.into(),
        on_behalf_of: String::new(),
    }
}

async fn check(channel: Channel, number: usize, group_id: &str, expected: Decision) {
    let check = Some(access_check(number, group_id));
    let request = CheckAccessRequest { check, consistency_token: String::new() };
    let response = SupportAccessClient::new(channel).check_access(request).await.unwrap();
    assert_eq!(response.into_inner().decision, i32::from(expected));
}

async fn health(channel: Channel) {
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(request).await.unwrap();
}

/// Returns the duration of `calls` calls over all connections, with at most [`IN_FLIGHT`] at a
/// time.
async fn many<F: Future<Output = ()>>(
    channels: &[Channel],
    calls: u64,
    call: impl Fn(Channel, usize) -> F,
) -> Duration {
    let calls = usize::try_from(calls).unwrap();
    let start = Instant::now();
    let lanes = (0..IN_FLIGHT).map(|lane| {
        let call = &call;
        async move {
            for number in (lane..calls).step_by(IN_FLIGHT) {
                call(channels[lane % CONNECTIONS].clone(), number).await;
            }
        }
    });
    join_all(lanes).await;
    start.elapsed()
}

fn grpc(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("bench.db").display());
    runtime.block_on(fill(&url));
    let loading = Instant::now();
    // Without call logs, which would dominate the measurement.
    let server = Server::start_with(&url, &["--log", "info,support_access::rpc=off"]);
    println!("ready with {LIVE_GRANTS} live grants after {:?}", loading.elapsed());
    let channels: Vec<Channel> =
        runtime.block_on(async { join_all((0..CONNECTIONS).map(|_| server.connect())).await });
    let (allowed, denied) = ("group-1", "group-of-others");

    let mut group = criterion.benchmark_group("one_after_the_other");
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    group.bench_function("health_check", |bencher| {
        bencher.to_async(&runtime).iter(|| health(channels[0].clone()));
    });
    group.bench_function("check_access_allowed", |bencher| {
        bencher.to_async(&runtime).iter(|| {
            number += 1;
            check(channels[0].clone(), number, allowed, Decision::Allowed)
        });
    });
    group.bench_function("check_access_denied", |bencher| {
        bencher.to_async(&runtime).iter(|| {
            number += 1;
            check(channels[0].clone(), number, denied, Decision::Denied)
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("many_at_once");
    group.throughput(Throughput::Elements(1));
    group.bench_function("health_check", |bencher| {
        bencher
            .to_async(&runtime)
            .iter_custom(|calls| many(&channels, calls, |channel, _| health(channel)));
    });
    group.bench_function("check_access_allowed", |bencher| {
        bencher.to_async(&runtime).iter_custom(|calls| {
            many(&channels, calls, |channel, number| {
                check(channel, number, allowed, Decision::Allowed)
            })
        });
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("batch_of_1000", |bencher| {
        let checks: Vec<_> = (0..BATCH).map(|number| access_check(number, allowed)).collect();
        bencher.to_async(&runtime).iter(|| {
            let request = BatchCheckAccessRequest { checks: checks.clone(), ..Default::default() };
            let mut client = SupportAccessClient::new(channels[0].clone());
            async move { client.batch_check_access(request).await.unwrap() }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(5));
    targets = grpc
}
criterion_main!(benches);
