//! Rows of events and chains.

use crate::{
    domain::{
        Attribution, Event, EventKind, FreeText, Time,
        authenticity::{EventColumns, LogKeys, StateRow},
        chain::{ChainHead, Content, Hash, Link, Record},
        ids::Actor,
    },
    store::{
        HistoryEvent, StoreError,
        sql::rows::{EnforcedRow, bytes, free_text, from_json, log_name, parse, tenant, time},
    },
};

row! {
    /// A row of `events`.
    pub(in crate::store) struct EventRow {
        pub(super) revision: i64,
        pub(super) tenant_id: String,
        sequence: i64,
        hash: Vec<u8>,
        time: i64,
        actor: String,
        via: Option<String>,
        actor_asserted: i64,
        reason: String,
        pub(super) kind: String,
        pub(super) grant_id: Option<String>,
        pub(super) lock_id: Option<String>,
        pub(super) body: String,
        mac: Vec<u8>,
    }
}

row! {
    /// A row of `events`, with the recorded enforcement of the change.
    pub(in crate::store) struct ListedEventRow {} with {
        event: EventRow,
        enforced: EnforcedRow,
    }
}

row! {
    /// A link of a chain.
    pub(in crate::store) struct LinkRow {
        sequence: i64,
        hash: Vec<u8>,
    }
}

row! {
    /// The head of the log, and the end of a chain. The link is NULL if the chain is empty.
    pub(in crate::store) struct ChainHeadRow {
        log_name: String,
        pub(in crate::store) revision: i64,
        sequence: Option<i64>,
        hash: Option<Vec<u8>>,
    }
}

row! {
    /// A row of `events`, with the previous hash.
    pub(in crate::store) struct RecordRow {
        log_name: String,
        previous_hash: Option<Vec<u8>>,
    } with {
        event: EventRow,
    }
}

fn forged(revision: i64) -> StoreError {
    StoreError::broken(format!(
        "event {revision} is not authentic, because another party changed or inserted it; see the \
         runbook SupportAccessDatabaseForged"
    ))
}

fn hash(value: Vec<u8>) -> Result<Hash, StoreError> {
    bytes("hash", value).map(Hash)
}

row! {
    /// A policy event.
    pub(in crate::store) struct PolicyEventRow {
        pub(in crate::store) tenant_id: String,
        pub(in crate::store) sequence: i64,
        pub(in crate::store) hash: Vec<u8>,
    }
}

impl PolicyEventRow {
    pub(in crate::store) fn state(&self) -> StateRow<'_> {
        StateRow::Policy(&self.tenant_id, self.sequence, &self.hash)
    }
}

impl EventRow {
    /// Whether a replica wrote the row as it is.
    pub(in crate::store) fn is_authentic(&self, keys: &LogKeys) -> bool {
        keys.is_authentic(&self.columns(), &self.mac)
    }

    fn columns(&self) -> EventColumns<'_> {
        EventColumns {
            revision: self.revision,
            tenant_id: &self.tenant_id,
            sequence: self.sequence,
            hash: &self.hash,
            time: self.time,
            actor: &self.actor,
            via: self.via.as_deref(),
            actor_asserted: self.actor_asserted,
            reason: &self.reason,
            kind: &self.kind,
            grant_id: self.grant_id.as_deref(),
            lock_id: self.lock_id.as_deref(),
            body: &self.body,
        }
    }

    /// The event. [`EventKind::Forged`] if the row is not authentic.
    pub(in crate::store) fn into_domain(self, keys: &LogKeys) -> Result<Event, StoreError> {
        if !self.is_authentic(keys) {
            return Ok(self.into_forged());
        }
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

    /// The authentic event.
    pub(in crate::store) fn into_authentic(self, keys: &LogKeys) -> Result<Event, StoreError> {
        let event = self.into_domain(keys)?;
        if event.kind == EventKind::Forged {
            return Err(forged(event.revision));
        }
        Ok(event)
    }

    /// The position in the log.
    pub(in crate::store) fn revision(&self) -> i64 {
        self.revision
    }

    /// The HMAC of an authentic event by another key.
    pub(in crate::store) fn sign_again(
        &self,
        keys: &LogKeys,
        new: &LogKeys,
    ) -> Result<[u8; 32], StoreError> {
        if !self.is_authentic(keys) {
            return Err(forged(self.revision));
        }
        Ok(new.sign(&self.columns()))
    }

    /// A tenant that cannot be read counts as the vendor, so the event denies everything
    /// everywhere.
    fn into_forged(self) -> Event {
        Event {
            revision: self.revision,
            tenant_id: tenant(self.tenant_id).ok().flatten(),
            sequence: self.sequence,
            time: time("time", self.time).unwrap_or(Time::UNIX_EPOCH),
            author: Attribution::system(),
            reason: FreeText::default(),
            kind: EventKind::Forged,
        }
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
    pub(in crate::store) fn into_domain(self, keys: &LogKeys) -> Result<HistoryEvent, StoreError> {
        Ok(HistoryEvent {
            hash: hash(self.event.hash.clone())?,
            event: self.event.into_authentic(keys)?,
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
        let Self { log_name: log, event, previous_hash } = self;
        let link = Link { sequence: event.sequence, hash: hash(event.hash.clone())? };
        let previous = previous_hash.map(hash).transpose()?.unwrap_or(Hash::ZERO);
        let record = event.content()?.record(log_name(log)?, event.revision, previous, link);
        record.map_err(StoreError::broken)
    }
}
