//! The last changes, kept for those that follow. Bounded: who falls further behind starts from a snapshot.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    domain::{Position, Revision, Time},
    node::message::Change,
};

/// The most bytes of changes that are kept.
const WEIGHT_MAX: usize = 16 * 1_024 * 1_024;
/// The most changes in one message, and about how many bytes of them; more only if one change alone is more.
const BATCH: usize = 200;
const BATCH_WEIGHT: usize = 64 * 1_024;

/// Changes in the order of the log, without a gap, up to what the node holds.
#[derive(Debug)]
pub struct ChangeBuffer {
    /// The position before the first change that is kept.
    base: Position,
    changes: VecDeque<Arc<Change>>,
    weight: usize,
    weight_max: usize,
}

impl ChangeBuffer {
    /// A feed of a node that holds `base`, and nothing of how it came to be.
    pub fn at(base: Position) -> Self {
        Self { base, changes: VecDeque::new(), weight: 0, weight_max: WEIGHT_MAX }
    }

    /// Adds the next change.
    pub fn push(&mut self, change: Arc<Change>) {
        self.weight += change.weight();
        self.changes.push_back(change);
        while self.weight > self.weight_max
            && let Some(oldest) = self.changes.pop_front()
        {
            self.weight -= oldest.weight();
            self.base.revision = oldest.revision;
            self.base.time = Some(oldest.time);
        }
    }

    /// Whether the feed goes on from `position`: it is in this history, and so is every change since.
    pub fn continues(&self, position: &Position) -> bool {
        let has = |time| self.has(position.revision, time);
        *position == self.base
            || (position.epoch == self.base.epoch && position.time.is_some_and(has))
    }

    /// Whether the event of `revision` was committed at `time` in this history, as far as that is still known: then everything up
    /// to there is the same.
    pub fn has(&self, revision: Revision, time: Time) -> bool {
        if revision <= self.base.revision {
            return revision == self.base.revision && self.base.time == Some(time);
        }
        let change = self.index(revision).and_then(|index| self.changes.get(index));
        change.is_some_and(|change| change.time == time)
    }

    /// The changes after `revision`, at most so many as fit in a message; `None` if some are no longer here.
    pub fn after(&self, revision: Revision) -> Option<Vec<Arc<Change>>> {
        let first = self.index(revision + 1)?;
        let mut weight = 0;
        let fits = |change: &&Arc<Change>| {
            let is_first = weight == 0;
            weight += change.weight();
            is_first || weight <= BATCH_WEIGHT
        };
        Some(self.changes.iter().skip(first).take(BATCH).take_while(fits).cloned().collect())
    }

    fn index(&self, revision: Revision) -> Option<usize> {
        usize::try_from(revision - self.base.revision - 1).ok()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Epoch, time::from_micros};

    fn position(revision: Revision, micros: i64) -> Position {
        Position { epoch: Epoch(Uuid::nil()), revision, time: from_micros(micros) }
    }

    fn feed(weight_max: usize) -> ChangeBuffer {
        let mut feed = ChangeBuffer { weight_max, ..ChangeBuffer::at(position(10, 100)) };
        for revision in 11..=15 {
            let time = from_micros(revision * 10).unwrap();
            feed.push(Arc::new(Change { revision, time, grant: None, lock: None }));
        }
        feed
    }

    #[test]
    fn a_follower_goes_on_from_where_it_is() {
        let feed = feed(WEIGHT_MAX);
        let revisions = |after| {
            let changes = feed.after(after)?;
            Some(changes.iter().map(|change| change.revision).collect::<Vec<_>>())
        };
        assert_eq!(revisions(10), Some(vec![11, 12, 13, 14, 15]));
        assert_eq!(revisions(14), Some(vec![15]));
        assert_eq!(revisions(15), Some(vec![]));
        assert_eq!(revisions(9), None);
        assert!(feed.continues(&position(10, 100)));
        assert!(feed.continues(&position(13, 130)));
        assert!(!feed.continues(&position(13, 131)), "another history");
        for (revision, micros, has) in
            [(10, 100, true), (10, 101, false), (9, 90, false), (15, 150, true), (16, 160, false)]
        {
            assert_eq!(feed.has(revision, from_micros(micros).unwrap()), has, "{revision}");
        }
        assert!(!feed.continues(&position(9, 90)), "too old");
        assert!(!feed.continues(&position(16, 160)), "from the future");
        let other = Position { epoch: Epoch(Uuid::max()), ..position(13, 130) };
        assert!(!feed.continues(&other));
    }

    #[test]
    fn the_oldest_changes_are_dropped() {
        let feed = feed(500);
        assert!(feed.after(12).is_none());
        assert_eq!(feed.after(13).unwrap().len(), 2);
        assert!(feed.continues(&position(13, 130)));
        assert!(!feed.continues(&position(12, 120)));
    }
}
