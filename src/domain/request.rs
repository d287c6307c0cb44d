//! What an administrator asks for, before it is weighed against policy and state.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use crate::domain::{
    grant::AccessLevel,
    overrides::PolicyOverrides,
    text::{AgentId, FreeText, GroupId, RequestId, TenantId, Ticket},
    time::{Span, Time, after},
    violation::Violations,
};

/// How far in the past a start may lie and still mean "now": clocks differ.
pub const START_LEEWAY: Duration = Duration::from_mins(5);

/// When access is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum End {
    /// At this moment.
    At(Time),
    /// So long after the start.
    After(Span),
    /// When somebody revokes it.
    UntilRevoked,
}

impl End {
    /// The name of the field that asked for it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::At(_) => "expire_time",
            Self::After(_) => "duration",
            Self::UntilRevoked => "until_revoked",
        }
    }

    /// The end of access that begins, or is counted, from `from`; it must lie after both `from` and `now`.
    pub fn resolve(self, from: Time, now: Time) -> Result<Option<Time>, Violations> {
        let refuse = |description: &str| Err(Violations::of(self.field(), description));
        match self {
            Self::UntilRevoked => Ok(None),
            Self::At(end) if end <= now => refuse("must be in the future"),
            Self::At(end) if end <= from => refuse("must be after the start"),
            Self::At(end) => Ok(Some(end)),
            Self::After(span) if span.is_zero() => {
                refuse("must be positive, and at least a microsecond")
            }
            Self::After(span) => match after(from, span) {
                Some(end) => Ok(Some(end)),
                None => refuse("must end before the year 10000"),
            },
        }
    }
}

/// `GrantAccess`, with every field checked by itself. Serialized, it is the content that a `request_id` stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GrantRequest {
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// Who lets in.
    pub tenant_id: TenantId,
    /// Whom.
    pub group_id: GroupId,
    /// Only these of them; empty: all.
    pub agent_ids: BTreeSet<AgentId>,
    /// At which level at most.
    pub access_level: AccessLevel,
    /// From when; `None`: now.
    pub start_time: Option<Time>,
    /// Until when.
    pub end: End,
    /// Why.
    pub reason: FreeText,
    /// For which ticket.
    pub ticket: Ticket,
}

/// `ExtendAccess`, with every field checked by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtendRequest {
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// The etag of the grant as the caller knows it. `None`: the last writer wins.
    pub etag: Option<String>,
    /// The new end. A duration counts from now, or from the start of a scheduled grant.
    pub end: End,
    /// Why.
    pub reason: FreeText,
}

/// `RevokeAccess` and `RevokeAllAccess`, with every field checked by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RevokeRequest {
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// The etag of the grant as the caller knows it. `None`: revoke unconditionally.
    pub etag: Option<String>,
    /// Why.
    pub reason: FreeText,
}

/// `UnlockAccess`, with every field checked by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnlockRequest {
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// The etag of the lock as the caller knows it. `None`: lift unconditionally.
    pub etag: Option<String>,
    /// Why.
    pub reason: FreeText,
}

/// `UpdateSupportPolicy`, with every field checked by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRequest {
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// The etag of the policy as the caller knows it. `None`: the last writer wins.
    pub etag: Option<String>,
    /// The overrides to change.
    pub update: PolicyOverrides,
    /// Why.
    pub reason: FreeText,
}
