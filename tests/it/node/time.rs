//! The time at which a node decides.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{
        Clock, Epoch, NodeId, NodeKind, Time, TokenKey, clock::ManualClock, time::from_micros,
    },
    node::{CheckNode, Snapshot, message::LeaseGrant},
};
use uuid::Uuid;

/// A node with a machine clock, whose wall clock plays the clock of the database.
struct Bench {
    clock: Arc<ManualClock>,
    node: Arc<CheckNode>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(from_micros(1_800_000_000_000_000).unwrap()));
        let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Replica, clock.clone());
        node.replace_snapshot(Snapshot::beginning(Epoch(Uuid::nil()), TokenKey([0; 16])));
        let bench = Self { clock, node };
        bench.renew();
        bench
    }

    /// Renews the lease, and so reads the clock of the database.
    fn renew(&self) {
        self.renew_with(true);
    }

    fn renew_with(&self, is_clock_trusted: bool) {
        let seq = self.node.start_renewal();
        let now = self.clock.now().into();
        let (age, max_staleness) = (Duration::ZERO, Duration::from_secs(2));
        let grant = LeaseGrant { revision: 0, age, max_staleness, now, is_clock_trusted };
        assert!(self.node.record_response(seq, grant, None));
    }

    fn latest(&self) -> Time {
        self.node.read_view().now.unwrap().latest
    }
}

#[test]
fn a_clock_that_is_set_back_leaves_the_time_of_ends_running() {
    let bench = Bench::new();
    let start = bench.clock.now();
    bench.clock.set(TimeDelta::hours(-1));
    for seconds in 1..=100 {
        bench.clock.pass(Duration::from_secs(1));
        bench.renew();
        if seconds % 10 == 0 {
            // No check has read the time meanwhile.
            let elapsed = (bench.latest() - start).as_seconds_f64();
            let expected = 0.99 * f64::from(seconds);
            assert!((elapsed - expected).abs() < 0.1, "{elapsed} s after {seconds} s");
        }
    }
    let now = bench.node.read_view().now.unwrap();
    assert_eq!(now.earliest, bench.clock.now(), "locks end by the clock");
}

#[test]
fn a_clock_that_is_not_trusted_leaves_no_trace() {
    let bench = Bench::new();
    let start = bench.clock.now();
    bench.clock.set(TimeDelta::hours(1));
    bench.renew_with(false);
    assert_eq!(bench.latest(), start + TimeDelta::hours(1), "grants end by the clock");
    bench.clock.set(TimeDelta::hours(-1));
    bench.renew();
    assert_eq!(bench.latest(), start);
}

#[test]
fn a_clock_that_stands_still_leaves_the_time_of_ends_running() {
    let bench = Bench::new();
    let start = bench.clock.now();
    for _ in 0..100 {
        bench.clock.pass(Duration::from_secs(1));
        bench.clock.set(TimeDelta::seconds(-1));
        bench.renew();
    }
    assert!(bench.latest() >= start + TimeDelta::milliseconds(98_900), "{:?}", bench.latest());
}
