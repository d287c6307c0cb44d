//! The messages of replication between check nodes.
//!
//! Parsing stops at the first invalid field, because a message can be long, and no user corrects
//! the fields by hand.

use std::time::Duration;

use prost_types::Duration as ProtoDuration;
use uuid::Uuid;

use crate::{
    api::{
        grpc::convert::fields::{DURATION_SECONDS_MAX, Parsed},
        proto::replication::v1 as rpb,
    },
    domain::{
        Epoch, Position, Revision, Time, ViolationReason, ids::check_line, time::from_micros,
        violation::Violations,
    },
};

mod grants;
mod locks;
mod request;
mod response;

pub use request::{parse_request, request};
pub use response::{parse_response, response};

/// The maximum length of a program's version, in characters.
const VERSION_LENGTH_MAX: usize = 64;
/// Greater than every real revision, and small enough that arithmetic cannot overflow.
const REVISION_MAX: Revision = 1 << 62;

fn position_message(position: Position) -> rpb::LogPosition {
    let Position { epoch, revision, time } = position;
    rpb::LogPosition {
        epoch: epoch.0.as_bytes().to_vec(),
        revision,
        time_us: time.map(|time| time.timestamp_micros()),
    }
}

fn parse_position(message: rpb::LogPosition) -> Parsed<Position> {
    let rpb::LogPosition { epoch, revision, time_us } = message;
    Ok(Position {
        epoch: Epoch(parse_uuid("epoch", &epoch)?),
        revision: parse_revision("revision", revision)?,
        time: time_us.map(|micros| parse_time("time_us", micros)).transpose()?,
    })
}

fn parse_bytes(field: &str, bytes: &[u8]) -> Parsed<[u8; 16]> {
    let description = || format!("must have 16 bytes, but has {}", bytes.len());
    bytes.try_into().map_err(|_| malformed(field, &description()))
}

fn parse_uuid(field: &str, bytes: &[u8]) -> Parsed<Uuid> {
    parse_bytes(field, bytes).map(Uuid::from_bytes)
}

fn parse_revision(field: &str, revision: i64) -> Parsed<Revision> {
    if (0..=REVISION_MAX).contains(&revision) {
        Ok(revision)
    } else {
        Err(out_of_range(field, &format!("must be from 0 to {REVISION_MAX}")))
    }
}

fn parse_time(field: &str, micros: i64) -> Parsed<Time> {
    from_micros(micros).ok_or_else(|| out_of_range(field, "must be in the years 1 to 9999"))
}

fn parse_version(field: &str, text: String) -> Parsed<String> {
    match check_line(&text, VERSION_LENGTH_MAX) {
        Ok(()) => Ok(text),
        Err(error) => Err(Violations::of_text(field, error)),
    }
}

/// Exact to the nanosecond: a lease must not grow or shrink in transit.
fn parse_duration(field: &str, duration: ProtoDuration) -> Parsed<Duration> {
    let ProtoDuration { seconds, nanos } = duration;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(whole), Ok(nanos)) if seconds <= DURATION_SECONDS_MAX && nanos < 1_000_000_000 => {
            Ok(Duration::new(whole, nanos))
        }
        _ => Err(out_of_range(field, "must be a valid duration, and not negative")),
    }
}

fn required<T>(field: &str, message: Option<T>) -> Parsed<T> {
    message.ok_or_else(|| Violations::of(field, ViolationReason::Required, "must be set"))
}

fn malformed(field: &str, description: &str) -> Violations {
    Violations::of(field, ViolationReason::Malformed, description)
}

fn out_of_range(field: &str, description: &str) -> Violations {
    Violations::of(field, ViolationReason::OutOfRange, description)
}

/// Adds the path of the enclosing message to a violation.
fn within<T>(parsed: Parsed<T>, prefix: &str) -> Parsed<T> {
    parsed.map_err(|violations| violations.within(prefix))
}
