//! Errors become statuses, here and nowhere else.

use std::{collections::HashMap, time::Duration};

use http::Response;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::error;

use crate::{
    domain::{policy::join, violation::Violations},
    store::StoreError,
    work::WorkError,
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

impl From<WorkError> for Failure {
    fn from(error: WorkError) -> Self {
        Self(status(&error))
    }
}

impl From<Violations> for Failure {
    fn from(violations: Violations) -> Self {
        Self(status(&WorkError::Invalid(violations)))
    }
}

/// A status on its way out of a handler: what `?` makes of an error.
pub(super) struct Failure(pub(super) Status);

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

fn status(error: &WorkError) -> Status {
    let text = error.to_string();
    match error {
        WorkError::Invalid(violations) => invalid(violations),
        WorkError::GrantNotFound { .. } => {
            failed(Code::NotFound, "GRANT_NOT_FOUND", "grant_id", &text)
        }
        WorkError::GrantEnded { .. } => {
            failed(Code::FailedPrecondition, "GRANT_ENDED", "grant_id", &text)
        }
        WorkError::GroupNotOffered { offered, .. } => {
            let mut details = details("GROUP_NOT_OFFERED", [("groups", join(offered.iter()))]);
            details.add_bad_request_violation("group_id", text.clone());
            Status::with_error_details(Code::FailedPrecondition, text, details)
        }
        WorkError::RequestIdReused => {
            failed(Code::AlreadyExists, "REQUEST_ID_REUSED", "request_id", &text)
        }
        WorkError::EtagMismatch => failed(Code::Aborted, "ETAG_MISMATCH", "etag", &text),
        WorkError::TooManyLiveGrants { .. } => {
            failed(Code::ResourceExhausted, "TOO_MANY_LIVE_GRANTS", "tenant_id", &text)
        }
        WorkError::Store(StoreError::Unavailable(source)) => {
            error!(error = %source, "the database is not available");
            let mut details = details("DATABASE_UNAVAILABLE", []);
            details.set_retry_info(Some(RETRY_DELAY));
            let text = "the database is not available; send the same request again shortly";
            Status::with_error_details(Code::Unavailable, text, details)
        }
        WorkError::Store(StoreError::Broken(source)) => {
            // What happened is for the operator alone.
            error!(error = %source, "the database holds or said what it should not");
            let details = details("INTERNAL", []);
            let text = "something is wrong inside; the server's log says what";
            Status::with_error_details(Code::Internal, text, details)
        }
    }
}

/// Why the message of a request could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is longer than [`MESSAGE_LENGTH_MAX`].
    TooLong,
    /// It did not arrive whole in time.
    Late,
    /// Its caller or the connection broke it off.
    BrokenOff,
}

/// What a caller is told whose message could not be read.
pub fn refuse_unread(why: Unread) -> Response<Body> {
    match why {
        Unread::TooLong => too_long(),
        Unread::Late => Status::deadline_exceeded("the message did not arrive in time"),
        Unread::BrokenOff => Status::cancelled("the message was broken off"),
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
        Some(Code::OutOfRange) => too_long().into_http(),
        Some(Code::Internal)
            if Status::from_header_map(headers).is_some_and(|it| is_no_message(&it)) =>
        {
            let description = "must be a message of the RPC's request type";
            invalid(&Violations::of("message", description)).into_http()
        }
        _ => response,
    }
}

/// Whether tonic says by this that what it read is no message. It has one code for that and for its own faults.
fn is_no_message(status: &Status) -> bool {
    status.code() == Code::Internal && NO_MESSAGE.iter().any(|it| status.message().starts_with(it))
}

fn too_long() -> Status {
    let description = format!("must be at most {MESSAGE_LENGTH_MAX} bytes long");
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
