//! The latest changes, kept for followers. The buffer is bounded: a follower that is further behind
//! starts from a snapshot.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    domain::{Epoch, Position, Revision, Time},
    node::message::Change,
};

/// Maximum size of the buffer, in bytes.
const WEIGHT_MAX: usize = 16 * 1_024 * 1_024;
/// Maximum number of changes in one message.
const BATCH: usize = 200;
/// Maximum size of the changes in one message, in bytes. A larger change is sent alone.
const BATCH_WEIGHT: usize = 16 * 1_024;

/// Changes in the order of the log, without gaps, up to the revision of the node.
#[derive(Debug)]
pub(super) struct ChangeBuffer {
    /// The position before the first change in the buffer.
    base: Position,
    changes: VecDeque<Arc<Change>>,
    weight: usize,
    weight_max: usize,
}

impl ChangeBuffer {
    /// An empty buffer of a node at `base`.
    pub(super) fn at(base: Position) -> Self {
        Self { base, changes: VecDeque::new(), weight: 0, weight_max: WEIGHT_MAX }
    }

    /// The epoch of the log.
    pub(super) fn epoch(&self) -> Epoch {
        self.base.epoch
    }

    /// Adds the next change, and drops the oldest changes beyond the maximum size.
    pub(super) fn push(&mut self, change: Arc<Change>) {
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

    /// Whether `position` is in this log, and every change after `position` is in the buffer.
    pub(super) fn continues(&self, position: &Position) -> bool {
        let has_event = |time| self.has(position.revision, time);
        *position == self.base
            || (position.epoch == self.base.epoch && position.time.is_some_and(has_event))
    }

    /// Whether the buffer shows that this log has an event of `revision` at `time`. Two logs that
    /// share this event also share all earlier events.
    pub(super) fn has(&self, revision: Revision, time: Time) -> bool {
        if revision <= self.base.revision {
            return revision == self.base.revision && self.base.time == Some(time);
        }
        let change = self.index(revision).and_then(|index| self.changes.get(index));
        change.is_some_and(|change| change.time == time)
    }

    /// The first changes after `revision`, as many as fit in one message; `None` if the buffer has
    /// dropped any of these.
    pub(super) fn after(&self, revision: Revision) -> Option<Vec<Arc<Change>>> {
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
    use crate::domain::time::from_micros;

    fn position(revision: Revision, micros: i64) -> Position {
        Position { epoch: Epoch(Uuid::nil()), revision, time: from_micros(micros) }
    }

    fn buffer(weight_max: usize) -> ChangeBuffer {
        let mut buffer = ChangeBuffer { weight_max, ..ChangeBuffer::at(position(10, 100)) };
        for revision in 11..=15 {
            let time = from_micros(revision * 10).unwrap();
            buffer.push(Arc::new(Change { revision, time, grant: None, lock: None }));
        }
        buffer
    }

    #[test]
    fn a_follower_resumes_from_its_position() {
        let buffer = buffer(WEIGHT_MAX);
        let revisions = |after| {
            let changes = buffer.after(after)?;
            Some(changes.iter().map(|change| change.revision).collect::<Vec<_>>())
        };
        assert_eq!(revisions(10), Some(vec![11, 12, 13, 14, 15]));
        assert_eq!(revisions(14), Some(vec![15]));
        assert_eq!(revisions(15), Some(vec![]));
        assert_eq!(revisions(9), None);
        assert!(buffer.continues(&position(10, 100)));
        assert!(buffer.continues(&position(13, 130)));
        assert!(!buffer.continues(&position(13, 131)), "an event of another log");
        for (revision, micros, has) in
            [(10, 100, true), (10, 101, false), (9, 90, false), (15, 150, true), (16, 160, false)]
        {
            assert_eq!(buffer.has(revision, from_micros(micros).unwrap()), has, "{revision}");
        }
        assert!(!buffer.continues(&position(9, 90)), "older than the buffer");
        assert!(!buffer.continues(&position(16, 160)), "newer than the log");
        let other_epoch = Position { epoch: Epoch(Uuid::max()), ..position(13, 130) };
        assert!(!buffer.continues(&other_epoch));
    }

    #[test]
    fn the_oldest_changes_are_dropped() {
        let buffer = buffer(500);
        assert!(buffer.after(12).is_none());
        assert_eq!(buffer.after(13).unwrap().len(), 2);
        assert!(buffer.continues(&position(13, 130)));
        assert!(!buffer.continues(&position(12, 120)));
    }
}
