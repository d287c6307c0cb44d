//! What check nodes say to each other: words become messages, and messages words.
//!
//! A message is given up at the first field that is wrong, unlike one of a caller: it was made by a program, and may be long.

use std::time::Duration;

use prost_types::Duration as ProtoDuration;
use uuid::Uuid;

use crate::{
    api::{
        grpc::convert::{
            fields::{DURATION_SECONDS_MAX, Parsed},
            responses,
        },
        proto::v1 as pb,
    },
    domain::{
        Epoch, NodeId, NodeInfo, NodeKind, Position, Revision, Time, text::check_line,
        time::from_micros, violation::Violations,
    },
};

mod down;
mod grants;
mod locks;
#[cfg(test)]
mod tests;
mod up;

pub(in crate::api::grpc) use down::{down, response};
pub(in crate::api::grpc) use up::{request, up};

/// The longest name of a program's version, in characters.
const VERSION_LENGTH_MAX: usize = 64;
/// Far above every revision there will be, and far below where arithmetic ends.
const REVISION_MAX: Revision = 1 << 62;

/// What is known of a check node. How far it lags is for whoever knows the head.
pub(in crate::api::grpc) fn node_message(info: NodeInfo, lag: Revision) -> pb::CheckNode {
    let NodeInfo { node_id, kind, version, upstream, revision, lease_age, silent_for } = info;
    let kind = match kind {
        NodeKind::Replica => pb::NodeKind::Replica,
        NodeKind::Sidecar => pb::NodeKind::Sidecar,
    };
    pb::CheckNode {
        node_id: node_id.to_string(),
        kind: kind.into(),
        version,
        upstream_node_id: upstream.map(|node_id| node_id.to_string()).unwrap_or_default(),
        revision,
        lag,
        lease_age: lease_age.map(responses::duration),
        silent_for: Some(responses::duration(silent_for)),
    }
}

fn node(message: pb::CheckNode) -> Parsed<NodeInfo> {
    let pb::CheckNode {
        node_id,
        kind,
        version,
        upstream_node_id,
        revision,
        lag: _,
        lease_age,
        silent_for,
    } = message;
    let id = |field: &str, text: &str| {
        text.parse().map(NodeId).map_err(|_| Violations::of(field, "must be a UUID"))
    };
    let kind = match pb::NodeKind::try_from(kind) {
        Ok(pb::NodeKind::Replica) => NodeKind::Replica,
        Ok(pb::NodeKind::Sidecar) => NodeKind::Sidecar,
        Ok(pb::NodeKind::Unspecified) | Err(_) => {
            return Err(Violations::of("kind", "must be NODE_KIND_REPLICA or NODE_KIND_SIDECAR"));
        }
    };
    let upstream = Some(upstream_node_id).filter(|text| !text.is_empty());
    let upstream = upstream.map(|text| id("upstream_node_id", &text)).transpose()?;
    Ok(NodeInfo {
        node_id: id("node_id", &node_id)?,
        kind,
        version: self::version("version", version)?,
        upstream,
        revision: self::revision("revision", revision)?,
        lease_age: lease_age.map(|age| span("lease_age", age)).transpose()?,
        silent_for: span("silent_for", silent_for.unwrap_or_default())?,
    })
}

fn position_message(position: Position) -> pb::LogPosition {
    let Position { epoch, revision, time } = position;
    pb::LogPosition {
        epoch: epoch.0.as_bytes().to_vec(),
        revision,
        time_us: time.map(|time| time.timestamp_micros()),
    }
}

fn position(message: pb::LogPosition) -> Parsed<Position> {
    let pb::LogPosition { epoch, revision, time_us } = message;
    Ok(Position {
        epoch: Epoch(uuid("epoch", &epoch)?),
        revision: self::revision("revision", revision)?,
        time: time_us.map(|micros| time("time_us", micros)).transpose()?,
    })
}

fn uuid(field: &str, bytes: &[u8]) -> Parsed<Uuid> {
    Uuid::from_slice(bytes).map_err(|_| {
        Violations::of(field, format!("must be 16 bytes long, but has {}", bytes.len()))
    })
}

fn revision(field: &str, revision: i64) -> Parsed<Revision> {
    let is_possible = (0..=REVISION_MAX).contains(&revision);
    is_possible
        .then_some(revision)
        .ok_or_else(|| Violations::of(field, format!("must be from 0 to {REVISION_MAX}")))
}

fn time(field: &str, micros: i64) -> Parsed<Time> {
    from_micros(micros).ok_or_else(|| Violations::of(field, "must be in the years 1 to 9999"))
}

fn version(field: &str, text: String) -> Parsed<String> {
    match check_line(&text, VERSION_LENGTH_MAX) {
        Ok(()) => Ok(text),
        Err(error) => Err(Violations::of(field, error)),
    }
}

/// To the nanosecond: a lease must not grow or shrink on its way.
fn span(field: &str, duration: ProtoDuration) -> Parsed<Duration> {
    let ProtoDuration { seconds, nanos } = duration;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(whole), Ok(nanos)) if seconds <= DURATION_SECONDS_MAX && nanos < 1_000_000_000 => {
            Ok(Duration::new(whole, nanos))
        }
        _ => Err(Violations::of(field, "must be a valid length of time, and not negative")),
    }
}

fn required<T>(field: &str, message: Option<T>) -> Parsed<T> {
    message.ok_or_else(|| Violations::of(field, "must be given"))
}

/// What is wrong with a field is wrong within the one that it is in.
fn within<T>(parsed: Parsed<T>, prefix: &str) -> Parsed<T> {
    parsed.map_err(|violations| violations.within(prefix))
}
