//! Requests of callers, before the checks against policy and state.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use crate::domain::{
    admission::{AccessLevel, AgentKindEntry},
    ids::{AgentId, FreeText, GroupId, RequestId, TenantId, Ticket},
    time::{Span, Time, after},
    violation::{ViolationReason, Violations},
};

/// A start at most this far in the past counts as now, because clocks differ.
pub const START_LEEWAY: Duration = Duration::from_mins(5);

/// When a grant or lock ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum End {
    /// At this time.
    At(Time),
    /// This long after the start, or after now.
    After(Span),
    /// When a caller revokes the grant.
    UntilRevoked,
}

impl End {
    /// The name of the field in the API.
    pub const fn field(self) -> &'static str {
        match self {
            Self::At(_) => "expire_time",
            Self::After(_) => "duration",
            Self::UntilRevoked => "until_revoked",
        }
    }

    /// The end time, counted from `from`. Must be after both `from` and `now`.
    pub fn resolve(self, from: Time, now: Time) -> Result<Option<Time>, Violations> {
        let out_of_range = |description: &str| {
            Err(Violations::of(self.field(), ViolationReason::OutOfRange, description))
        };
        match self {
            Self::UntilRevoked => Ok(None),
            Self::At(end) if end <= now => out_of_range("must be in the future"),
            Self::At(end) if end <= from => out_of_range("must be after the start"),
            Self::At(end) => Ok(Some(end)),
            Self::After(span) if span.is_zero() => {
                out_of_range("must be positive, and at least a microsecond")
            }
            Self::After(span) => match after(from, span) {
                Some(end) => Ok(Some(end)),
                None => out_of_range("must end before the year 10000"),
            },
        }
    }
}

/// The request of `GrantAccess`. Each field is valid by itself. A retry with the same request id
/// must have the same content, in serialized form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GrantRequest {
    /// The idempotency key.
    pub request_id: Option<RequestId>,
    /// The tenant that grants access.
    pub tenant_id: TenantId,
    /// The support group.
    pub group_id: GroupId,
    /// The admitted agents of the group. Empty: every agent of the group.
    pub agent_ids: BTreeSet<AgentId>,
    /// The highest level.
    pub access_level: AccessLevel,
    /// The admitted agent kinds. `None`: humans, at `access_level`.
    pub agent_kinds: Option<Vec<AgentKindEntry>>,
    /// When access starts. `None`: now.
    pub start_time: Option<Time>,
    /// When access ends.
    pub end: End,
    /// The caller's reason.
    pub reason: FreeText,
    /// The support ticket.
    pub ticket: Ticket,
}

/// The request of `ExtendAccess`. Each field is valid by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtendRequest {
    /// The idempotency key.
    pub request_id: Option<RequestId>,
    /// The etag of the grant as known to the caller. `None`: the last writer wins.
    pub etag: Option<String>,
    /// The new end. A duration counts from now, or from the start of a scheduled grant.
    pub end: End,
    /// The caller's reason.
    pub reason: FreeText,
}

/// The request of `RevokeAccess` and `RevokeAllAccess`. Each field is valid by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RevokeRequest {
    /// The idempotency key.
    pub request_id: Option<RequestId>,
    /// The etag of the grant as known to the caller. `None`: revoke unconditionally.
    pub etag: Option<String>,
    /// The caller's reason.
    pub reason: FreeText,
}

/// The request of `AcceptClock`. Each field is valid by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AcceptClockRequest {
    /// The idempotency key.
    pub request_id: Option<RequestId>,
    /// The caller's reason.
    pub reason: FreeText,
}

/// The request of `UnlockAccess`. Each field is valid by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnlockRequest {
    /// The idempotency key.
    pub request_id: Option<RequestId>,
    /// The etag of the lock as known to the caller. `None`: lift unconditionally.
    pub etag: Option<String>,
    /// The caller's reason.
    pub reason: FreeText,
}
