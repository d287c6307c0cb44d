//! Messages to a follower.

use std::{sync::Arc, time::Duration};

use crate::{
    api::{
        grpc::convert::{
            fields::Parsed,
            replication::{
                grants::{GrantReader, GrantWriter},
                locks, out_of_range, parse_bytes, parse_duration, parse_position, parse_revision,
                parse_time, parse_uuid, parse_version, position_message, required, within,
            },
            timestamps::duration,
        },
        proto::replication::v1::{
            self as rpb,
            follow_response::{self as fr, Message},
        },
    },
    domain::{AcceptedClock, GrantTerms, LockTerms, NodeId, Now, TenantId, Time, TokenKey},
    node::message::{Change, LeaseGrant, Pong, SnapshotEnd, ToFollower, Welcome},
    store::Retained,
};

/// The maximum length of a path in a message. A follower accepts less (`node::message::PATH_MAX`).
const PATH_LENGTH_MAX: usize = 16;
/// The bounds of a lease's lifetime. A shorter lease would be renewed continuously.
const LEASE_MIN: Duration = Duration::from_millis(10);
const LEASE_MAX: Duration = Duration::from_hours(1);

/// The message to a follower.
pub fn response(message: ToFollower) -> rpb::FollowResponse {
    let message = match message {
        ToFollower::Welcome(Welcome { protocol, node_id, version }) => {
            let node_id = node_id.0.as_bytes().to_vec();
            Message::Welcome(fr::Welcome { protocol_version: protocol, node_id, version })
        }
        ToFollower::SnapshotBegin => Message::SnapshotBegin(fr::SnapshotBegin {}),
        ToFollower::SnapshotLocks(terms) => {
            let locks = terms.iter().map(|terms| locks::message(terms, false)).collect();
            Message::SnapshotLocks(fr::SnapshotLocks { locks })
        }
        ToFollower::SnapshotGrants(grants) => {
            let mut writer = GrantWriter::default();
            let messages = grants.iter().map(|grant| writer.message(grant)).collect();
            let group_ids = writer.group_ids;
            Message::SnapshotGrants(fr::SnapshotGrants { grants: messages, group_ids })
        }
        ToFollower::SnapshotEnd(end) => {
            let SnapshotEnd { position, token_key, accepted_clocks, has_forged_rows } = end;
            let position = Some(position_message(position));
            let token_key = token_key.0.into();
            let clock = |&AcceptedClock { revision, time, step_ms }: &_| fr::AcceptedClock {
                revision,
                time_us: time.timestamp_micros(),
                step_ms,
            };
            let accepted_clocks = accepted_clocks.iter().map(clock).collect();
            Message::SnapshotEnd(fr::SnapshotEnd {
                position,
                token_key,
                accepted_clocks,
                has_forged_rows,
            })
        }
        ToFollower::Changes(changes) => {
            let mut writer = GrantWriter::default();
            let message = |change: &Arc<Change>| fr::Change {
                revision: change.revision,
                time_us: change.time.timestamp_micros(),
                grant: None,
                lock: change.lock.as_ref().map(|lock| locks::message(&lock.terms, lock.is_ended)),
            };
            let mut messages: Vec<_> = changes.iter().map(message).collect();
            for (message, change) in messages.iter_mut().zip(&changes) {
                message.grant = change.grant.as_ref().map(|grant| writer.message(grant));
            }
            Message::Changes(fr::Changes { changes: messages, group_ids: writer.group_ids })
        }
        ToFollower::Pong(Pong { seq, path, lease }) => Message::Pong(fr::Pong {
            sequence: seq,
            path: path.iter().map(|node_id| node_id.0.as_bytes().to_vec()).collect(),
            lease: lease.map(lease_message),
        }),
    };
    rpb::FollowResponse { message: Some(message) }
}

fn lease_message(lease: LeaseGrant) -> fr::Lease {
    let LeaseGrant { revision, age, max_staleness, now, is_clock_trusted } = lease;
    fr::Lease {
        revision,
        age: Some(duration(age)),
        max_staleness: Some(duration(max_staleness)),
        latest_time_us: micros_rounded_up(now.latest),
        earliest_time_us: now.earliest.timestamp_micros(),
        clock_trusted: is_clock_trusted,
    }
}

/// Rounds up, so that an upper bound remains an upper bound.
fn micros_rounded_up(time: Time) -> i64 {
    let has_rest = !time.timestamp_subsec_nanos().is_multiple_of(1_000);
    time.timestamp_micros() + i64::from(has_rest)
}

/// Parses the message of an upstream.
pub fn parse_response(response: rpb::FollowResponse) -> Parsed<ToFollower> {
    match required("message", response.message)? {
        Message::Welcome(message) => {
            within(parse_welcome(message), "welcome.").map(ToFollower::Welcome)
        }
        Message::SnapshotBegin(fr::SnapshotBegin {}) => Ok(ToFollower::SnapshotBegin),
        Message::SnapshotGrants(message) => {
            let grants = within(parse_grants(message), "snapshot_grants.")?;
            Ok(ToFollower::SnapshotGrants(grants))
        }
        Message::SnapshotLocks(message) => {
            let locks = within(parse_locks(message), "snapshot_locks.")?;
            Ok(ToFollower::SnapshotLocks(locks))
        }
        Message::SnapshotEnd(message) => within(parse_end(message), "snapshot_end."),
        Message::Changes(message) => {
            within(parse_changes(message), "changes.").map(ToFollower::Changes)
        }
        Message::Pong(message) => within(parse_pong(message), "pong.").map(ToFollower::Pong),
    }
}

fn parse_welcome(message: fr::Welcome) -> Parsed<Welcome> {
    let fr::Welcome { protocol_version, node_id, version } = message;
    Ok(Welcome {
        protocol: protocol_version,
        node_id: NodeId(parse_uuid("node_id", &node_id)?),
        version: parse_version("version", version)?,
    })
}

fn parse_grants(message: fr::SnapshotGrants) -> Parsed<Vec<(TenantId, Retained, GrantTerms)>> {
    let fr::SnapshotGrants { group_ids, grants } = message;
    let mut reader = GrantReader::new(&group_ids)?;
    let numbered = grants.into_iter().enumerate();
    let parse = |(index, grant)| within(reader.parse(grant), &format!("grants[{index}]."));
    numbered.map(parse).collect()
}

fn parse_locks(message: fr::SnapshotLocks) -> Parsed<Vec<LockTerms>> {
    let numbered = message.locks.into_iter().enumerate();
    let parse = |(index, lock)| within(locks::parse_live(lock), &format!("locks[{index}]."));
    numbered.map(parse).collect()
}

fn parse_end(message: fr::SnapshotEnd) -> Parsed<ToFollower> {
    let fr::SnapshotEnd { position, token_key, accepted_clocks, has_forged_rows } = message;
    let position = within(parse_position(required("position", position)?), "position.")?;
    let token_key = TokenKey(parse_bytes("token_key", &token_key)?);
    let numbered = accepted_clocks.into_iter().enumerate();
    let parse = |(index, clock)| within(parse_clock(clock), &format!("accepted_clocks[{index}]."));
    let accepted_clocks = numbered.map(parse).collect::<Parsed<_>>()?;
    let end = SnapshotEnd { position, token_key, accepted_clocks, has_forged_rows };
    Ok(ToFollower::SnapshotEnd(end))
}

fn parse_clock(message: fr::AcceptedClock) -> Parsed<AcceptedClock> {
    let fr::AcceptedClock { revision, time_us, step_ms } = message;
    let revision = parse_revision("revision", revision)?;
    Ok(AcceptedClock { revision, time: parse_time("time_us", time_us)?, step_ms })
}

fn parse_changes(message: fr::Changes) -> Parsed<Vec<Arc<Change>>> {
    let fr::Changes { group_ids, changes } = message;
    let mut reader = GrantReader::new(&group_ids)?;
    let numbered = changes.into_iter().enumerate();
    let parse =
        |(index, change)| within(parse_change(&mut reader, change), &format!("changes[{index}]."));
    numbered.map(parse).collect()
}

fn parse_change(reader: &mut GrantReader, message: fr::Change) -> Parsed<Arc<Change>> {
    let fr::Change { revision, time_us, grant, lock } = message;
    Ok(Arc::new(Change {
        revision: parse_revision("revision", revision)?,
        time: parse_time("time_us", time_us)?,
        grant: grant.map(|grant| within(reader.parse(grant), "grant.")).transpose()?,
        lock: lock.map(|lock| within(locks::parse(lock), "lock.")).transpose()?,
    }))
}

fn parse_pong(message: fr::Pong) -> Parsed<Pong> {
    let fr::Pong { sequence, path, lease } = message;
    if path.len() > PATH_LENGTH_MAX {
        return Err(out_of_range("path", &format!("must have at most {PATH_LENGTH_MAX} items")));
    }
    let path = path.iter().map(|bytes| parse_uuid("path", bytes).map(NodeId));
    Ok(Pong {
        seq: sequence,
        path: path.collect::<Parsed<_>>()?,
        lease: lease.map(|message| within(parse_lease(message), "lease.")).transpose()?,
    })
}

fn parse_lease(message: fr::Lease) -> Parsed<LeaseGrant> {
    let is_clock_trusted = message.clock_trusted;
    let fr::Lease { revision, age, max_staleness, latest_time_us, earliest_time_us, .. } = message;
    let max_staleness = required("max_staleness", max_staleness)?;
    let max_staleness = parse_duration("max_staleness", max_staleness)?;
    if !(LEASE_MIN..=LEASE_MAX).contains(&max_staleness) {
        let description = format!("must be from {LEASE_MIN:?} to {LEASE_MAX:?}");
        return Err(out_of_range("max_staleness", &description));
    }
    let age = parse_duration("age", required("age", age)?)?;
    if age > max_staleness {
        return Err(out_of_range("age", "must be at most max_staleness"));
    }
    let latest = parse_time("latest_time_us", latest_time_us)?;
    let earliest = parse_time("earliest_time_us", earliest_time_us)?;
    if earliest > latest {
        return Err(out_of_range("earliest_time_us", "must be at most latest_time_us"));
    }
    Ok(LeaseGrant {
        revision: parse_revision("revision", revision)?,
        age,
        max_staleness,
        now: Now { earliest, latest },
        is_clock_trusted,
    })
}
