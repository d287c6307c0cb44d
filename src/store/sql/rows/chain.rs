//! Rows of the chains.

use uuid::Uuid;

use crate::{
    domain::{
        Epoch, Revision,
        chain::{ChainHead, Content, EncodeError, Hash, Link, Record},
    },
    store::{
        StoreError,
        sql::rows::{EventRow, corrupt, text, time},
    },
};

/// A place in a chain; all of it is NULL if there is none.
#[derive(Debug)]
pub(in crate::store) struct LinkRow {
    sequence: Option<i64>,
    hash: Option<Vec<u8>>,
}

/// The name of the log, and the end of a chain.
#[derive(Debug)]
pub(in crate::store) struct ChainHeadRow {
    epoch: String,
    link: LinkRow,
}

/// An event in its chain.
#[derive(Debug)]
pub(in crate::store) struct RecordRow {
    epoch: String,
    event: EventRow,
    link: LinkRow,
    previous_hash: Option<Vec<u8>>,
}

from_row! { LinkRow [sequence, hash] [] }
from_row! { ChainHeadRow [epoch] [link] }
from_row! { RecordRow [epoch, previous_hash] [event, link] }

fn hash(bytes: Vec<u8>) -> Result<Hash, StoreError> {
    let hash = bytes.try_into().map(Hash);
    hash.map_err(|bytes: Vec<u8>| corrupt("hash", format!("{bytes:02x?}"), None))
}

/// The name of a log.
pub(in crate::store) fn epoch(value: String) -> Result<Epoch, StoreError> {
    Ok(Epoch(text("epoch", value, Uuid::parse_str)?))
}

fn unrecordable(error: EncodeError) -> StoreError {
    StoreError::Broken(Box::new(error))
}

impl LinkRow {
    pub(in crate::store) fn into_domain(self) -> Result<Option<Link>, StoreError> {
        let Self { sequence, hash: bytes } = self;
        let link = |(sequence, bytes)| Ok(Link { sequence, hash: hash(bytes)? });
        sequence.zip(bytes).map(link).transpose()
    }
}

impl ChainHeadRow {
    pub(in crate::store) fn into_domain(self) -> Result<ChainHead, StoreError> {
        let link = self.link.into_domain()?.unwrap_or(Link::START);
        Ok(ChainHead { log: epoch(self.epoch)?, link })
    }
}

impl RecordRow {
    pub(in crate::store) fn into_domain(self) -> Result<Record, StoreError> {
        let Self { epoch: log, event, link, previous_hash } = self;
        let link = link.into_domain()?.unwrap_or(Link::START);
        let previous = previous_hash.map(hash).transpose()?.unwrap_or(Hash::ZERO);
        event.content()?.record(epoch(log)?, previous, link).map_err(unrecordable)
    }
}

impl EventRow {
    /// What goes into its hash: as it is in the database, whether or not this version knows what it means.
    fn content(&self) -> Result<Content<'_>, StoreError> {
        Ok(Content {
            tenant_id: &self.tenant_id,
            revision: self.revision,
            time: time("time", self.time)?,
            actor: &self.actor,
            via: self.via.as_deref(),
            is_asserted: self.is_asserted != 0,
            reason: &self.reason,
            body: &self.body,
        })
    }

    pub(in crate::store) fn revision(&self) -> Revision {
        self.revision
    }

    /// Scope history; empty: the vendor's own.
    pub(in crate::store) fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// The link that follows `previous` with this event.
    pub(in crate::store) fn link(&self, log: Epoch, previous: Link) -> Result<Link, StoreError> {
        self.content()?.link(log, previous).map_err(unrecordable)
    }
}
