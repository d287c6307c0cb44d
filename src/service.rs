//! The use cases: grant, extend, revoke, lock, review, narrow the policy, check, and the expiry of
//! grants and locks.
//!
//! A use case takes a [`Caller`](crate::domain::Caller) and domain types, and depends on no
//! protocol and no SQL.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use chrono::TimeDelta;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};
use tracing::{Instrument, info, info_span};

use crate::{
    domain::{
        Event, Grant, GrantId, GrantState, GroupId, Party, Revision, SupportPolicy, TenantId, Time,
        chain::{CheckpointKey, key::NotSigned},
        policy::{Forbidden, PolicyError},
        token::{ConsistencyToken, NotEncrypted, TokenEvent, TokenInvalid},
        violation::Violations,
    },
    node::{CheckNode, enforcement::Commit, enforcer::Enforcer, replica::Replica},
    store::{EventFilter, EventQuery, PageBounds, QueryScope, Store, StoreError, Transaction},
};

pub mod check;
pub mod clock;
pub mod enforce;
pub mod expiry;
pub mod grants;
pub mod history;
mod idempotency;
pub mod keyed_semaphore;
pub mod locks;
pub mod nodes;
pub mod page;
pub mod policy;
pub mod review;
pub mod revoke_all;
mod sharing;
pub mod unsent;
pub mod verification;

pub use enforce::{Enforcement, EnforcementState, EventView};
use keyed_semaphore::KeyedSemaphore;
use sharing::Sharing;
use verification::VerificationStatus;

/// The name of the log event of a change.
pub const CHANGE: &str = "change";
/// How long a change waits until its node has loaded a new epoch.
const EPOCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of grants in the response to a change. `ListGrants` returns all grants.
pub const LISTED_MAX: usize = 1_000;

/// Limits of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of live grants of a tenant. Each named agent counts as a grant.
    pub live_grants_per_tenant: usize,
    /// The maximum number of live grants of a tenant to one group.
    pub live_grants_per_group: usize,
    /// The lifetime of this node's leases.
    pub max_staleness: Duration,
}

/// All use cases, at a replica.
#[derive(Debug)]
pub struct Service {
    store: Arc<Store>,
    node: Arc<CheckNode>,
    replica: Arc<Replica>,
    enforcer: Arc<Enforcer>,
    catalogue: SupportPolicy,
    limits: Limits,
    /// Signs checkpoints.
    checkpoint_key: Option<CheckpointKey>,
    /// Permits for calls that wait long for enforcement.
    long_waits: Semaphore,
    /// The same permits of each tenant, and of the vendor.
    long_waits_of_owner: Arc<KeyedSemaphore<Option<TenantId>>>,
    /// When the next unrecorded expiry is due, as last read by the sweep, in microseconds since
    /// 1970.
    next_expiry_us: AtomicI64,
    /// The result of the verification. `None`: another replica verifies.
    verification: Mutex<Option<VerificationStatus>>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Fields are invalid under every policy.
    #[error("{0}")]
    Invalid(#[from] Violations),
    /// The tenant's support policy forbids the request.
    #[error("{0}")]
    Policy(#[from] Forbidden),
    /// The tenant has no such grant.
    #[error("tenant {tenant_id} has no grant {grant_id:?}")]
    GrantNotFound {
        /// The tenant.
        tenant_id: TenantId,
        /// The grant's id as written by the caller.
        grant_id: String,
    },
    /// The grant has ended and can no longer change.
    #[error("grant {grant_id} has ended and can no longer change; create a new grant")]
    GrantEnded {
        /// The grant.
        grant_id: GrantId,
    },
    /// The `request_id` was used for a different request.
    #[error("request_id was used for a different request; choose a new one")]
    RequestIdReused,
    /// The object has changed since the caller's read.
    #[error("etag is outdated, because the object has changed; read the object again")]
    EtagMismatch,
    /// The consistency token does not belong to this log.
    #[error(transparent)]
    TokenInvalid(#[from] TokenInvalid),
    /// The history has no event with the consistency token.
    #[error("the history has no event with this consistency_token")]
    EventNotFound,
    /// The tenant would exceed the maximum number of live grants.
    #[error(
        "a tenant may have {limit} live grants, and each named agent counts as a grant; revoke \
        grants first, or name fewer agents"
    )]
    TooManyLiveGrants {
        /// The maximum.
        limit: usize,
        /// The field that decides how much the grant counts.
        field: &'static str,
    },
    /// The tenant would exceed the maximum number of live grants to a group.
    #[error(
        "a tenant may have {limit} live grants to one group, and has as many to {group_id}; revoke \
        grants to {group_id} first, or name further agents in one grant"
    )]
    TooManyLiveGrantsToGroup {
        /// The group.
        group_id: GroupId,
        /// The maximum.
        limit: usize,
    },
    /// There is no such lock in that tenant, or among the locks in all tenants.
    #[error("{} no lock {lock_id:?}", owner(tenant_id.as_ref()))]
    LockNotFound {
        /// The tenant. `None`: all tenants.
        tenant_id: Option<TenantId>,
        /// The lock's id as written by the caller.
        lock_id: String,
    },
    /// Only the party that created a lock may lift the lock.
    #[error("the {} created the lock, and only the {} may lift it", party.as_str(), party.as_str())]
    LockOfOtherParty {
        /// The party that created the lock.
        party: Party,
    },
    /// The party has the maximum number of live locks.
    #[error("the {} has {limit} live locks, the maximum; lift locks first", party.as_str())]
    TooManyLocks {
        /// The party.
        party: Party,
        /// The maximum.
        limit: usize,
        /// The field of the target.
        field: &'static str,
    },
    /// The database clock is not trusted.
    #[error(
        "the database clock differs from the elapsed time by {} s, and is not trusted; an operator \
         must correct or accept the clock",
        distance.num_seconds()
    )]
    ClockUnreliable {
        /// The distance of the clock from the expected time; positive if the clock is ahead.
        distance: TimeDelta,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A checkpoint cannot be signed.
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
    /// A consistency token cannot be encrypted.
    #[error(transparent)]
    NotEncrypted(#[from] NotEncrypted),
}

fn owner(tenant_id: Option<&TenantId>) -> String {
    tenant_id.map_or("the vendor has".into(), |tenant_id| format!("tenant {tenant_id} has"))
}

impl From<PolicyError> for ServiceError {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Invalid(violations) => Self::Invalid(violations),
            PolicyError::Forbidden(forbidden) => Self::Policy(forbidden),
        }
    }
}

/// A grant and the state of the grant at the time of the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantView {
    /// The grant.
    pub grant: Grant,
    /// The state.
    pub state: GrantState,
}

impl GrantView {
    /// The grant with the state at `now`.
    pub fn at(grant: Grant, now: Time) -> Self {
        let state = grant.state(now);
        Self { grant, state }
    }
}

/// A grant as named by a caller. The id need not be a UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRef {
    /// The tenant of the grant.
    pub tenant_id: TenantId,
    /// The id as written by the caller.
    pub text: String,
}

impl GrantRef {
    /// The id. A text that is not a UUID names no grant.
    fn id(&self) -> Result<GrantId, ServiceError> {
        self.text.parse().map(GrantId).map_err(|_| self.not_found())
    }

    fn not_found(&self) -> ServiceError {
        ServiceError::GrantNotFound {
            tenant_id: self.tenant_id.clone(),
            grant_id: self.text.clone(),
        }
    }
}

impl Service {
    /// The use cases over the store of `replica`, with the vendor's `catalogue`.
    pub fn new(replica: Arc<Replica>, catalogue: SupportPolicy, limits: Limits) -> Self {
        Self {
            store: Arc::clone(replica.store()),
            node: Arc::clone(replica.node()),
            enforcer: Arc::clone(replica.enforcer()),
            replica,
            catalogue,
            limits,
            checkpoint_key: None,
            long_waits: Semaphore::new(enforce::LONG_WAITS),
            long_waits_of_owner: Arc::new(KeyedSemaphore::new(enforce::LONG_WAITS_OF_OWNER)),
            next_expiry_us: AtomicI64::new(i64::MAX),
            verification: Mutex::default(),
        }
    }

    /// Signs checkpoints with a key.
    #[must_use]
    pub fn with_checkpoint_key(self, checkpoint_key: Option<CheckpointKey>) -> Self {
        Self { checkpoint_key, ..self }
    }

    /// The time at which states are derived: the time of the database. Until the node knows that
    /// time, the time of the last event.
    fn now(&self) -> Time {
        let read_view = self.node.read_view();
        let now = read_view.now.map(|now| now.latest);
        now.or(read_view.view.snapshot().time()).unwrap_or(Time::UNIX_EPOCH)
    }

    /// Begins a transaction at the trusted time. After an event that is ahead of that time, time
    /// goes on from that event. Times of an earlier epoch may be later, so the node first loads the
    /// current epoch.
    async fn begin(&self, sharing: Sharing) -> Result<Box<dyn Transaction>, StoreError> {
        let deadline = Instant::now() + EPOCH_TIMEOUT;
        loop {
            let sent_at = self.node.boot_time();
            let mut transaction = match sharing {
                Sharing::Group => self.store.begin().await?,
                Sharing::Alone => self.store.begin_alone().await?,
            };
            let epoch = transaction.epoch();
            if self.node.epoch() == Some(epoch) {
                let clock = transaction.clock();
                let judgement = self.replica.database_clock().judge(clock, sent_at);
                transaction.set_now(judgement.trusted.max(self.node.least_time_of_change()));
                return Ok(transaction);
            }
            drop(transaction);
            if !self.replica.wait_for_epoch(epoch, deadline).await {
                return Err(StoreError::Unavailable(
                    "this replica has not loaded the current epoch of the log; retry".into(),
                ));
            }
        }
    }

    /// Rejects a change that needs a trusted time.
    fn check_clock(&self) -> Result<(), ServiceError> {
        let clock = self.replica.database_clock();
        if clock.is_trusted() {
            return Ok(());
        }
        Err(ServiceError::ClockUnreliable { distance: clock.distance() })
    }

    /// The distance of the database clock from the expected time; positive if the clock is ahead.
    pub fn clock_distance(&self) -> TimeDelta {
        self.replica.database_clock().distance()
    }

    /// The consistency token of an event. `None`: the beginning of the log.
    fn token(
        &self,
        revision: Revision,
        time: Option<Time>,
    ) -> Result<ConsistencyToken, ServiceError> {
        let key = self.node.read_view().view.snapshot().token_key();
        // A service starts after its node has loaded.
        let key = key.ok_or_else(|| StoreError::Broken("no token key is loaded".into()))?;
        Ok(key.encrypt(TokenEvent::new(revision, time))?)
    }

    /// The consistency token of the event of `revision`. 0: the beginning of the log.
    async fn token_of(&self, revision: Revision) -> Result<ConsistencyToken, ServiceError> {
        let event = self.event_at(revision).await?;
        self.token(revision, event.map(|event| event.time))
    }

    /// The event of `revision`, if the log contains it.
    async fn event_at(&self, revision: Revision) -> Result<Option<Event>, StoreError> {
        if revision < 1 {
            return Ok(None);
        }
        Ok(self.store.log().events_after(revision - 1, 1).await?.pop())
    }

    /// The revision of the last event in a history; 0 if there is none. If a call changes nothing,
    /// its result refers to this event. The head of the log would reveal that other tenants have
    /// changes.
    async fn last_revision(&self, scope: QueryScope) -> Result<Revision, StoreError> {
        let filter = EventFilter { scope, grant_id: None };
        let query = EventQuery { filter, page: PageBounds::newest(1) };
        let last = self.store.queries().events(&query).await?.pop();
        Ok(last.map_or(0, |last| last.item.event.revision))
    }

    /// Commits, writes the audit lines, and wakes the check node.
    async fn commit(
        &self,
        change: Box<dyn Transaction>,
        events: &[Event],
    ) -> Result<Commit, StoreError> {
        let max_staleness = change.max_staleness().max(self.limits.max_staleness);
        let span = info_span!(target: "support_access::trace", "commit");
        // The order matters: the time is read after the commit has returned.
        let (last, at) = (change.commit().instrument(span).await?, self.node.boot_time());
        let time = events.last().map_or(Time::UNIX_EPOCH, |event| event.time);
        let commit = Commit {
            first: events.first().map_or(last, |event| event.revision),
            last,
            time,
            in_log: (last, time),
            at,
            max_staleness,
        };
        self.replica.wake();
        events.iter().for_each(audit);
        Ok(commit)
    }
}

fn audit(event: &Event) {
    info!(
        name: CHANGE,
        target: "support_access::audit",
        revision = event.revision,
        tenant_id = event.tenant_id.as_ref().map(tracing::field::display),
        grant_id = event.grant_id().map(tracing::field::display),
        lock_id = event.kind.lock().map(|lock| tracing::field::display(lock.id())),
        locked = event.kind.lock().map(|lock| lock.terms.target.to_string()),
        actor = %event.author.actor,
        via = event.author.via.as_ref().map(tracing::field::display),
        is_asserted = event.author.is_asserted,
        event = event.kind.name(),
        "a history has a new event"
    );
}
