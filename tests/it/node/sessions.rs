//! The session of one follower.

use std::{sync::Arc, time::Duration};

use support_access::{
    domain::{Epoch, NodeId, NodeKind, TokenKey, clock::ManualClock, time::from_micros},
    node::{
        CheckNode, Snapshot,
        follower_session::{FollowerSession, SessionEnd},
        message::{Hello, PROTOCOL, ToFollower, ToUpstream},
    },
};
use uuid::Uuid;

#[test]
fn a_session_that_ends_during_a_snapshot_is_disconnected() {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Replica, clock.clone());
    node.replace_snapshot(Snapshot::beginning(Epoch(Uuid::nil()), TokenKey([0; 16])));
    let mut session = FollowerSession::new(Arc::clone(&node), "sidecar".into());
    let hello = Hello {
        protocol: PROTOCOL,
        node_id: NodeId(Uuid::max()),
        version: String::new(),
        position: None,
        lease_age: None,
    };
    session.receive(ToUpstream::Hello(hello)).unwrap();
    let welcome = session.next_message().unwrap();
    assert!(matches!(welcome, Some(ToFollower::Welcome(_))), "{welcome:?}");
    assert_eq!(session.next_message(), Ok(Some(ToFollower::SnapshotBegin)));
    clock.pass(Duration::from_secs(10));
    node.apply(&[]).unwrap();
    assert_eq!(session.next_message(), Err(SessionEnd::TooSlow), "the transfer is stalled");
    assert_eq!(node.gauges().followers, 1);
    drop(session);
    assert_eq!(node.gauges().followers, 0);
}
