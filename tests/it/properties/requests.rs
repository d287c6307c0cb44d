//! Request ids: a retry with the same id and content repeats no change, and returns the first
//! result.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use support_access::{
    domain::{
        Caller, End, ExtendRequest, FreeText, GrantRequest, GrantState, LockRequest, LockState,
        LockTarget, OverrideField, OverridesUpdate, PolicyOverrides, PolicyRequest, RequestId,
        Revision, RevokeRequest, Span, TenantId, UnlockRequest, clock::ManualClock,
        time::from_micros,
    },
    service::{EnforcementState, GrantRef, ServiceError, locks::LockRef},
    store::{Store, StoreError, Transaction, Transactions, memory::MemoryStore},
};

use crate::properties::world::{World, admin, mk_request, reference, soon, tenant};

fn id(text: &str) -> RequestId {
    RequestId::new(text).unwrap()
}

fn why(text: &str) -> FreeText {
    FreeText::new(text).unwrap()
}

async fn head(world: &World) -> Revision {
    world.store.log().head().await.unwrap().revision
}

fn assert_reused<T: std::fmt::Debug>(result: &Result<T, ServiceError>) {
    assert!(matches!(result, Err(ServiceError::RequestIdReused)), "{result:?}");
}

#[tokio::test]
async fn a_repeated_grant_returns_the_grant_as_it_is_now() {
    let world = World::new().await;
    let request = GrantRequest { request_id: Some(id("r")), ..mk_request(&tenant("acme")) };
    let grant = async |request: &GrantRequest| {
        world.service.grant_access(&admin(), request.clone(), soon()).await
    };
    let first = grant(&request).await.unwrap();
    assert_eq!(grant(&request).await.unwrap(), first);
    world.revoke(&reference(&first.grant)).await;
    let again = grant(&request).await.unwrap();
    assert_eq!((again.grant.state, again.token), (GrantState::Revoked, first.token));
    assert_eq!(again.grant.grant.id(), first.grant.grant.id());
    assert_eq!(head(&world).await, 2);
    assert_reused(&grant(&GrantRequest { reason: why("another"), ..request.clone() }).await);
    // Each tenant has separate request ids.
    let other = GrantRequest { tenant_id: tenant("globex"), ..request };
    assert_ne!(grant(&other).await.unwrap().grant.grant.id(), first.grant.grant.id());
}

#[tokio::test]
async fn a_repeated_extension_counts_its_duration_once() {
    let world = World::new().await;
    let granted = world.grant(mk_request(&tenant("acme"))).await;
    let grant = reference(&granted);
    let end = End::After(Span::hours(5));
    let reason = FreeText::default();
    let request = ExtendRequest { request_id: Some(id("r")), etag: None, end, reason };
    let extend = async |request: &ExtendRequest| {
        world.service.extend_access(&admin(), &grant, request.clone(), soon()).await
    };
    let first = extend(&request).await.unwrap();
    assert_eq!(first.previous_expire_time, granted.grant.terms.expire_time);
    assert_eq!(first.enforcement.state, EnforcementState::Complete);
    world.advance(60).await;
    let again = extend(&request).await.unwrap();
    assert_eq!(again.grant.grant, first.grant.grant);
    assert_eq!(again.previous_expire_time, first.previous_expire_time);
    assert_eq!(again.enforcement.token, first.enforcement.token);
    assert_eq!(head(&world).await, 2);
    assert_reused(&extend(&ExtendRequest { end: End::UntilRevoked, ..request }).await);
}

#[tokio::test]
async fn a_repeated_revoke_returns_the_first_enforcement() {
    let world = World::new().await;
    let granted = world.grant(mk_request(&tenant("acme"))).await;
    let grant = reference(&granted);
    let revoke = async |request_id: &str, reason: &str, grant: &GrantRef| {
        let (request_id, reason) = (Some(id(request_id)), why(reason));
        let request = RevokeRequest { request_id, etag: None, reason };
        world.service.revoke_access(&admin(), grant, request, soon()).await
    };
    let first = revoke("r", "solved", &grant).await.unwrap();
    world.grant(mk_request(&tenant("acme"))).await;
    let again = revoke("r", "solved", &grant).await.unwrap();
    assert_eq!(again.grant, first.grant);
    assert_eq!(again.enforcement, first.enforcement);
    assert_reused(&revoke("r", "another", &grant).await);
    let other = reference(&world.grant(mk_request(&tenant("acme"))).await);
    assert_reused(&revoke("r", "solved", &other).await);
    // A call without a change stores no request id, so the id can still be used.
    revoke("free", "late", &grant).await.unwrap();
    revoke("free", "solved", &other).await.unwrap();
    assert_eq!(head(&world).await, 5);
}

#[tokio::test]
async fn a_repeated_lock_or_lift_changes_nothing() {
    let world = World::new().await;
    let caller = Caller::local(None).unwrap();
    for tenant_id in [Some(tenant("acme")), None] {
        let before = head(&world).await;
        let request = LockRequest {
            request_id: Some(id("r")),
            tenant_id: tenant_id.clone(),
            target: LockTarget::Everything,
            reason: why("an incident"),
            end: Some(End::After(Span::hours(1))),
        };
        let lock = async |request: &LockRequest| {
            world.service.lock_access(&caller, request.clone(), soon()).await
        };
        let first = lock(&request).await.unwrap();
        let again = lock(&request).await.unwrap();
        assert_eq!(again.lock, first.lock);
        assert_eq!(again.enforcement, first.enforcement);
        assert_reused(&lock(&LockRequest { reason: why("another"), ..request.clone() }).await);

        let text = first.lock.lock.id().to_string();
        let target = LockRef { tenant_id: tenant_id.clone(), text };
        let lift = async |etag: Option<String>, reason: &str| {
            let request = UnlockRequest { request_id: Some(id("u")), etag, reason: why(reason) };
            world.service.unlock_access(&caller, &target, request, soon()).await
        };
        let stale = lift(Some("s0".into()), "over").await;
        assert!(matches!(stale, Err(ServiceError::EtagMismatch)), "{stale:?}");
        let etag = Some(first.lock.lock.etag());
        let lifted = lift(etag.clone(), "over").await.unwrap();
        assert_eq!(lift(etag.clone(), "over").await.unwrap(), lifted);
        assert_eq!(lifted.lock.state, LockState::Lifted);
        assert_reused(&lift(etag, "another").await);
        assert_eq!(
            lock(&request).await.unwrap().lock.state,
            LockState::Lifted,
            "a retry returns the current state"
        );
        assert_eq!(head(&world).await, before + 2);
    }
}

#[tokio::test]
async fn a_repeated_policy_update_changes_nothing() {
    let world = World::new().await;
    let acme = tenant("acme");
    let request = |reason_required| PolicyRequest {
        request_id: Some(id("r")),
        etag: None,
        update: OverridesUpdate {
            fields: vec![OverrideField::ReasonRequired],
            overrides: PolicyOverrides { reason_required, ..PolicyOverrides::default() },
        },
        reason: FreeText::default(),
    };
    let update =
        async |request| world.service.update_support_policy(&admin(), &acme, request, soon()).await;
    let first = update(request(Some(true))).await.unwrap();
    assert_eq!(first.overrides.reason_required, Some(true));
    let again = update(request(Some(true))).await.unwrap();
    assert_eq!((&again.policy, &again.overrides), (&first.policy, &first.overrides));
    assert_eq!(again.enforcement, first.enforcement);
    assert_reused(&update(request(Some(false))).await);
    assert_eq!(head(&world).await, 1);
}

fn revoke_all(request_id: Option<RequestId>) -> RevokeRequest {
    RevokeRequest { request_id, etag: None, reason: why("incident") }
}

async fn grants(world: &World, tenant_id: &TenantId, count: usize) {
    for _ in 0..count {
        world.grant(mk_request(tenant_id)).await;
    }
}

#[tokio::test]
async fn revoke_all_commits_at_most_200_grants_at_a_time() {
    let world = World::new().await;
    let acme = tenant("acme");
    grants(&world, &acme, 1_050).await;
    grants(&world, &tenant("globex"), 1).await;
    let before = head(&world).await;
    let service = &world.service;
    let done = service
        .revoke_all_access(&admin(), &acme, revoke_all(Some(id("r"))), soon())
        .await
        .unwrap();
    assert_eq!((done.count, done.grants.len()), (1_050, 1_000));
    assert!(done.grants.is_sorted_by(|a, b| a.grant.create_sequence > b.grant.create_sequence));
    assert_eq!(done.enforcement.state, EnforcementState::Complete);
    assert_eq!(
        done.enforcement.revision,
        before + 1_050,
        "the enforcement must cover the last chunk"
    );
    let mut change = world.store.begin().await.unwrap();
    let parts = change.request(Some(&acme), &id("r")).await.unwrap();
    drop(change);
    let bounds = parts.iter().map(|part| (part.part, part.first_revision, part.last_revision));
    let bound = |part: u32| before + (200 * Revision::from(part)).min(1_050);
    let expected = (0..6).map(|part| (part, bound(part) + 1, bound(part + 1)));
    assert_eq!(bounds.collect::<Vec<_>>(), expected.collect::<Vec<_>>());

    // Grants that were created later are not part of the set.
    grants(&world, &acme, 3).await;
    let again = service
        .revoke_all_access(&admin(), &acme, revoke_all(Some(id("r"))), soon())
        .await
        .unwrap();
    assert_eq!((again.count, again.enforcement.revision), (1_050, done.enforcement.revision));
    assert_eq!(head(&world).await, before + 1_053);
    let other = RevokeRequest { reason: why("another"), ..revoke_all(Some(id("r"))) };
    assert_reused(&service.revoke_all_access(&admin(), &acme, other, soon()).await);
    let rest = service.revoke_all_access(&admin(), &acme, revoke_all(None), soon()).await.unwrap();
    assert_eq!(rest.count, 3);
}

/// Transactions of which only a number can begin.
#[derive(Debug)]
struct FailingTransactions {
    inner: Arc<Store>,
    /// The number of transactions that can still begin. `None`: no limit.
    remaining: Mutex<Option<usize>>,
}

#[async_trait]
impl Transactions for FailingTransactions {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        if let Some(remaining) = self.remaining.lock().as_mut() {
            let is_down = StoreError::Unavailable("the database is down".into());
            *remaining = remaining.checked_sub(1).ok_or(is_down)?;
        }
        self.inner.begin().await
    }
}

#[tokio::test]
async fn revoke_all_continues_after_a_failure() {
    let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
    let inner = Store::new(Arc::new(MemoryStore::new(clock.clone())));
    let remaining = Mutex::new(None);
    let transactions = Arc::new(FailingTransactions { inner: inner.clone(), remaining });
    let store = inner.with_transactions(transactions.clone());
    let world = World::over(store, clock.clone(), clock).await;
    let acme = tenant("acme");
    grants(&world, &acme, 1_200).await;
    let before = head(&world).await;
    *transactions.remaining.lock() = Some(1);
    let service = &world.service;
    let failed =
        service.revoke_all_access(&admin(), &acme, revoke_all(Some(id("r"))), soon()).await;
    assert!(matches!(failed, Err(ServiceError::Store(StoreError::Unavailable(_)))), "{failed:?}");
    *transactions.remaining.lock() = None;
    assert_eq!(head(&world).await, before + 200, "the first chunk must be durable");
    grants(&world, &acme, 2).await;
    let done = service
        .revoke_all_access(&admin(), &acme, revoke_all(Some(id("r"))), soon())
        .await
        .unwrap();
    assert_eq!(done.count, 1_200, "the first call must determine the set of grants");
    assert_eq!(done.enforcement.state, EnforcementState::Complete);
    assert_eq!(head(&world).await, before + 1_202);
}
