//! Proofs of freshness: how a node knows that what it holds is recent, without comparing clocks. Pure: time is an argument.
//!
//! A [`Proof`] says: every change that was committed before `as_of` is at or below `revision`. Who holds that revision may
//! answer while the proof is younger than `max_staleness`. All times are on the node's own [`BootTime`]; only the *rates* of
//! clocks are assumed to be right, to within one part in a hundred.

use std::{collections::VecDeque, time::Duration};

use crate::{
    domain::{BootTime, Now, Position, Revision},
    node::{
        message::Vouched,
        mutants::{Rule, is_broken},
    },
};

/// The most questions that may be under way. When there are more, the oldest is forgotten: its answer would be too old.
const ASKED_MAX: usize = 32;
/// The most proofs that wait for their revision.
const WAITING_MAX: usize = 32;

/// How long to wait at least before a proof is asked for again because somebody wants one.
pub const WANTED_PAUSE: Duration = Duration::from_millis(20);

/// The longest that the holder of a lease may count on it: a clock may be slow by 1 %.
pub fn shortened(span: Duration) -> Duration {
    let is_bare = is_broken(Rule::RateMargin) || is_broken(Rule::ShorterLease);
    if is_bare { span } else { span * 99 / 100 }
}

/// The shortest that somebody who waits for a lease to lapse must wait: a clock may be fast by 1 %.
pub fn lengthened(span: Duration) -> Duration {
    let is_bare = is_broken(Rule::RateMargin) || is_broken(Rule::LongerWait);
    if is_bare { span } else { span * 101 / 100 }
}

/// A span that another clock measured, as this one might have: both may be wrong by 1 %, so 101/99, rounded up.
pub fn stretched(span: Duration) -> Duration {
    if is_broken(Rule::StretchedSpan) { span } else { span * 103 / 100 }
}

/// As [`stretched`], the other way: at least so long, by this clock.
pub fn shrunk(span: Duration) -> Duration {
    span * 97 / 100
}

/// Why a node may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Every change that was committed before this moment is at or below `revision`.
    pub as_of: BootTime,
    /// The revision.
    pub revision: Revision,
    /// For how long from `as_of` it may be answered from, by a perfect clock.
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
            earliest: self.now.earliest + shrunk(now.since(self.answered_at)),
            latest: self.now.latest + stretched(now.since(self.asked_at)),
        }
    }
}

impl Proof {
    /// The first moment at which nothing may be answered from it.
    pub fn lapses_at(&self) -> BootTime {
        self.as_of + shortened(self.max_staleness)
    }

    /// Whether it may be answered from.
    pub fn is_valid(&self, now: BootTime) -> bool {
        now < self.lapses_at()
    }

    /// What this node can tell those that it feeds, which hold `revision` by the time they hear of it.
    pub fn vouch(&self, revision: Revision, now: BootTime) -> Vouched {
        let age = if is_broken(Rule::Age) { Duration::ZERO } else { now.since(self.as_of) };
        Vouched { revision, age, max_staleness: self.max_staleness, now: self.clock.at(now) }
    }
}

/// Asks for proofs, and keeps those whose revision is still to come.
#[derive(Debug, Default)]
pub struct Prover {
    last_seq: i64,
    asked: VecDeque<(i64, BootTime)>,
    /// With the end of the log that the proof is about, where that is known.
    waiting: VecDeque<(Proof, Option<Position>)>,
}

impl Prover {
    /// Notes that a proof is asked for now. Call it before sending the question: this is the moment that counts.
    pub fn ask(&mut self, now: BootTime) -> i64 {
        self.last_seq += 1;
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((self.last_seq, now));
        self.last_seq
    }

    /// The answer to a question: from the database about a log that ends at `head`, or from another node on a stream that is all
    /// of one log. Answers that nobody asked for, or that come in a wrong order, prove nothing: false.
    pub fn answered(
        &mut self,
        seq: i64,
        vouched: Vouched,
        head: Option<Position>,
        now: BootTime,
    ) -> bool {
        while self.asked.front().is_some_and(|(asked, _)| *asked < seq) {
            self.asked.pop_front();
        }
        let Some((_, asked_at)) = self.asked.pop_front_if(|(asked, _)| *asked == seq) else {
            return false;
        };
        let asked_at = if is_broken(Rule::StampOfSending) { now } else { asked_at };
        if self.waiting.len() == WAITING_MAX {
            // Keep the oldest, which will be usable first, and the newest, which will be usable longest.
            self.waiting.pop_back();
        }
        let proof = Proof {
            as_of: asked_at - stretched(vouched.age),
            revision: vouched.revision,
            max_staleness: vouched.max_staleness,
            clock: ClockReading { asked_at, answered_at: now, now: vouched.now },
        };
        self.waiting.push_back((proof, head));
        true
    }

    /// The best proof for a node that holds `published` and has `current`.
    pub fn best(
        &mut self,
        published: Revision,
        current: Option<Proof>,
        now: BootTime,
    ) -> Option<Proof> {
        let is_usable =
            |proof: &Proof| proof.revision <= published || is_broken(Rule::ProofAfterApply);
        let usable = self.waiting.iter().map(|(proof, _)| *proof).filter(is_usable);
        // The newest that is valid, though one from before may lapse later, if leases were longer then.
        let rank = |proof: &Proof| (proof.is_valid(now), proof.as_of);
        let best = current.into_iter().chain(usable).max_by_key(rank);
        self.waiting.retain(|(proof, _)| !is_usable(proof));
        best
    }

    /// Whether some proof is about another log than the one that the node holds up to `published`. That can be, though it held
    /// a part of both when it asked: events may come that it was sent before an older log was restored. A proof that has lapsed
    /// says nothing of the log that there is now.
    pub fn is_contradicted(
        &self,
        published: Revision,
        now: BootTime,
        holds: impl Fn(&Position) -> bool,
    ) -> bool {
        let valid = self.waiting.iter().filter(|(proof, _)| proof.is_valid(now));
        let mut heads = valid.filter_map(|(_, head)| head.as_ref());
        heads.any(|head| head.revision <= published && !holds(head))
            && !is_broken(Rule::ProofOfThisHistory)
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

    fn vouched(revision: Revision, age_ms: u64) -> Vouched {
        let now = from_micros(1_000_000).unwrap().into();
        Vouched { revision, age: Duration::from_millis(age_ms), max_staleness: MAX, now }
    }

    #[test]
    fn a_proof_counts_from_when_it_was_asked_for() {
        let mut prover = Prover::default();
        let seq = prover.ask(at(1_000));
        assert!(prover.answered(seq, vouched(7, 100), None, at(1_500)));
        let proof = prover.best(7, None, at(1_500)).unwrap();
        assert_eq!(proof.as_of, at(897), "the age is stretched by 3 %");
        assert_eq!(proof.lapses_at(), at(897 + 1_980));
        assert!(proof.is_valid(at(2_876)) && !proof.is_valid(at(2_877)));
        let now = proof.clock.at(at(2_000));
        assert_eq!(now.latest, from_micros(1_000_000 + 1_030_000).unwrap(), "since it was asked");
        assert_eq!(now.earliest, from_micros(1_000_000 + 485_000).unwrap(), "since it answered");
    }

    #[test]
    fn a_proof_waits_until_its_revision_is_held() {
        let mut prover = Prover::default();
        for (revision, now) in [(7, 1_000), (9, 1_500), (11, 2_000)] {
            let seq = prover.ask(at(now));
            assert!(prover.answered(seq, vouched(revision, 0), None, at(now + 1)));
        }
        assert_eq!(prover.best(6, None, at(2_001)), None);
        let first = prover.best(9, None, at(2_001)).unwrap();
        assert_eq!((first.revision, first.as_of), (9, at(1_500)));
        assert_eq!(prover.best(10, Some(first), at(2_001)), Some(first));
        assert_eq!(prover.best(11, Some(first), at(2_001)).unwrap().as_of, at(2_000));
        assert_eq!(prover.best(99, None, at(2_001)), None, "each is handed out once");
    }

    #[test]
    fn the_newest_valid_proof_counts() {
        let proof = |as_of, lease| {
            let clock = ClockReading {
                asked_at: at(as_of),
                answered_at: at(as_of),
                now: from_micros(0).unwrap().into(),
            };
            let max_staleness = Duration::from_millis(lease);
            Proof { as_of: at(as_of), revision: 1, max_staleness, clock }
        };
        let best = |one: Proof, other: Proof, now| {
            let mut prover = Prover::default();
            prover.waiting.push_back((other, None));
            prover.best(1, Some(one), at(now)).unwrap().as_of
        };
        let (long, short) = (proof(1_000, 60_000), proof(2_000, 1_000));
        assert_eq!(best(long, short, 2_500), at(2_000), "though the other would last longer");
        assert_eq!(best(short, long, 5_000), at(1_000), "the newer one has lapsed");
    }

    #[test]
    fn answers_that_were_not_asked_for_prove_nothing() {
        let mut prover = Prover::default();
        assert!(!prover.answered(1, vouched(0, 0), None, at(1)));
        let (first, second) = (prover.ask(at(1)), prover.ask(at(2)));
        assert!(prover.answered(second, vouched(0, 0), None, at(3)));
        assert!(!prover.answered(second, vouched(0, 0), None, at(3)), "not twice");
        assert!(!prover.answered(first, vouched(0, 0), None, at(3)), "not in another order");
        let third = prover.ask(at(4));
        prover.reset();
        assert!(!prover.answered(third, vouched(0, 0), None, at(5)));
        assert!(
            prover.ask(at(6)) > third,
            "no answer to an old question can be taken for a new one's"
        );
    }
}
