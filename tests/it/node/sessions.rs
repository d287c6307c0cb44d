//! The sessions of one follower and of one upstream.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{
        AcceptedClock, Clock, Epoch, LockId, LockTarget, LockTerms, NodeId, NodeKind, Party,
        Position, TenantId, Time, TokenKey, clock::ManualClock, time::from_micros,
    },
    node::{
        CheckNode, NodeLimits, Snapshot,
        follower_session::{FollowerSession, SessionEnd},
        message::{
            Change, Hello, LeaseGrant, LockChange, PROTOCOL, Pong, SnapshotEnd, ToFollower,
            ToUpstream, Welcome,
        },
        upstream_session::{FollowError, UpstreamSession},
    },
};
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(2);
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

/// A sidecar that has a snapshot with a lock, and a valid lease.
fn leased(limits: NodeLimits, clock: &Arc<ManualClock>) -> Arc<CheckNode> {
    let node = CheckNode::limited(NodeId(Uuid::nil()), NodeKind::Sidecar, clock.clone(), limits);
    let mut snapshot = Snapshot::beginning(Epoch(Uuid::nil()), KEY);
    snapshot.insert_lock(lock(0));
    node.replace_snapshot(snapshot);
    assert!(node.record_response(node.start_renewal(), lease(), None));
    node
}

#[test]
fn the_earlier_snapshot_is_freed_if_two_do_not_fit() {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let limits = NodeLimits { snapshot_bytes: 100_000, ..NodeLimits::default() };
    let node = leased(limits, &clock);
    let mut session = UpstreamSession::new(Arc::clone(&node), false);
    session.receive(welcome()).unwrap();
    session.receive(ToFollower::SnapshotBegin).unwrap();
    let mut received = 0;
    while node.read_view().is_fresh() {
        received += 1;
        session.receive(ToFollower::SnapshotLocks(vec![lock(received)])).unwrap();
    }
    assert!(received > 10, "{received} locks fit");
    assert_eq!(node.gauges().locks, 0);
    session.receive(end(Uuid::nil(), &[])).unwrap();
    assert_eq!(u128::from(node.gauges().locks), received);
}

#[test]
fn changes_beyond_the_memory_free_the_snapshot() {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let limits = NodeLimits { snapshot_bytes: 100_000, ..NodeLimits::default() };
    let node = leased(limits, &clock);
    let mut session = UpstreamSession::new(Arc::clone(&node), false);
    session.receive(welcome()).unwrap();
    let change = |revision: i64| {
        let terms = lock(u128::try_from(revision).unwrap());
        let lock = Some(LockChange { terms, is_ended: false });
        let time = from_micros(revision).unwrap();
        ToFollower::Changes(vec![Arc::new(Change { revision, time, grant: None, lock })])
    };
    let left = (1..1_000).find_map(|revision| session.receive(change(revision)).err()).unwrap();
    assert!(left.to_string().contains("raise the memory limit"), "{left}");
    assert!(!node.read_view().is_fresh() && node.gauges().locks == 0, "checks are denied");
    let ToUpstream::Hello(hello) = session.hello() else { unreachable!() };
    assert_eq!(hello.position, None, "the next stream cannot add to the snapshot");
}

#[test]
fn an_upstream_that_grants_no_lease_is_left_for_another() {
    let part = || ToFollower::SnapshotLocks(vec![]);
    let changes = || ToFollower::Changes(vec![]);
    let pong = || ToFollower::Pong(Pong { seq: 1, path: vec![], lease: None });
    for (has_snapshot, message) in
        [(true, part as fn() -> ToFollower), (false, changes), (false, pong)]
    {
        for has_others in [true, false] {
            let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
            let node = leased(NodeLimits::default(), &clock);
            let mut session = UpstreamSession::new(node, has_others);
            session.receive(welcome()).unwrap();
            if has_snapshot {
                session.receive(ToFollower::SnapshotBegin).unwrap();
            }
            let timeout = session.timeout();
            let received = (0..100).find_map(|_| {
                clock.pass(timeout / 10);
                session.receive(message()).err()
            });
            assert_eq!(received.is_some(), has_others, "{:?}: {received:?}", message());
        }
    }
}

#[test]
fn a_second_snapshot_and_a_pong_within_a_snapshot_are_rejected() {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let node = leased(NodeLimits::default(), &clock);
    let mut session = UpstreamSession::new(node, false);
    session.receive(welcome()).unwrap();
    session.receive(ToFollower::SnapshotBegin).unwrap();
    let pong = ToFollower::Pong(Pong { seq: 1, path: vec![], lease: Some(lease()) });
    assert!(session.receive(pong).is_err());
    session.receive(end(Uuid::nil(), &[])).unwrap();
    assert!(session.receive(ToFollower::SnapshotBegin).is_err());
}

#[test]
fn a_snapshot_that_answers_no_check_is_freed_while_the_next_is_loaded() {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let node = leased(NodeLimits::default(), &clock);
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

/// A quarantine has no revision, so the position of a follower does not show it.
#[test]
fn a_follower_of_a_node_with_a_quarantine_receives_a_snapshot() {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Replica, clock);
    node.replace_snapshot(Snapshot::beginning(Epoch(Uuid::nil()), KEY));
    let resumed = || {
        let mut session = FollowerSession::new(Arc::clone(&node), "sidecar".into());
        let hello = Hello { position: node.position(), ..hello() };
        session.receive(ToUpstream::Hello(hello)).unwrap();
        let welcome = session.next_message().unwrap();
        assert!(matches!(welcome, Some(ToFollower::Welcome(_))), "{welcome:?}");
        let is_resumed = session.next_message() == Ok(None);
        (is_resumed, session)
    };
    let (is_resumed, mut session) = resumed();
    assert!(is_resumed, "a follower at the same position needs no snapshot");
    let generation = node.generation();
    node.quarantine([Some(TenantId::new("acme").unwrap())]);
    assert!(session.next_message().is_err(), "the stream ends");
    for _ in 0..2 {
        assert!(!resumed().0);
        node.quarantine([Some(TenantId::new("acme").unwrap())]);
        assert_eq!(node.generation(), generation + 1, "a known quarantine changes nothing");
    }
    assert_eq!(node.gauges().forgeries, 1);
}

/// No change ends a quarantine, or adds a grant that was missing.
#[test]
fn a_follower_of_a_forged_history_requests_a_snapshot_with_each_stream() {
    let follow = |lock: Option<LockTerms>, has_forged_rows| {
        let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
        let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Sidecar, clock);
        let mut session = UpstreamSession::new(Arc::clone(&node), false);
        session.receive(welcome()).unwrap();
        session.receive(ToFollower::SnapshotBegin).unwrap();
        session.receive(ToFollower::SnapshotLocks(lock.into_iter().collect())).unwrap();
        let ToFollower::SnapshotEnd(end) = end(Uuid::nil(), &[]) else { unreachable!() };
        session.receive(ToFollower::SnapshotEnd(SnapshotEnd { has_forged_rows, ..end })).unwrap();
        let ToUpstream::Hello(hello) = UpstreamSession::new(node, false).hello() else {
            unreachable!()
        };
        hello.position
    };
    assert!(follow(Some(lock(1)), false).is_some());
    assert_eq!(follow(Some(LockTerms::quarantine(None)), false), None);
    assert_eq!(follow(None, true), None);
}

fn lease() -> LeaseGrant {
    LeaseGrant {
        revision: 0,
        age: Duration::ZERO,
        max_staleness: LEASE,
        now: from_micros(0).unwrap().into(),
        is_clock_trusted: true,
    }
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
        let lease = LeaseGrant { now: self.clock.now().into(), ..lease() };
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
    let has_forged_rows = false;
    let end = SnapshotEnd { position, token_key: KEY, accepted_clocks, has_forged_rows };
    ToFollower::SnapshotEnd(end)
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
