//! Errors become statuses, here and nowhere else.

use std::{collections::HashMap, time::Duration};

use http::Response;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::{error, warn};

use crate::{
    api::credentials::ACTOR,
    auth::{AuthError, ConnectionInfo, token::TokenError},
    domain::{Denied, policy::join, violation::Violations},
    node::follower_session::SessionEnd,
    service::ServiceError,
    store::StoreError,
};

/// The most bytes of a message from a caller.
pub const MESSAGE_LENGTH_MAX: usize = 4 * 1_024 * 1_024;
/// The domain of `ErrorInfo`.
const DOMAIN: &str = "supportaccess.v1";
/// When to try again while the database is away.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The most violations that a status carries: it travels in a header, which has its limit.
const VIOLATIONS_MAX: usize = 20;
/// How prost and tonic begin to say that a message cannot be decoded.
const NO_MESSAGE: [&str; 4] = [
    "failed to decode Protobuf message: ",
    "protocol error: received message with ",
    "Unexpected EOF decoding stream.",
    "Missing request message.",
];

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self(status(&error))
    }
}

impl From<Violations> for Failure {
    fn from(violations: Violations) -> Self {
        Self(status(&ServiceError::Invalid(violations)))
    }
}

impl From<SessionEnd> for Failure {
    fn from(end: SessionEnd) -> Self {
        Self(end_of_stream(&end))
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let reason = match denied {
            Denied::NoRole => "ROLE_MISSING",
            Denied::OtherTenant => "NOT_OWN_TENANT",
        };
        let text = denied.to_string();
        Self(Status::with_error_details(Code::PermissionDenied, text, details(reason, [])))
    }
}

/// The error for a request without an authenticated caller.
pub(super) fn unknown_caller() -> Failure {
    Failure(unauthenticated(&AuthError::Missing))
}

/// Refuses a call that is not authenticated, and logs an audit line.
pub fn refuse_unauthenticated(error: &AuthError, connection: &ConnectionInfo) -> Response<Body> {
    let ConnectionInfo { peer, address, .. } = connection;
    let address = address.map(tracing::field::display);
    warn!(target: "support_access::audit", reason = %error, ?peer, address, "a caller was refused");
    unauthenticated(error).into_http()
}

fn unauthenticated(error: &AuthError) -> Status {
    let (code, reason) = match error {
        AuthError::Missing => (Code::Unauthenticated, "CREDENTIALS_MISSING"),
        AuthError::CertificateExpired | AuthError::CertificateNameless => {
            (Code::Unauthenticated, "CERTIFICATE_REFUSED")
        }
        // That is not the bearer's fault, and passes.
        AuthError::Token(TokenError::NoKeys) => (Code::Unavailable, "KEYS_UNAVAILABLE"),
        AuthError::Token(_) => (Code::Unauthenticated, "TOKEN_REFUSED"),
        AuthError::Name(_) => (Code::InvalidArgument, "INVALID_FIELD"),
        AuthError::Conflict { .. } => (Code::PermissionDenied, "SEPARATION_OF_DUTIES"),
    };
    let mut details = details(reason, []);
    if code == Code::Unavailable {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(code, error.to_string(), details)
}

/// Refuses what is more than its caller may ask for.
pub fn refuse_excess(reason: &str, wait: Duration) -> Response<Body> {
    exhausted(reason, wait).into_http()
}

/// What a message ends with of which there is no room for the rest.
pub fn excess() -> Status {
    exhausted("TOO_MANY_BYTES", RETRY_DELAY)
}

fn exhausted(reason: &str, wait: Duration) -> Status {
    let mut details = details(reason, []);
    details.set_retry_info(Some(wait));
    let text = "the caller asks for more than it may at a time: wait a little, and try again";
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

/// What a caller is told whose answer does not come.
pub fn refuse_late() -> Response<Body> {
    Status::deadline_exceeded("the call takes longer than any may").into_http()
}

/// Refuses the name that a caller gives itself.
pub fn refuse_name(description: &str) -> Response<Body> {
    invalid(&Violations::of(ACTOR.as_str(), description)).into_http()
}

/// A status on its way out of a handler: what `?` makes of an error.
pub(super) struct Failure(pub(super) Status);

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

fn status(error: &ServiceError) -> Status {
    let text = error.to_string();
    match error {
        ServiceError::Invalid(violations) => invalid(violations),
        ServiceError::GrantNotFound { .. } => {
            failed(Code::NotFound, "GRANT_NOT_FOUND", "grant_id", &text)
        }
        ServiceError::GrantEnded { .. } => {
            failed(Code::FailedPrecondition, "GRANT_ENDED", "grant_id", &text)
        }
        ServiceError::GroupNotOffered { offered, .. } => {
            let mut details = details("GROUP_NOT_OFFERED", [("groups", join(offered.iter()))]);
            details.add_bad_request_violation("group_id", text.clone());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        ServiceError::RequestIdReused => {
            failed(Code::AlreadyExists, "REQUEST_ID_REUSED", "request_id", &text)
        }
        ServiceError::RevisionNotFound { .. } => {
            failed(Code::NotFound, "REVISION_NOT_FOUND", "revision", &text)
        }
        ServiceError::EtagMismatch => failed(Code::Aborted, "ETAG_MISMATCH", "etag", &text),
        ServiceError::TooManyLiveGrants { .. } => {
            failed(Code::ResourceExhausted, "TOO_MANY_LIVE_GRANTS", "tenant_id", &text)
        }
        ServiceError::LockNotFound { .. } => {
            failed(Code::NotFound, "LOCK_NOT_FOUND", "lock_id", &text)
        }
        ServiceError::LockOfOtherParty { .. } => {
            failed(Code::PermissionDenied, "LOCK_OF_OTHER_SIDE", "lock_id", &text)
        }
        ServiceError::TooManyLocks { field, .. } => {
            failed(Code::ResourceExhausted, "TOO_MANY_LOCKS", field, &text)
        }
        ServiceError::Store(StoreError::Unavailable(source)) => {
            error!(error = %source, "the database is not available");
            let mut details = details("DATABASE_UNAVAILABLE", []);
            details.set_retry_info(Some(RETRY_DELAY));
            let text = "the database is not available; send the same request again shortly";
            Status::with_error_details(Code::Unavailable, text, details)
        }
        ServiceError::Store(StoreError::Broken(source)) => {
            // What happened is for the operator alone.
            error!(error = %source, "the database holds or said what it should not");
            inside()
        }
        ServiceError::NotSigned(cause) => {
            error!(error = %cause, "the checkpoint key does not work");
            inside()
        }
    }
}

fn inside() -> Status {
    let text = "something is wrong inside; the server's log says what";
    Status::with_error_details(Code::Internal, text, details("INTERNAL", []))
}

/// Why a follower's stream was ended.
fn end_of_stream(end: &SessionEnd) -> Status {
    let text = end.to_string();
    let breach = |reason, field| failed(Code::InvalidArgument, reason, field, &text);
    let mismatch = |reason, field| failed(Code::FailedPrecondition, reason, field, &text);
    let come_back =
        |code, reason| Status::with_error_details(code, text.as_str(), details(reason, []));
    match end {
        SessionEnd::NoHello => breach("HELLO_EXPECTED", "message"),
        SessionEnd::SecondHello => breach("HELLO_REPEATED", "hello"),
        SessionEnd::WrongAck { .. } => breach("ACK_OUT_OF_RANGE", "ack.revision"),
        SessionEnd::WrongPing { .. } => breach("PING_OUT_OF_ORDER", "ping.sequence"),
        SessionEnd::OtherProtocol(_) => mismatch("PROTOCOL_MISMATCH", "hello.protocol"),
        SessionEnd::Itself => mismatch("FOLLOWS_ITSELF", "hello.node_id"),
        SessionEnd::Flood => come_back(Code::ResourceExhausted, "TOO_MANY_MESSAGES"),
        SessionEnd::TooSlow => come_back(Code::ResourceExhausted, "FOLLOWER_TOO_SLOW"),
        SessionEnd::Unacknowledged(_) => come_back(Code::Aborted, "CHANGES_NOT_ACKNOWLEDGED"),
        SessionEnd::TooMany => come_back(Code::ResourceExhausted, "TOO_MANY_FOLLOWERS"),
        SessionEnd::NewSnapshot => come_back(Code::Aborted, "NEW_SNAPSHOT"),
        SessionEnd::Replaced => come_back(Code::Aborted, "STREAM_REPLACED"),
    }
}

/// What a sidecar says that is asked what only a replica knows.
pub(super) fn ask_a_replica() -> Failure {
    let text = "a sidecar does not know all check nodes: ask a replica";
    Failure(Status::with_error_details(Code::Unimplemented, text, details("ASK_A_REPLICA", [])))
}

/// Why the next message of a stream, of at most `length_max` bytes, could not be read: what tonic says of it, better.
pub(super) fn unread_in_stream(status: Status, length_max: usize) -> Failure {
    Failure(match status.code() {
        Code::OutOfRange => too_long(length_max),
        _ if is_no_message(&status) => no_message(),
        _ => status,
    })
}

/// What a stream is ended with whose caller's credentials hold no more.
pub(super) fn credentials_expired() -> Failure {
    let text = "the caller's certificate or token has expired: come back with a new one";
    Failure(Status::with_error_details(
        Code::Unauthenticated,
        text,
        details("CREDENTIALS_EXPIRED", []),
    ))
}

/// What a stream is ended with whose first message does not come.
pub(super) fn late() -> Failure {
    Failure(Status::deadline_exceeded("the message did not arrive in time"))
}

/// Why the message of a request could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is longer than [`MESSAGE_LENGTH_MAX`].
    TooLong,
    /// It did not arrive whole in time.
    Late,
    /// Its caller has too much under way already.
    Excess,
    /// Its caller or the connection broke it off.
    BrokenOff,
}

/// What a message ends with whose caller is gone.
pub fn broken_off() -> Status {
    Status::cancelled("the message was broken off")
}

/// What a caller is told whose message could not be read.
pub fn refuse_unread(why: Unread) -> Response<Body> {
    match why {
        Unread::TooLong => too_long(MESSAGE_LENGTH_MAX),
        Unread::Late => late().0,
        Unread::Excess => excess(),
        Unread::BrokenOff => broken_off(),
    }
    .into_http()
}

/// Gives what tonic itself refuses, before any handler sees it, the code and details of everything else that is wrong with a
/// request: a message that is too long ([`Code::OutOfRange`], which no handler answers with), or is not one.
pub fn explain_refusal(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    // Most answers have no status in their headers, and few have one of these codes.
    let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    match code {
        Some(Code::OutOfRange) => too_long(MESSAGE_LENGTH_MAX).into_http(),
        Some(Code::Internal)
            if Status::from_header_map(headers).is_some_and(|it| is_no_message(&it)) =>
        {
            no_message().into_http()
        }
        _ => response,
    }
}

/// Whether tonic says by this that what it read is no message. It has one code for that and for its own faults.
fn is_no_message(status: &Status) -> bool {
    status.code() == Code::Internal && NO_MESSAGE.iter().any(|it| status.message().starts_with(it))
}

fn no_message() -> Status {
    invalid(&Violations::of("message", "must be a message of the RPC's request type"))
}

fn too_long(length_max: usize) -> Status {
    let description = format!("must be at most {length_max} bytes long");
    invalid(&Violations::of("message", description))
}

fn invalid(violations: &Violations) -> Status {
    let mut details = details("INVALID_FIELD", []);
    for violation in violations.as_slice().iter().take(VIOLATIONS_MAX) {
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    let shown: Vec<String> = violations
        .as_slice()
        .iter()
        .take(VIOLATIONS_MAX)
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    Status::with_error_details(Code::InvalidArgument, shown.join("; "), details)
}

/// A failure that one field is the reason of.
fn failed(code: Code, reason: &str, field: &str, text: &str) -> Status {
    let mut details = details(reason, []);
    details.add_bad_request_violation(field, text);
    Status::with_error_details(code, text, details)
}

fn details<const N: usize>(reason: &str, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.into(), value)).collect();
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, metadata);
    details
}
