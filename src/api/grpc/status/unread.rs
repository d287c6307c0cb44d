//! Messages that could not be read.

use tonic::{Code, Status};

use super::{Failure, compressed, disconnected, excess, invalid, late};
use crate::domain::{ViolationReason, violation::Violations};

/// How prost and tonic report that a message cannot be decoded.
const MALFORMED_MESSAGE: [&str; 4] = [
    "failed to decode Protobuf message: ",
    "protocol error: received message with ",
    "Unexpected EOF decoding stream.",
    "Missing request message.",
];

/// Why the message of a request could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// The message is longer than this, in bytes.
    TooLong {
        /// The maximum length.
        length_max: usize,
    },
    /// The message cannot be decoded.
    Malformed,
    /// Fields of the message are invalid.
    Invalid(Box<Violations>),
    /// The message is compressed in a way that the server does not support.
    Compressed,
    /// The message expands to far more bytes than were sent.
    Expanded,
    /// The decoded message would take too much memory.
    TooManyFields,
    /// The message did not arrive before the deadline.
    Late,
    /// The caller's requests in flight are too large.
    Excess,
    /// The caller disconnected before the end of the message.
    Disconnected,
}

/// Why the next message of a stream, of at most `length_max` bytes, could not be read.
pub(in crate::api::grpc) fn unread_in_stream(status: Status, length_max: usize) -> Failure {
    match status.code() {
        Code::OutOfRange => too_long(length_max).into(),
        _ if is_malformed_message(&status) => malformed_message().into(),
        _ => status.into(),
    }
}

impl From<Unread> for Failure {
    fn from(cause: Unread) -> Self {
        unread(cause).into()
    }
}

fn unread(cause: Unread) -> Status {
    match cause {
        Unread::TooLong { length_max } => too_long(length_max),
        Unread::Malformed => malformed_message(),
        Unread::Invalid(violations) => invalid(&violations),
        Unread::Compressed => compressed(),
        Unread::Expanded => {
            let description = "must not be so compressible; send it without compression";
            invalid(&Violations::of("message", ViolationReason::OutOfRange, description))
        }
        Unread::TooManyFields => {
            let description = "has too many fields; send fewer in one message";
            invalid(&Violations::of("message", ViolationReason::OutOfRange, description))
        }
        Unread::Late => late("the message did not arrive before the deadline"),
        Unread::Excess => excess(),
        Unread::Disconnected => disconnected(),
    }
}

/// Whether tonic could not decode a message. Tonic returns the same code for internal errors.
pub(super) fn is_malformed_message(status: &Status) -> bool {
    status.code() == Code::Internal
        && MALFORMED_MESSAGE.iter().any(|start| status.message().starts_with(start))
}

pub(super) fn malformed_message() -> Status {
    let description = "must be a message of the RPC's request type";
    invalid(&Violations::of("message", ViolationReason::Malformed, description))
}

/// The error that ends a message that is too long.
pub(super) fn too_long(length_max: usize) -> Status {
    let description = format!("must be at most {length_max} bytes long");
    invalid(&Violations::of("message", ViolationReason::OutOfRange, description))
}
