//! The history: what happened, in the order in which it was committed.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{
    caller::Attribution,
    grant::Grant,
    lock::Lock,
    overrides::PolicyOverrides,
    policy::SupportPolicy,
    text::{FreeText, GrantId, TenantId},
    time::Time,
};

/// The number of an event in the log: 1, 2, 3 and so on over all tenants, gap-free, in the order of commits. As the
/// revision of a state: the last event it includes; 0 before the first.
pub type Revision = i64;

/// Names a log for ever: a UUID made with its database. A database that is copied keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub Uuid);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a log: after one event. Two logs that have a position in common have everything before it in common, also
/// after a database was restored and went on differently: then the event of the same revision has another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which log.
    pub epoch: Epoch,
    /// The last event before it; 0: the beginning.
    pub revision: Revision,
    /// When that event was committed; `None` at the beginning.
    pub time: Option<Time>,
}

/// One line of history. Never changed, never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the log.
    pub revision: Revision,
    /// Scope history it belongs to; `None`: the vendor's own, of what is no tenant's.
    pub tenant_id: Option<TenantId>,
    /// When it was committed.
    pub time: Time,
    /// Who did it.
    pub author: Attribution,
    /// Why.
    pub reason: FreeText,
    /// What happened.
    pub kind: EventKind,
}

/// What happened. An event of a grant carries the whole grant as it left it, so that a follower needs nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// Access was granted.
    Granted {
        /// The grant as it was made.
        grant: Grant,
    },
    /// The end was moved, either way.
    Extended {
        /// The grant with its new end.
        grant: Grant,
        /// The end before.
        previous_expire_time: Option<Time>,
    },
    /// Somebody ended the grant.
    Revoked {
        /// The grant as it ended.
        grant: Grant,
    },
    /// The end time came.
    Expired {
        /// The grant as it ended.
        grant: Grant,
    },
    /// The tenant's support policy was changed.
    PolicyUpdated {
        /// All of the tenant's own settings from then on.
        overrides: PolicyOverrides,
        /// What it could choose from then on, with the vendor's catalogue of that day.
        policy: SupportPolicy,
    },
    /// Something was locked.
    Locked {
        /// The lock as it was made.
        lock: Lock,
    },
    /// Somebody lifted the lock.
    Unlocked {
        /// The lock as it ended.
        lock: Lock,
    },
    /// The lock's end time came.
    LockExpired {
        /// The lock as it ended.
        lock: Lock,
    },
}

impl EventKind {
    /// The kind's name, as stores and logs write it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Granted { .. } => "granted",
            Self::Extended { .. } => "extended",
            Self::Revoked { .. } => "revoked",
            Self::Expired { .. } => "expired",
            Self::PolicyUpdated { .. } => "policy_updated",
            Self::Locked { .. } => "locked",
            Self::Unlocked { .. } => "unlocked",
            Self::LockExpired { .. } => "lock_expired",
        }
    }

    /// The grant it is about, if it is about one, as the event left it.
    pub const fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Granted { grant }
            | Self::Extended { grant, .. }
            | Self::Revoked { grant }
            | Self::Expired { grant } => Some(grant),
            Self::PolicyUpdated { .. }
            | Self::Locked { .. }
            | Self::Unlocked { .. }
            | Self::LockExpired { .. } => None,
        }
    }

    /// [`Self::grant`], to keep.
    pub fn into_grant(self) -> Option<Grant> {
        match self {
            Self::Granted { grant }
            | Self::Extended { grant, .. }
            | Self::Revoked { grant }
            | Self::Expired { grant } => Some(grant),
            Self::PolicyUpdated { .. }
            | Self::Locked { .. }
            | Self::Unlocked { .. }
            | Self::LockExpired { .. } => None,
        }
    }

    /// [`Self::grant`], to be stamped.
    pub const fn grant_mut(&mut self) -> Option<&mut Grant> {
        match self {
            Self::Granted { grant }
            | Self::Extended { grant, .. }
            | Self::Revoked { grant }
            | Self::Expired { grant } => Some(grant),
            Self::PolicyUpdated { .. }
            | Self::Locked { .. }
            | Self::Unlocked { .. }
            | Self::LockExpired { .. } => None,
        }
    }

    /// Whether the grant is over with this event: no later event changes it.
    pub const fn ends_grant(&self) -> bool {
        matches!(self, Self::Revoked { .. } | Self::Expired { .. })
    }

    /// The lock it is about, if it is about one, as the event left it.
    pub const fn lock(&self) -> Option<&Lock> {
        match self {
            Self::Locked { lock } | Self::Unlocked { lock } | Self::LockExpired { lock } => {
                Some(lock)
            }
            Self::Granted { .. }
            | Self::Extended { .. }
            | Self::Revoked { .. }
            | Self::Expired { .. }
            | Self::PolicyUpdated { .. } => None,
        }
    }

    /// [`Self::lock`], to be stamped.
    pub const fn lock_mut(&mut self) -> Option<&mut Lock> {
        match self {
            Self::Locked { lock } | Self::Unlocked { lock } | Self::LockExpired { lock } => {
                Some(lock)
            }
            Self::Granted { .. }
            | Self::Extended { .. }
            | Self::Revoked { .. }
            | Self::Expired { .. }
            | Self::PolicyUpdated { .. } => None,
        }
    }

    /// Whether the lock is over with this event: no later event changes it.
    pub const fn ends_lock(&self) -> bool {
        matches!(self, Self::Unlocked { .. } | Self::LockExpired { .. })
    }
}

impl Event {
    /// About how many bytes it takes to tell somebody of it.
    pub fn weight(&self) -> usize {
        /// A catalogue of a hundred groups with their descriptions.
        const POLICY_WEIGHT: usize = 150_000;
        let grant = self.kind.grant().map(Grant::weight);
        let content = grant.or_else(|| self.kind.lock().map(Lock::weight));
        self.reason.as_str().len() + content.unwrap_or(POLICY_WEIGHT)
    }

    /// The id of the grant it is about, if it is about one.
    pub fn grant_id(&self) -> Option<GrantId> {
        self.kind.grant().map(Grant::id)
    }
}
