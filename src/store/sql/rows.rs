//! Rows and words: what the databases answer, and what it means.

use std::{collections::BTreeSet, error::Error, fmt::Display};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{FromRow, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{
    domain::{
        AccessLevel, AgentId, Attribution, Event, EventKind, FreeText, Grant, GrantId, GrantTerms,
        GroupId, Lock, PolicyOverrides, Revocation, TenantId, Ticket, Time, text::Actor,
        time::from_micros,
    },
    store::{IdempotentResult, StoreError},
};

/// Implements [`FromRow`] for a struct: fields that are columns, and fields that are rows themselves.
/// The derive macro of sqlx would build SQLite and TLS a second time, for the macro alone.
macro_rules! from_row {
    ($Row:ident [$($column:ident),*] [$($part:ident),*]) => {
        from_row! { @ sqlx::sqlite::SqliteRow, $Row [$($column),*] [$($part),*] }
        from_row! { @ sqlx::postgres::PgRow, $Row [$($column),*] [$($part),*] }
    };
    (@ $Source:ty, $Row:ident [$($column:ident),*] [$($part:ident),*]) => {
        impl sqlx::FromRow<'_, $Source> for $Row {
            fn from_row(row: &$Source) -> Result<Self, sqlx::Error> {
                Ok(Self {
                    $($column: sqlx::Row::try_get(row, stringify!($column))?,)*
                    $($part: sqlx::FromRow::from_row(row)?,)*
                })
            }
        }
    };
}
pub(in crate::store::sql) use from_row;

mod chain;
mod membership;

pub(in crate::store) use chain::{ChainHeadRow, LinkRow, RecordRow, epoch};
pub(in crate::store) use membership::{
    EnforcedRow, HeadRow, ListedEventRow, RenewalRow, ReportRow, RollRow, membership_of, span,
};

/// What both databases can answer.
pub(in crate::store) trait Answer:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}

impl<T> Answer for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static
{
}

/// A row of `grants`, as far as decisions go.
#[derive(Debug)]
pub(in crate::store) struct GrantTermsRow {
    tenant_id: String,
    grant_id: String,
    group_id: String,
    agent_ids: String,
    access_level: i64,
    start_time: i64,
    expire_time: Option<i64>,
    revoke_time: Option<i64>,
}

/// A row of `grants`.
#[derive(Debug)]
pub(in crate::store) struct GrantRow {
    terms: GrantTermsRow,
    reason: String,
    ticket: String,
    create_time: i64,
    creator: String,
    revoker: Option<String>,
    revoke_reason: Option<String>,
    create_revision: i64,
    revision: i64,
}

/// A row of `events`.
#[derive(Debug)]
pub(in crate::store) struct EventRow {
    revision: i64,
    tenant_id: String,
    time: i64,
    actor: String,
    via: Option<String>,
    is_asserted: i64,
    reason: String,
    body: String,
}

/// A row of `requests`, with the body of the event it made.
#[derive(Debug)]
pub(in crate::store) struct RequestRow {
    fingerprint: Vec<u8>,
    body: String,
}

from_row! { GrantTermsRow [tenant_id, grant_id, group_id, agent_ids, access_level, start_time, expire_time, revoke_time] [] }
from_row! { GrantRow [reason, ticket, create_time, creator, revoker, revoke_reason, create_revision, revision] [terms] }
from_row! { EventRow [revision, tenant_id, time, actor, via, is_asserted, reason, body] [] }
from_row! { RequestRow [fingerprint, body] [] }

/// A value that no version of this program has written.
#[derive(Debug, thiserror::Error)]
#[error("the database holds {column} = {value:?}")]
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
    StoreError::Broken(Box::new(CorruptRow {
        column,
        value: value.to_string(),
        source: source.into(),
    }))
}

// === Words to rows ===

/// A level as a number, so that a database can tell which is higher.
pub(in crate::store) const fn level_number(level: AccessLevel) -> i64 {
    match level {
        AccessLevel::ReadOnly => 1,
        AccessLevel::ReadWrite => 2,
        AccessLevel::Admin => 3,
    }
}

pub(in crate::store) fn to_json<T: Serialize>(words: &T) -> Result<String, StoreError> {
    serde_json::to_string(words).map_err(|error| StoreError::Broken(Box::new(error)))
}

// === Rows to words ===

/// Makes a checked text of one that was checked when it was written.
fn text<T, E: Error + Send + Sync + 'static>(
    column: &'static str,
    given: String,
    check: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    check(&given).map_err(|error| corrupt(column, given, Box::from(error)))
}

pub(in crate::store) fn time(column: &'static str, micros: i64) -> Result<Time, StoreError> {
    from_micros(micros).ok_or_else(|| corrupt(column, micros, None))
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

impl GrantTermsRow {
    pub(in crate::store) fn into_domain(self) -> Result<(TenantId, GrantTerms), StoreError> {
        let Self {
            tenant_id,
            grant_id,
            group_id,
            agent_ids,
            access_level,
            start_time,
            expire_time,
            revoke_time,
        } = self;
        let terms = GrantTerms {
            grant_id: GrantId(text("grant_id", grant_id, Uuid::parse_str)?),
            group_id: text("group_id", group_id, GroupId::new)?,
            agent_ids: agents(&agent_ids)?,
            access_level: level(access_level)?,
            start_time: time("start_time", start_time)?,
            expire_time: expire_time.map(|micros| time("expire_time", micros)).transpose()?,
            revoke_time: revoke_time.map(|micros| time("revoke_time", micros)).transpose()?,
        };
        Ok((text("tenant_id", tenant_id, TenantId::new)?, terms))
    }
}

/// Most grants name no agent: spare them the parser.
fn agents(json: &str) -> Result<BTreeSet<AgentId>, StoreError> {
    if json == "[]" { Ok(BTreeSet::new()) } else { from_json("agent_ids", json) }
}

impl GrantRow {
    pub(in crate::store) fn into_domain(self) -> Result<Grant, StoreError> {
        let Self {
            terms,
            reason,
            ticket,
            create_time,
            creator,
            revoker,
            revoke_reason,
            create_revision,
            revision,
        } = self;
        let (tenant_id, terms) = terms.into_domain()?;
        let revocation = match (revoker, revoke_reason) {
            (Some(revoker), Some(reason)) => Some(Revocation {
                revoker: text("revoker", revoker, Actor::new)?,
                reason: text("revoke_reason", reason, |given| FreeText::new(given))?,
            }),
            _ => None,
        };
        Ok(Grant {
            tenant_id,
            terms,
            reason: text("reason", reason, |given| FreeText::new(given))?,
            ticket: text("ticket", ticket, Ticket::new)?,
            create_time: time("create_time", create_time)?,
            creator: text("creator", creator, Actor::new)?,
            revocation,
            create_revision,
            revision,
        })
    }
}

impl EventRow {
    pub(in crate::store) fn into_domain(self) -> Result<Event, StoreError> {
        let Self { revision, tenant_id, time: micros, actor, via, is_asserted, reason, body } =
            self;
        let tenant_id = (!tenant_id.is_empty()).then_some(tenant_id);
        let author = Attribution {
            actor: text("actor", actor, Actor::new)?,
            via: via.map(|via| text("via", via, Actor::new)).transpose()?,
            is_asserted: is_asserted != 0,
        };
        Ok(Event {
            revision,
            tenant_id: tenant_id.map(|id| text("tenant_id", id, TenantId::new)).transpose()?,
            time: time("time", micros)?,
            author,
            reason: text("reason", reason, |given| FreeText::new(given))?,
            kind: from_json("body", &body)?,
        })
    }
}

impl RequestRow {
    pub(in crate::store) fn into_domain(self) -> Result<IdempotentResult, StoreError> {
        let Self { fingerprint, body } = self;
        let fingerprint = fingerprint
            .try_into()
            .map_err(|bytes: Vec<u8>| corrupt("fingerprint", format!("{bytes:02x?}"), None))?;
        let kind: EventKind = from_json("body", &body)?;
        let grant = kind.grant().ok_or_else(|| corrupt("body", &body, None))?.clone();
        Ok(IdempotentResult { fingerprint, grant })
    }
}

/// The body of a row of `locks`.
pub(in crate::store) fn lock((body,): (String,)) -> Result<Lock, StoreError> {
    from_json("body", &body)
}

/// The body of a row of `policy_overrides`.
pub(in crate::store) fn overrides(body: &str) -> Result<PolicyOverrides, StoreError> {
    from_json("body", body)
}
