//! What a follower is told.

use std::{sync::Arc, time::Duration};

use crate::{
    api::{
        grpc::convert::{
            fields::Parsed,
            follow::{
                grants::{Reader, Writer},
                locks, position, position_message, required, revision, span, time, uuid, version,
                within,
            },
            responses::duration,
        },
        proto::v1::{
            self as pb,
            follow_response::{self as fr, Message},
        },
    },
    domain::{GrantTerms, LockTerms, NodeId, Now, TenantId, Time, violation::Violations},
    node::message::{Change, LeaseGrant, Pong, ToFollower, Welcome},
    store::Retained,
};

/// The longest path that is read. Which is too long to follow, the follower says itself.
const PATH_READ_MAX: usize = 16;
/// How long a lease may be. A lease that is no time at all would be renewed all the time.
const LEASE_MIN: Duration = Duration::from_millis(10);
const LEASE_MAX: Duration = Duration::from_hours(1);

/// The message that says `down`.
pub(in crate::api::grpc) fn response(down: ToFollower) -> pb::FollowResponse {
    let message = match down {
        ToFollower::Welcome(Welcome { protocol, node_id, version }) => {
            let node_id = node_id.0.as_bytes().to_vec();
            Message::Welcome(fr::Welcome { protocol, node_id, version })
        }
        ToFollower::SnapshotBegin => Message::SnapshotBegin(fr::SnapshotBegin {}),
        ToFollower::SnapshotLocks(held) => {
            let locks = held.iter().map(|terms| locks::write(terms, false)).collect();
            Message::SnapshotLocks(fr::SnapshotLocks { locks })
        }
        ToFollower::SnapshotGrants(grants) => {
            let mut writer = Writer::default();
            let messages = grants.iter().map(|grant| writer.write(grant)).collect();
            Message::SnapshotGrants(fr::SnapshotGrants {
                grants: messages,
                group_ids: writer.group_ids,
            })
        }
        ToFollower::SnapshotEnd(position) => {
            let position = Some(position_message(position));
            Message::SnapshotEnd(fr::SnapshotEnd { position })
        }
        ToFollower::Changes(changes) => {
            let mut writer = Writer::default();
            let change = |change: &Arc<Change>| fr::Change {
                revision: change.revision,
                time_us: change.time.timestamp_micros(),
                grant: None,
                lock: change.lock.as_ref().map(|it| locks::write(&it.terms, it.is_ended)),
            };
            let mut messages: Vec<_> = changes.iter().map(change).collect();
            for (message, change) in messages.iter_mut().zip(&changes) {
                message.grant = change.grant.as_ref().map(|grant| writer.write(grant));
            }
            Message::Changes(fr::Changes { changes: messages, group_ids: writer.group_ids })
        }
        ToFollower::Pong(Pong { seq, path, lease }) => Message::Pong(fr::Pong {
            sequence: seq,
            path: path.iter().map(|node_id| node_id.0.as_bytes().to_vec()).collect(),
            lease: lease.map(lease_message),
        }),
    };
    pb::FollowResponse { message: Some(message) }
}

fn lease_message(lease_grant: LeaseGrant) -> fr::Lease {
    let LeaseGrant { revision, age, max_staleness, now } = lease_grant;
    fr::Lease {
        revision,
        age: Some(duration(age)),
        max_staleness: Some(duration(max_staleness)),
        time_us: micros_or_later(now.latest),
        earliest_time_us: now.earliest.timestamp_micros(),
    }
}

/// The latest that the database's clock may show is rounded up, as the earliest is rounded down.
fn micros_or_later(time: Time) -> i64 {
    let has_rest = !time.timestamp_subsec_nanos().is_multiple_of(1_000);
    time.timestamp_micros() + i64::from(has_rest)
}

/// What a message to a follower says.
pub(in crate::api::grpc) fn down(response: pb::FollowResponse) -> Parsed<ToFollower> {
    match response.message {
        Some(Message::Welcome(message)) => {
            within(welcome(message), "welcome.").map(ToFollower::Welcome)
        }
        Some(Message::SnapshotBegin(fr::SnapshotBegin {})) => Ok(ToFollower::SnapshotBegin),
        Some(Message::SnapshotGrants(message)) => {
            let grants = within(grants(message), "snapshot_grants.")?;
            Ok(ToFollower::SnapshotGrants(grants))
        }
        Some(Message::SnapshotLocks(message)) => {
            let locks = within(held_locks(message), "snapshot_locks.")?;
            Ok(ToFollower::SnapshotLocks(locks))
        }
        Some(Message::SnapshotEnd(fr::SnapshotEnd { position: message })) => {
            let message = required("snapshot_end.position", message)?;
            within(position(message), "snapshot_end.position.").map(ToFollower::SnapshotEnd)
        }
        Some(Message::Changes(message)) => {
            within(changes(message), "changes.").map(ToFollower::Changes)
        }
        Some(Message::Pong(message)) => within(pong(message), "pong.").map(ToFollower::Pong),
        None => Err(Violations::of(
            "message",
            "must be welcome, snapshot_begin, snapshot_locks, snapshot_grants, snapshot_end, changes or pong",
        )),
    }
}

fn welcome(message: fr::Welcome) -> Parsed<Welcome> {
    let fr::Welcome { protocol, node_id, version } = message;
    Ok(Welcome {
        protocol,
        node_id: NodeId(uuid("node_id", &node_id)?),
        version: self::version("version", version)?,
    })
}

fn grants(message: fr::SnapshotGrants) -> Parsed<Vec<(TenantId, Retained, GrantTerms)>> {
    let fr::SnapshotGrants { group_ids, grants } = message;
    let mut reader = Reader::new(&group_ids)?;
    let mut words = Vec::with_capacity(grants.len());
    for (index, grant) in grants.into_iter().enumerate() {
        let read = reader.read(grant);
        words.push(read.map_err(|wrong| wrong.within(&format!("grants[{index}].")))?);
    }
    Ok(words)
}

fn held_locks(message: fr::SnapshotLocks) -> Parsed<Vec<LockTerms>> {
    let numbered = message.locks.into_iter().enumerate();
    let read = |(index, lock)| within(locks::read_held(lock), &format!("locks[{index}]."));
    numbered.map(read).collect()
}

fn changes(message: fr::Changes) -> Parsed<Vec<Arc<Change>>> {
    let fr::Changes { group_ids, changes } = message;
    let mut reader = Reader::new(&group_ids)?;
    let mut words = Vec::with_capacity(changes.len());
    for (index, change) in changes.into_iter().enumerate() {
        let read = self::change(&mut reader, change);
        words.push(read.map_err(|wrong| wrong.within(&format!("changes[{index}].")))?);
    }
    Ok(words)
}

fn change(reader: &mut Reader, message: fr::Change) -> Parsed<Arc<Change>> {
    let fr::Change { revision, time_us, grant, lock } = message;
    Ok(Arc::new(Change {
        revision: self::revision("revision", revision)?,
        time: time("time_us", time_us)?,
        grant: grant.map(|grant| within(reader.read(grant), "grant.")).transpose()?,
        lock: lock.map(|lock| within(locks::read(lock), "lock.")).transpose()?,
    }))
}

fn pong(message: fr::Pong) -> Parsed<Pong> {
    let fr::Pong { sequence, path, lease } = message;
    if path.len() > PATH_READ_MAX {
        return Err(Violations::of("path", format!("must be at most {PATH_READ_MAX} long")));
    }
    let path = path.iter().map(|bytes| uuid("path", bytes).map(NodeId));
    Ok(Pong {
        seq: sequence,
        path: path.collect::<Parsed<_>>()?,
        lease: lease.map(|message| within(self::lease(message), "lease.")).transpose()?,
    })
}

fn lease(message: fr::Lease) -> Parsed<LeaseGrant> {
    let fr::Lease { revision, age, max_staleness, time_us, earliest_time_us } = message;
    let max_staleness = span("max_staleness", required("max_staleness", max_staleness)?)?;
    if !(LEASE_MIN..=LEASE_MAX).contains(&max_staleness) {
        let description = format!("must be from {LEASE_MIN:?} to {LEASE_MAX:?}");
        return Err(Violations::of("max_staleness", description));
    }
    let age = span("age", required("age", age)?)?;
    if age > max_staleness {
        return Err(Violations::of("age", "must be at most max_staleness"));
    }
    let latest = time("time_us", time_us)?;
    let earliest = time("earliest_time_us", earliest_time_us)?;
    if earliest > latest {
        return Err(Violations::of("earliest_time_us", "must not be after time_us"));
    }
    Ok(LeaseGrant {
        revision: self::revision("revision", revision)?,
        age,
        max_staleness,
        now: Now { earliest, latest },
    })
}
