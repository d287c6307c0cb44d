//! The followers of a node.

use std::{sync::Arc, time::Duration};

use support_access::{
    domain::{BootTime, NodeId, time::from_micros},
    node::{
        Snapshot,
        followers::{Followers, NoSlot},
        lease::{ClockReading, Lease},
        message::{FOLLOWERS_MAX, FOLLOWERS_PER_CREDENTIAL_MAX, Hello, PROTOCOL},
        snapshot_transfer::SnapshotTransfer,
    },
};
use uuid::Uuid;

#[test]
fn stalled_transfers_are_dropped() {
    let (mut followers, start) = (Followers::default(), BootTime(0));
    let transfer = |now| SnapshotTransfer::start(Snapshot::default(), now);
    for stream in [1, 2] {
        followers.start_transfer(stream, transfer(start));
    }
    let later = start + Duration::from_secs(10);
    let earlier = later - Duration::from_secs(1);
    assert_eq!(followers.next_snapshot_message(1, earlier), Some(None), "an empty snapshot");
    followers.start_transfer(3, transfer(later));
    followers.drop_stalled_transfers(later);
    assert_eq!(followers.next_snapshot_message(2, later), None, "stalled");
    assert_eq!(followers.next_snapshot_message(3, later), Some(None));
}

#[test]
fn the_number_of_followers_is_bounded() {
    let (mut followers, now) = (Followers::default(), BootTime(0));
    let credentials: [Arc<str>; 2] = ["one".into(), "other".into()];
    let connect = |followers: &mut Followers, number, credential: usize| {
        followers.connect(&hello(number), &credentials[credential], None, now)
    };
    let of_credential = FOLLOWERS_PER_CREDENTIAL_MAX;
    let streams: Vec<_> =
        (0..of_credential).map(|number| connect(&mut followers, number, 0).unwrap()).collect();
    let one_more = connect(&mut followers, of_credential, 0);
    assert_eq!(one_more, Err(NoSlot::TooMany), "one too many with this credential");
    for number in of_credential..FOLLOWERS_MAX {
        assert!(connect(&mut followers, number, 1).is_ok(), "another credential");
    }
    assert_eq!(connect(&mut followers, FOLLOWERS_MAX, 1), Err(NoSlot::TooMany), "one too many");
    assert!(connect(&mut followers, 0, 0).is_ok(), "a known follower reconnects");
    followers.disconnect(hello(1).node_id, streams[1]);
    let is_admitted = connect(&mut followers, FOLLOWERS_MAX, 1).is_ok();
    assert!(is_admitted, "a disconnected follower without a lease is forgotten");
}

#[test]
fn disconnected_followers_with_a_lease_count_for_their_credential() {
    let (mut followers, now) = (Followers::default(), BootTime(0));
    let max_staleness = Duration::from_secs(2);
    let time = from_micros(0).unwrap().into();
    let database_clock =
        ClockReading { sent_at: now, received_at: now, value: time, is_trusted: true };
    let lease = Lease { valid_from: now, revision: 0, max_staleness, database_clock };
    let credentials: [Arc<str>; 2] = ["one".into(), "other".into()];
    let connect = |followers: &mut Followers, number, credential: usize, now| {
        followers.connect(&hello(number), &credentials[credential], None, now)
    };
    for number in 0..FOLLOWERS_PER_CREDENTIAL_MAX {
        let stream = connect(&mut followers, number, 0, now).unwrap();
        followers.record_lease_grant(hello(number).node_id, stream, &lease, now);
        followers.disconnect(hello(number).node_id, stream);
    }
    assert_eq!(connect(&mut followers, FOLLOWERS_MAX, 0, now), Err(NoSlot::TooMany));
    assert!(connect(&mut followers, FOLLOWERS_MAX, 1, now).is_ok());
    assert!(connect(&mut followers, 7, 0, now).is_ok(), "a follower returns");
    let later = now + 3 * max_staleness;
    assert!(connect(&mut followers, FOLLOWERS_MAX + 1, 0, later).is_ok());
}

#[test]
fn a_node_id_belongs_to_the_credential_that_first_used_it() {
    let (mut followers, now) = (Followers::default(), BootTime(0));
    let mut connect =
        |credential: &str| followers.connect(&hello(1), &credential.into(), None, now);
    let first = connect("sidecar").unwrap();
    assert_eq!(connect("rogue"), Err(NoSlot::OtherCredential));
    let second = connect("sidecar").unwrap();
    assert_ne!(first, second, "the follower itself may open another stream");
    assert_eq!(connect("rogue"), Err(NoSlot::OtherCredential));
    followers.disconnect(hello(1).node_id, second);
    let forgotten = followers.connect(&hello(1), &"rogue".into(), None, now);
    assert!(forgotten.is_ok(), "a disconnected follower without a lease is forgotten");
}

fn hello(number: usize) -> Hello {
    Hello {
        protocol: PROTOCOL,
        node_id: NodeId(Uuid::from_u128(number as u128)),
        version: String::new(),
        position: None,
        lease_age: None,
    }
}
