//! Locks: whom nobody lets in, whatever is granted. Who sets one may lift it, and everybody else on the same side.

use tokio::time::Instant;
use tracing::warn;
use uuid::{NoContext, Timestamp, Uuid};

use crate::{
    domain::{
        Action, Attribution, Caller, Event, EventKind, FreeText, Lock, LockId, LockRequest,
        LockState, LockTarget, LockTerms, Party, TenantId, Time,
        lock::{Lifting, TENANT_LOCKS_MAX, VENDOR_LOCKS_MAX},
    },
    service::{
        Enforcement, Service, ServiceError,
        page::{Page, PageRequest, QueryId},
    },
    store::{LockQuery, NewEvent, StoreError, Transaction},
};

/// A lock, and its state at the time of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockView {
    /// The lock.
    pub lock: Lock,
    /// Its state then.
    pub state: LockState,
}

/// What a caller said of a lock's id: a UUID, or something that no lock has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRef {
    /// The tenant that is locked; `None`: something else is.
    pub tenant_id: Option<TenantId>,
    /// As the caller wrote it.
    pub text: String,
}

/// Which locks to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFilter {
    /// On this tenant; `None`: all there are.
    pub tenant_id: Option<TenantId>,
    /// Whether to list those that do not hold any more, too.
    pub include_ended: bool,
}

impl LockView {
    /// The lock as it is at `now`.
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
    /// Locks, and waits until nobody can enter any more.
    pub async fn lock_access(
        &self,
        caller: &Caller,
        request: LockRequest,
        deadline: Instant,
    ) -> Result<(LockView, Enforcement), ServiceError> {
        let LockRequest { target, reason, end } = request;
        let mut change = self.store.begin().await?;
        let now = change.now();
        let expire_time = end.map(|end| end.resolve(now, now)).transpose()?.flatten();
        let side = caller.party(Action::LockAccess, target.tenant_id());
        let (of_tenant, limit) = match side {
            Party::Tenant => (target.tenant_id(), TENANT_LOCKS_MAX),
            Party::Vendor => (None, VENDOR_LOCKS_MAX),
        };
        // Whatever there is already: the emergency brake is always to be had.
        let is_limited = target != LockTarget::Everything;
        if is_limited && change.count_live_locks(side, of_tenant).await? >= limit {
            return Err(ServiceError::TooManyLocks { side, limit, field: target.field() });
        }
        let lock = Lock {
            terms: LockTerms { lock_id: new_id(now), target, side, expire_time },
            reason: reason.clone(),
            create_time: now,
            creator: caller.author.actor.clone(),
            lifting: None,
            create_revision: 0,
            revision: 0,
        };
        let entry = entry(&lock, caller.author.clone(), reason, |lock| EventKind::Locked { lock });
        let event = change.append(entry).await?;
        let commit = self.commit(change, std::slice::from_ref(&event)).await?;
        let enforcement = self.enforce(commit, deadline).await;
        Ok((LockView::at(lock_of(&event)?, now), enforcement))
    }

    /// Lifts a lock. One that does not hold any more stays as it is. When this answers, the process's own checks know of it, unless
    /// `deadline` came first.
    pub async fn unlock_access(
        &self,
        caller: &Caller,
        lock: &LockRef,
        reason: FreeText,
        deadline: Instant,
    ) -> Result<LockView, ServiceError> {
        let mut change = self.store.begin().await?;
        let now = change.now();
        let mut found = find(change.as_mut(), lock).await?;
        let side = found.terms.side;
        if !caller.acts_for(side, Action::UnlockAccess, found.tenant_id()) {
            warn!(
                target: "support_access::audit",
                lock_id = %found.id(),
                tenant_id = found.tenant_id().map(tracing::field::display),
                actor = %caller.author.actor,
                via = caller.author.via.as_ref().map(tracing::field::display),
                side = side.as_str(),
                "a lock of the other side was not lifted"
            );
            return Err(ServiceError::LockOfOtherSide { side });
        }
        if found.state(now) != LockState::Held {
            change.commit().await?;
            return Ok(LockView::at(found, now));
        }
        let actor = caller.author.actor.clone();
        found.lifting = Some(Lifting { time: now, actor, reason: reason.clone() });
        let author = caller.author.clone();
        let entry = entry(&found, author, reason, |lock| EventKind::Unlocked { lock });
        let event = change.append(entry).await?;
        let commit = self.commit(change, std::slice::from_ref(&event)).await?;
        self.node.wait_for(commit.last, deadline).await;
        Ok(LockView::at(lock_of(&event)?, now))
    }

    /// A page of locks, newest first.
    pub async fn list_locks(
        &self,
        filter: LockFilter,
        page: &PageRequest,
    ) -> Result<Page<LockView>, ServiceError> {
        let query_id = QueryId::of(("locks", &filter));
        let now = self.now();
        let LockFilter { tenant_id, include_ended } = filter;
        let before = page.before(query_id)?;
        let query = LockQuery { tenant_id, include_ended, now, before, limit: page.limit() };
        let locks = self.store.list_locks(&query).await?;
        let Page { items, next_token } =
            page.page(query_id, locks, |lock: &Lock| lock.create_revision, Lock::weight);
        let items = items.into_iter().map(|lock| LockView::at(lock, now)).collect();
        Ok(Page { items, next_token })
    }
}

/// The end of a lock whose time has come.
pub(super) fn expiry(lock: &Lock) -> NewEvent {
    entry(lock, Attribution::system(), FreeText::default(), |lock| EventKind::LockExpired { lock })
}

fn entry(
    lock: &Lock,
    author: Attribution,
    reason: FreeText,
    kind: fn(Lock) -> EventKind,
) -> NewEvent {
    let tenant_id = lock.tenant_id().cloned();
    NewEvent { tenant_id, author, reason, kind: kind(lock.clone()), request: None }
}

fn lock_of(event: &Event) -> Result<Lock, StoreError> {
    let lock = event.kind.lock().cloned();
    lock.ok_or_else(|| StoreError::Broken("an event of a lock came back without it".into()))
}

/// The lock, if it is on that tenant, or on what is no tenant's.
async fn find(change: &mut dyn Transaction, lock: &LockRef) -> Result<Lock, ServiceError> {
    let lock_id = lock.text.parse().map(LockId).map_err(|_| lock.not_found())?;
    let found = change.lock(lock_id).await?;
    let found = found.filter(|found| found.tenant_id() == lock.tenant_id.as_ref());
    found.ok_or_else(|| lock.not_found())
}

/// A new id, whose time is that of the change that makes the lock.
fn new_id(now: Time) -> LockId {
    let (seconds, nanos) = (now.timestamp().unsigned_abs(), now.timestamp_subsec_nanos());
    LockId(Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, nanos)))
}
