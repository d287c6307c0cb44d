//! Leases of freshness: how a node knows that what it holds is recent, without comparing clocks. Pure: time is an argument.
//!
//! A [`Lease`] says: every change that was committed before `valid_from` is at or below `revision`. Who holds that revision may
//! answer while the lease is younger than `max_staleness`. All times are on the node's own [`BootTime`]; only the *rates* of
//! clocks are assumed to be right, to within one part in a hundred.

use std::{collections::VecDeque, time::Duration};

use crate::{
    domain::{BootTime, Now, Position, Revision},
    node::message::LeaseGrant,
};

/// The most questions that may be under way. When there are more, the oldest is forgotten: its answer would be too old.
const ASKED_MAX: usize = 32;
/// The most leases that wait for their revision.
const WAITING_MAX: usize = 32;

/// How long to wait at least before a lease is asked for again because somebody wants one.
pub const EARLY_RENEWAL_PAUSE: Duration = Duration::from_millis(20);

/// The longest that the holder of a lease may count on it: a clock may be slow by 1 %.
pub fn holder_bound(span: Duration) -> Duration {
    span * 99 / 100
}

/// The shortest that somebody who waits for a lease to lapse must wait: a clock may be fast by 1 %.
pub fn grantor_bound(span: Duration) -> Duration {
    span * 101 / 100
}

/// A span that another clock measured, as this one might have: both may be wrong by 1 %, so 101/99, rounded up.
pub fn upper_bound(span: Duration) -> Duration {
    span * 103 / 100
}

/// As [`upper_bound`], the other way: at least so long, by this clock.
pub fn lower_bound(span: Duration) -> Duration {
    span * 97 / 100
}

/// Why a node may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Every change that was committed before this moment is at or below `revision`.
    pub valid_from: BootTime,
    /// The revision.
    pub revision: Revision,
    /// For how long from `valid_from` it may be answered from, by a perfect clock.
    pub max_staleness: Duration,
    /// What came with it of the database's clock.
    pub clock: ClockReading,
}

/// What is known of the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// When it was asked for. It was read later.
    pub asked_at: BootTime,
    /// When the answer came. It was read earlier.
    pub answered_at: BootTime,
    /// What it showed when it was read.
    pub now: Now,
}

impl ClockReading {
    /// What the database's clock shows now.
    pub fn at(&self, now: BootTime) -> Now {
        Now {
            earliest: self.now.earliest + lower_bound(now.since(self.answered_at)),
            latest: self.now.latest + upper_bound(now.since(self.asked_at)),
        }
    }
}

impl Lease {
    /// The first moment at which nothing may be answered from it.
    pub fn expires_at(&self) -> BootTime {
        self.valid_from + holder_bound(self.max_staleness)
    }

    /// Whether it may be answered from.
    pub fn is_valid(&self, now: BootTime) -> bool {
        now < self.expires_at()
    }

    /// What this node can tell those that it feeds, which hold `revision` by the time they hear of it.
    pub fn grant(&self, revision: Revision, now: BootTime) -> LeaseGrant {
        let age = now.since(self.valid_from);
        LeaseGrant { revision, age, max_staleness: self.max_staleness, now: self.clock.at(now) }
    }
}

/// Asks for leases, and keeps those whose revision is still to come.
#[derive(Debug, Default)]
pub struct LeaseTracker {
    last_seq: i64,
    asked: VecDeque<(i64, BootTime)>,
    /// With the end of the log that the lease is about, where that is known.
    waiting: VecDeque<(Lease, Option<Position>)>,
}

impl LeaseTracker {
    /// Notes that a lease is asked for now. Call it before sending the question: this is the moment that counts.
    pub fn start_renewal(&mut self, now: BootTime) -> i64 {
        self.last_seq += 1;
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((self.last_seq, now));
        self.last_seq
    }

    /// The answer to a question: from the database about a log that ends at `head`, or from another node on a stream that is all
    /// of one log. Answers that nobody asked for, or that come in a wrong order, prove nothing: false.
    pub fn record_response(
        &mut self,
        seq: i64,
        lease_grant: LeaseGrant,
        head: Option<Position>,
        now: BootTime,
    ) -> bool {
        while self.asked.front().is_some_and(|(asked, _)| *asked < seq) {
            self.asked.pop_front();
        }
        let Some((_, asked_at)) = self.asked.pop_front_if(|(asked, _)| *asked == seq) else {
            return false;
        };
        if self.waiting.len() == WAITING_MAX {
            // Keep the oldest, which will be usable first, and the newest, which will be usable longest.
            self.waiting.pop_back();
        }
        let lease = Lease {
            valid_from: asked_at - upper_bound(lease_grant.age),
            revision: lease_grant.revision,
            max_staleness: lease_grant.max_staleness,
            clock: ClockReading { asked_at, answered_at: now, now: lease_grant.now },
        };
        self.waiting.push_back((lease, head));
        true
    }

    /// The best lease for a node that holds `published` and has `current`.
    pub fn best(
        &mut self,
        published: Revision,
        current: Option<Lease>,
        now: BootTime,
    ) -> Option<Lease> {
        let is_usable = |lease: &Lease| lease.revision <= published;
        let usable = self.waiting.iter().map(|(lease, _)| *lease).filter(is_usable);
        // The newest that is valid, though one from before may lapse later, if leases were longer then.
        let rank = |lease: &Lease| (lease.is_valid(now), lease.valid_from);
        let best = current.into_iter().chain(usable).max_by_key(rank);
        self.waiting.retain(|(lease, _)| !is_usable(lease));
        best
    }

    /// Whether some lease is about another log than the one that the node holds up to `published`. That can be, though it held
    /// a part of both when it asked: events may come that it was sent before an older log was restored. A lease that has lapsed
    /// says nothing of the log that there is now.
    pub fn conflicts_with(
        &self,
        published: Revision,
        now: BootTime,
        holds: impl Fn(&Position) -> bool,
    ) -> bool {
        let valid = self.waiting.iter().filter(|(lease, _)| lease.is_valid(now));
        let mut heads = valid.filter_map(|(_, head)| head.as_ref());
        heads.any(|head| head.revision <= published && !holds(head))
    }

    /// Forgets everything: what was asked was asked of another history.
    pub fn reset(&mut self) {
        self.asked.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::from_micros;

    const MAX: Duration = Duration::from_secs(2);

    fn at(millis: i64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    fn lease_grant(revision: Revision, age_ms: u64) -> LeaseGrant {
        let now = from_micros(1_000_000).unwrap().into();
        LeaseGrant { revision, age: Duration::from_millis(age_ms), max_staleness: MAX, now }
    }

    #[test]
    fn a_proof_counts_from_when_it_was_asked_for() {
        let mut lease_tracker = LeaseTracker::default();
        let seq = lease_tracker.start_renewal(at(1_000));
        assert!(lease_tracker.record_response(seq, lease_grant(7, 100), None, at(1_500)));
        let lease = lease_tracker.best(7, None, at(1_500)).unwrap();
        assert_eq!(lease.valid_from, at(897), "the age is upper_bound by 3 %");
        assert_eq!(lease.expires_at(), at(897 + 1_980));
        assert!(lease.is_valid(at(2_876)) && !lease.is_valid(at(2_877)));
        let now = lease.clock.at(at(2_000));
        assert_eq!(now.latest, from_micros(1_000_000 + 1_030_000).unwrap(), "since it was asked");
        assert_eq!(now.earliest, from_micros(1_000_000 + 485_000).unwrap(), "since it answered");
    }

    #[test]
    fn a_proof_waits_until_its_revision_is_held() {
        let mut lease_tracker = LeaseTracker::default();
        for (revision, now) in [(7, 1_000), (9, 1_500), (11, 2_000)] {
            let seq = lease_tracker.start_renewal(at(now));
            assert!(lease_tracker.record_response(
                seq,
                lease_grant(revision, 0),
                None,
                at(now + 1)
            ));
        }
        assert_eq!(lease_tracker.best(6, None, at(2_001)), None);
        let first = lease_tracker.best(9, None, at(2_001)).unwrap();
        assert_eq!((first.revision, first.valid_from), (9, at(1_500)));
        assert_eq!(lease_tracker.best(10, Some(first), at(2_001)), Some(first));
        assert_eq!(lease_tracker.best(11, Some(first), at(2_001)).unwrap().valid_from, at(2_000));
        assert_eq!(lease_tracker.best(99, None, at(2_001)), None, "each is handed out once");
    }

    #[test]
    fn the_newest_valid_proof_counts() {
        let lease = |valid_from, lease| {
            let clock = ClockReading {
                asked_at: at(valid_from),
                answered_at: at(valid_from),
                now: from_micros(0).unwrap().into(),
            };
            let max_staleness = Duration::from_millis(lease);
            Lease { valid_from: at(valid_from), revision: 1, max_staleness, clock }
        };
        let best = |one: Lease, other: Lease, now| {
            let mut lease_tracker = LeaseTracker::default();
            lease_tracker.waiting.push_back((other, None));
            lease_tracker.best(1, Some(one), at(now)).unwrap().valid_from
        };
        let (long, short) = (lease(1_000, 60_000), lease(2_000, 1_000));
        assert_eq!(best(long, short, 2_500), at(2_000), "though the other would last longer");
        assert_eq!(best(short, long, 5_000), at(1_000), "the newer one has lapsed");
    }

    #[test]
    fn answers_that_were_not_asked_for_prove_nothing() {
        let mut lease_tracker = LeaseTracker::default();
        assert!(!lease_tracker.record_response(1, lease_grant(0, 0), None, at(1)));
        let (first, second) =
            (lease_tracker.start_renewal(at(1)), lease_tracker.start_renewal(at(2)));
        assert!(lease_tracker.record_response(second, lease_grant(0, 0), None, at(3)));
        assert!(
            !lease_tracker.record_response(second, lease_grant(0, 0), None, at(3)),
            "not twice"
        );
        assert!(
            !lease_tracker.record_response(first, lease_grant(0, 0), None, at(3)),
            "not in another order"
        );
        let third = lease_tracker.start_renewal(at(4));
        lease_tracker.reset();
        assert!(!lease_tracker.record_response(third, lease_grant(0, 0), None, at(5)));
        assert!(
            lease_tracker.start_renewal(at(6)) > third,
            "no answer to an old question can be taken for a new one's"
        );
    }
}
