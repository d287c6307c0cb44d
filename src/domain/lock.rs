//! A lock: whom nobody lets in, whatever is granted.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{
    caller::Party,
    decision::Question,
    event::Revision,
    request::End,
    text::{Actor, AgentId, FreeText, GroupId, TenantId},
    time::{Now, Time},
};

/// The most live locks of the vendor, all together. Every check node holds them.
pub const VENDOR_LOCKS_MAX: usize = 1_000;
/// The most live locks that one tenant may have set itself.
pub const TENANT_LOCKS_MAX: usize = 100;
/// More bytes than anything of a lock takes that is not a reason: ids of up to 128 characters of up to four bytes, and times.
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

/// What is locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "id", rename_all = "snake_case")]
pub enum LockTarget {
    /// Nobody enters any tenant.
    Everything,
    /// Nobody enters this tenant.
    Tenant(TenantId),
    /// This agent enters no tenant, whichever groups it is in.
    Agent(AgentId),
    /// Nobody who is in this group enters any tenant, not even by another group: what is in doubt is closed.
    Group(GroupId),
}

impl LockTarget {
    /// The tenant in whose history it belongs; `None`: the vendor's own.
    pub const fn tenant_id(&self) -> Option<&TenantId> {
        match self {
            Self::Tenant(tenant_id) => Some(tenant_id),
            Self::Everything | Self::Agent(_) | Self::Group(_) => None,
        }
    }

    /// Whether it is what a question asks about.
    pub fn meets(&self, question: &Question) -> bool {
        match self {
            Self::Everything => true,
            Self::Tenant(tenant_id) => *tenant_id == question.tenant_id,
            Self::Agent(agent_id) => *agent_id == question.agent_id,
            Self::Group(group_id) => question.group_ids.contains(group_id),
        }
    }

    /// The name of the field that says it.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Tenant(_) => "tenant_id",
            Self::Agent(_) => "agent_id",
            Self::Group(_) => "group_id",
        }
    }
}

impl fmt::Display for LockTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::Tenant(tenant_id) => write!(f, "tenant {tenant_id}"),
            Self::Agent(agent_id) => write!(f, "agent {agent_id}"),
            Self::Group(group_id) => write!(f, "group {group_id}"),
        }
    }
}

/// Where a lock is in its life. Derived from the lock and the time, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockState {
    /// It holds.
    Held,
    /// Its end time has come.
    Expired,
    /// Somebody lifted it.
    Lifted,
}

/// What a lock keeps out, and until when: all that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockTerms {
    /// The lock these are the terms of.
    pub lock_id: LockId,
    /// What is locked.
    pub target: LockTarget,
    /// Scope lock it is, and so who may lift it.
    pub side: Party,
    /// The first moment without; `None`: until it is lifted.
    pub expire_time: Option<Time>,
}

impl LockTerms {
    /// Whether it holds at `now`, if nobody has lifted it. The end is exclusive; where the time is not known exactly, a lock holds
    /// as long as it may: it never ends early.
    pub fn holds(&self, now: impl Into<Now>) -> bool {
        let now = now.into();
        self.expire_time.is_none_or(|expire| now.earliest < expire)
    }

    /// About how many bytes it takes to tell somebody of it.
    pub fn weight(&self) -> usize {
        let name = match &self.target {
            LockTarget::Everything => "",
            LockTarget::Tenant(tenant_id) => tenant_id.as_str(),
            LockTarget::Agent(agent_id) => agent_id.as_str(),
            LockTarget::Group(group_id) => group_id.as_str(),
        };
        size_of::<Self>() + name.len()
    }
}

/// How a lock was lifted before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifting {
    /// When.
    pub time: Time,
    /// By whom.
    pub actor: Actor,
    /// Why.
    pub reason: FreeText,
}

/// Somebody has locked something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// What, on whose side, until when.
    pub terms: LockTerms,
    /// Why; never blank.
    pub reason: FreeText,
    /// When it was set. It holds from then.
    pub create_time: Time,
    /// By whom.
    pub creator: Actor,
    /// By whom and why it was lifted, if it was.
    pub lifting: Option<Lifting>,
    /// The event that made it: its place in lists.
    pub create_revision: Revision,
    /// The last event that changed it.
    pub revision: Revision,
}

impl Lock {
    /// The lock's id.
    pub fn id(&self) -> LockId {
        self.terms.lock_id
    }

    /// The tenant in whose history it belongs; `None`: the vendor's own.
    pub const fn tenant_id(&self) -> Option<&TenantId> {
        self.terms.target.tenant_id()
    }

    /// The state at `now`.
    pub fn state(&self, now: Time) -> LockState {
        if self.lifting.is_some() {
            LockState::Lifted
        } else if self.terms.holds(now) {
            LockState::Held
        } else {
            LockState::Expired
        }
    }

    /// About how many bytes it takes to tell somebody of it.
    pub fn weight(&self) -> usize {
        let lifting = self.lifting.as_ref().map_or(0, |it| it.reason.as_str().len() + 128);
        FIXED_WEIGHT + self.reason.as_str().len() + lifting
    }
}

/// `LockAccess`, with every field checked by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRequest {
    /// What to lock.
    pub target: LockTarget,
    /// Why.
    pub reason: FreeText,
    /// Until when; `None`: until it is lifted.
    pub end: Option<End>,
}

/// Of the locks that keep the question out, the one to name: the one that holds longest, then that on the most. `None`: nothing does.
pub fn matching_lock<'a>(
    locks: impl IntoIterator<Item = &'a LockTerms>,
    question: &Question,
    now: Now,
) -> Option<&'a LockTerms> {
    let rank = |lock: &LockTerms| {
        let breadth = match lock.target {
            LockTarget::Everything => 3,
            LockTarget::Tenant(_) => 2,
            LockTarget::Group(_) => 1,
            LockTarget::Agent(_) => 0,
        };
        (lock.expire_time.is_none(), lock.expire_time, breadth, lock.lock_id)
    };
    locks
        .into_iter()
        .filter(|lock| lock.holds(now) && lock.target.meets(question))
        .max_by_key(|lock| rank(lock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::from_micros;

    #[test]
    fn a_lock_never_ends_early() {
        let at = |micros| from_micros(micros).unwrap();
        let terms = LockTerms {
            lock_id: LockId(Uuid::nil()),
            target: LockTarget::Everything,
            side: Party::Vendor,
            expire_time: Some(at(20)),
        };
        assert!(terms.holds(at(0)));
        assert!(terms.holds(at(19)));
        assert!(!terms.holds(at(20)));
        assert!(terms.holds(Now { earliest: at(19), latest: at(30) }), "may not be over");
        assert!(!terms.holds(Now { earliest: at(20), latest: at(30) }));
        assert!(LockTerms { expire_time: None, ..terms }.holds(Time::MAX_UTC));
    }
}
