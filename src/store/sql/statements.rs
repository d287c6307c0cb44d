//! All statements and values. The SQL is the same for both databases wherever possible.

use std::{borrow::Cow, time::Duration};

use crate::domain::{Epoch, GrantId, LockId, NodeId, TenantId, Time};

pub(in crate::store) mod differences;
pub(in crate::store) mod grants;
pub(in crate::store) mod history;
pub(in crate::store) mod joined;
pub(in crate::store) mod lists;
pub(in crate::store) mod locks;
pub(in crate::store) mod log;
pub(in crate::store) mod members;
#[cfg(test)]
mod plans;

/// A statement, and the values of the parameters `$1`, `$2` and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Statement {
    pub(in crate::store) sql: Cow<'static, str>,
    pub(in crate::store) values: Vec<Value>,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Value {
    Int(i64),
    MaybeInt(Option<i64>),
    Text(String),
    MaybeText(Option<String>),
    Bytes(Vec<u8>),
}

/// The differences between the databases in SQL.
#[derive(Debug)]
pub(in crate::store) struct Dialect {
    /// Begins a transaction that will write, and locks the head, in one round trip. Returns the
    /// revision, the time, `max_staleness`, the clock of the database or NULL, the name of the log,
    /// the epoch, and what authenticates the rows.
    pub(in crate::store) begin_at_head: &'static str,
    /// Begins a transaction that reads one snapshot.
    pub(in crate::store) begin_snapshot: &'static str,
    /// The clock of the database when the expression is evaluated, in microseconds since 1970.
    /// `None`: the database has no clock.
    pub(in crate::store) clock: Option<&'static str>,
    /// Whether the database is a standby, which may be behind the primary.
    pub(in crate::store) is_standby: &'static str,
    /// Notifies listeners of new events after the commit. An expression of type text.
    pub(in crate::store) notify_log: &'static str,
    /// Notifies listeners of a change of the membership after the commit. An expression of type
    /// text.
    pub(in crate::store) notify_membership: &'static str,
    /// Makes the commit of the current statement durable, regardless of the session. An expression
    /// of type text.
    pub(in crate::store) commit_durably: &'static str,
    /// As `notify_membership`, but the commit does not wait for the disk.
    pub(in crate::store) notify_membership_lazily: &'static str,
    /// A table with a row for each text of a JSON array, in the column `value`.
    pub(in crate::store) each_text: fn(&str) -> String,
    /// The number of texts in the JSON array `agent_ids`.
    pub(in crate::store) agent_count: &'static str,
    /// Whether each message to the database takes a round trip, so that a message contains as many
    /// statements as possible.
    pub(in crate::store) is_remote: bool,
}

/// The columns of an event.
const EVENT: &str = "e.revision, e.tenant_id, e.sequence, e.hash, e.time, e.actor, \
                                e.via, e.actor_asserted, e.reason, e.kind, e.grant_id, \
                                e.lock_id, e.body, e.mac, e.owner_mac";

/// The stored form of the owner of a history. No tenant has an empty id.
pub(in crate::store) fn owner(tenant_id: Option<&TenantId>) -> &str {
    tenant_id.map_or("", TenantId::as_str)
}

/// The clock of the database, or a parameter with the time `clock`.
fn clock_expression(dialect: &Dialect, clock: Time, values: &mut Vec<Value>) -> String {
    dialect.clock.map_or_else(|| bind(values, clock), str::to_owned)
}

/// Adds a parameter, and returns the name.
fn bind(values: &mut Vec<Value>, value: impl Into<Value>) -> String {
    values.push(value.into());
    format!("${}", values.len())
}

/// The parameters of some rows: `($1, $2), ($3, $4)`.
fn placeholders(first: usize, rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let start = first + row * columns;
        let names: Vec<_> = (start..start + columns).map(|number| format!("${number}")).collect();
        format!("({})", names.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

// === impl Statement ===

impl Statement {
    /// A statement without parameters.
    pub(in crate::store) fn new(sql: impl Into<Cow<'static, str>>) -> Self {
        Self { sql: sql.into(), values: Vec::new() }
    }

    fn with(sql: impl Into<Cow<'static, str>>, values: Vec<Value>) -> Self {
        Self { sql: sql.into(), values }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::MaybeInt(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<Time> for Value {
    fn from(time: Time) -> Self {
        Self::Int(time.timestamp_micros())
    }
}

impl From<Option<Time>> for Value {
    fn from(time: Option<Time>) -> Self {
        Self::MaybeInt(time.map(|time| time.timestamp_micros()))
    }
}

impl From<Duration> for Value {
    /// In microseconds, rounded up: a wait of this length is always long enough.
    fn from(duration: Duration) -> Self {
        Self::Int(duration.as_nanos().div_ceil(1_000).try_into().unwrap_or(i64::MAX))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::MaybeText(text.map(str::to_owned))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&TenantId> for Value {
    fn from(id: &TenantId) -> Self {
        Self::Text(id.as_str().to_owned())
    }
}

/// Ids are stored as text.
macro_rules! ids {
    ($($Id:ident),*) => { $(
        impl From<$Id> for Value {
            fn from(id: $Id) -> Self {
                Self::Text(id.to_string())
            }
        }

        impl From<Option<$Id>> for Value {
            fn from(id: Option<$Id>) -> Self {
                Self::MaybeText(id.map(|id| id.to_string()))
            }
        }
    )* };
}

ids!(Epoch, GrantId, LockId, NodeId);

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}
