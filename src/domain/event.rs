//! Events: the immutable entries of the log.

use serde::{Deserialize, Serialize};

use crate::domain::{
    caller::Attribution,
    grant::Grant,
    ids::{FreeText, GrantId, TenantId},
    lock::Lock,
    overrides::PolicyOverrides,
    policy::SupportPolicy,
    revision::{Revision, Sequence},
    time::Time,
};

/// The approximate size of a policy event: a catalogue of a hundred groups with descriptions.
const POLICY_WEIGHT: usize = 150_000;

/// One event of a history. Never changed, never deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The position in the log.
    pub revision: Revision,
    /// The tenant whose history contains the event. `None`: the vendor's own history.
    pub tenant_id: Option<TenantId>,
    /// The position in that history.
    pub sequence: Sequence,
    /// When the event was committed.
    pub time: Time,
    /// The caller that made the change.
    pub author: Attribution,
    /// The caller's reason.
    pub reason: FreeText,
    /// What happened.
    pub kind: EventKind,
}

/// What happened. An event about a grant or a lock carries the whole object as the event left it,
/// so that a follower needs nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// A tenant administrator granted access.
    Granted(Granted),
    /// The end of a grant was moved.
    Extended(Extended),
    /// A grant was ended before its end time.
    Revoked(Revoked),
    /// A grant ended by itself.
    Expired(Expired),
    /// The tenant's policy overrides were changed.
    PolicyUpdated(PolicyUpdated),
    /// A lock was created.
    Locked(Locked),
    /// A lock was lifted before its end time.
    Unlocked(Unlocked),
    /// A lock ended by itself.
    LockExpired(LockExpired),
}

/// A tenant administrator granted access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The new grant.
    pub grant: Grant,
}

/// The end of a grant was moved, later or earlier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// The grant with its new end.
    pub grant: Grant,
    /// The previous end. `None`: until revoked.
    pub previous_expire_time: Option<Time>,
}

/// A grant was ended before its end time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The ended grant.
    pub grant: Grant,
}

/// A grant ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// The ended grant.
    pub grant: Grant,
}

/// The tenant's policy overrides were changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyUpdated {
    /// All overrides of the tenant after the change.
    pub policy_overrides: PolicyOverrides,
    /// The effective policy after the change, with the vendor's catalogue of that time.
    pub support_policy: SupportPolicy,
}

/// A lock was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// The new lock.
    pub lock: Lock,
}

/// A lock was lifted before its end time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlocked {
    /// The ended lock.
    pub lock: Lock,
}

/// A lock ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockExpired {
    /// The ended lock.
    pub lock: Lock,
}

impl EventKind {
    /// The name of the kind in stores, logs and records.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::Extended(_) => "extended",
            Self::Revoked(_) => "revoked",
            Self::Expired(_) => "expired",
            Self::PolicyUpdated(_) => "policy_updated",
            Self::Locked(_) => "locked",
            Self::Unlocked(_) => "unlocked",
            Self::LockExpired(_) => "lock_expired",
        }
    }

    /// The grant as the event left it, if the event is about a grant.
    pub const fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Granted(Granted { grant })
            | Self::Extended(Extended { grant, .. })
            | Self::Revoked(Revoked { grant })
            | Self::Expired(Expired { grant }) => Some(grant),
            _ => None,
        }
    }

    /// The lock as the event left it, if the event is about a lock.
    pub const fn lock(&self) -> Option<&Lock> {
        match self {
            Self::Locked(Locked { lock })
            | Self::Unlocked(Unlocked { lock })
            | Self::LockExpired(LockExpired { lock }) => Some(lock),
            _ => None,
        }
    }

    /// Whether the event ends its grant or lock. No later event changes the object.
    pub const fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Revoked(_) | Self::Expired(_) | Self::Unlocked(_) | Self::LockExpired(_)
        )
    }

    /// Stamps the grant or lock of an event that is appended at this sequence of its history.
    pub fn set_sequence(&mut self, sequence: Sequence) {
        let is_new = matches!(self, Self::Granted(_) | Self::Locked(_));
        let (last, created) = match self {
            Self::Granted(Granted { grant })
            | Self::Extended(Extended { grant, .. })
            | Self::Revoked(Revoked { grant })
            | Self::Expired(Expired { grant }) => (&mut grant.sequence, &mut grant.create_sequence),
            Self::Locked(Locked { lock })
            | Self::Unlocked(Unlocked { lock })
            | Self::LockExpired(LockExpired { lock }) => {
                (&mut lock.sequence, &mut lock.create_sequence)
            }
            Self::PolicyUpdated(_) => return,
        };
        *last = sequence;
        if is_new {
            *created = sequence;
        }
    }
}

impl Event {
    /// The approximate size of the event in a response, in bytes.
    pub fn weight(&self) -> usize {
        let grant = self.kind.grant().map(Grant::weight);
        let content = grant.or_else(|| self.kind.lock().map(Lock::weight));
        self.reason.as_str().len() + content.unwrap_or(POLICY_WEIGHT)
    }

    /// The id of the grant that the event is about, if any.
    pub fn grant_id(&self) -> Option<GrantId> {
        self.kind.grant().map(Grant::id)
    }
}
