//! Locks: create, lift, list.

use tokio::time::Instant;
use tracing::warn;

use crate::{
    domain::{
        Action, Attribution, Caller, Event, EventKind, FreeText, Lock, LockId, LockRequest,
        LockState, LockTarget, LockTerms, Party, TenantId, Time, UnlockRequest,
        lock::{Lifting, TENANT_LOCKS_MAX, VENDOR_LOCKS_MAX},
        token::ConsistencyToken,
    },
    service::{
        Enforcement, Service, ServiceError,
        grants::{check_etag, new_id},
        idempotency::{earlier_parts, key},
        page::{Page, PageRequest, QueryId},
    },
    store::{LockFilter, LockQuery, NewEvent, Read, RequestPart, StoreError, Transaction},
};

/// A lock and the state of the lock at the time of the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockView {
    /// The lock.
    pub lock: Lock,
    /// The state.
    pub state: LockState,
}

/// A lock as named by a caller. The id need not be a UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRef {
    /// The tenant in which the lock applies. `None`: all tenants.
    pub tenant_id: Option<TenantId>,
    /// The id as written by the caller.
    pub text: String,
}

/// The result of `LockAccess`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOutcome {
    /// The current lock.
    pub lock: LockView,
    /// How far the lock has reached the check nodes.
    pub enforcement: Enforcement,
}

/// The result of `UnlockAccess`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlockOutcome {
    /// The current lock.
    pub lock: LockView,
    /// Identifies the last change of the lock.
    pub token: ConsistencyToken,
}

impl LockView {
    /// The lock with the state at `now`.
    pub fn at(lock: Lock, now: Time) -> Self {
        let state = lock.state(now);
        Self { lock, state }
    }
}

impl LockRef {
    fn not_found(&self) -> ServiceError {
        let LockRef { tenant_id, text } = self.clone();
        ServiceError::LockNotFound { tenant_id, lock_id: text }
    }
}

impl Service {
    /// Creates a lock, and waits until the lock is enforced.
    pub async fn lock_access(
        &self,
        caller: &Caller,
        request: LockRequest,
        deadline: Instant,
    ) -> Result<LockOutcome, ServiceError> {
        let (owner, request_id) = (request.tenant_id.as_ref(), request.request_id.as_ref());
        let key = key(owner, request_id, "LockAccess", &request)?;
        let (request, key) = (&request, &key);
        self.change(|mut transaction| async move {
            let now = transaction.now();
            if let Some(part) = earlier_parts(transaction.as_mut(), key, &[]).await?.pop() {
                let lock = self.replay_lock(transaction, part).await?;
                let enforcement = self.enforce_again(owner, part.last_revision, deadline).await?;
                return Ok(LockOutcome { lock: LockView::at(lock, now), enforcement });
            }
            let LockRequest { tenant_id, target, reason, end, request_id: _ } = request.clone();
            let expire_time = end.map(|end| end.resolve(now, now)).transpose()?.flatten();
            let party = caller.party(Action::LockAccess, tenant_id.as_ref());
            check_limit(transaction.as_mut(), party, tenant_id.as_ref(), &target).await?;
            let lock = Lock {
                terms: LockTerms {
                    lock_id: LockId(new_id(now)),
                    tenant_id,
                    target,
                    party,
                    expire_time,
                },
                reason: reason.clone(),
                create_time: now,
                creator: caller.author.actor.clone(),
                lifting: None,
                is_expired: false,
                create_sequence: 0,
                sequence: 0,
            };
            let kind = EventKind::Locked { lock: lock.clone() };
            let new = lock_event(&lock, caller.author.clone(), reason, kind);
            let (event, commit) = self.append_and_commit(transaction, new, key).await?;
            let enforcement = self.enforce(lock.tenant_id(), commit, deadline).await?;
            Ok(LockOutcome { lock: LockView::at(lock_of(&event)?, now), enforcement })
        })
        .await
    }

    /// Lifts a lock. A lock that has ended already stays as it is. When this method returns, this
    /// node has applied the change, unless `deadline` came first.
    pub async fn unlock_access(
        &self,
        caller: &Caller,
        lock: &LockRef,
        request: UnlockRequest,
        deadline: Instant,
    ) -> Result<UnlockOutcome, ServiceError> {
        let (owner, request_id) = (lock.tenant_id.as_ref(), request.request_id.as_ref());
        let key = key(owner, request_id, "UnlockAccess", (&lock.text, &request))?;
        let lock_id = lock.text.parse().map(LockId).map_err(|_| lock.not_found())?;
        let (request, key) = (&request, &key);
        self.change(|mut transaction| async move {
            let now = transaction.now();
            let reads = [Read::Lock(lock_id)];
            let earlier = earlier_parts(transaction.as_mut(), key, &reads).await?.pop();
            let found = transaction.lock(lock_id).await?;
            let found = found.filter(|found| found.tenant_id() == owner);
            let mut found = found.ok_or_else(|| lock.not_found())?;
            check_party(caller, &found)?;
            if let Some(part) = earlier {
                transaction.commit().await?;
                self.node.wait_for(part.last_revision, deadline).await;
                let token = self.token_of(part.last_revision).await?;
                return Ok(UnlockOutcome { lock: LockView::at(found, now), token });
            }
            if found.state(now) != LockState::Active {
                let last = transaction.revision_of(found.tenant_id(), found.sequence).await?;
                transaction.commit().await?;
                let token = self.token_of(last).await?;
                return Ok(UnlockOutcome { lock: LockView::at(found, now), token });
            }
            check_etag(&found.etag(), request.etag.as_deref())?;
            let (actor, reason) = (caller.author.actor.clone(), request.reason.clone());
            found.lifting = Some(Lifting { time: now, actor, reason: reason.clone() });
            let kind = EventKind::Unlocked { lock: found.clone() };
            let new = lock_event(&found, caller.author.clone(), reason, kind);
            let (event, commit) = self.append_and_commit(transaction, new, key).await?;
            self.node.wait_for(commit.last, deadline).await;
            let lock = LockView::at(lock_of(&event)?, now);
            Ok(UnlockOutcome { lock, token: self.token(commit.last, Some(commit.time))? })
        })
        .await
    }

    /// A page of locks.
    pub async fn list_locks(
        &self,
        filter: LockFilter,
        page: &PageRequest,
    ) -> Result<Page<LockView>, ServiceError> {
        let query_id = QueryId::of(("locks", &filter, page.order));
        let now = self.now();
        let query = LockQuery { filter, now, page: page.bounds(query_id)? };
        let locks = self.store.queries().locks(&query).await?;
        let page = page.page(query_id, locks, Lock::weight)?;
        Ok(page.map(|lock| LockView::at(lock, now)))
    }

    /// The current lock of an earlier call that `transaction` has found.
    async fn replay_lock(
        &self,
        transaction: Box<dyn Transaction>,
        part: RequestPart,
    ) -> Result<Lock, ServiceError> {
        let event = self.replay(transaction, part).await?;
        let lock = self.store.begin_alone().await?.lock(lock_of(&event)?.id()).await?;
        let missing = || StoreError::Broken("a request refers to a lock that is missing".into());
        Ok(lock.ok_or_else(missing)?)
    }
}

/// Bounds the number of live locks, which every check node holds in memory. The vendor may always
/// create a lock on everything. A tenant may create locks on everything up to twice the limit: at
/// that number, the tenant has already locked everything.
async fn check_limit(
    transaction: &mut dyn Transaction,
    party: Party,
    tenant_id: Option<&TenantId>,
    target: &LockTarget,
) -> Result<(), ServiceError> {
    let is_everything = *target == LockTarget::Everything;
    let (counted, limit) = match party {
        Party::Vendor if is_everything => return Ok(()),
        Party::Vendor => (None, VENDOR_LOCKS_MAX),
        Party::Tenant if is_everything => (tenant_id, 2 * TENANT_LOCKS_MAX),
        Party::Tenant => (tenant_id, TENANT_LOCKS_MAX),
    };
    if transaction.count_live_locks(party, counted).await? < limit {
        return Ok(());
    }
    Err(ServiceError::TooManyLocks { party, limit, field: target.field() })
}

/// Only the party that created a lock may lift the lock.
fn check_party(caller: &Caller, lock: &Lock) -> Result<(), ServiceError> {
    let party = lock.terms.party;
    if caller.acts_for(party, Action::UnlockAccess, lock.tenant_id()) {
        return Ok(());
    }
    warn!(
        target: "support_access::audit",
        lock_id = %lock.id(),
        tenant_id = lock.tenant_id().map(tracing::field::display),
        actor = %caller.author.actor,
        via = caller.author.via.as_ref().map(tracing::field::display),
        party = party.as_str(),
        "rejected a request to lift a lock of the other party"
    );
    Err(ServiceError::LockOfOtherParty { party })
}

/// The event that ends a lock whose end time was reached.
pub(super) fn expiry(lock: &Lock) -> NewEvent {
    let kind = EventKind::LockExpired { lock: lock.clone() };
    lock_event(lock, Attribution::system(), FreeText::default(), kind)
}

fn lock_event(lock: &Lock, author: Attribution, reason: FreeText, kind: EventKind) -> NewEvent {
    NewEvent { tenant_id: lock.tenant_id().cloned(), author, reason, kind }
}

fn lock_of(event: &Event) -> Result<Lock, StoreError> {
    let lock = event.kind.lock().cloned();
    lock.ok_or_else(|| StoreError::Broken("an event about a lock lacks the lock".into()))
}
