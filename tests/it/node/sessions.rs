//! The sessions of one follower and of one upstream.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{
        AcceptedClock, Clock, Epoch, LockId, LockTarget, LockTerms, NodeId, NodeKind, Party,
        Position, Time, TokenKey, clock::ManualClock, time::from_micros,
    },
    node::{
        CheckNode, NodeLimits, Snapshot,
        follower_session::{FollowerSession, SessionEnd},
        message::{Hello, LeaseGrant, PROTOCOL, SnapshotEnd, ToFollower, ToUpstream, Welcome},
        upstream_session::{FollowError, UpstreamSession},
    },
};
use uuid::Uuid;

const KEY: TokenKey = TokenKey([0; 16]);

#[test]
fn a_session_that_ends_during_a_snapshot_is_disconnected() {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Replica, clock.clone());
    node.replace_snapshot(Snapshot::beginning(Epoch(Uuid::nil()), KEY));
    let mut session = FollowerSession::new(Arc::clone(&node), "sidecar".into());
    session.receive(ToUpstream::Hello(hello())).unwrap();
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
    let limits = NodeLimits { snapshot_bytes: BYTES_MAX, ..NodeLimits::default() };
    let node = CheckNode::limited(NodeId(Uuid::nil()), NodeKind::Sidecar, clock, limits);
    let mut session = UpstreamSession::new(Arc::clone(&node), false);
    session.receive(welcome()).unwrap();
    session.receive(ToFollower::SnapshotBegin).unwrap();
    let mut received = 0;
    let left = loop {
        let locks: Vec<_> = (received..received + 100).map(lock).collect();
        received += 100;
        if let Err(error) = session.receive(ToFollower::SnapshotLocks(locks)) {
            break error;
        }
    };
    assert!(matches!(left, FollowError::Lost(_)), "{left:?}");
    assert!(received < 10_000, "{received} locks");
}

#[test]
fn a_snapshot_that_answers_no_check_is_freed_while_the_next_is_loaded() {
    const LEASE: Duration = Duration::from_secs(2);
    let now = from_micros(0).unwrap();
    let clock = Arc::new(ManualClock::at(now));
    let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Sidecar, clock.clone());
    let mut snapshot = Snapshot::beginning(Epoch(Uuid::nil()), KEY);
    snapshot.insert_lock(lock(0));
    node.replace_snapshot(snapshot);
    let lease = LeaseGrant {
        revision: 0,
        age: Duration::ZERO,
        max_staleness: LEASE,
        now: now.into(),
        is_clock_trusted: true,
    };
    assert!(node.record_response(node.start_renewal(), lease, None));
    let mut follower = FollowerSession::new(Arc::clone(&node), "sidecar".into());
    follower.receive(ToUpstream::Hello(hello())).unwrap();
    for _ in 0..2 {
        assert!(follower.next_message().unwrap().is_some(), "welcome, and begin");
    }
    let mut session = UpstreamSession::new(Arc::clone(&node), false);
    session.receive(welcome()).unwrap();
    session.receive(ToFollower::SnapshotBegin).unwrap();
    assert!(node.read_view().is_fresh() && node.gauges().locks == 1, "checks are answered");

    clock.pass(LEASE);
    session.receive(ToFollower::SnapshotLocks(vec![lock(1), lock(2)])).unwrap();
    assert!(!node.read_view().is_fresh() && node.gauges().locks == 0, "the lease has expired");
    let ended = follower.next_message();
    assert_eq!(ended, Err(SessionEnd::TooSlow), "a transfer keeps no obsolete snapshot");
    let ToUpstream::Hello(hello) = session.hello() else { unreachable!() };
    assert_eq!(hello.position, None, "without the content, the node does not resume");
    assert!(node.apply(&[]).is_err(), "nor does it apply changes");
    assert_eq!(node.epoch(), Some(Epoch(Uuid::nil())), "changes go on in the same epoch");
    let token_key = node.read_view().view.snapshot().token_key();
    assert_eq!(token_key, Some(KEY), "a committed change still gets a token");

    session.receive(end(Uuid::nil(), &[])).unwrap();
    assert_eq!(node.gauges().locks, 2);
}

/// A sidecar, and the wall clock of its upstream.
struct Follower {
    clock: Arc<ManualClock>,
    node: Arc<CheckNode>,
}

impl Follower {
    /// Follows a new upstream, which has a log with these accepted clocks, and grants a lease.
    /// Returns the time of the node.
    fn follow(&self, epoch: u128, accepted_clocks: &[AcceptedClock]) -> Time {
        let mut session = UpstreamSession::new(Arc::clone(&self.node), false);
        session.receive(welcome()).unwrap();
        session.receive(ToFollower::SnapshotBegin).unwrap();
        session.receive(end(Uuid::from_u128(epoch), accepted_clocks)).unwrap();
        let lease = LeaseGrant {
            revision: 0,
            age: Duration::ZERO,
            max_staleness: Duration::from_secs(2),
            now: self.clock.now().into(),
            is_clock_trusted: true,
        };
        assert!(self.node.record_response(self.node.start_renewal(), lease, None));
        self.node.read_view().now.unwrap().latest
    }
}

#[test]
fn only_a_new_accepted_clock_lowers_the_time_of_a_follower() {
    let now = from_micros(1_800_000_000_000_000).unwrap();
    let clock = Arc::new(ManualClock::at(now));
    let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Sidecar, clock.clone());
    let follower = Follower { clock, node };
    let (hour, step_ms) = (TimeDelta::hours(1), -3_600_000);
    let first = AcceptedClock { revision: 4, time: now, step_ms };
    let second = AcceptedClock { revision: 9, ..first };
    assert_eq!(follower.follow(1, &[first]), now);

    follower.clock.set(-hour);
    assert_eq!(follower.follow(1, &[first]), now, "an upstream restarts, with an earlier time");
    assert_eq!(follower.follow(2, &[first]), now, "an earlier log, in another epoch");
    assert_eq!(follower.follow(3, &[first, second]), now - hour, "accepted");
    assert_eq!(follower.follow(2, &[first]), now, "the step back is lost");
    assert_eq!(follower.follow(3, &[first, second]), now, "known already");
    let third = AcceptedClock { revision: 11, ..first };
    assert_eq!(follower.follow(4, &[first, second, third]), now - hour, "accepted");
}

#[test]
fn an_upstream_that_sends_endless_accepted_clocks_is_left() {
    const BYTES_MAX: u64 = 1_024 * 1_024;
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let limits = NodeLimits { snapshot_bytes: BYTES_MAX, ..NodeLimits::default() };
    let node = CheckNode::limited(NodeId(Uuid::nil()), NodeKind::Sidecar, clock, limits);
    let time = from_micros(0).unwrap();
    let left = (0..100).find_map(|number| {
        let clock =
            |index| AcceptedClock { revision: i64::from(number) * 1_000 + index, time, step_ms: 0 };
        let clocks: Vec<_> = (0..1_000).map(clock).collect();
        let mut session = UpstreamSession::new(Arc::clone(&node), false);
        session.receive(welcome()).unwrap();
        session.receive(ToFollower::SnapshotBegin).unwrap();
        session.receive(end(Uuid::nil(), &clocks)).err()
    });
    assert!(matches!(left, Some(FollowError::Lost(_))), "{left:?}");
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        node_id: NodeId(Uuid::max()),
        version: String::new(),
        position: None,
        lease_age: None,
    }
}

fn welcome() -> ToFollower {
    let node_id = NodeId(Uuid::max());
    ToFollower::Welcome(Welcome { protocol: PROTOCOL, node_id, version: String::new() })
}

/// The end of an empty snapshot.
fn end(epoch: Uuid, accepted_clocks: &[AcceptedClock]) -> ToFollower {
    let position = Position { epoch: Epoch(epoch), revision: 0, time: None };
    let accepted_clocks = accepted_clocks.into();
    ToFollower::SnapshotEnd(SnapshotEnd { position, token_key: KEY, accepted_clocks })
}

fn lock(number: u128) -> LockTerms {
    LockTerms {
        lock_id: LockId(Uuid::from_u128(number)),
        tenant_id: None,
        target: LockTarget::Everything,
        party: Party::Vendor,
        expire_time: None,
    }
}
