//! When a node applied each revision. Pure: time is an argument.

use std::{collections::VecDeque, time::Duration};

use crate::domain::{BootTime, Revision};

/// Revisions that a node applies within this time share one entry.
const RESOLUTION: Duration = Duration::from_millis(50);
/// How long entries differ. Longer than any lease: an older time ends every wait.
const REMEMBERED: Duration = Duration::from_mins(6);

/// When a node applied the revisions of its log. The number of entries is bounded by
/// [`REMEMBERED`] and [`RESOLUTION`], not by the number of changes.
#[derive(Debug, Default)]
pub struct AppliedTimes {
    /// In ascending order of revisions and times.
    entries: VecDeque<Entry>,
}

/// The revisions after the previous entry, up to `last`.
#[derive(Debug)]
struct Entry {
    last: Revision,
    /// When the first of these revisions was applied.
    first_at: BootTime,
    /// When `last` was applied.
    last_at: BootTime,
}

impl AppliedTimes {
    /// Starts again: the node has replaced the log at `now`, up to `revision`.
    pub(super) fn reset(&mut self, revision: Revision, now: BootTime) {
        self.entries.clear();
        self.record(revision, now);
    }

    /// Records that all revisions up to `revision` were applied by `now`.
    pub(super) fn record(&mut self, revision: Revision, now: BootTime) {
        match self.entries.back_mut().filter(|entry| now < entry.first_at + RESOLUTION) {
            Some(entry) => (entry.last, entry.last_at) = (revision, now),
            None => self.entries.push_back(Entry { last: revision, first_at: now, last_at: now }),
        }
        while self.entries.get(1).is_some_and(|entry| now >= entry.last_at + REMEMBERED) {
            self.entries.pop_front();
        }
    }

    /// A time by which `revision` was applied. `None` if the revision was not applied.
    pub(super) fn get(&self, revision: Revision) -> Option<BootTime> {
        let index = self.entries.partition_point(|entry| entry.last < revision);
        self.entries.get(index).map(|entry| entry.last_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: i64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    #[test]
    fn a_revision_is_never_older_than_its_application() {
        let mut times = AppliedTimes::default();
        times.reset(10, at(1_000));
        for step in 1..=100 {
            times.record(10 + step, at(1_000 + step));
        }
        assert_eq!(times.get(3), Some(at(1_049)));
        for step in 1..=100 {
            let applied = times.get(10 + step).unwrap();
            assert!(applied >= at(1_000 + step), "{step}");
            assert!(applied < at(1_000 + step) + RESOLUTION, "{step}");
        }
        assert_eq!(times.get(111), None);
        times.reset(5, at(2_000));
        assert_eq!((times.get(5), times.get(6)), (Some(at(2_000)), None));
    }

    #[test]
    fn a_million_changes_need_bounded_memory() {
        let mut times = AppliedTimes::default();
        times.reset(0, at(0));
        for revision in 1..=1_000_000 {
            times.record(revision, at(revision));
        }
        let remembered = usize::try_from(REMEMBERED.as_millis() / RESOLUTION.as_millis()).unwrap();
        assert!(times.entries.len() <= remembered + 2, "{} entries", times.entries.len());
        let age = at(1_000_000).since(times.get(1).unwrap());
        assert!(age + RESOLUTION >= REMEMBERED, "an old change keeps an old time: {age:?}");
    }
}
