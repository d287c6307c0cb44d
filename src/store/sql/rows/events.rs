//! Rows of events and chains.

use crate::{
    domain::{
        Attribution, Event, EventKind, FreeText, Time,
        authenticity::{EventColumns, LogKeys, StateRow},
        chain::{Content, Hash, Link, Record},
        ids::Actor,
    },
    store::{
        HistoryEvent, StoreError,
        sql::rows::{
            EnforcedRow, EventReader, Forgery, bytes, free_text, from_json, log_name, parse,
            tenant, time,
        },
    },
};

row! {
    /// A row of `events`. Its columns are private, because a row is not authentic before an
    /// [`EventReader`] has verified the row.
    pub(in crate::store) struct EventRow {
        revision: i64,
        tenant_id: String,
        sequence: i64,
        hash: Vec<u8>,
        time: i64,
        actor: String,
        via: Option<String>,
        actor_asserted: i64,
        reason: String,
        kind: String,
        grant_id: Option<String>,
        lock_id: Option<String>,
        body: String,
        mac: Vec<u8>,
        owner_mac: Vec<u8>,
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
    /// A policy event, as a row that contributes to the sum in `head`. The sum authenticates all
    /// such rows together.
    pub(in crate::store) struct PolicyEventRow {
        pub(in crate::store) tenant_id: String,
        pub(in crate::store) sequence: i64,
        pub(in crate::store) hash: Vec<u8>,
    }
}

row! {
    /// An event that accepts the clock, as a row that contributes to the sum in `head`.
    pub(in crate::store) struct AcceptedClockRow {
        revision: i64,
        hash: Vec<u8>,
    }
}

impl AcceptedClockRow {
    pub(in crate::store) fn state(&self) -> StateRow<'_> {
        StateRow::AcceptedClock(self.revision, &self.hash)
    }
}

impl PolicyEventRow {
    pub(in crate::store) fn state(&self) -> StateRow<'_> {
        StateRow::Policy(&self.tenant_id, self.sequence, &self.hash)
    }
}

impl EventRow {
    /// Fails if no replica wrote the row as it is. The reader then reports the forgery.
    fn verify(&self, reader: &EventReader) -> Result<(), Forgery> {
        reader.verify(&self.columns(), &self.mac, &self.owner_mac)
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
    pub(in crate::store) fn into_domain(self, reader: &EventReader) -> Result<Event, StoreError> {
        if let Err(forgery) = self.verify(reader) {
            return Ok(self.into_forged(forgery));
        }
        self.into_event()
    }

    fn into_event(self) -> Result<Event, StoreError> {
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

    fn require_authentic(&self, reader: &EventReader) -> Result<(), StoreError> {
        self.verify(reader).map_err(|_| forged(self.revision))
    }

    /// The authentic event.
    pub(in crate::store) fn into_authentic(
        self,
        reader: &EventReader,
    ) -> Result<Event, StoreError> {
        self.require_authentic(reader)?;
        self.into_event()
    }

    /// The link of an authentic event in its chain.
    pub(in crate::store) fn into_link(self, reader: &EventReader) -> Result<Link, StoreError> {
        self.require_authentic(reader)?;
        Ok(Link { sequence: self.sequence, hash: hash(self.hash)? })
    }

    /// The position in the log.
    pub(in crate::store) fn revision(&self) -> i64 {
        self.revision
    }

    /// The length of the body in bytes.
    pub(super) fn body_length(&self) -> usize {
        self.body.len()
    }

    /// The tenant as stored, verified or not.
    pub(super) fn stored_tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// The kind and the id of the object. Fails if the row is not authentic.
    pub(super) fn object(&self, reader: &EventReader) -> Result<(&'static str, String), Forgery> {
        self.verify(reader)?;
        let object = if self.grant_id.is_some() { "grant" } else { "lock" };
        let id = self.grant_id.clone().or_else(|| self.lock_id.clone());
        Ok((object, id.unwrap_or_default()))
    }

    /// The HMACs of an authentic event, and of its owner, by another key.
    pub(in crate::store) fn macs_with(
        &self,
        reader: &EventReader,
        new: &LogKeys,
    ) -> Result<[[u8; 32]; 2], StoreError> {
        self.require_authentic(reader)?;
        Ok([new.mac(&self.columns()), new.owner_mac(&self.columns())])
    }

    /// An event of an unknown history denies everything everywhere, like an event of the vendor.
    fn into_forged(self, forgery: Forgery) -> Event {
        Event {
            revision: self.revision,
            tenant_id: forgery.history,
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
    pub(in crate::store) fn into_domain(
        self,
        reader: &EventReader,
    ) -> Result<HistoryEvent, StoreError> {
        Ok(HistoryEvent {
            hash: hash(self.event.hash.clone())?,
            event: self.event.into_authentic(reader)?,
            enforced: self.enforced.into_domain()?,
        })
    }
}

impl RecordRow {
    pub(in crate::store) fn into_domain(self, reader: &EventReader) -> Result<Record, StoreError> {
        let Self { log_name: log, event, previous_hash } = self;
        let is_authentic = event.verify(reader).is_ok();
        let link = Link { sequence: event.sequence, hash: hash(event.hash.clone())? };
        let previous = previous_hash.map(hash).transpose()?.unwrap_or(Hash::ZERO);
        let record = event.content()?.record(log_name(log)?, event.revision, previous, link);
        let record = record.map_err(StoreError::broken)?;
        Ok(Record { is_authentic, ..record })
    }
}
