//! Positions in the log and in a history, and the identity of a log.

use std::fmt;

use uuid::Uuid;

use crate::domain::time::Time;

/// The number of an event in the log: 1, 2, 3 and so on over all histories, gap-free, in the order
/// of commits. The revision of a state is that of the last included event; 0 before the first.
///
/// Internal: only operators and auditors may see a revision, because it reveals the change volume
/// of all tenants.
pub type Revision = i64;

/// The number of an event in its history: 1, 2, 3 and so on, gap-free. 0 is before the first event.
pub type Sequence = i64;

/// The permanent name of a log: a UUID that is created with its database. Part of every record and
/// checkpoint, and unchanged by a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogName(pub Uuid);

/// One incarnation of a log: a UUID that is replaced after the database was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub Uuid);

/// The secret key of the consistency tokens of one epoch. Replaced together with the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenKey(pub [u8; 16]);

/// A position in a log, after one event. Two logs that share a position share all events up to that
/// position. After a restore, the event with the same revision has another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The incarnation of the log.
    pub epoch: Epoch,
    /// The revision of the event. 0: the beginning.
    pub revision: Revision,
    /// When the event was committed. `None` at the beginning.
    pub time: Option<Time>,
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TokenKey {
    /// Hides the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}
