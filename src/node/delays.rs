//! How long the followers of each credential have delayed changes. Pure: time is an argument.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use crate::domain::BootTime;

/// A credential is forgiven one part of the time in so many. So in the long run, its followers can
/// delay changes for that part of the time.
const FORGIVEN_PART: u32 = 60;

/// Delays by credential. Followers with the same credential that delay a change at the same time
/// cause one delay.
#[derive(Debug, Default)]
pub(super) struct Delays {
    by_credential: BTreeMap<Arc<str>, Delay>,
}

#[derive(Debug, Clone, Copy)]
struct Delay {
    /// The delay that was not forgiven by `counted_until`.
    total: Duration,
    counted_until: BootTime,
}

impl Delay {
    fn total(&self, now: BootTime) -> Duration {
        self.total.saturating_sub(now.since(self.counted_until) / FORGIVEN_PART)
    }
}

impl Delays {
    /// Counts a delay, without the time that was counted before.
    pub(super) fn add(&mut self, credential: &Arc<str>, delay: &Range<BootTime>) {
        let &Range { start, end } = delay;
        let known = self.by_credential.get(credential);
        let start = known.map_or(start, |known| start.max(known.counted_until));
        if start < end {
            let total = self.total(credential, end) + end.since(start);
            self.by_credential.insert(Arc::clone(credential), Delay { total, counted_until: end });
        }
    }

    /// How long the followers of a credential have delayed changes, without what is forgiven.
    pub(super) fn total(&self, credential: &str, now: BootTime) -> Duration {
        self.by_credential.get(credential).map_or(Duration::ZERO, |delay| delay.total(now))
    }

    /// Forgets credentials whose delays are forgiven.
    pub(super) fn prune(&mut self, now: BootTime) {
        self.by_credential.retain(|_, delay| !delay.total(now).is_zero());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    #[test]
    fn simultaneous_delays_count_once_and_are_forgiven_slowly() {
        let (mut delays, rogue) = (Delays::default(), Arc::from("rogue"));
        let seconds = |delays: &Delays, now| delays.total("rogue", at(now)).as_secs_f64();
        for (start, end) in [(0, 60), (10, 50), (50, 70)] {
            delays.add(&rogue, &(at(start)..at(end)));
        }
        assert!((seconds(&delays, 70) - 70.0).abs() < 0.5, "{delays:?}");
        assert!((seconds(&delays, 670) - 60.0).abs() < 0.5, "{delays:?}");
        assert!(delays.total("other", at(70)).is_zero());
        delays.prune(at(670));
        assert_eq!(delays.by_credential.len(), 1);
        delays.prune(at(70 + 71 * 60));
        assert!(delays.by_credential.is_empty());
    }
}
