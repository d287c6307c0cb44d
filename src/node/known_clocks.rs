//! The accepted clocks that a node knows. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::size_of,
};

use chrono::TimeDelta;

use crate::domain::AcceptedClock;

/// Estimated memory of a known clock, in bytes.
const CLOCK_SIZE: usize = size_of::<(AcceptedClock, bool)>() * 2;

/// The accepted clocks of all logs that a node has ever loaded. A restore may bring back an earlier
/// log. Without this memory, an old acceptance in that log would lower the time of the node.
#[derive(Debug, Default)]
pub(super) struct KnownClocks {
    /// Every known clock, with true if each log since has contained the clock.
    clocks: BTreeMap<AcceptedClock, bool>,
}

/// The effect of a log on the time of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClockEffect {
    /// The log contains an accepted clock that the node has not known. The time starts again, and
    /// may be earlier than before.
    Restart,
    /// The time goes on.
    Continue {
        /// Positive if a restore has lost accepted steps back: the ends of grants, which had moved
        /// back by these steps, are as before.
        later_by: TimeDelta,
    },
}

impl KnownClocks {
    /// The effect of a log with these accepted clocks.
    pub(super) fn effect_of(&self, log: &[AcceptedClock]) -> ClockEffect {
        if log.iter().any(|clock| !self.clocks.contains_key(clock)) {
            return ClockEffect::Restart;
        }
        let log: BTreeSet<_> = log.iter().collect();
        let is_lost =
            |(clock, was_kept): &(&AcceptedClock, &bool)| **was_kept && !log.contains(clock);
        let lost = self.clocks.iter().filter(is_lost).map(|(clock, _)| clock.step_ms);
        let step_ms = lost.fold(0, i64::saturating_add);
        ClockEffect::Continue { later_by: TimeDelta::milliseconds(step_ms.min(0).saturating_neg()) }
    }

    /// Adds the accepted clocks of a log that the node has loaded. A clock that was lost once, and
    /// is in a log again, changes no time.
    pub(super) fn load(&mut self, log: &[AcceptedClock]) {
        let log: BTreeSet<_> = log.iter().collect();
        for (clock, was_kept) in &mut self.clocks {
            *was_kept &= log.contains(clock);
        }
        for clock in log {
            self.clocks.entry(*clock).or_insert(true);
        }
    }

    /// Estimated memory, in bytes.
    pub(super) fn memory(&self) -> u64 {
        (self.clocks.len() * CLOCK_SIZE) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::from_micros;

    fn clock(revision: i64, step_ms: i64) -> AcceptedClock {
        AcceptedClock { revision, time: from_micros(revision).unwrap(), step_ms }
    }

    fn later(millis: i64) -> ClockEffect {
        ClockEffect::Continue { later_by: TimeDelta::milliseconds(millis) }
    }

    fn known(logs: &[&[AcceptedClock]]) -> KnownClocks {
        let mut known = KnownClocks::default();
        for log in logs {
            known.load(log);
        }
        known
    }

    #[test]
    fn only_an_accepted_clock_that_is_not_known_lowers_the_time() {
        let (old, new) = (clock(3, -7), clock(9, -5));
        assert_eq!(known(&[&[]]).effect_of(&[]), later(0));
        assert_eq!(known(&[&[]]).effect_of(&[old]), ClockEffect::Restart);
        let known = known(&[&[old]]);
        assert_eq!(known.effect_of(&[old]), later(0));
        assert_eq!(known.effect_of(&[old, new]), ClockEffect::Restart);
        // The same revision, after a restore.
        let other = AcceptedClock { time: from_micros(4).unwrap(), ..old };
        assert_eq!(known.effect_of(&[other]), ClockEffect::Restart);
    }

    #[test]
    fn lost_steps_back_make_the_time_later_once() {
        let (first, second) = (clock(3, -7), clock(9, -5));
        assert_eq!(known(&[&[first, second]]).effect_of(&[first]), later(5));
        assert_eq!(known(&[&[first, second]]).effect_of(&[]), later(12));
        let log: &[AcceptedClock] = &[first, second];
        let known = known(&[log, &[first]]);
        assert_eq!(known.effect_of(&[first]), later(0));
        assert_eq!(known.effect_of(log), later(0), "the lost clock is not new when it returns");
        assert_eq!(known.effect_of(&[]), later(7));
    }

    #[test]
    fn lost_steps_forward_leave_the_time_as_it_is() {
        let (forward, back) = (clock(3, 8), clock(9, -8));
        assert_eq!(known(&[&[forward]]).effect_of(&[]), later(0));
        assert_eq!(known(&[&[forward, back]]).effect_of(&[]), later(0));
        assert_eq!(known(&[&[forward, back]]).effect_of(&[forward]), later(8));
    }

    #[test]
    fn extreme_steps_do_not_overflow() {
        let known = known(&[&[clock(1, i64::MIN), clock(2, i64::MIN)]]);
        assert_eq!(known.effect_of(&[]), ClockEffect::Continue { later_by: TimeDelta::MAX });
    }
}
