//! Leases and their renewals.

use std::time::Duration;

use support_access::{
    domain::{BootTime, Revision, time::from_micros},
    node::{
        lease::{ClockReading, Lease, LeaseTracker},
        message::LeaseGrant,
    },
};

const MAX_STALENESS: Duration = Duration::from_secs(2);

fn at(millis: i64) -> BootTime {
    BootTime(millis * 1_000_000)
}

fn lease_grant(revision: Revision, age_ms: u64) -> LeaseGrant {
    let now = from_micros(1_000_000).unwrap().into();
    let age = Duration::from_millis(age_ms);
    LeaseGrant { revision, age, max_staleness: MAX_STALENESS, now, is_clock_trusted: true }
}

#[test]
fn lease_starts_when_the_renewal_is_sent() {
    let mut tracker = LeaseTracker::default();
    let seq = tracker.start_renewal(at(1_000));
    assert!(tracker.record_response(seq, lease_grant(7, 100), None, at(1_500)).is_some());
    let lease = tracker.best(7, None, at(1_500)).unwrap();
    assert_eq!(lease.valid_from, at(897), "the age is stretched by 3 %");
    assert_eq!(lease.expires_at(), at(897 + 1_980));
    assert!(lease.is_valid(at(2_876)) && !lease.is_valid(at(2_877)));
    let now = lease.database_clock.at(at(2_000));
    assert_eq!(now.latest, from_micros(1_000_000 + 1_030_000).unwrap(), "since the request");
    assert_eq!(now.earliest, from_micros(1_000_000 + 485_000).unwrap(), "since the response");
}

#[test]
fn lease_is_unusable_until_its_revision_is_applied() {
    let mut tracker = LeaseTracker::default();
    for (revision, now) in [(7, 1_000), (9, 1_500), (11, 2_000)] {
        let seq = tracker.start_renewal(at(now));
        assert!(
            tracker.record_response(seq, lease_grant(revision, 0), None, at(now + 1)).is_some()
        );
    }
    assert_eq!(tracker.best(6, None, at(2_001)), None);
    let first = tracker.best(9, None, at(2_001)).unwrap();
    assert_eq!((first.revision, first.valid_from), (9, at(1_500)));
    assert_eq!(tracker.best(10, Some(first), at(2_001)), Some(first));
    assert_eq!(tracker.best(11, Some(first), at(2_001)).unwrap().valid_from, at(2_000));
    assert_eq!(tracker.best(99, None, at(2_001)), None, "each lease is returned once");
}

#[test]
fn latest_valid_lease_wins() {
    let lease = |valid_from, max_staleness_ms| {
        let database_clock = ClockReading {
            sent_at: at(valid_from),
            received_at: at(valid_from),
            value: from_micros(0).unwrap().into(),
            is_trusted: true,
        };
        let max_staleness = Duration::from_millis(max_staleness_ms);
        Lease { valid_from: at(valid_from), revision: 1, max_staleness, database_clock }
    };
    let best = |current: Lease, pending: Lease, now| {
        let mut tracker = LeaseTracker::default();
        let Lease { valid_from, revision, max_staleness, database_clock } = pending;

        let lease_grant = LeaseGrant {
            revision,
            age: Duration::ZERO,
            max_staleness,
            now: database_clock.value,
            is_clock_trusted: true,
        };
        let seq = tracker.start_renewal(valid_from);
        assert!(tracker.record_response(seq, lease_grant, None, valid_from).is_some());
        tracker.best(1, Some(current), at(now)).unwrap().valid_from
    };
    let (long, short) = (lease(1_000, 60_000), lease(2_000, 1_000));
    assert_eq!(best(long, short, 2_500), at(2_000), "even if the earlier lease lasts longer");
    assert_eq!(best(short, long, 5_000), at(1_000), "the later lease has expired");
}

#[test]
fn unsolicited_responses_are_ignored() {
    let mut tracker = LeaseTracker::default();
    let respond = |tracker: &mut LeaseTracker, seq, now| {
        tracker.record_response(seq, lease_grant(0, 0), None, at(now)).is_some()
    };
    assert!(!respond(&mut tracker, 1, 1));
    let (first, second) = (tracker.start_renewal(at(1)), tracker.start_renewal(at(2)));
    assert!(respond(&mut tracker, second, 3));
    assert!(!respond(&mut tracker, second, 3), "a duplicate");
    assert!(!respond(&mut tracker, first, 3), "reordered");
    let third = tracker.start_renewal(at(4));
    tracker.reset();
    assert!(!respond(&mut tracker, third, 5), "sent before the reset");
    assert!(tracker.start_renewal(at(6)) > third, "sequence numbers are never reused");
}
