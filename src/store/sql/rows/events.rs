//! Rows of events and of their chains.

use sqlx::FromRow;

use crate::{
    domain::{
        Attribution, Event,
        chain::{ChainHead, Content, Hash, Link, Record},
        ids::Actor,
    },
    store::{
        HistoryEvent, StoreError,
        sql::rows::{EnforcedRow, bytes, free_text, from_json, log_name, parse, tenant, time},
    },
};

/// A row of `events`, without its hash.
#[derive(Debug, FromRow)]
pub(in crate::store) struct EventRow {
    revision: i64,
    tenant_id: String,
    sequence: i64,
    time: i64,
    actor: String,
    via: Option<String>,
    actor_asserted: i64,
    reason: String,
    body: String,
}

/// A row of `events`, with the recorded enforcement of its change.
#[derive(Debug, FromRow)]
pub(in crate::store) struct ListedEventRow {
    #[sqlx(flatten)]
    event: EventRow,
    hash: Vec<u8>,
    #[sqlx(flatten)]
    enforced: EnforcedRow,
}

/// A link of a chain.
#[derive(Debug, FromRow)]
pub(in crate::store) struct LinkRow {
    sequence: i64,
    hash: Vec<u8>,
}

/// The head of the log, and the end of a chain. The link is NULL if the chain is empty.
#[derive(Debug, FromRow)]
pub(in crate::store) struct ChainHeadRow {
    log_name: String,
    pub(in crate::store) revision: i64,
    sequence: Option<i64>,
    hash: Option<Vec<u8>>,
}

/// A row of `events`, with its hash and the previous hash.
#[derive(Debug, FromRow)]
pub(in crate::store) struct RecordRow {
    log_name: String,
    #[sqlx(flatten)]
    event: EventRow,
    hash: Vec<u8>,
    previous_hash: Option<Vec<u8>>,
}

fn hash(value: Vec<u8>) -> Result<Hash, StoreError> {
    bytes("hash", value).map(Hash)
}

impl EventRow {
    pub(in crate::store) fn into_domain(self) -> Result<Event, StoreError> {
        let author = Attribution {
            actor: parse("actor", self.actor, Actor::new)?,
            via: self.via.map(|via| parse("via", via, Actor::new)).transpose()?,
            is_asserted: self.actor_asserted != 0,
        };
        Ok(Event {
            revision: self.revision,
            tenant_id: tenant(self.tenant_id)?,
            sequence: self.sequence,
            time: time("time", self.time)?,
            author,
            reason: free_text("reason", self.reason)?,
            kind: from_json("body", &self.body)?,
        })
    }

    /// The hashed content as stored, whether or not this version understands it.
    fn content(&self) -> Result<Content<'_>, StoreError> {
        Ok(Content {
            tenant_id: &self.tenant_id,
            time: time("time", self.time)?,
            actor: &self.actor,
            via: self.via.as_deref(),
            actor_asserted: self.actor_asserted != 0,
            reason: &self.reason,
            body: &self.body,
        })
    }
}

impl ListedEventRow {
    pub(in crate::store) fn into_domain(self) -> Result<HistoryEvent, StoreError> {
        Ok(HistoryEvent {
            event: self.event.into_domain()?,
            hash: hash(self.hash)?,
            enforced: self.enforced.into_domain()?,
        })
    }
}

impl LinkRow {
    pub(in crate::store) fn into_domain(self) -> Result<Link, StoreError> {
        Ok(Link { sequence: self.sequence, hash: hash(self.hash)? })
    }
}

impl ChainHeadRow {
    pub(in crate::store) fn into_domain(self) -> Result<ChainHead, StoreError> {
        let row = self.sequence.zip(self.hash).map(|(sequence, hash)| LinkRow { sequence, hash });
        let link = row.map(LinkRow::into_domain).transpose()?.unwrap_or(Link::START);
        Ok(ChainHead { log: log_name(self.log_name)?, link })
    }
}

impl RecordRow {
    pub(in crate::store) fn into_domain(self) -> Result<Record, StoreError> {
        let Self { log_name: log, event, hash: own, previous_hash } = self;
        let link = Link { sequence: event.sequence, hash: hash(own)? };
        let previous = previous_hash.map(hash).transpose()?.unwrap_or(Hash::ZERO);
        let record = event.content()?.record(log_name(log)?, event.revision, previous, link);
        record.map_err(StoreError::broken)
    }
}
