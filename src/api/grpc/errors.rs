//! The reasons of errors. `docs/errors.md` is generated from this table.

use std::time::Duration;

use tonic::Code;

pub use crate::api::metrics::code_name;
use crate::{
    api::{
        grpc::convert::ProtoEnum,
        proto::v1::{self as pb, ErrorReason},
    },
    domain::ViolationReason,
};

/// The description of a reason.
#[derive(Debug, Clone, Copy)]
pub struct ErrorDescription {
    /// The gRPC code of every error with this reason.
    pub code: Code,
    /// The default delay in the `RetryInfo`. `None`: the error has no `RetryInfo`.
    pub retry_delay: Option<Duration>,
    /// The meaning, for people.
    pub meaning: &'static str,
    /// The action of the caller.
    pub action: &'static str,
}

/// The default delay before a retry.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl ErrorReason {
    /// Every reason that the server sends, in the order of the API.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=i32::from(u8::MAX))
            .filter_map(|number| Self::try_from(number).ok())
            .filter(|reason| *reason != Self::Unspecified)
    }

    /// The reason in an `ErrorInfo`, such as `ETAG_MISMATCH`.
    pub fn name(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("ERROR_REASON_").unwrap_or(name)
    }

    /// The description of the reason.
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub const fn description(self) -> ErrorDescription {
        use Code::{
            Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, Internal,
            InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, Unauthenticated,
            Unavailable, Unimplemented,
        };
        let (code, meaning, action) = match self {
            Self::Unspecified => (Internal, "Never sent.", "None."),
            Self::InvalidField => (
                InvalidArgument,
                "A field is missing or malformed. `BadRequest` names each field.",
                "Correct the fields.",
            ),
            Self::PolicyViolation => (
                FailedPrecondition,
                "The tenant's support policy forbids the request. `BadRequest` names each field; \
                 the metadata contains the limits. If fields exceed limits of the same name, the \
                 metadata contains the limit of the first field.",
                "Stay within the limits, or change the policy.",
            ),
            Self::GrantNotFound => {
                (NotFound, "The tenant has no such grant.", "Correct `tenant_id` or `grant_id`.")
            }
            Self::GrantEnded => (
                FailedPrecondition,
                "The grant has ended and can no longer change.",
                "Create a new grant.",
            ),
            Self::LockNotFound => (
                NotFound,
                "There is no such lock in that tenant, or among those in all tenants.",
                "Correct `tenant_id` or `lock_id`.",
            ),
            Self::LockOfOtherParty => (
                PermissionDenied,
                "Only the party that created the lock may lift it.",
                "Ask the other party.",
            ),
            Self::EtagMismatch => (
                Aborted,
                "The object has changed since the caller read it.",
                "Read the object again, and decide whether the change still applies.",
            ),
            Self::RequestIdReused => (
                AlreadyExists,
                "The `request_id` was used for a different request.",
                "Choose a new `request_id`.",
            ),
            Self::TooManyLiveGrants => (
                ResourceExhausted,
                "The tenant would exceed the maximum number of live grants. Each named agent \
                 counts as a grant. The metadata contains `max_live_grants_per_tenant`.",
                "Revoke grants first, or name fewer agents.",
            ),
            Self::TooManyLiveGrantsToGroup => (
                ResourceExhausted,
                "The tenant would exceed the maximum number of live grants to one group. The \
                 metadata contains `max_live_grants_per_group`.",
                "Revoke grants to the group first, or name further agents in one grant.",
            ),
            Self::TooManyLocks => (
                ResourceExhausted,
                "The party has the maximum number of live locks. The metadata contains \
                 `max_locks`.",
                "Lift locks first. A lock on everything has a higher maximum.",
            ),
            Self::ConsistencyTokenInvalid => (
                FailedPrecondition,
                "The consistency token is forged, belongs to another log, or is older than a \
                 restore of the database.",
                "Send the request again without a consistency token.",
            ),
            Self::EventNotFound => (
                NotFound,
                "The history has no event with that consistency token.",
                "Correct `tenant_id` or `consistency_token`.",
            ),
            Self::ClockUnreliable => (
                FailedPrecondition,
                "The clock of the database is not trusted, because it differs from the elapsed \
                 time. Grants and later ends are rejected; every other change is possible.",
                "Ask an operator to correct the clock, or to accept it.",
            ),
            Self::DatabaseUnavailable => (
                Unavailable,
                "The database is unavailable. Nothing was changed, or the whole change was made.",
                "Retry with the same `request_id`.",
            ),
            Self::KeysUnavailable => {
                (Unavailable, "The keys of the token's issuer cannot be fetched.", "Retry.")
            }
            Self::ShuttingDown => {
                (Unavailable, "The server is shutting down.", "Retry at another server.")
            }
            Self::DeadlineExceeded => (
                DeadlineExceeded,
                "The call exceeded its deadline, or the longest deadline that the server allows.",
                "Retry with the same `request_id`, with a longer deadline.",
            ),
            Self::Internal => (
                Internal,
                "An unexpected error. The metadata contains `call_id`, under which the server's \
                 log has the details.",
                "Report the `call_id` to the operator.",
            ),
            Self::ReplicaRequired => {
                (Unimplemented, "Only replicas serve this method.", "Connect to a replica.")
            }
            Self::MethodNotFound => (
                Unimplemented,
                "The server has no such method.",
                "Correct the path, or use a server and a client of the same version.",
            ),
            Self::CredentialsMissing => (
                Unauthenticated,
                "The call carries no credentials.",
                "Present a client certificate or a bearer token.",
            ),
            Self::CertificateRejected => (
                Unauthenticated,
                "The client certificate has expired or contains no usable name.",
                "Renew the certificate.",
            ),
            Self::TokenRejected => (
                Unauthenticated,
                "The bearer token is not valid. The message states the reason.",
                "Get a new token.",
            ),
            Self::CredentialsExpired => (
                Unauthenticated,
                "The credentials expired during a stream.",
                "Open the stream again with new credentials.",
            ),
            Self::RoleMissing => (
                PermissionDenied,
                "No role of the caller permits this method.",
                "See the [permissions](permissions.md).",
            ),
            Self::NotOwnTenant => (
                PermissionDenied,
                "The caller may do this in its own tenants only.",
                "Name one of the caller's tenants.",
            ),
            Self::SeparationOfDuties => (
                PermissionDenied,
                "The caller has conflicting roles.",
                "Use separate credentials for the roles.",
            ),
            Self::TooManyCalls => (
                ResourceExhausted,
                "The caller, or all callers together, have too many calls in flight.",
                "Retry after the delay, with fewer calls at a time.",
            ),
            Self::TooManyRequests => (
                ResourceExhausted,
                "The caller exceeds its rate limit.",
                "Retry after the delay, and send fewer requests.",
            ),
            Self::TooManyBytes => (
                ResourceExhausted,
                "The caller's requests and unread responses are too large.",
                "Read all responses, and retry after the delay with smaller requests or pages.",
            ),
            Self::HelloExpected => (
                InvalidArgument,
                "Replication: the first message is not `hello`.",
                "Correct the follower.",
            ),
            Self::HelloRepeated => {
                (InvalidArgument, "Replication: `hello` was sent twice.", "Correct the follower.")
            }
            Self::AckOutOfRange => (
                InvalidArgument,
                "Replication: the follower acknowledged a revision that was not sent on this \
                 stream, or a lower revision than before.",
                "Correct the follower.",
            ),
            Self::PingOutOfOrder => (
                InvalidArgument,
                "Replication: a ping sequence is not greater than the previous one.",
                "Correct the follower.",
            ),
            Self::ProtocolMismatch => (
                FailedPrecondition,
                "Replication: the nodes use different versions of the protocol.",
                "Run the same version on both nodes.",
            ),
            Self::FollowsItself => (
                FailedPrecondition,
                "Replication: the node follows itself.",
                "Correct the upstreams of the node.",
            ),
            Self::TooManyMessages => (
                ResourceExhausted,
                "Replication: the follower sends too many messages.",
                "The follower reconnects by itself.",
            ),
            Self::FollowerTooSlow => (
                ResourceExhausted,
                "Replication: the follower reads too slowly.",
                "The follower reconnects by itself and receives a snapshot.",
            ),
            Self::TooManyFollowers => (
                ResourceExhausted,
                "Replication: the node has the maximum number of followers.",
                "Follow another node.",
            ),
            Self::NewSnapshot => (
                Aborted,
                "Replication: the node has loaded a new snapshot.",
                "The follower reconnects by itself.",
            ),
            Self::StreamReplaced => {
                (Aborted, "Replication: the follower has opened another stream.", "None.")
            }
            Self::ChangesNotAcknowledged => (
                Aborted,
                "Replication: the follower does not acknowledge changes in time.",
                "Find out why. Meanwhile, the follower may follow another node.",
            ),
            Self::NodeIdTaken => (
                PermissionDenied,
                "Replication: a follower with another credential uses the node id.",
                "Restart the follower.",
            ),
            Self::FollowersExcluded => (
                ResourceExhausted,
                "Replication: followers with the same credential have delayed changes too long.",
                "Give each sidecar its own credential. The follower retries by itself.",
            ),
        };
        let retry_delay = match self {
            Self::DatabaseUnavailable
            | Self::KeysUnavailable
            | Self::TooManyCalls
            | Self::TooManyRequests
            | Self::TooManyBytes => Some(RETRY_DELAY),
            _ => None,
        };
        ErrorDescription { code, retry_delay, meaning, action }
    }
}

/// The reason of a violated field.
#[derive(Debug, Clone, Copy)]
pub struct ViolationDescription {
    /// The reason in a `FieldViolation`, such as `REQUIRED`.
    pub name: &'static str,
    /// Whether the tenant's support policy forbids the value. Otherwise, every policy forbids it.
    pub is_policy: bool,
    /// The meaning, for people.
    pub meaning: &'static str,
}

/// Every reason of a violated field, in the order of the API.
pub fn violations() -> impl Iterator<Item = ViolationDescription> {
    ViolationReason::ALL.into_iter().map(|reason| {
        let (is_policy, meaning) = match reason {
            ViolationReason::Required => (false, "The field is required."),
            ViolationReason::Malformed => (false, "The value is malformed."),
            ViolationReason::OutOfRange => {
                (false, "The value is too long, too large, too small, or outside the range.")
            }
            ViolationReason::Conflict => {
                (false, "The field contradicts another field, such as a second end of a grant.")
            }
            ViolationReason::GroupNotAllowed => {
                (true, "The group is not in the policy. Limit: `groups`.")
            }
            ViolationReason::LevelNotAllowed => {
                (true, "The level exceeds the group's maximum. Limit: `max_access_level`.")
            }
            ViolationReason::DurationNotAllowed => {
                (true, "The grant would last too long. Limit: `max_duration`.")
            }
            ViolationReason::UntilRevokedNotAllowed => {
                (true, "Grants until revoked are not allowed. Limit: `until_revoked_allowed`.")
            }
            ViolationReason::ReasonRequired => {
                (true, "A reason is required. Limit: `reason_required`.")
            }
            ViolationReason::TicketRequired => {
                (true, "A ticket is required. Limit: `ticket_required`.")
            }
            ViolationReason::StartNotAllowed => {
                (true, "The grant would start too late. Limit: `max_schedule_ahead`.")
            }
            ViolationReason::AgentKindNotAllowed => (
                true,
                "The agent kind is not allowed, not at that level, or only on behalf of a human. \
                 Limit: `agent_kinds`, `max_access_level` or `on_behalf_of_required`.",
            ),
            ViolationReason::ExceedsCatalogue => (
                true,
                "The override is less strict than the vendor's catalogue. Limit: the exceeded \
                 field of the catalogue.",
            ),
        };
        ViolationDescription { name: violation_name(reason), is_policy, meaning }
    })
}

/// The name of a reason in a `FieldViolation`.
pub(super) fn violation_name(reason: ViolationReason) -> &'static str {
    let reason = pb::ViolationReason::try_from(reason.to_proto()).unwrap_or_default();
    let name = reason.as_str_name();
    name.strip_prefix("VIOLATION_REASON_").unwrap_or(name)
}
