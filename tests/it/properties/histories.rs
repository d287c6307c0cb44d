//! Random interleavings of all changes of grants.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*, sample::Index};
use support_access::{
    domain::{
        AccessCheck, AccessLevel, AgentKind, AgentKindEntry, End, EventKind, ExtendRequest,
        FreeText, Grant, GrantId, GrantRequest, GrantState, GrantTerms, RevokeRequest, Span,
        TenantId, TokenKey, decision::decide, time::after,
    },
    node::{Snapshot, message::Change},
    service::{GrantView, ServiceError},
    store::Retained,
};
use tokio::runtime::Builder;

use crate::properties::world::{
    World, admin, agent, group, mk_check, mk_request, reference, soon, tenant,
};

#[derive(Debug, Clone)]
enum Step {
    Grant {
        tenant: usize,
        group: usize,
        level: usize,
        kinds: usize,
        named: bool,
        delay: i64,
        hours: u64,
    },
    Extend {
        which: Index,
        hours: u64,
    },
    Revoke {
        which: Index,
    },
    RevokeAll {
        tenant: usize,
    },
    Wait {
        seconds: u64,
    },
    Sweep,
}

const TENANTS: [&str; 2] = ["acme", "globex"];
const GROUPS: [&str; 2] = ["support", "engineering"];

fn step() -> impl Strategy<Value = Step> {
    let admitted = (0..3_usize, 0..3_usize);
    let grant = (0..2_usize, 0..2_usize, admitted, any::<bool>(), 0..3_i64, 0..4_u64).prop_map(
        |(tenant, group, (level, kinds), named, delay, hours)| Step::Grant {
            tenant,
            group,
            level,
            kinds,
            named,
            delay,
            hours,
        },
    );
    prop_oneof![
        4 => grant,
        3 => (any::<Index>(), 0..5_u64).prop_map(|(which, hours)| Step::Extend { which, hours }),
        3 => any::<Index>().prop_map(|which| Step::Revoke { which }),
        1 => (0..2_usize).prop_map(|tenant| Step::RevokeAll { tenant }),
        4 => (0..5_400_u64).prop_map(|seconds| Step::Wait { seconds }),
        2 => Just(Step::Sweep),
    ]
}

/// Every grant after the last change.
type Model = HashMap<GrantId, Grant>;

fn pick(model: &Model, which: Index) -> Option<Grant> {
    let mut ids: Vec<GrantId> = model.keys().copied().collect();
    ids.sort_unstable();
    (!ids.is_empty()).then(|| model[which.get(&ids)].clone())
}

async fn take(world: &World, model: &mut Model, step: Step) {
    let now = world.now();
    match step {
        Step::Grant { tenant: owner, group: to, level, kinds, named, delay, hours } => {
            let ai = AgentKindEntry { agent_kind: AgentKind::Ai, ..AgentKindEntry::HUMAN };
            let limited = AgentKindEntry { max_access_level: Some(AccessLevel::ReadOnly), ..ai };
            let agent_kinds = [None, Some(vec![ai]), Some(vec![AgentKindEntry::HUMAN, limited])];
            let request = GrantRequest {
                group_id: group(GROUPS[to]),
                agent_ids: named.then(|| agent("ada")).into_iter().collect(),
                access_level: AccessLevel::ALL[level],
                agent_kinds: agent_kinds[kinds].clone(),
                start_time: after(now, Span::hours(delay.unsigned_abs())),
                end: if hours == 0 { End::UntilRevoked } else { End::After(Span::hours(hours)) },
                ..mk_request(&tenant(TENANTS[owner]))
            };
            let made = world.grant(request).await;
            assert!(model.insert(made.grant.id(), made.grant).is_none(), "ids are unique");
        }
        Step::Extend { which, hours } => extend(world, model, which, hours).await,
        Step::Revoke { which } => revoke(world, model, which).await,
        Step::RevokeAll { tenant: owner } => {
            revoke_all(world, model, &tenant(TENANTS[owner])).await;
        }
        Step::Wait { seconds } => world.advance(seconds).await,
        Step::Sweep => drop(world.service.sweep().await.unwrap()),
    }
}

async fn extend(world: &World, model: &mut Model, which: Index, hours: u64) {
    let now = world.now();
    let Some(grant) = pick(model, which) else { return };
    let end = if hours == 0 { End::UntilRevoked } else { End::After(Span::hours(hours)) };
    let reason = FreeText::default();
    let request = ExtendRequest { request_id: None, etag: None, end, reason };
    let target = reference(&GrantView::at(grant.clone(), now));
    let extended = world.service.extend_access(&admin(), &target, request, soon()).await;
    if grant.state(now).is_ended() {
        assert!(matches!(extended, Err(ServiceError::GrantEnded { .. })), "{extended:?}");
        return;
    }
    let extended = extended.unwrap().grant;
    let begin = grant.terms.start_time.max(now);
    let expected = if hours == 0 { None } else { after(begin, Span::hours(hours)) };
    assert_eq!(extended.grant.terms.expire_time, expected);
    model.insert(grant.id(), extended.grant);
}

async fn revoke(world: &World, model: &mut Model, which: Index) {
    let now = world.now();
    let Some(grant) = pick(model, which) else { return };
    let revoked = world.revoke(&reference(&GrantView::at(grant.clone(), now))).await;
    let was = grant.state(now);
    let expected = if was.is_ended() { was } else { GrantState::Revoked };
    assert_eq!(revoked.grant.state, expected);
    let mut still_open: Vec<GrantId> = model
        .values()
        .filter(|other| other.tenant_id == grant.tenant_id && other.id() != grant.id())
        .filter(|other| !other.state(now).is_ended())
        .map(Grant::id)
        .collect();
    still_open.sort_unstable();
    let mut listed: Vec<GrantId> = revoked.remaining.iter().map(|view| view.grant.id()).collect();
    listed.sort_unstable();
    assert_eq!(listed, still_open, "the response lists the tenant's other live grants");
    if !was.is_ended() {
        model.insert(grant.id(), revoked.grant.grant);
    }
}

async fn revoke_all(world: &World, model: &mut Model, owner: &TenantId) {
    let now = world.now();
    let caller = admin();
    let request = RevokeRequest::default();
    let revoked = world.service.revoke_all_access(&caller, owner, request, soon());
    let revoked = revoked.await.unwrap();
    let open = |grant: &&Grant| grant.tenant_id == *owner && !grant.state(now).is_ended();
    assert_eq!(revoked.count, model.values().filter(open).count());
    for view in revoked.grants {
        assert_eq!(view.state, GrantState::Revoked);
        model.insert(view.grant.id(), view.grant);
    }
}

/// Checks are decided from the union of all grants, with and without expiry events.
async fn checks_agree(world: &World, model: &Model) {
    let now = world.now();
    for owner in TENANTS.map(tenant) {
        let of_owner = |grant: &&Grant| grant.tenant_id == owner;
        let terms: Vec<&GrantTerms> =
            model.values().filter(of_owner).map(|grant| &grant.terms).collect();
        for groups in [vec!["support"], vec!["engineering"], vec!["support", "engineering"], vec![]]
        {
            for (name, required_level, agent_kind) in [
                ("ada", AccessLevel::ReadOnly, AgentKind::Human),
                ("bob", AccessLevel::Admin, AgentKind::Human),
                ("ada", AccessLevel::ReadOnly, AgentKind::Ai),
                ("bob", AccessLevel::ReadWrite, AgentKind::Ai),
            ] {
                let check = AccessCheck {
                    agent_id: Some(agent(name)),
                    groups: groups.iter().copied().map(group).collect(),
                    required_level,
                    agent_kind,
                    ..mk_check(&owner)
                };
                let expected = decide([], terms.iter().copied(), &check, now);
                let result = world.check(&check).await;
                assert_eq!(result.reason, expected.reason, "{check:?}");
                assert_eq!(result.grant_id, expected.terms.map(|terms| terms.grant_id));
                let allowing = expected.terms.filter(|_| expected.is_allowed());
                let level = allowing.and_then(|terms| terms.level_of(agent_kind));
                assert_eq!(result.access_level, level, "{check:?}");
            }
        }
    }
}

fn sorted(snapshot: &Snapshot) -> Vec<(TenantId, Retained, GrantTerms)> {
    let held = snapshot.iter().map(|(owner, held, terms)| (owner.clone(), held, terms.clone()));
    let mut held: Vec<_> = held.collect();
    held.sort_by_key(|(_, _, terms)| terms.grant_id);
    held
}

async fn history_agrees(world: &World, model: &Model) {
    let events = world.store.log().events_after(0, usize::MAX).await.unwrap();
    let head = world.store.log().head().await.unwrap();
    let mut replayed = Snapshot::beginning(head.epoch, TokenKey([0; 16]));
    let mut endings: HashMap<GrantId, usize> = HashMap::new();
    let mut last: Model = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.revision, i64::try_from(index).unwrap() + 1, "revisions must be gap-free");
        replayed.apply(&Change::from(event));
        let grant = event.kind.grant().unwrap().clone();
        if event.kind.is_end() {
            *endings.entry(grant.id()).or_default() += 1;
        }
        if matches!(event.kind, EventKind::Expired { .. }) {
            assert!(
                grant.terms.expire_time.unwrap() <= event.time,
                "a grant must not expire early"
            );
        }
        last.insert(grant.id(), grant);
    }
    assert!(endings.values().all(|count| *count == 1), "a grant must end once");
    let now = world.now();
    for (id, grant) in model {
        // After a sweep, each expiry is recorded.
        let is_expired = grant.state(now) == GrantState::Expired;
        assert_eq!(last[id].terms, GrantTerms { is_expired, ..grant.terms.clone() });
        let stored = world.store.queries().grant(&grant.tenant_id, *id).await.unwrap().unwrap();
        assert_eq!(stored, last[id], "the stored grant must follow from the log");
        assert_eq!(
            endings.contains_key(id),
            grant.state(now).is_ended(),
            "after a sweep, each end is an event"
        );
    }
    world.node.wait_for(head.revision, soon()).await;
    let view = world.node.view();
    assert_eq!(sorted(view.snapshot()), sorted(&replayed));
    assert_eq!(view.snapshot().gauges(), replayed.gauges());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_interleaving_leaves_a_complete_history_and_correct_decisions(
        steps in vec(step(), 1..40),
    ) {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let mut model = Model::new();
            for step in steps {
                take(&world, &mut model, step).await;
                checks_agree(&world, &model).await;
            }
            world.service.sweep().await.unwrap();
            let recorded = world.service.sweep().await.unwrap();
            assert_eq!(recorded, 0, "each expiry must be recorded once");
            checks_agree(&world, &model).await;
            history_agrees(&world, &model).await;
        });
    }
}
