//! Every statement that both databases are asked, with what is filled in. The text is the same for both wherever it can be.

use std::{borrow::Cow, time::Duration};

use crate::domain::{GrantId, NodeId, TenantId, Time};

pub(in crate::store) mod chain;
pub(in crate::store) mod locks;
pub(in crate::store) mod membership;
pub(in crate::store) mod read;
pub(in crate::store) mod write;

/// A statement, and the values for `$1`, `$2` and so on.
#[derive(Debug, Clone)]
pub(in crate::store) struct Statement {
    pub(in crate::store) sql: Cow<'static, str>,
    pub(in crate::store) values: Vec<Value>,
}

/// A value for a statement.
#[derive(Debug, Clone)]
pub(in crate::store) enum Value {
    Int(i64),
    MaybeInt(Option<i64>),
    Text(String),
    MaybeText(Option<String>),
    Bytes(Vec<u8>),
}

/// Where the two databases need different words.
#[derive(Debug)]
pub(in crate::store) struct Dialect {
    /// Begins a transaction that will write.
    pub(in crate::store) begin_change: &'static str,
    /// Begins a transaction that reads, all of it as of one moment.
    pub(in crate::store) begin_snapshot: &'static str,
    /// Locks the head of the log, and reads its revision, the time of the last event, the longest that a check node may answer
    /// from one lease, the database's clock if it has one, the name of the log, and the last event that is in a chain.
    pub(in crate::store) lock_head: &'static str,
    /// The database's clock as it is when this is read, in microseconds since 1970, if it has one.
    pub(in crate::store) clock: Option<&'static str>,
    /// Whether this is only a copy of another database, and may be behind it.
    pub(in crate::store) is_standby: &'static str,
    /// Tells whoever listens that the head, which is being written, has new events, once that is committed. A text.
    pub(in crate::store) tell_log: &'static str,
    /// Tells whoever listens that the roll has changed, once that is committed. A text.
    pub(in crate::store) tell_roll: &'static str,
    /// As `tell_roll`, and the commit need not wait for the disk. A text.
    pub(in crate::store) tell_roll_soon: &'static str,
    /// A row for each text of the JSON array `$3`.
    pub(in crate::store) each_text: &'static str,
    /// Whether a query may name the index to use. SQLite keeps no statistics, and would guess.
    pub(in crate::store) names_indexes: bool,
}

/// How the owner of a history is written: no tenant has an empty id, and the vendor's own history has no tenant.
pub(in crate::store) fn history(tenant_id: Option<&TenantId>) -> &str {
    tenant_id.map_or("", TenantId::as_str)
}

// === impl Statement ===

impl Statement {
    /// A statement that needs no values.
    pub(in crate::store) fn plain(sql: &'static str) -> Self {
        Self { sql: sql.into(), values: Vec::new() }
    }

    fn new(sql: impl Into<Cow<'static, str>>, values: Vec<Value>) -> Self {
        Self { sql: sql.into(), values }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
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

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
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

impl From<GrantId> for Value {
    fn from(id: GrantId) -> Self {
        Self::Text(id.to_string())
    }
}

impl From<Option<GrantId>> for Value {
    fn from(id: Option<GrantId>) -> Self {
        Self::MaybeText(id.map(|id| id.to_string()))
    }
}

impl From<NodeId> for Value {
    fn from(id: NodeId) -> Self {
        Self::Text(id.to_string())
    }
}

impl From<Duration> for Value {
    /// In microseconds, never less than it is: whoever waits for so long has waited long enough.
    fn from(span: Duration) -> Self {
        Self::Int(span.as_nanos().div_ceil(1_000).try_into().unwrap_or(i64::MAX))
    }
}

fn limit_value(limit: usize) -> Value {
    Value::Int(i64::try_from(limit).unwrap_or(i64::MAX))
}
