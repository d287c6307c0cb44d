//! Locks, which deny checks regardless of grants.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{
    admission::AgentKind,
    caller::Party,
    check::AccessCheck,
    ids::{Actor, AgentId, FreeText, GroupId, RequestId, TenantId},
    request::End,
    revision::Sequence,
    time::{Now, Time},
};

/// Maximum number of live locks of the vendor. Every check node holds these locks in memory.
pub const VENDOR_LOCKS_MAX: usize = 1_000;
/// Maximum number of live locks that one tenant has created.
pub const TENANT_LOCKS_MAX: usize = 100;
/// Upper bound for the size of a lock without reasons, in bytes: ids of up to 128 characters of up
/// to four bytes, and times.
const FIXED_WEIGHT: usize = 2_500;

/// A lock's id: a UUID version 7 (RFC 9562), so that newer locks sort after older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LockId(pub Uuid);

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The checks that a lock denies, in the tenants in which the lock applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "id", rename_all = "snake_case")]
pub enum LockTarget {
    /// Checks of this agent.
    Agent(AgentId),
    /// Checks that name this group, even if another of the groups has a grant.
    Group(GroupId),
    /// Checks of agents of this kind.
    AgentKind(AgentKind),
    /// Every check.
    Everything,
}

impl LockTarget {
    /// The name of the target's kind: the field in the API, and the value in the database.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent_id",
            Self::Group(_) => "group_id",
            Self::AgentKind(_) => "agent_kind",
            Self::Everything => "everything",
        }
    }

    /// The id of the agent or group, or the name of the kind. Empty for everything.
    pub fn id(&self) -> &str {
        match self {
            Self::Agent(agent_id) => agent_id.as_str(),
            Self::Group(group_id) => group_id.as_str(),
            Self::AgentKind(kind) => kind.as_str(),
            Self::Everything => "",
        }
    }

    fn matches(&self, check: &AccessCheck) -> bool {
        match self {
            Self::Agent(agent_id) => check.involves_agent(agent_id),
            Self::Group(group_id) => check.groups.shows(group_id),
            Self::AgentKind(kind) => *kind == check.agent_kind,
            Self::Everything => true,
        }
    }

    /// Orders targets by the number of matching checks.
    const fn breadth(&self) -> u8 {
        match self {
            Self::Agent(_) => 0,
            Self::Group(_) => 1,
            Self::AgentKind(_) => 2,
            Self::Everything => 3,
        }
    }
}

impl fmt::Display for LockTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent_id) => write!(f, "agent {agent_id}"),
            Self::Group(group_id) => write!(f, "group {group_id}"),
            Self::AgentKind(kind) => write!(f, "kind {}", kind.as_str()),
            Self::Everything => f.write_str("everything"),
        }
    }
}

/// The state of a lock. Derived from the lock and the time, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockState {
    /// Denies every check that it matches.
    Active,
    /// The end time was reached. Final.
    Expired,
    /// A caller lifted the lock. Final.
    Lifted,
}

/// The part of a lock that decides checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockTerms {
    /// The lock.
    pub lock_id: LockId,
    /// The tenant in which the lock applies. `None`: all tenants.
    pub tenant_id: Option<TenantId>,
    /// The checks that the lock denies.
    pub target: LockTarget,
    /// The party that created the lock, and may lift the lock.
    pub party: Party,
    /// When the lock ends by itself (exclusive). `None`: when a caller lifts the lock.
    pub expire_time: Option<Time>,
}

impl LockTerms {
    const QUARANTINE: LockId = LockId(Uuid::max());

    /// Denies everything in a tenant whose history contains a forged event, or everywhere if the
    /// history is the vendor's. Exists in snapshots only.
    pub const fn quarantine(tenant_id: Option<TenantId>) -> Self {
        Self {
            lock_id: Self::QUARANTINE,
            tenant_id,
            target: LockTarget::Everything,
            party: Party::Vendor,
            expire_time: None,
        }
    }

    /// Whether the lock is a [`Self::quarantine`].
    pub fn is_quarantine(&self) -> bool {
        self.lock_id == Self::QUARANTINE
    }

    /// Whether the lock applies at `now`, if no caller has lifted the lock. If the time is known
    /// only within bounds, the lock applies until the end has certainly passed.
    pub fn applies_at(&self, now: impl Into<Now>) -> bool {
        let now = now.into();
        self.expire_time.is_none_or(|expire| now.earliest < expire)
    }

    /// Whether the lock is about the tenant and the agent of the check.
    pub fn matches(&self, check: &AccessCheck) -> bool {
        let applies_in = |tenant_id: &TenantId| *tenant_id == check.tenant_id;
        self.tenant_id.as_ref().is_none_or(applies_in) && self.target.matches(check)
    }

    /// The approximate size in a message, in bytes.
    pub fn weight(&self) -> usize {
        let tenant_id = self.tenant_id.as_ref().map_or("", TenantId::as_str);
        size_of::<Self>() + self.target.id().len() + tenant_id.len()
    }
}

/// How a lock was lifted before the end time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifting {
    /// When the lock was lifted.
    pub time: Time,
    /// The caller that lifted the lock.
    pub actor: Actor,
    /// The caller's reason.
    pub reason: FreeText,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The part of the lock that decides checks.
    pub terms: LockTerms,
    /// The creator's reason. Never blank.
    pub reason: FreeText,
    /// When the lock was created. The lock applies from this time.
    pub create_time: Time,
    /// The caller that created the lock.
    pub creator: Actor,
    /// The lifting before the end time, if the lock was lifted.
    pub lifting: Option<Lifting>,
    /// Whether an event has recorded the expiry. The lock then stays expired, even if an operator
    /// accepts an earlier clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_expired: bool,
    /// The event that created the lock, in the history. Set by the store.
    pub create_sequence: Sequence,
    /// The last event that changed the lock, in the history. Set by the store.
    pub sequence: Sequence,
}

impl Lock {
    /// The lock's id.
    pub fn id(&self) -> LockId {
        self.terms.lock_id
    }

    /// The tenant whose history contains the lock. `None`: the vendor's own history.
    pub const fn tenant_id(&self) -> Option<&TenantId> {
        self.terms.tenant_id.as_ref()
    }

    /// The state at `now`.
    pub fn state(&self, now: Time) -> LockState {
        if self.lifting.is_some() {
            LockState::Lifted
        } else if !self.is_expired && self.terms.applies_at(now) {
            LockState::Active
        } else {
            LockState::Expired
        }
    }

    /// The approximate size of the lock in a response, in bytes.
    pub fn weight(&self) -> usize {
        let lifting = self.lifting.as_ref();
        let unlock_reason = lifting.map_or(0, |lifting| lifting.reason.as_str().len() + 128);
        FIXED_WEIGHT + self.reason.as_str().len() + unlock_reason
    }

    /// Changes with every change of the lock.
    pub fn etag(&self) -> String {
        format!("s{}", self.sequence)
    }
}

/// The request to create a lock. Each field is valid by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockRequest {
    /// The idempotency key.
    pub request_id: Option<RequestId>,
    /// The tenant in which the lock applies. `None`: all tenants.
    pub tenant_id: Option<TenantId>,
    /// The checks that the lock denies.
    pub target: LockTarget,
    /// The caller's reason.
    pub reason: FreeText,
    /// When the lock ends by itself. `None`: when a caller lifts the lock.
    pub end: Option<End>,
}

/// The lock that a denial names. If several locks deny the check, this is the lock that applies
/// longest, then the lock that matches the most checks. `None`: no lock denies the check.
pub fn matching_lock<'a>(
    locks: impl IntoIterator<Item = &'a LockTerms>,
    check: &AccessCheck,
    now: Now,
) -> Option<&'a LockTerms> {
    let rank = |lock: &LockTerms| {
        let breadth = (lock.tenant_id.is_none(), lock.target.breadth());
        (lock.expire_time.is_none(), lock.expire_time, breadth, lock.lock_id)
    };
    locks
        .into_iter()
        .filter(|lock| lock.applies_at(now) && lock.matches(check))
        .max_by_key(|lock| rank(lock))
}
