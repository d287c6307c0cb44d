//! Judges the readings of a clock that can be set, such as a wall clock, by the boot clock, which
//! cannot. Pure: readings and boot times are arguments.

use std::time::Duration;

use chrono::TimeDelta;

use crate::domain::{
    BootTime,
    time::{Now, Time},
};

/// The distance from the expected time up to which a reading is trusted.
pub const TRUSTED_DISTANCE: TimeDelta = TimeDelta::seconds(5);
/// How long a forward step must last before the step counts as stable.
pub const STABLE_AFTER: Duration = Duration::from_mins(1);
/// A reading that took longer is judged, but is too inaccurate to become the trusted time.
const ACCURATE_WITHIN: Duration = Duration::from_secs(1);

/// A clock that is trusted as long as the clock advances like the boot clock.
#[derive(Debug, Default)]
pub struct TrustedClock {
    /// The time that was trusted before the first reading, and whether time has passed since.
    recorded: Option<(Time, bool)>,
    /// The last trusted time. `None` before the first reading.
    trusted: Option<Anchor>,
    /// The first reading after a step forward.
    step: Option<Anchor>,
    /// The last reading of a stable step forward.
    stable_step: Option<Anchor>,
}

/// The judgement of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The trusted time when the reading was requested.
    pub trusted: Time,
    /// Bounds of the time at which a grant starts, or a grant or lock ends.
    pub now: Now,
    /// The distance of the reading from the expected time; positive if the clock is ahead.
    pub distance: TimeDelta,
}

/// A time that was read at some instant between two boot times.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    time: Time,
    sent_at: BootTime,
    received_at: BootTime,
}

impl TrustedClock {
    /// Trusts `time` at `at`.
    pub fn starting_at(time: Time, at: BootTime) -> Self {
        let anchor = Anchor { time, sent_at: at, received_at: at };
        Self { trusted: Some(anchor), ..Self::default() }
    }

    /// Continues from a recorded time. If `is_running`, another clock has advanced that time until
    /// now. Otherwise any later time is possible.
    pub fn resuming(recorded: Time, is_running: bool) -> Self {
        Self { recorded: Some((recorded, is_running)), ..Self::default() }
    }

    /// Moves the trusted time ahead, without a reading.
    pub fn advance(&mut self, by: TimeDelta) {
        let recorded = self.recorded.as_mut().map(|(time, _)| time);
        for time in recorded.into_iter().chain(self.trusted.as_mut().map(|anchor| &mut anchor.time))
        {
            *time = time.checked_add_signed(by).unwrap_or(Time::MAX_UTC);
        }
    }

    /// Judges a reading that was requested at `sent_at` and arrived at `received_at`. The first
    /// reading of all is trusted.
    pub fn observe(
        &mut self,
        reading: Time,
        sent_at: BootTime,
        received_at: BootTime,
    ) -> Judgement {
        let anchor = Anchor { time: reading, sent_at, received_at };
        let first = match self.recorded {
            Some((time, is_running)) if is_running || reading < time => Anchor { time, ..anchor },
            _ => anchor,
        };
        let previous = *self.trusted.get_or_insert(first);
        let distance = previous.distance_to(anchor);
        if distance.abs() <= TRUSTED_DISTANCE {
            let slowest = Anchor { time: previous.slowest(sent_at), received_at: sent_at, sent_at };
            let latest = if reading < slowest.time { slowest } else { anchor };
            // Readings overlap. An earlier request must not move the trusted time ahead.
            let is_latest = previous.sent_at <= sent_at;
            if is_latest && received_at.since(sent_at) <= ACCURATE_WITHIN {
                self.trusted = Some(latest);
            }
            (self.step, self.stable_step) = (None, None);
            let now = Now { earliest: reading, latest: latest.time };
            return Judgement { trusted: latest.time, now, distance };
        }
        let is_ahead = distance > TimeDelta::zero();
        self.step = self.step.filter(|step| is_ahead && step.is_continued_by(anchor));
        let step = self.step.get_or_insert(anchor);
        if is_ahead && received_at.since(step.sent_at) >= STABLE_AFTER {
            self.stable_step = Some(anchor);
        }
        let (least, most) = (previous.least(sent_at), previous.most(sent_at));
        // Grants end by the latest of all times, and start by the earliest.
        let latest = self.stable_step.map_or(most, |step| step.slowest(sent_at));
        let latest = latest.max(most).max(reading);
        Judgement { trusted: least, now: Now { earliest: reading.min(least), latest }, distance }
    }
}

impl Judgement {
    /// Whether the reading is near the expected time.
    pub fn is_trusted(&self) -> bool {
        self.distance.abs() <= TRUSTED_DISTANCE
    }
}

impl Anchor {
    /// The earliest time at `at`.
    fn least(self, at: BootTime) -> Time {
        self.after(at.since(self.received_at))
    }

    /// The latest time at `at`.
    fn most(self, at: BootTime) -> Time {
        self.after(at.since(self.sent_at))
    }

    /// The earliest time at `at` if the boot clock runs 1 % fast.
    fn slowest(self, at: BootTime) -> Time {
        self.after(at.since(self.received_at) * 99 / 100)
    }

    /// The distance of `later` from the expected time; positive if `later` is ahead.
    fn distance_to(self, later: Self) -> TimeDelta {
        let (least, most) = (self.least(later.sent_at), self.most(later.received_at));
        later.time - later.time.clamp(least, most)
    }

    /// The time after `span`, truncated to microseconds like the readings.
    fn after(self, span: Duration) -> Time {
        self.time + TimeDelta::microseconds(span.as_micros().try_into().unwrap_or(i64::MAX))
    }

    fn is_continued_by(self, later: Self) -> bool {
        self.distance_to(later).abs() <= TRUSTED_DISTANCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::from_micros;

    /// Readings of a clock, with the boot time in seconds.
    struct Bench(TrustedClock);

    fn time(seconds: i64) -> Time {
        from_micros(1_800_000_000_000_000).unwrap() + TimeDelta::seconds(seconds)
    }

    fn boot(seconds: i64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    impl Bench {
        fn read(&mut self, reading: i64, at: i64) -> Judgement {
            self.0.observe(time(reading), boot(at), boot(at))
        }
    }

    fn bench() -> Bench {
        let mut bench = Bench(TrustedClock::default());
        assert!(bench.read(0, 0).is_trusted(), "the first reading");
        bench
    }

    #[test]
    fn a_steady_clock_is_trusted() {
        let mut bench = bench();
        for at in [1, 2, 3_600, 1_000_000] {
            let judgement = bench.read(at, at);
            assert!(judgement.is_trusted());
            assert_eq!((judgement.trusted, judgement.now), (time(at), time(at).into()));
        }
    }

    #[test]
    fn a_small_step_back_slows_the_trusted_time_and_does_not_stop_it() {
        let mut bench = bench();
        let judgement = bench.read(96, 100);
        assert!(judgement.is_trusted());
        assert_eq!(judgement.trusted, time(99), "99 % of the elapsed time");
        assert_eq!(judgement.now, Now { earliest: time(96), latest: time(99) });
        assert_eq!(bench.read(196, 200).trusted, time(198));
        assert_eq!(bench.read(596, 600).trusted, time(596), "the clock has caught up");
    }

    #[test]
    fn slow_readings_after_a_small_step_back_do_not_slow_the_trusted_time_further() {
        let mut bench = bench();
        assert_eq!(bench.read(96, 100).trusted, time(99));
        for at in 101..200 {
            bench.0.observe(time(at - 4), boot(at - 1), boot(at));
        }
        assert_eq!(bench.read(196, 200).trusted, time(198));
    }

    #[test]
    fn repeated_small_steps_back_are_not_trusted() {
        let mut bench = bench();
        assert!(bench.read(97, 101).is_trusted());
        assert!(!bench.read(94, 102).is_trusted());
    }

    #[test]
    fn after_a_step_back_grants_end_by_the_elapsed_time() {
        let mut bench = bench();
        let judgement = bench.read(-1_800, 10);
        assert!(!judgement.is_trusted());
        assert_eq!(judgement.distance, TimeDelta::seconds(-1_810));
        assert_eq!(judgement.trusted, time(10));
        assert_eq!(judgement.now, Now { earliest: time(-1_800), latest: time(10) });
        assert!(bench.read(111, 111).is_trusted(), "the clock is right again");
    }

    #[test]
    fn a_clock_that_was_ahead_leaves_no_trace() {
        let mut bench = bench();
        let judgement = bench.read(7_201, 1);
        assert_eq!(judgement.trusted, time(1));
        assert_eq!(judgement.now, Now { earliest: time(1), latest: time(7_201) });
        let judgement = bench.read(3, 3);
        assert!(judgement.is_trusted());
        assert_eq!(judgement.now, time(3).into());
    }

    #[test]
    fn a_forward_step_is_accepted_for_ends_after_a_minute() {
        let mut bench = bench();
        for at in 1..=61 {
            assert_eq!(bench.read(7_200 + at, at).trusted, time(at), "unchanged");
        }
        // A smaller step back leaves the end of grants where it was.
        let judgement = bench.read(3_661, 61);
        assert!(!judgement.is_trusted());
        assert_eq!(judgement.now, Now { earliest: time(61), latest: time(7_261) });
        // The clock is right again.
        assert_eq!(bench.read(102, 102).now, time(102).into());
    }

    #[test]
    fn a_forward_step_that_lasts_less_than_a_minute_is_not_accepted() {
        let mut bench = bench();
        for at in 1..200 {
            bench.read(3_600 + at + at / 50 * 60, at);
        }
        let now = bench.read(1_800, 200).now;
        assert_eq!(now, Now { earliest: time(200), latest: time(1_800) });
    }

    #[test]
    fn the_first_reading_is_compared_with_the_recorded_time() {
        // The recorded time is 0.
        for (is_running, reading, is_trusted) in [
            (false, 7_200, true),
            (false, -4, true),
            (false, -6, false),
            (true, 4, true),
            (true, 6, false),
            (true, -6, false),
        ] {
            let clock = TrustedClock::resuming(time(0), is_running);
            let judgement = Bench(clock).read(reading, 50);
            assert_eq!(judgement.is_trusted(), is_trusted, "{is_running} {reading}");
            assert!(judgement.trusted >= time(0) && judgement.now.latest >= time(0));
        }
    }

    #[test]
    fn overlapping_readings_leave_the_trusted_time_where_it_is() {
        let mut bench = bench();
        for at in 1..100 {
            assert!(bench.read(at, at).is_trusted());
            let late = bench.0.observe(time(at), boot(at - 1), boot(at));
            assert_eq!((late.trusted, late.distance), (time(at), TimeDelta::zero()));
        }
        assert_eq!(bench.read(100, 100).trusted, time(100));
    }

    #[test]
    fn a_slow_reading_does_not_move_the_trusted_time_ahead() {
        let mut bench = bench();
        // The clock was read at the end of the request.
        assert_eq!(bench.0.observe(time(10), boot(9), boot(10)).trusted, time(10));
        assert_eq!(bench.read(11, 11).now, time(11).into());
    }

    #[test]
    fn a_slow_reading_is_judged_but_does_not_become_the_trusted_time() {
        let mut bench = bench();
        let judgement = bench.0.observe(time(90), boot(1), boot(100));
        assert_eq!(judgement.distance, TimeDelta::zero(), "read at any time in between");
        assert!(bench.read(101, 101).is_trusted());
    }
}
