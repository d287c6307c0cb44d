//! A decision from memory, with a thousand and with a million live grants. One run measures both,
//! so that the results are comparable.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark fails by panicking")]

use std::{collections::BTreeSet, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support_access::{
    domain::{
        AccessCheck, AccessLevel, AdmittedKinds, AgentId, AgentKind, AssertedGroups, Epoch,
        GrantId, GrantTerms, GroupId, TenantId, TokenKey,
        decision::decide,
        time::{Time, from_micros},
    },
    node::{Snapshot, message::Change},
    store::Retained,
};
use uuid::Uuid;

/// The number of live grants of each tenant. Two of them are for the agent's group.
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
        agent_kinds: AdmittedKinds::HUMAN,
        start_time: from_micros(0).unwrap(),
        expire_time: Some(now() + chrono::TimeDelta::days(7)),
        revoke_time: None,
        is_expired: false,
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

fn check(tenant_id: TenantId, group: &str) -> AccessCheck {
    AccessCheck {
        tenant_id,
        agent_id: Some(AgentId::new("ada").unwrap()),
        groups: AssertedGroups::from_iter([GroupId::new(group).unwrap()]),
        required_level: AccessLevel::ReadOnly,
        agent_kind: AgentKind::Human,
        on_behalf_of: None,
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
        // Cycles through many tenants, so that the processor's cache cannot hold all grants.
        let checks = |name: &str| -> Vec<AccessCheck> {
            let step = (tenants / 1_000).max(1);
            (0..tenants).step_by(step).map(|number| check(tenant(number), name)).collect()
        };
        for (result, group_id) in [("allowed", "group-1"), ("denied", "group-of-others")] {
            let checks = checks(group_id);
            let mut next = checks.iter().cycle();
            group.bench_function(BenchmarkId::new(result, live_grants), |bencher| {
                bencher.iter(|| {
                    let check = next.next().unwrap();
                    let candidates = snapshot.candidates(check, now().into());
                    decide([], candidates, black_box(check), now()).reason
                });
            });
        }
    }
    group.finish();
}

/// Applies one event to a snapshot. The new snapshot shares all but one tenant with the old one.
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
