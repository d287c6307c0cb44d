//! The followers of a node.

use std::{sync::Arc, time::Duration};

use support_access::{
    domain::{BootTime, NodeId, NodeInfo, NodeKind, time::from_micros},
    node::{
        Snapshot,
        followers::Followers,
        lease::{ClockReading, Lease},
        message::{
            FOLLOWERS_MAX, FOLLOWERS_PER_CALLER_MAX, Hello, PROTOCOL, REPORT_MAX, REPORTED_MAX,
        },
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
    let callers: [Arc<str>; 2] = ["one".into(), "other".into()];
    let connect = |followers: &mut Followers, number, caller: usize| {
        followers.connect(&hello(number), &callers[caller], now)
    };
    let of_caller = FOLLOWERS_PER_CALLER_MAX;
    let streams: Vec<_> = (0..of_caller).map(|number| connect(&mut followers, number, 0)).collect();
    assert!(streams.iter().all(Option::is_some));
    assert_eq!(connect(&mut followers, of_caller, 0), None, "one too many of this caller");
    for number in of_caller..FOLLOWERS_MAX {
        assert!(connect(&mut followers, number, 1).is_some(), "another caller");
    }
    assert_eq!(connect(&mut followers, FOLLOWERS_MAX, 1), None, "one too many");
    assert!(connect(&mut followers, 0, 0).is_some(), "a known follower reconnects");
    followers.disconnect(hello(1).node_id, streams[1].unwrap());
    let is_admitted = connect(&mut followers, FOLLOWERS_MAX, 1).is_some();
    assert!(is_admitted, "a disconnected follower without a lease is forgotten");
}

#[test]
fn disconnected_followers_with_a_lease_count_for_their_caller() {
    let (mut followers, now) = (Followers::default(), BootTime(0));
    let max_staleness = Duration::from_secs(2);
    let time = from_micros(0).unwrap().into();
    let database_clock = ClockReading { sent_at: now, received_at: now, value: time };
    let lease = Lease { valid_from: now, revision: 0, max_staleness, database_clock };
    let callers: [Arc<str>; 2] = ["one".into(), "other".into()];
    for number in 0..FOLLOWERS_PER_CALLER_MAX {
        let stream = followers.connect(&hello(number), &callers[0], now).unwrap();
        followers.record_lease_grant(hello(number).node_id, stream, &lease, now);
        followers.disconnect(hello(number).node_id, stream);
    }
    assert_eq!(followers.connect(&hello(FOLLOWERS_MAX), &callers[0], now), None);
    assert!(followers.connect(&hello(FOLLOWERS_MAX), &callers[1], now).is_some());
    assert!(followers.connect(&hello(7), &callers[0], now).is_some(), "a follower returns");
    let later = now + 3 * max_staleness;
    assert!(followers.connect(&hello(FOLLOWERS_MAX + 1), &callers[0], later).is_some());
}

#[test]
fn the_number_of_reported_nodes_is_bounded() {
    let (mut followers, now) = (Followers::default(), BootTime(0));
    let relay = |number: usize| hello(number).node_id;
    let report = |count| {
        let info = |number: usize| NodeInfo {
            node_id: NodeId(Uuid::from_u128(1_000_000 + number as u128)),
            kind: NodeKind::Sidecar,
            version: String::new(),
            upstream: None,
            revision: 0,
            lease_age: None,
            silent_for: Duration::ZERO,
        };
        (0..count).map(info).collect::<Vec<_>>()
    };
    let streams: Vec<_> =
        (0..10).map(|number| followers.connect(&hello(number), &"one".into(), now)).collect();
    for (number, stream) in streams.iter().enumerate() {
        followers.record_report(relay(number), stream.unwrap(), report(REPORT_MAX));
    }
    assert_eq!(followers.reported(), REPORTED_MAX);
    followers.record_report(relay(0), streams[0].unwrap(), report(1));
    followers.record_report(relay(9), streams[9].unwrap(), report(REPORT_MAX));
    assert_eq!(followers.reported(), REPORTED_MAX, "a shorter report makes room");
    for (number, stream) in streams.iter().enumerate() {
        followers.disconnect(relay(number), stream.unwrap());
    }
    assert_eq!(followers.reported(), 0);
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
