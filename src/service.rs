//! The use cases: grant, extend, revoke until enforced, lock, review, tighten, check, and what happens by itself.
//!
//! Each takes a [`Caller`](crate::domain::Caller) where it matters who asks, and the words of the domain; it knows nothing of
//! protocols or SQL.

use std::sync::{Arc, atomic::AtomicI64};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::{Instrument, info, info_span};

use crate::{
    domain::{
        Event, Grant, GrantState, Party, Revision, SupportPolicy, TenantId, Time,
        chain::{CheckpointKey, key::NotSigned},
        policy::join,
        violation::Violations,
    },
    domain::{GroupId, text::GrantId},
    node::{
        CheckNode,
        enforcement::Commit,
        enforcer::Enforcer,
        mutants::{Rule, is_broken},
        replica::Replica,
    },
    store::{Store, StoreError, Transaction},
};

pub mod check;
pub mod enforce;
pub mod expiry;
pub mod grants;
pub mod history;
mod idempotency;
pub mod locks;
pub mod nodes;
pub mod page;
pub mod policy;
pub mod review;
pub mod revoke_all;
pub mod verification;

pub use enforce::{Enforcement, EnforcementState};
use verification::VerificationStatus;

/// The most grants listed in the answer to a change. `ListGrants` has them all.
pub const LISTED_MAX: usize = 1_000;

/// Bounds on what callers may do and what they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most grants a tenant may have that have not ended.
    pub live_grants_per_tenant: usize,
    /// For how long this node may answer from one lease.
    pub max_staleness: std::time::Duration,
}

/// Everything that can be done with support access at a replica.
#[derive(Debug)]
pub struct Service {
    store: Arc<dyn Store>,
    node: Arc<CheckNode>,
    replica: Arc<Replica>,
    enforcer: Arc<Enforcer>,
    catalogue: SupportPolicy,
    limits: Limits,
    /// What checkpoints are signed with, if they are.
    checkpoint_key: Option<CheckpointKey>,
    /// Places for those who wait long for a change to be in force.
    long_waits: Semaphore,
    /// When the next expiry is due that has not been recorded, as far as the sweep knows: in microseconds since 1970.
    next_expiry_us: AtomicI64,
    /// The result of the verification. `None`: another replica verifies.
    verification: Mutex<Option<VerificationStatus>>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Fields that can never be right, or that policy does not allow.
    #[error("{0}")]
    Invalid(#[from] Violations),
    /// This tenant has no such grant.
    #[error("tenant {tenant_id} has no grant {grant_id:?}")]
    GrantNotFound {
        /// The tenant that was named.
        tenant_id: TenantId,
        /// The grant that was named.
        grant_id: String,
    },
    /// The grant is over, and what was asked for needs one that is not.
    #[error("grant {grant_id} has ended, and an ended grant cannot be changed: grant access anew")]
    GrantEnded {
        /// The grant.
        grant_id: GrantId,
    },
    /// The group is not one that the tenant may let in.
    #[error("group {group_id} is not in the tenant's support policy, which has: {}", join(offered.iter()))]
    GroupNotOffered {
        /// The group that was named.
        group_id: GroupId,
        /// The groups there are.
        offered: Vec<GroupId>,
    },
    /// The `request_id` stands for something else.
    #[error("request_id was used before, with other content")]
    RequestIdReused,
    /// Somebody else changed it in between.
    #[error("etag is not current: somebody else made a change; read again, and decide anew")]
    EtagMismatch,
    /// There is no event of that revision.
    #[error("there is no revision {revision} yet")]
    RevisionNotFound {
        /// The revision that was named.
        revision: Revision,
    },
    /// The tenant has as many live grants as it may.
    #[error("the tenant has {limit} live grants, which is the limit: revoke some first")]
    TooManyLiveGrants {
        /// The limit.
        limit: usize,
    },
    /// There is no such lock, on that tenant or on what is no tenant's.
    #[error("{} no lock {lock_id:?}", on_what(tenant_id.as_ref()))]
    LockNotFound {
        /// The tenant that was named, if one was.
        tenant_id: Option<TenantId>,
        /// The lock that was named.
        lock_id: String,
    },
    /// Only the party that created a lock may lift it.
    #[error("the lock was set by the {}, and only the {} may lift it", party.as_str(), party.as_str())]
    LockOfOtherParty {
        /// The party that created the lock.
        party: Party,
    },
    /// As many locks hold as may.
    #[error("the {} has {limit} locks that have not ended, which is the limit: lift some first", party.as_str())]
    TooManyLocks {
        /// The party that created the locks.
        party: Party,
        /// The limit.
        limit: usize,
        /// What was to be locked, as the API names it.
        field: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A checkpoint cannot be signed.
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
}

fn on_what(tenant_id: Option<&TenantId>) -> String {
    tenant_id.map_or("the vendor has".into(), |tenant_id| format!("tenant {tenant_id} has"))
}

impl From<crate::domain::policy::Refusal> for ServiceError {
    fn from(refusal: crate::domain::policy::Refusal) -> Self {
        use crate::domain::policy::Refusal;
        match refusal {
            Refusal::Invalid(violations) => Self::Invalid(violations),
            Refusal::GroupNotOffered { group_id, offered } => {
                Self::GroupNotOffered { group_id, offered }
            }
        }
    }
}

/// A grant, and its state at the time of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantView {
    /// The grant.
    pub grant: Grant,
    /// Its state then.
    pub state: GrantState,
}

impl GrantView {
    /// The grant as it is at `now`.
    pub fn at(grant: Grant, now: Time) -> Self {
        let state = grant.state(now);
        Self { grant, state }
    }
}

/// What a caller said of a grant's id: a UUID, or something that no grant has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRef {
    /// Scope grant.
    pub tenant_id: TenantId,
    /// As the caller wrote it.
    pub text: String,
}

impl GrantRef {
    /// The id, if it can be one.
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
    /// The use cases over the store of `replica`, for tenants of a vendor with this `catalogue`.
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
            next_expiry_us: AtomicI64::new(i64::MAX),
            verification: Mutex::default(),
        }
    }

    /// The same, with checkpoints signed.
    #[must_use]
    pub fn with_checkpoint_key(self, checkpoint_key: Option<CheckpointKey>) -> Self {
        Self { checkpoint_key, ..self }
    }

    /// The time at which states are told: the database's. At the very start, before it is known, that of the last event.
    fn now(&self) -> Time {
        let read_view = self.node.read_view();
        let now = read_view.now.map(|now| now.latest);
        now.or(read_view.view.snapshot().time()).unwrap_or(Time::UNIX_EPOCH)
    }

    /// Commits, writes the audit lines, and tells the check node.
    async fn commit(
        &self,
        change: Box<dyn Transaction>,
        events: &[Event],
    ) -> Result<Commit, StoreError> {
        let own = self.limits.max_staleness;
        let max_staleness =
            if is_broken(Rule::LongestLease) { own } else { change.max_staleness().max(own) };
        let asked_at = self.node.boot_time();
        let span = info_span!(target: "support_access::trace", "commit");
        let last = change.commit().instrument(span).await?;
        let answered_at = self.node.boot_time();
        let commit = Commit {
            first: events.first().map_or(last, |event| event.revision),
            last,
            time: events.last().map_or(Time::UNIX_EPOCH, |event| event.time),
            at: if is_broken(Rule::WaitFromAnswer) { asked_at } else { answered_at },
            max_staleness,
        };
        self.replica.wake();
        events.iter().for_each(audit);
        Ok(commit)
    }
}

fn audit(event: &Event) {
    info!(
        target: "support_access::audit",
        revision = event.revision,
        tenant_id = event.tenant_id.as_ref().map(tracing::field::display),
        grant_id = event.grant_id().map(tracing::field::display),
        lock_id = event.kind.lock().map(|lock| tracing::field::display(lock.id())),
        target = event.kind.lock().map(|lock| tracing::field::debug(&lock.terms.target)),
        actor = %event.author.actor,
        via = event.author.via.as_ref().map(tracing::field::display),
        is_asserted = event.author.is_asserted,
        event = event.kind.name(),
        "the history has a new event"
    );
}
