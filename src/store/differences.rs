//! Rows that differ from the last event about them.

use std::fmt;

use crate::domain::Revision;

/// Where a comparison of all rows with their events continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparePosition {
    /// After the event of this revision. Each event is authenticated, and compared with the row
    /// that it created.
    Events(Revision),
    /// After the grant that the event of this revision created.
    Grants(Revision),
    /// After the lock that the event of this revision created.
    Locks(Revision),
}

/// The result of the comparison of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The rows that differ.
    pub differences: Vec<Difference>,
    /// The number of compared rows.
    pub rows: usize,
    /// The length of the bodies of the compared events.
    pub bytes: usize,
    /// Where to continue. `None`: all rows are compared.
    pub next: Option<ComparePosition>,
}

/// A row that differs from the last event about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The tenant, as stored. Empty: the vendor.
    pub tenant_id: String,
    /// The kind of the object, in one word.
    pub object: &'static str,
    /// The id of the object, as stored.
    pub id: String,
    /// The problem.
    pub problem: DifferenceProblem,
}

/// How a row differs from its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceProblem {
    /// The row is not the object after the last event.
    Changed,
    /// An event created the object, and there is no row.
    Missing,
    /// No event is about the row.
    Surplus,
    /// No replica wrote the row of the event as it is.
    Forged,
}

impl fmt::Display for DifferenceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "the row differs from the last event about it",
            Self::Missing => "the row is missing",
            Self::Surplus => "no event is about the row",
            Self::Forged => "no replica wrote the event as it is",
        })
    }
}

impl Comparison {
    /// There are no rows.
    pub const NONE: Self = Self { differences: Vec::new(), rows: 0, bytes: 0, next: None };
}
