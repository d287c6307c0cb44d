//! Decisions under locks, compared with a simple model, and the rules about lifting locks.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use proptest::{collection::vec, option, prelude::*};
use support_access::{
    domain::{
        AccessCheck, AgentKind, Attribution, AuthenticationMethod, BootTime, Caller, End, Epoch,
        FreeText, GrantRequest, LockId, LockRequest, LockState, LockTarget, LockTerms, Now, Party,
        Reason, Role, Span, TenantId, Tenants, TokenKey, UnlockRequest,
        decision::decide,
        explain::{ChecklistAnswer, ChecklistItem, ChecklistQuestion, checklist},
        ids::Actor,
    },
    node::{
        Snapshot,
        message::{Change, LockChange, ToFollower},
        snapshot_transfer::SnapshotTransfer,
    },
    service::{ServiceError, locks::LockRef, page::PageRequest},
    store::{LockFilter, QueryScope},
};
use uuid::Uuid;

use crate::properties::{
    decisions::{AGENTS, GROUPS, at, check, terms},
    world::{World, agent, group, mk_check, mk_request, soon, tenant},
};

const TENANTS: [&str; 2] = ["acme", "globex"];

fn target() -> impl Strategy<Value = LockTarget> {
    prop_oneof![
        1 => Just(LockTarget::Everything),
        2 => (0..3_usize).prop_map(|index| LockTarget::AgentKind(AgentKind::ALL[index])),
        3 => (0..3_usize).prop_map(|index| LockTarget::Agent(agent(AGENTS[index]))),
        3 => (0..3_usize).prop_map(|index| LockTarget::Group(group(GROUPS[index]))),
    ]
}

prop_compose! {
    fn lock()(
        id in any::<u128>(),
        tenant_id in option::of(0..2_usize),
        target in target(),
        is_tenants in any::<bool>(),
        expire in option::of(0..40_i64),
    ) -> LockTerms {
        let tenant_id = tenant_id.map(|index| tenant(TENANTS[index]));
        let is_tenants = is_tenants && tenant_id.is_some();
        let party = if is_tenants { Party::Tenant } else { Party::Vendor };
        let lock_id = LockId(Uuid::from_u128(id));
        LockTerms { lock_id, tenant_id, target, party, expire_time: expire.map(at) }
    }
}

fn is_locked(locks: &[LockTerms], check: &AccessCheck, now: Now) -> bool {
    locks.iter().any(|lock| {
        let is_over = lock.expire_time.is_some_and(|end| end <= now.earliest);
        let is_elsewhere = lock.tenant_id.as_ref().is_some_and(|own| *own != check.tenant_id);
        let matches = match &lock.target {
            LockTarget::Everything => true,
            LockTarget::AgentKind(kind) => *kind == check.agent_kind,
            LockTarget::Agent(locked) => {
                [&check.agent_id, &check.on_behalf_of].contains(&&Some(locked.clone()))
            }
            LockTarget::Group(locked) => check.groups.ids().any(|group| group == locked),
        };
        matches && !is_elsewhere && !is_over
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn locks_deny_matching_checks_and_change_no_other_decision(
        locks in vec(lock(), 0..5), grants in vec(terms(), 0..6), check in check(),
        earliest in 0..40_i64, doubt in 0..10_i64,
    ) {
        let now = Now { earliest: at(earliest), latest: at(earliest + doubt) };
        let decision = decide(&locks, &grants, &check, now);
        if is_locked(&locks, &check, now) {
            prop_assert_eq!(decision.reason, Reason::Locked);
            prop_assert!(!decision.is_allowed() && decision.terms.is_none());
            let lock = decision.lock.unwrap();
            prop_assert!(is_locked(std::slice::from_ref(lock), &check, now));
            let longest = |lock: &LockTerms| (lock.expire_time.is_none(), lock.expire_time);
            let matching =
                locks.iter().filter(|lock| is_locked(std::slice::from_ref(*lock), &check, now));
            prop_assert_eq!(
                Some(longest(lock)),
                matching.map(longest).max(),
                "the result must name the lock that lasts longest"
            );
            let lines = checklist(&decision, &check);
            let failed = |line: &&ChecklistItem| line.answer == ChecklistAnswer::No;
            let no: Vec<_> = lines.iter().filter(failed).collect();
            prop_assert_eq!((lines.len(), no.len()), (5, 1));
            prop_assert_eq!(no[0].question, ChecklistQuestion::NotLocked);
        } else {
            prop_assert_eq!(decision, decide([], &grants, &check, now));
            prop_assert_eq!(checklist(&decision, &check).len(), 4);
        }
    }

    #[test]
    fn the_order_of_locks_changes_nothing(
        locks in vec(lock(), 0..5), check in check(), now in 0..40_i64,
    ) {
        let forwards = decide(&locks, [], &check, at(now));
        prop_assert_eq!(decide(locks.iter().rev(), [], &check, at(now)), forwards);
    }

    /// A snapshot finds all matching locks, after any sequence of created and lifted locks.
    #[test]
    fn a_snapshot_decides_as_all_live_locks_do(
        steps in vec((lock(), option::of(any::<prop::sample::Index>())), 0..12),
        check in check(), now in 0..40_i64,
    ) {
        let mut snapshot = Snapshot::beginning(Epoch(Uuid::nil()), TokenKey([0; 16]));
        let mut live: Vec<LockTerms> = Vec::new();
        for (revision, (lock, ended)) in (1..).zip(steps) {
            let ended = ended.filter(|_| !live.is_empty());
            let (terms, is_ended) = match ended {
                Some(which) => (live.remove(which.index(live.len())), true),
                None => (lock, false),
            };
            if !is_ended {
                live.push(terms.clone());
            }
            let lock = Some(LockChange { terms, is_ended });
            snapshot.apply(&Change { revision, time: at(revision), grant: None, lock });
        }
        let all = decide(&live, [], &check, at(now));
        let found = decide(snapshot.locks_on(&check), [], &check, at(now));
        prop_assert_eq!(found, all);
        prop_assert_eq!(snapshot.locks().count(), live.len());
        // A snapshot that was restored from parts decides in the same way.
        let mut copy = Snapshot::default();
        let mut transfer = SnapshotTransfer::start(snapshot, BootTime(0));
        while let Some(message) = transfer.next_message(BootTime(0)) {
            let ToFollower::SnapshotLocks(locks) = message else { unreachable!() };
            for lock in locks {
                copy.insert_lock(lock);
            }
        }
        prop_assert_eq!(decide(copy.locks_on(&check), [], &check, at(now)), all);
    }
}

fn caller(name: &str, role: Role, tenants: Tenants) -> Caller {
    let author = Attribution::direct(Actor::new(name).unwrap());
    let (roles, identity) = (BTreeSet::from([role]), role.as_str().into());
    let method = AuthenticationMethod::Token;
    Caller { author, method, roles, tenants, identity, valid_for: None, expire_time: None }
}

fn admin_of(name: &str, own: &str) -> Caller {
    caller(name, Role::TenantAdmin, Tenants::These([tenant(own)].into()))
}

fn operator(name: &str) -> Caller {
    caller(name, Role::Operator, Tenants::These(BTreeSet::new()))
}

fn why() -> FreeText {
    FreeText::new("why").unwrap()
}

/// The tenant and the target of a lock.
type Locked = (Option<TenantId>, LockTarget);

fn everything_in(tenant_id: &str) -> Locked {
    (Some(tenant(tenant_id)), LockTarget::Everything)
}

fn lock_request((tenant_id, target): Locked, end: Option<End>) -> LockRequest {
    LockRequest { request_id: None, tenant_id, target, reason: why(), end }
}

async fn lock_as(world: &World, caller: &Caller, locked: Locked) -> LockRef {
    let tenant_id = locked.0.clone();
    let request = lock_request(locked, None);
    let locked = world.service.lock_access(caller, request, soon()).await.unwrap();
    LockRef { tenant_id, text: locked.lock.lock.id().to_string() }
}

async fn lift_as(
    world: &World,
    caller: &Caller,
    lock: &LockRef,
) -> Result<LockState, ServiceError> {
    let request = UnlockRequest { request_id: None, etag: None, reason: why() };
    let lifted = world.service.unlock_access(caller, lock, request, soon()).await;
    lifted.map(|lifted| lifted.lock.state)
}

/// Every caller of the party that created a lock may lift the lock.
#[tokio::test]
async fn only_the_party_that_created_a_lock_may_lift_it() {
    let world = World::new().await;
    let acme = || everything_in("acme");
    let (ann, bob, eve) =
        (admin_of("ann", "acme"), admin_of("bob", "acme"), admin_of("eve", "globex"));
    let (ops, dev) = (operator("ops"), operator("dev"));
    let local = Caller::local(Some("root")).unwrap();
    let denied = |result: Result<LockState, ServiceError>, party| {
        let Err(ServiceError::LockOfOtherParty { party: found }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(found, party);
    };

    let own = lock_as(&world, &ann, acme()).await;
    denied(lift_as(&world, &ops, &own).await, Party::Tenant);
    denied(lift_as(&world, &eve, &own).await, Party::Tenant);
    assert_eq!(lift_as(&world, &bob, &own).await.unwrap(), LockState::Lifted);
    denied(lift_as(&world, &ops, &own).await, Party::Tenant);

    let emergency = lock_as(&world, &ops, acme()).await;
    denied(lift_as(&world, &ann, &emergency).await, Party::Vendor);
    assert_eq!(lift_as(&world, &dev, &emergency).await.unwrap(), LockState::Lifted);
    let revision = world.store.log().head().await.unwrap().revision;
    assert_eq!(lift_as(&world, &dev, &emergency).await.unwrap(), LockState::Lifted);
    assert_eq!(
        world.store.log().head().await.unwrap().revision,
        revision,
        "no event may be appended"
    );

    let everywhere = |target| (None, target);
    let ada = LockTarget::Agent(agent("ada"));
    for locked in [everywhere(LockTarget::Everything), everywhere(ada), acme()] {
        for setter in [&ops, &local] {
            let lock = lock_as(&world, setter, locked.clone()).await;
            assert_eq!(lift_as(&world, &local, &lock).await.unwrap(), LockState::Lifted);
        }
    }
    // A lock of another tenant, and a lock without a tenant.
    let lock = lock_as(&world, &ann, acme()).await;
    for tenant_id in [None, Some(tenant("globex"))] {
        let wrong = LockRef { tenant_id, ..lock.clone() };
        let found = lift_as(&world, &local, &wrong).await;
        assert!(matches!(found, Err(ServiceError::LockNotFound { .. })), "{found:?}");
    }
}

/// The limits of each party. Ended locks do not count.
#[tokio::test]
async fn each_party_has_its_own_limit_of_locks() {
    let world = World::new().await;
    let ann = admin_of("ann", "acme");
    let lock = |caller: Caller, locked: Locked| {
        let request = lock_request(locked, None);
        let service = world.service.clone();
        async move { service.lock_access(&caller, request, soon()).await }
    };
    let acme = || everything_in("acme");
    let support = || (Some(tenant("acme")), LockTarget::Group(group("support")));
    let mut first = None;
    for _ in 0..100 {
        let locked = lock(ann.clone(), support()).await.unwrap();
        first.get_or_insert(locked.lock.lock.id());
    }
    let rejected = lock(ann.clone(), support()).await;
    assert!(matches!(
        rejected,
        Err(ServiceError::TooManyLocks { party: Party::Tenant, limit: 100, field: "group_id" })
    ));
    // The limits of tenants and of the vendor are independent.
    lock(admin_of("eve", "globex"), everything_in("globex")).await.unwrap();
    lock(operator("ops"), acme()).await.unwrap();
    let text = first.unwrap().to_string();
    let first = LockRef { tenant_id: Some(tenant("acme")), text };
    lift_as(&world, &ann, &first).await.unwrap();
    lock(ann.clone(), support()).await.unwrap();
    let ada = || (None, LockTarget::Agent(agent("ada")));
    for _ in 1..1_000 {
        lock(operator("ops"), ada()).await.unwrap();
    }
    let rejected = lock(operator("ops"), ada()).await;
    assert!(matches!(
        rejected,
        Err(ServiceError::TooManyLocks { party: Party::Vendor, limit: 1_000, field: "agent_id" })
    ));
    // At the limit, everything can still be locked without lifting another lock.
    lock(operator("ops"), (None, LockTarget::Everything)).await.unwrap();
    for _ in 0..100 {
        lock(ann.clone(), acme()).await.unwrap();
    }
    let rejected = lock(ann.clone(), acme()).await;
    assert!(matches!(
        rejected,
        Err(ServiceError::TooManyLocks { party: Party::Tenant, limit: 200, field: "everything" })
    ));
}

/// A lock that was created after the clock was set back ends at the later time: by the clock.
#[tokio::test]
async fn a_lock_ends_by_the_clock_that_was_set_back() {
    let world = World::new().await;
    let acme = tenant("acme");
    let end = End::UntilRevoked;
    world.grant(GrantRequest { end, ..mk_request(&acme) }).await;
    let check = mk_check(&acme);
    world.advance(3_600).await;
    assert_eq!(world.check(&check).await.reason, Reason::GrantActive);
    world.set_back(3_600).await;
    let end = End::After(Span::hours(1));
    let request = lock_request(everything_in("acme"), Some(end));
    let local = Caller::local(None).unwrap();
    world.service.lock_access(&local, request, soon()).await.unwrap();
    assert_eq!(world.check(&check).await.reason, Reason::Locked);
    world.advance(7_199).await;
    assert_eq!(world.check(&check).await.reason, Reason::Locked);
    world.advance(1).await;
    assert_eq!(world.check(&check).await.reason, Reason::GrantActive);
}

/// A lock with an end applies until that time. The sweep records the end once.
#[tokio::test]
async fn a_lock_ends_by_itself() {
    let world = World::new().await;
    let acme = tenant("acme");
    world.grant(mk_request(&acme)).await;
    let check = mk_check(&acme);
    let end = End::At(world.now() + TimeDelta::seconds(60));
    let request = lock_request(everything_in("acme"), Some(end));
    let local = Caller::local(None).unwrap();
    let locked = world.service.lock_access(&local, request, soon()).await.unwrap();
    let view = locked.lock;
    assert_eq!(world.check(&check).await.reason, Reason::Locked);
    world.advance(59).await;
    assert_eq!(world.check(&check).await.reason, Reason::Locked);
    assert_eq!(world.service.sweep().await.unwrap(), 0);
    world.advance(1).await;
    assert_eq!(world.check(&check).await.reason, Reason::GrantActive, "no sweep is needed");
    assert_eq!(world.service.sweep().await.unwrap(), 1);
    assert_eq!(world.service.sweep().await.unwrap(), 0);
    let reference = LockRef { tenant_id: Some(acme.clone()), text: view.lock.id().to_string() };
    assert_eq!(lift_as(&world, &local, &reference).await.unwrap(), LockState::Expired);
    let scope = || QueryScope::Tenant(acme.clone());
    let filter = |include_ended| LockFilter { scope: scope(), include_ended };
    let page = PageRequest::default();
    assert_eq!(world.service.list_locks(filter(false), &page).await.unwrap().items, []);
    let [listed] = &world.service.list_locks(filter(true), &page).await.unwrap().items[..] else {
        panic!("there must be exactly one lock")
    };
    assert_eq!(listed.state, LockState::Expired);
    assert_eq!(world.restarted().await.check(&check).await.reason, Reason::GrantActive);
}
