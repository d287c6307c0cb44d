//! The followers of a node.

use std::{sync::Arc, time::Duration};

use support_access::{
    domain::{BootTime, NodeId},
    node::{
        Snapshot,
        followers::{Followers, NoSlot},
        message::{FOLLOWERS_MAX, Hello, PROTOCOL},
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

fn hello(number: usize) -> Hello {
    Hello {
        protocol: PROTOCOL,
        node_id: NodeId(Uuid::from_u128(number as u128)),
        version: String::new(),
        position: None,
        lease_age: None,
    }
}

#[test]
fn the_number_of_followers_is_bounded() {
    let (mut followers, now) = (Followers::default(), BootTime(0));
    let credential: Arc<str> = "sidecar".into();
    let connect = |followers: &mut Followers, number| {
        followers.connect(&hello(number), &credential, None, now)
    };
    let streams: Vec<_> =
        (0..FOLLOWERS_MAX).map(|number| connect(&mut followers, number).unwrap()).collect();
    let one_more = connect(&mut followers, FOLLOWERS_MAX);
    assert_eq!(one_more, Err(NoSlot::TooMany));
    assert!(connect(&mut followers, 0).is_ok(), "a known follower reconnects");
    followers.disconnect(hello(1).node_id, streams[1]);
    let is_admitted = connect(&mut followers, FOLLOWERS_MAX).is_ok();
    assert!(is_admitted, "a disconnected follower without a lease is forgotten");
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
