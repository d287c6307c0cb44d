//! The sessions of one follower and of one upstream.

use std::{sync::Arc, time::Duration};

use support_access::{
    domain::{
        Epoch, LockId, LockTarget, LockTerms, NodeId, NodeKind, Party, TokenKey,
        clock::ManualClock, time::from_micros,
    },
    node::{
        CheckNode, Snapshot,
        follower_session::{FollowerSession, SessionEnd},
        message::{Hello, PROTOCOL, ToFollower, ToUpstream, Welcome},
        upstream_session::{FollowError, UpstreamSession},
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

#[test]
fn an_upstream_that_sends_an_endless_snapshot_is_left() {
    const BYTES_MAX: u64 = 1_024 * 1_024;
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Sidecar, clock);
    node.limit_snapshots(BYTES_MAX);
    let mut session = UpstreamSession::new(Arc::clone(&node), false);
    let welcome =
        Welcome { protocol: PROTOCOL, node_id: NodeId(Uuid::max()), version: String::new() };
    session.receive(ToFollower::Welcome(welcome)).unwrap();
    session.receive(ToFollower::SnapshotBegin).unwrap();
    let lock = |number| LockTerms {
        lock_id: LockId(Uuid::from_u128(number)),
        tenant_id: None,
        target: LockTarget::Everything,
        party: Party::Vendor,
        expire_time: None,
    };
    let mut received = 0;
    let left = loop {
        let locks: Vec<_> = (received..received + 100).map(lock).collect();
        received += 100;
        if let Err(error) = session.receive(ToFollower::SnapshotLocks(locks)) {
            break error;
        }
    };
    assert!(matches!(left, FollowError::Lost(_)), "{left:?}");
    let received_bytes = u64::try_from(received).unwrap() * lock(0).weight() as u64;
    assert!((BYTES_MAX..2 * BYTES_MAX).contains(&received_bytes), "{received_bytes} B");
}
