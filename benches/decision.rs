//! A decision from memory: at a thousand and at a million live grants, in one run, to be compared with each other.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark fails by panicking")]

use std::{collections::BTreeSet, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support_access::{
    domain::{
        AccessLevel, AgentId, AgentKind, Epoch, GrantId, GrantTerms, GroupId, Question, TenantId,
        TokenKey, decide,
        time::{Time, from_micros},
    },
    node::{Snapshot, message::Change},
    store::Retained,
};
use uuid::Uuid;

/// Ten live grants for each tenant, of which two are to the agent's group.
const GRANTS_PER_TENANT: usize = 10;

fn now() -> Time {
    from_micros(1_700_000_000_000_000).unwrap()
}

fn tenant(number: usize) -> TenantId {
    TenantId::new(&format!("tenant-{number:07}")).unwrap()
}

fn granted(number: usize, tenant_id: TenantId, groups: usize) -> Change {
    let revision = i64::try_from(number).unwrap() + 1;
    let terms = GrantTerms {
        grant_id: GrantId(Uuid::from_u128(number as u128)),
        group_id: GroupId::new(&format!("group-{}", number % groups)).unwrap(),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::ReadWrite,
        start_time: from_micros(0).unwrap(),
        expire_time: Some(now() + chrono::TimeDelta::days(7)),
        revoke_time: None,
    };
    Change { revision, time: now(), grant: Some((tenant_id, Retained::Live, terms)), lock: None }
}

fn snapshot(live_grants: usize, per_tenant: usize) -> Snapshot {
    let mut snapshot = Snapshot::beginning(Epoch(Uuid::nil()), TokenKey([0; 16]));
    for number in 0..live_grants {
        snapshot.apply(&granted(number, tenant(number / per_tenant), per_tenant.min(5)));
    }
    snapshot
}

fn question(tenant_id: TenantId, group: &str) -> Question {
    Question {
        tenant_id,
        agent_id: AgentId::new("ada").unwrap(),
        agent_kind: AgentKind::Human,
        group_ids: [GroupId::new(group).unwrap()].into(),
        required_level: AccessLevel::ReadOnly,
    }
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    group.throughput(Throughput::Elements(1));
    for live_grants in [1_000, 1_000_000] {
        let snapshot = snapshot(live_grants, GRANTS_PER_TENANT);
        let tenants = live_grants / GRANTS_PER_TENANT;
        let gauges = snapshot.gauges();
        assert_eq!(gauges.live_grants, live_grants as u64);
        // Many tenants in turn, so that a million grants do not hide in the processor's cache.
        let ask = |name: &str| -> Vec<Question> {
            let step = (tenants / 1_000).max(1);
            (0..tenants).step_by(step).map(|number| question(tenant(number), name)).collect()
        };
        for (answer, group_id) in [("allowed", "group-1"), ("denied", "group-of-others")] {
            let questions = ask(group_id);
            let mut next = questions.iter().cycle();
            group.bench_function(BenchmarkId::new(answer, live_grants), |bencher| {
                bencher.iter(|| {
                    let question = next.next().unwrap();
                    decide([], snapshot.grants(&question.tenant_id), black_box(question), now())
                        .reason
                });
            });
        }
    }
    group.finish();
}

/// The next snapshot after one event, which shares all but one tenant with the last.
fn applying(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply_one_event");
    for live_grants in [1_000, 1_000_000] {
        let snapshot = snapshot(live_grants, GRANTS_PER_TENANT);
        let event = granted(live_grants, tenant(7), 5);
        group.bench_function(BenchmarkId::from_parameter(live_grants), |bencher| {
            bencher.iter(|| {
                let mut next = snapshot.clone();
                next.apply(black_box(&event));
                next
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, applying);
criterion_main!(benches);
