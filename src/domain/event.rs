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
    /// The change.
    pub kind: EventKind,
}

/// The event with which an operator has accepted the database clock. Times before the event and
/// times after are not comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AcceptedClock {
    /// The position of the event in the log.
    pub revision: Revision,
    /// The accepted reading. With the revision, it identifies the event, even in another log.
    pub time: Time,
    /// The distance of the reading from the expected time, in milliseconds. Negative if the clock
    /// was behind.
    pub step_ms: i64,
}

impl Event {
    /// The accepted clock, if the event accepts one.
    pub const fn accepted_clock(&self) -> Option<AcceptedClock> {
        match self.kind {
            EventKind::ClockAccepted { step_ms, .. } => {
                Some(AcceptedClock { revision: self.revision, time: self.time, step_ms })
            }
            _ => None,
        }
    }
}

/// The change. An event about a grant or a lock carries the whole object after the change, so that
/// a follower needs nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// A tenant administrator granted access.
    Granted {
        /// The new grant.
        grant: Grant,
    },
    /// The end of a grant was moved, later or earlier.
    Extended {
        /// The grant with the new end.
        grant: Grant,
        /// The previous end. `None`: until revoked.
        previous_expire_time: Option<Time>,
        /// The step of the clock for which the end was moved back, in milliseconds. `None`: a
        /// caller moved the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock_step_ms: Option<i64>,
    },
    /// A grant was ended before the end time.
    Revoked {
        /// The ended grant.
        grant: Grant,
    },
    /// A grant reached the end time.
    Expired {
        /// The ended grant.
        grant: Grant,
    },
    /// The tenant's policy overrides were changed.
    PolicyUpdated {
        /// All overrides of the tenant after the change.
        policy_overrides: PolicyOverrides,
        /// The effective policy after the change, with the vendor's catalogue of that time.
        support_policy: SupportPolicy,
    },
    /// A lock was created.
    Locked {
        /// The new lock.
        lock: Lock,
    },
    /// A lock was lifted before the end time.
    Unlocked {
        /// The ended lock.
        lock: Lock,
    },
    /// A lock reached the end time.
    LockExpired {
        /// The ended lock.
        lock: Lock,
    },
    /// An operator accepted the database clock. The time of the event is the reading of that clock,
    /// and may be earlier than the time of the previous event.
    ClockAccepted {
        /// The distance of the reading from the trusted time, in milliseconds. Positive if the
        /// clock was ahead.
        step_ms: i64,
        /// The number of grants whose ends the successful call moved back, or that it revoked.
        moved_count: u32,
    },
    /// The row of the event is not authentic: no replica wrote the row as it is. Its content is
    /// unknown. Never written.
    #[serde(skip)]
    Forged,
}

impl EventKind {
    /// The name of the kind in stores, logs and records.
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
            Self::ClockAccepted { .. } => "clock_accepted",
            Self::Forged => "forged",
        }
    }

    /// The grant after the event, if the event is about a grant.
    pub const fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Granted { grant }
            | Self::Extended { grant, .. }
            | Self::Revoked { grant }
            | Self::Expired { grant } => Some(grant),
            _ => None,
        }
    }

    /// The lock after the event, if the event is about a lock.
    pub const fn lock(&self) -> Option<&Lock> {
        match self {
            Self::Locked { lock } | Self::Unlocked { lock } | Self::LockExpired { lock } => {
                Some(lock)
            }
            _ => None,
        }
    }

    /// Whether the event ends a grant or lock. No later event changes the object.
    pub const fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Revoked { .. }
                | Self::Expired { .. }
                | Self::Unlocked { .. }
                | Self::LockExpired { .. }
        )
    }

    /// Completes the grant or lock of an event that is appended at `sequence`: sets the sequences,
    /// and records an expiry.
    pub fn complete(&mut self, sequence: Sequence) {
        match self {
            Self::Expired { grant } => grant.terms.is_expired = true,
            Self::LockExpired { lock } => lock.is_expired = true,
            _ => {}
        }
        let is_new = matches!(self, Self::Granted { .. } | Self::Locked { .. });
        let (last, created) = match self {
            Self::Granted { grant }
            | Self::Extended { grant, .. }
            | Self::Revoked { grant }
            | Self::Expired { grant } => (&mut grant.sequence, &mut grant.create_sequence),
            Self::Locked { lock } | Self::Unlocked { lock } | Self::LockExpired { lock } => {
                (&mut lock.sequence, &mut lock.create_sequence)
            }
            Self::PolicyUpdated { .. } | Self::ClockAccepted { .. } | Self::Forged => return,
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
        let policy = matches!(self.kind, EventKind::PolicyUpdated { .. }).then_some(POLICY_WEIGHT);
        let grant = self.kind.grant().map(Grant::weight);
        let content = policy.or(grant).or_else(|| self.kind.lock().map(Lock::weight));
        self.reason.as_str().len() + content.unwrap_or_default()
    }

    /// The id of the grant that the event is about, if any.
    pub fn grant_id(&self) -> Option<GrantId> {
        self.kind.grant().map(Grant::id)
    }
}
