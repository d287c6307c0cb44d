//! Rows of the databases, and their conversion to domain types.

use std::{error::Error, fmt::Display, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{FromRow, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{
    domain::{
        AccessLevel, Enforced, Epoch, EventKind, FreeText, LogName, PolicyOverrides, Position,
        TenantId, Time, TokenKey,
        authenticity::{LogKeys, MaskedSum, StateSum},
        time::from_micros,
    },
    store::{Listed, RequestPart, StoreError},
};

/// Defines a struct that is read from the rows of both databases. The fields after `with` are rows
/// themselves, of other columns. The derive macro of sqlx would build SQLite and TLS a second time.
macro_rules! row {
    (
        $(#[$attribute:meta])* $visibility:vis struct $Row:ident {
            $($column_visibility:vis $column:ident: $Column:ty),* $(,)?
        } $(with { $($part_visibility:vis $part:ident: $Part:ty),* $(,)? })?
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        $visibility struct $Row {
            $($column_visibility $column: $Column,)*
            $($($part_visibility $part: $Part,)*)?
        }

        impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for $Row
        where
            $($Column: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)*
            $($($Part: sqlx::FromRow<'r, R>,)*)?
            &'static str: sqlx::ColumnIndex<R>,
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $($column: row.try_get(stringify!($column))?,)*
                    $($($part: sqlx::FromRow::from_row(row)?,)*)?
                })
            }
        }
    };
}
pub(in crate::store::sql) use row;

mod differences;
mod events;
mod grants;
mod locks;
mod members;
mod reader;

pub(in crate::store) use differences::{
    ComparedEventRow, ComparedGrantRow, ComparedLockRow, ComparedRow,
};
pub(in crate::store) use events::{
    AcceptedClockRow, EventRow, ListedEventRow, PolicyEventRow, RecordRow,
};
pub(in crate::store) use grants::{GrantRow, GrantTermsRow};
pub(in crate::store) use locks::{LockRow, LockTermsRow};
pub(in crate::store) use members::{FollowersRow, HeartbeatRow, MemberListRow, member_list};
pub(in crate::store) use reader::EventReader;
use reader::Forgery;

/// A row of either database.
pub(in crate::store) trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}

impl<T> Row for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}

row! {
    /// The row of `head`.
    pub(in crate::store) struct HeadRow {
        epoch: String,
        token_key: Vec<u8>,
        pub(in crate::store) revision: i64,
        time: Option<i64>,
    }
}

row! {
    /// The row of `trusted_time`.
    pub(in crate::store) struct TrustedTimeRow {
        trusted_time: Option<i64>,
    }
}

row! {
    /// The locked row of `head`.
    pub(in crate::store) struct LockedHeadRow {
        pub(in crate::store) max_staleness: i64,
        pub(in crate::store) clock: Option<i64>,
    } with {
        pub(in crate::store) state: StateHeadRow,
    }
}

row! {
    /// The part of `head` that authenticates the rows.
    pub(in crate::store) struct StateHeadRow {
        log_name: String,
        epoch: String,
        pub(in crate::store) revision: i64,
        pub(in crate::store) time: Option<i64>,
        event_key_id: Option<Vec<u8>>,
        state_nonce: Option<Vec<u8>>,
        state_sum: Option<Vec<u8>>,
    }
}

row! {
    /// The event key and the log.
    pub(in crate::store) struct EventKeyRow {
        pub(in crate::store) log_name: String,
        epoch: String,
        pub(in crate::store) event_key_id: Option<Vec<u8>>,
    }
}

impl EventKeyRow {
    pub(in crate::store) fn epoch(&self) -> Result<Epoch, StoreError> {
        Ok(Epoch(parse("epoch", self.epoch.clone(), Uuid::parse_str)?))
    }
}

impl StateHeadRow {
    pub(in crate::store) fn log(&self) -> Result<LogName, StoreError> {
        log_name(self.log_name.clone())
    }

    pub(in crate::store) fn epoch(&self) -> Result<Epoch, StoreError> {
        Ok(Epoch(parse("epoch", self.epoch.clone(), Uuid::parse_str)?))
    }

    /// The sum over all rows, as of this head.
    pub(in crate::store) fn sum(&self, keys: &LogKeys) -> Result<StateSum, StoreError> {
        if self.event_key_id.as_deref() != Some(&keys.id()) {
            return Err(StoreError::broken(
                "the event key was replaced; restart with the new event-key-file",
            ));
        }
        let nonce = bytes("state_nonce", present("state_nonce", self.state_nonce.clone())?)?;
        let sum = bytes("state_sum", present("state_sum", self.state_sum.clone())?)?;
        Ok(keys.unmask(&MaskedSum { nonce, sum }, self.epoch()?, self.revision))
    }
}

/// An item of a list.
#[derive(Debug)]
pub(in crate::store) struct ListedRow<T> {
    position: i64,
    item: T,
}

row! {
    /// A row of `enforcements`. All columns are NULL if there is none.
    pub(in crate::store) struct EnforcedRow {
        elapsed: Option<i64>,
        nodes_acknowledged: Option<i64>,
        nodes_lapsed: Option<i64>,
    }
}

row! {
    /// A row of `requests`.
    pub(in crate::store) struct RequestRow {
        part: i64,
        fingerprint: Vec<u8>,
        first_revision: i64,
        last_revision: i64,
    }
}

impl<'r, R: sqlx::Row, T: FromRow<'r, R>> FromRow<'r, R> for ListedRow<T>
where
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    &'static str: sqlx::ColumnIndex<R>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self { position: row.try_get("position")?, item: T::from_row(row)? })
    }
}

/// A value that no version of this program has written.
#[derive(Debug, thiserror::Error)]
#[error("the database contains an invalid value: {column} = {value:?}")]
struct CorruptRow {
    column: &'static str,
    value: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

fn corrupt(
    column: &'static str,
    value: impl Display,
    source: impl Into<Option<Box<dyn Error + Send + Sync>>>,
) -> StoreError {
    StoreError::broken(CorruptRow { column, value: value.to_string(), source: source.into() })
}

// === Domain types to values ===

/// A level as a number, so that the database can compare levels.
pub(in crate::store) const fn level_number(level: AccessLevel) -> i64 {
    match level {
        AccessLevel::ReadOnly => 1,
        AccessLevel::ReadWrite => 2,
        AccessLevel::Admin => 3,
    }
}

pub(in crate::store) fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::broken)
}

// === Values to domain types ===

/// Parses a text that was validated when it was written.
fn parse<T, E: Error + Send + Sync + 'static>(
    column: &'static str,
    value: String,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    parse(&value).map_err(|error| corrupt(column, value, Box::from(error)))
}

fn free_text(column: &'static str, value: String) -> Result<FreeText, StoreError> {
    parse(column, value, |value| FreeText::new(value))
}

/// A tenant, or `None` for the vendor.
fn tenant(value: String) -> Result<Option<TenantId>, StoreError> {
    let tenant_id = (!value.is_empty()).then_some(value);
    tenant_id.map(|value| parse("tenant_id", value, TenantId::new)).transpose()
}

pub(in crate::store) fn time(column: &'static str, micros: i64) -> Result<Time, StoreError> {
    from_micros(micros).ok_or_else(|| corrupt(column, micros, None))
}

fn maybe_time(column: &'static str, micros: Option<i64>) -> Result<Option<Time>, StoreError> {
    micros.map(|micros| time(column, micros)).transpose()
}

pub(in crate::store) fn span(column: &'static str, micros: i64) -> Result<Duration, StoreError> {
    let micros = micros.try_into().map_err(|_| corrupt(column, micros, None))?;
    Ok(Duration::from_micros(micros))
}

fn count(column: &'static str, number: i64) -> Result<u32, StoreError> {
    number.try_into().map_err(|_| corrupt(column, number, None))
}

fn bytes<const N: usize>(column: &'static str, bytes: Vec<u8>) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|bytes: Vec<u8>| corrupt(column, format!("{bytes:02x?}"), None))
}

/// The value of a column that is not NULL in the table.
fn present<T>(column: &'static str, value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| corrupt(column, "NULL", None))
}

fn from_json<T: DeserializeOwned>(column: &'static str, json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| corrupt(column, json, Box::from(error)))
}

fn level(number: i64) -> Result<AccessLevel, StoreError> {
    AccessLevel::ALL
        .into_iter()
        .find(|level| level_number(*level) == number)
        .ok_or_else(|| corrupt("access_level", number, None))
}

pub(in crate::store) fn log_name(value: String) -> Result<LogName, StoreError> {
    Ok(LogName(parse("log_name", value, Uuid::parse_str)?))
}

pub(in crate::store) fn epoch(value: String) -> Result<Epoch, StoreError> {
    Ok(Epoch(parse("epoch", value, Uuid::parse_str)?))
}

fn position(value: String, revision: i64, micros: Option<i64>) -> Result<Position, StoreError> {
    Ok(Position { epoch: epoch(value)?, revision, time: maybe_time("time", micros)? })
}

/// The overrides after the last policy event of a tenant.
pub(in crate::store) fn overrides(
    last: Option<EventRow>,
    reader: &EventReader,
) -> Result<PolicyOverrides, StoreError> {
    let Some(last) = last else { return Ok(PolicyOverrides::default()) };
    match last.into_authentic(reader)?.kind {
        EventKind::PolicyUpdated { policy_overrides, .. } => Ok(policy_overrides),
        other => Err(corrupt("kind", other.name(), None)),
    }
}

impl HeadRow {
    pub(in crate::store) fn into_domain(self) -> Result<(Position, TokenKey), StoreError> {
        let Self { epoch, token_key, revision, time } = self;
        Ok((position(epoch, revision, time)?, TokenKey(bytes("token_key", token_key)?)))
    }
}

impl TrustedTimeRow {
    pub(in crate::store) fn into_domain(self) -> Result<Option<Time>, StoreError> {
        maybe_time("trusted_time", self.trusted_time)
    }
}

impl<R> ListedRow<R> {
    pub(in crate::store) fn into_domain<T>(
        self,
        convert: impl FnOnce(R) -> Result<T, StoreError>,
    ) -> Result<Listed<T>, StoreError> {
        Ok(Listed { position: self.position, item: convert(self.item)? })
    }
}

impl EnforcedRow {
    pub(in crate::store) fn into_domain(self) -> Result<Option<Enforced>, StoreError> {
        let Self { elapsed, nodes_acknowledged, nodes_lapsed } = self;
        let Some(elapsed) = elapsed else { return Ok(None) };
        let nodes = |column, number| count(column, present(column, number)?);
        Ok(Some(Enforced {
            elapsed: span("elapsed", elapsed)?,
            nodes_acknowledged: nodes("nodes_acknowledged", nodes_acknowledged)?,
            nodes_lapsed: nodes("nodes_lapsed", nodes_lapsed)?,
        }))
    }
}

impl RequestRow {
    pub(in crate::store) fn into_domain(self) -> Result<RequestPart, StoreError> {
        let Self { part, fingerprint, first_revision, last_revision } = self;
        let part = count("part", part)?;
        let fingerprint = bytes("fingerprint", fingerprint)?;
        Ok(RequestPart { part, fingerprint, first_revision, last_revision })
    }
}
