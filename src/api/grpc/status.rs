//! Every error becomes a `google.rpc.Status` here.

use std::{collections::HashMap, fmt::Display, time::Duration};

use http::{HeaderMap, Response};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use tracing::{error, warn};

use crate::{
    api::{
        credentials::ACTOR,
        limit::{Excess, RETRY_DELAY},
        proto::v1::ErrorReason,
    },
    auth::{AuthError, ConnectionInfo, token::TokenError},
    domain::{Denied, ViolationReason, policy::Forbidden, violation::Violations},
    node::follower_session::SessionEnd,
    service::ServiceError,
    store::{FileLost, StoreError},
};

mod session;
mod size;
#[cfg(test)]
mod tests;
mod trailers;
mod unread;

use session::session_end;
use size::{fitting_message, fitting_text, fitting_violations, listed};
pub use trailers::{excess_trailers, failure_trailers, shutdown_trailers};
pub use unread::Unread;
pub(super) use unread::unread_in_stream;
use unread::{is_malformed_message, malformed_message, too_long};

/// The maximum length of a message from a caller, in bytes.
pub const MESSAGE_LENGTH_MAX: usize = 4 * 1_024 * 1_024;
/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "supportaccess.v1";
/// The metadata key of the id under which the log has the details of an internal error.
const CALL_ID: &str = "call_id";

/// The error of a handler.
#[derive(Debug)]
pub struct Failure(Box<Status>);

/// An error under construction.
struct StatusBuilder {
    reason: ErrorReason,
    message: String,
    details: ErrorDetails,
    metadata: HashMap<String, String>,
}

// === impl Failure ===

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        *failure.0
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl From<Violations> for Failure {
    fn from(violations: Violations) -> Self {
        invalid(&violations).into()
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        service_error(&error).into()
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let reason = match denied {
            Denied::NoRole => ErrorReason::RoleMissing,
            Denied::OtherTenant => ErrorReason::NotOwnTenant,
        };
        StatusBuilder::new(reason, denied.to_string()).build().into()
    }
}

impl From<SessionEnd> for Failure {
    fn from(end: SessionEnd) -> Self {
        session_end(&end).into()
    }
}

// === impl StatusBuilder ===

impl StatusBuilder {
    fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        let mut details = ErrorDetails::new();
        if let Some(delay) = reason.description().retry_delay {
            details.set_retry_info(Some(delay));
        }
        let message = fitting_message(&message.into());
        Self { reason, message, details, metadata: HashMap::new() }
    }

    /// Names the field at fault, which has the reason of the error.
    fn field(mut self, field: &str) -> Self {
        let mut violation = FieldViolation::new(field, fitting_text(&self.message));
        violation.reason = self.reason.name().into();
        self.details.set_bad_request(vec![violation]);
        self
    }

    fn violations(mut self, violations: &Violations) -> Self {
        self.details.set_bad_request(fitting_violations(violations));
        self
    }

    fn metadata(mut self, key: &str, value: &impl ToString) -> Self {
        self.metadata.insert(key.into(), fitting_text(&value.to_string()));
        self
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    fn build(mut self) -> Status {
        self.details.set_error_info(self.reason.name(), DOMAIN, self.metadata);
        let code = self.reason.description().code;
        Status::with_error_details(code, self.message, self.details)
    }
}

fn invalid(violations: &Violations) -> Status {
    let message = listed(violations);
    StatusBuilder::new(ErrorReason::InvalidField, message).violations(violations).build()
}

fn policy_violation(forbidden: &Forbidden) -> Status {
    let message = listed(&forbidden.violations);
    let builder = StatusBuilder::new(ErrorReason::PolicyViolation, message);
    let builder = builder.violations(&forbidden.violations);
    let limits = forbidden.limits.iter();
    limits.fold(builder, |builder, (name, value)| builder.metadata(name, value)).build()
}

fn service_error(error: &ServiceError) -> Status {
    let failed = |reason| StatusBuilder::new(reason, error.to_string());
    match error {
        ServiceError::Invalid(violations) => invalid(violations),
        ServiceError::Policy(forbidden) => policy_violation(forbidden),
        ServiceError::GrantNotFound { .. } => {
            failed(ErrorReason::GrantNotFound).field("grant_id").build()
        }
        ServiceError::GrantEnded { .. } => {
            failed(ErrorReason::GrantEnded).field("grant_id").build()
        }
        ServiceError::RequestIdReused => {
            failed(ErrorReason::RequestIdReused).field("request_id").build()
        }
        ServiceError::EtagMismatch => failed(ErrorReason::EtagMismatch).field("etag").build(),
        ServiceError::TokenInvalid(_) => {
            failed(ErrorReason::ConsistencyTokenInvalid).field("consistency_token").build()
        }
        ServiceError::EventNotFound => {
            failed(ErrorReason::EventNotFound).field("consistency_token").build()
        }
        ServiceError::ClockUnreliable { .. } => failed(ErrorReason::ClockUnreliable).build(),
        ServiceError::TooManyLiveGrants { limit, field } => failed(ErrorReason::TooManyLiveGrants)
            .field(field)
            .metadata("max_live_grants_per_tenant", limit)
            .build(),
        ServiceError::TooManyLiveGrantsToGroup { limit, .. } => {
            failed(ErrorReason::TooManyLiveGrantsToGroup)
                .field("group_id")
                .metadata("max_live_grants_per_group", limit)
                .build()
        }
        ServiceError::LockNotFound { .. } => {
            failed(ErrorReason::LockNotFound).field("lock_id").build()
        }
        ServiceError::LockOfOtherParty { .. } => {
            failed(ErrorReason::LockOfOtherParty).field("lock_id").build()
        }
        ServiceError::TooManyLocks { limit, field, .. } => {
            failed(ErrorReason::TooManyLocks).field(field).metadata("max_locks", limit).build()
        }
        ServiceError::Store(StoreError::Unavailable(source)) => {
            error!(error = %source, "the database is unavailable");
            let message = if source.is::<FileLost>() {
                "the server's database file was removed or replaced; ask an operator to restore it"
            } else {
                "the database is unavailable; retry with the same request_id"
            };
            StatusBuilder::new(ErrorReason::DatabaseUnavailable, message).build()
        }
        ServiceError::Store(StoreError::Broken(source)) => {
            error!(error = %source, "unexpected data in the database");
            internal()
        }
        ServiceError::NotSigned(_) | ServiceError::NotEncrypted(_) => {
            error!(%error, "the cryptographic library failed");
            internal()
        }
    }
}

fn internal() -> Status {
    // The details are for the operator alone.
    StatusBuilder::new(ErrorReason::Internal, "internal error; see the server's log").build()
}

/// Adds the call id to an internal error, so that the operator finds the details in the log. Leaves
/// other responses unchanged.
pub fn state_call_id(headers: &mut HeaderMap, call_id: &str) {
    if Status::from_header_map(headers).is_some_and(|status| status.code() == Code::Internal) {
        let message = format!("internal error; the server's log has the details of call {call_id}");
        let builder = StatusBuilder::new(ErrorReason::Internal, message);
        let status = builder.metadata(CALL_ID, &call_id).build();
        if let Err(error) = status.add_header(headers) {
            warn!(%error, "an internal error does not fit into its header");
        }
    }
}

/// The error for a request without an authenticated caller.
pub(super) fn unknown_caller() -> Failure {
    unauthenticated(&AuthError::Missing).into()
}

/// Rejects a call that is not authenticated, and logs an audit line.
pub fn reject_unauthenticated(error: &AuthError, connection: &ConnectionInfo) -> Response<Body> {
    let ConnectionInfo { peer, address, .. } = connection;
    let address = address.map(tracing::field::display);
    warn!(
        target: "support_access::audit",
        reason = %error,
        ?peer,
        address,
        "a caller was rejected"
    );
    unauthenticated(error).into_http()
}

pub(super) fn unauthenticated(error: &AuthError) -> Status {
    let reason = match error {
        AuthError::Missing => ErrorReason::CredentialsMissing,
        AuthError::CertificateExpired | AuthError::CertificateNameless => {
            ErrorReason::CertificateRejected
        }
        AuthError::Token(TokenError::NoKeys) => ErrorReason::KeysUnavailable,
        AuthError::Token(_) => ErrorReason::TokenRejected,
        AuthError::Name(error) => {
            return invalid(&Violations::of_text(ACTOR.as_str(), *error));
        }
        AuthError::Conflict { .. } => ErrorReason::SeparationOfDuties,
    };
    StatusBuilder::new(reason, error.to_string()).build()
}

/// Rejects the actor that a caller names in the header [`ACTOR`].
pub fn reject_name(description: &str) -> Response<Body> {
    invalid(&Violations::of(ACTOR.as_str(), ViolationReason::Malformed, description)).into_http()
}

/// Rejects a request because of its header fields.
pub fn reject_head(description: &str) -> Response<Body> {
    invalid(&Violations::of("metadata", ViolationReason::OutOfRange, description)).into_http()
}

/// Rejects a call that exceeds a limit of the caller.
pub fn reject_excess(excess: Excess) -> Response<Body> {
    reject(excess.into())
}

/// Rejects a call without a caller, on a connection with too many of these.
pub fn reject_unauthenticated_call() -> Response<Body> {
    reject_excess(Excess { reason: ErrorReason::TooManyCalls, delay: RETRY_DELAY })
}

/// The response to a call that has failed.
pub fn reject(failure: Failure) -> Response<Body> {
    Status::from(failure).into_http()
}

impl From<Excess> for Failure {
    fn from(excess: Excess) -> Self {
        exhausted(excess.reason).retry_after(excess.delay).build().into()
    }
}

/// The error that ends a message whose bytes exceed the limit of the caller.
pub fn excess() -> Status {
    exhausted(ErrorReason::TooManyBytes).build()
}

fn exhausted(reason: ErrorReason) -> StatusBuilder {
    let message = match reason {
        ErrorReason::TooManyBytes => {
            "the long messages of the caller, or of all callers, take too much memory; read \
             pending responses, and retry after the delay"
        }
        _ => "the caller, or all callers together, exceed a limit; retry after the delay",
    };
    StatusBuilder::new(reason, message)
}

/// Rejects a call that exceeds the longest deadline.
pub fn reject_late() -> Response<Body> {
    late("the call took longer than the server allows; retry with the same request_id").into_http()
}

fn late(message: &str) -> Status {
    StatusBuilder::new(ErrorReason::DeadlineExceeded, message).build()
}

/// The error that ends a stream whose first message is late.
pub(super) fn late_message() -> Failure {
    late("the message did not arrive before the deadline").into()
}

/// The error of a sidecar for methods that only replicas serve.
pub(super) fn replica_required() -> Failure {
    replica_required_status().into()
}

/// Rejects a call at a sidecar, to a service that only replicas serve.
pub(super) fn reject_at_sidecar() -> Response<Body> {
    replica_required_status().into_http()
}

fn replica_required_status() -> Status {
    let message = "only replicas serve this method; connect to a replica";
    StatusBuilder::new(ErrorReason::ReplicaRequired, message).build()
}

/// Rejects a call of a method that does not exist.
pub fn reject_unknown_method() -> Response<Body> {
    method_not_found().into_http()
}

fn method_not_found() -> Status {
    let message = "the server has no such method; use a server and a client of the same version";
    StatusBuilder::new(ErrorReason::MethodNotFound, message).build()
}

/// Gives the errors of tonic the codes and details of this API. Tonic rejects a message that is too
/// long ([`Code::OutOfRange`], which no handler returns) or cannot be decoded, and a call of a
/// method that does not exist.
pub fn explain_refusal(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    // Most responses have no status in their headers, and few have one of these codes.
    let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    let is_malformed =
        || Status::from_header_map(headers).is_some_and(|status| is_malformed_message(&status));
    match code {
        Some(Code::OutOfRange) => too_long(MESSAGE_LENGTH_MAX).into_http(),
        Some(Code::Internal) if is_malformed() => malformed_message().into_http(),
        // Tonic sends no message if no route matches.
        Some(Code::Unimplemented) if !headers.contains_key(Status::GRPC_MESSAGE) => {
            method_not_found().into_http()
        }
        _ => response,
    }
}

/// The error that ends a stream whose caller's credentials have expired.
pub(super) fn credentials_expired() -> Failure {
    let message = "the caller's certificate or token has expired; open the stream again";
    StatusBuilder::new(ErrorReason::CredentialsExpired, message).build().into()
}

/// The status in the headers or the trailers of a response. Without a status, the response is cut.
pub fn status_of(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).unwrap_or_else(|| unwritten(&"no status").into())
}

/// The error of a response that has no form that the caller can read.
pub fn unwritten(error: &dyn Display) -> Failure {
    error!(%error, "a response cannot be written");
    internal().into()
}

fn compressed() -> Status {
    Status::unimplemented("the server does not support this compression; send messages without it")
}

/// The error that ends a message whose caller has disconnected.
pub fn disconnected() -> Status {
    Status::cancelled("the client closed the stream before the end of the message")
}
