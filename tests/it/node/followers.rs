//! The followers of a node.

use std::time::Duration;

use support_access::{
    domain::{BootTime, NodeId},
    node::{
        Snapshot,
        followers::Followers,
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

#[test]
fn the_number_of_followers_is_bounded() {
    let hello = |number: usize| Hello {
        protocol: PROTOCOL,
        node_id: NodeId(Uuid::from_u128(number as u128)),
        version: String::new(),
        position: None,
        lease_age: None,
    };
    let (mut followers, now) = (Followers::default(), BootTime(0));
    let streams: Vec<_> =
        (0..FOLLOWERS_MAX).map(|number| followers.connect(&hello(number), now)).collect();
    assert!(streams.iter().all(Option::is_some));
    assert_eq!(followers.connect(&hello(FOLLOWERS_MAX), now), None, "one too many");
    assert!(followers.connect(&hello(0), now).is_some(), "a known follower reconnects");
    followers.disconnect(hello(1).node_id, streams[1].unwrap());
    let is_admitted = followers.connect(&hello(FOLLOWERS_MAX), now).is_some();
    assert!(is_admitted, "a disconnected follower without a lease is forgotten");
}
