//! Grants, locks and overrides in a transaction.
//!
//! The events decide. A row is compared with the last event about it whenever it is read, and a row
//! that differs is logged. The sum in `head` is over the state by the events, so that a later load
//! notices every row that differs.

use std::{collections::HashMap, fmt::Display};

use tracing::error;

use crate::{
    domain::{
        Event, EventKind, Grant, GrantId, GrantTerms, Lock, LockId, Revision, Sequence, TenantId,
        Time, authenticity::StateRow, chain::Link,
    },
    store::{
        NewEvent, Retained, StoreError, new_epoch,
        sql::{
            Backend, SqlStore, Statement,
            load::grant_row,
            rows::{EventRow, GrantRow, LockRow},
            statements::{grants, lists, locks, log, owner},
            transaction::SqlTransaction,
            with_timeout,
        },
        transaction::StampedEvent,
    },
};

pub(super) fn not_live(object: &str, id: impl Display) -> StoreError {
    StoreError::broken(format!("an event is about {object} {id}, which is missing or has ended"))
}

/// Logs a row that differs from the last event about it.
pub(super) fn report_unless_equal(is_equal: bool, tenant_id: &str, object: &str, id: impl Display) {
    if !is_equal {
        error!(tenant_id, object, %id, "a row differs from the history; the events decide");
    }
}

impl<DB: Backend> SqlTransaction<DB> {
    // === reads ===

    async fn read_event(&mut self, statement: Statement) -> Result<Option<Event>, StoreError> {
        let row: Option<EventRow> = self.connection.first(statement).await?;
        row.map(|row| row.into_authentic(&self.reader)).transpose()
    }

    pub(super) async fn event_at(
        &mut self,
        owner: &str,
        sequence: Sequence,
    ) -> Result<Option<Event>, StoreError> {
        self.read_event(log::event_at(owner, sequence)).await
    }

    /// Fails if a row states an event that the history lacks, although the event is later than the
    /// `last` event about the object. Another party has removed or moved the event.
    async fn check_stated(
        &mut self,
        tenant_id: &str,
        stated: Option<Sequence>,
        last: Option<Sequence>,
    ) -> Result<(), StoreError> {
        if let Some(sequence) = stated.filter(|stated| last.is_none_or(|last| *stated > last))
            && self.event_at(tenant_id, sequence).await?.is_none()
        {
            return Err(self.reader.report_missing(TenantId::new(tenant_id).ok()));
        }
        Ok(())
    }

    /// The grant after its last event.
    pub(super) async fn find_grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        let last = self.read_event(log::last_grant_event(tenant_id, grant_id)).await?;
        let row: Option<GrantRow> =
            self.connection.first(grants::select(tenant_id, grant_id)).await?;
        let grant = last.and_then(|last| last.kind.grant().cloned());
        let stated = row.as_ref().map(GrantRow::sequence);
        let found = row.and_then(|row| row.into_domain().ok());
        report_unless_equal(found == grant, tenant_id.as_str(), "grant", grant_id);
        let last = grant.as_ref().map(|grant| grant.sequence);
        self.check_stated(tenant_id.as_str(), stated, last).await?;
        Ok(grant)
    }

    /// The grants that `rows` selects, after the last events, which `events` selects.
    pub(super) async fn read_grants(
        &mut self,
        rows: Statement,
        events: Statement,
    ) -> Result<Vec<Grant>, StoreError> {
        let rows: Vec<GrantRow> = with_timeout(self.connection.all(rows)).await?;
        let by_events = self.grants_of(events).await?.into_iter();
        let mut by_events: HashMap<_, _> =
            by_events.map(|grant| (grant.id().to_string(), grant)).collect();
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let (tenant_id, id) = row.key();
            let (stated, grant) = (row.sequence(), by_events.remove(&id));
            let is_equal = row.into_domain().ok() == grant;
            report_unless_equal(is_equal, &tenant_id, "grant", id);
            let last = grant.as_ref().map(|grant| grant.sequence);
            self.check_stated(&tenant_id, Some(stated), last).await?;
            found.extend(grant);
        }
        Ok(found)
    }

    /// The live grants after the events that `statement` selects.
    pub(super) async fn grants_of(
        &mut self,
        statement: Statement,
    ) -> Result<Vec<Grant>, StoreError> {
        let rows: Vec<EventRow> = with_timeout(self.connection.all(statement)).await?;
        let mut grants = Vec::with_capacity(rows.len());
        for row in rows {
            let event = row.into_authentic(&self.reader)?;
            if !event.kind.is_end() {
                grants.extend(event.kind.grant().cloned());
            }
        }
        Ok(grants)
    }

    /// The lock after its last event.
    pub(super) async fn find_lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        let last = self.read_event(log::last_lock_event(lock_id)).await?;
        let row: Option<LockRow> = self.connection.first(locks::select(lock_id)).await?;
        let lock = last.and_then(|last| last.kind.lock().cloned());
        let stated = row.as_ref().map(|row| (row.key().0, row.sequence()));
        let found = row.and_then(|row| row.into_domain().ok());
        let tenant_id = owner(lock.as_ref().and_then(Lock::tenant_id)).to_owned();
        report_unless_equal(found == lock, &tenant_id, "lock", lock_id);
        if let Some((tenant_id, sequence)) = stated {
            let last = lock.as_ref().map(|lock| lock.sequence);
            self.check_stated(&tenant_id, Some(sequence), last).await?;
        }
        Ok(lock)
    }

    /// The locks that are due by their rows and by their events.
    pub(super) async fn find_due_locks(
        &mut self,
        now: Time,
        limit: usize,
    ) -> Result<Vec<Lock>, StoreError> {
        let rows: Vec<LockRow> = self.connection.all(locks::due(now, limit)).await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in rows {
            let ((tenant_id, id), stated) = (row.key(), row.sequence());
            let Ok(found) = row.into_domain() else {
                report_unless_equal(false, &tenant_id, "lock", id);
                continue;
            };
            let last = self.read_event(log::last_lock_event(found.id())).await?;
            let last_sequence = last.as_ref().map(|last| last.sequence);
            self.check_stated(&tenant_id, Some(stated), last_sequence).await?;
            let live = last.filter(|last| !last.kind.is_end());
            let lock = live.and_then(|last| last.kind.lock().cloned());
            report_unless_equal(lock.as_ref() == Some(&found), &tenant_id, "lock", id);
            due.extend(lock.filter(|lock| !lock.terms.applies_at(now)));
        }
        Ok(due)
    }

    /// The grants that no event has ended. The rows of this transaction are added up, as in a load.
    pub(super) async fn read_live_grant_ids(&mut self) -> Result<Vec<GrantId>, StoreError> {
        let mut ids = Vec::new();
        let mut visit = |_, terms: GrantTerms, retained| {
            if retained == Retained::Live {
                ids.push(terms.grant_id);
            }
        };
        let (keys, connection) = (self.reader.keys(), &mut self.connection);
        let (sum, _) = SqlStore::load_rows(keys, connection, &mut visit).await?;
        if sum == Some(self.sum) {
            return Ok(ids);
        }
        Err(StoreError::broken(
            "the rows do not match the sum in head, because a row is hidden or was changed; \
             restore the rows that the verification names, or rotate the event key, then repeat \
             the command",
        ))
    }

    // === writes ===

    /// Appends an event, and changes the row and the sum accordingly.
    pub(super) async fn write(&mut self, new: NewEvent) -> Result<StampedEvent, StoreError> {
        if let EventKind::ClockAccepted { .. } = new.kind {
            self.now = self.clock;
            self.new_epoch = Some(new_epoch());
        }
        // An earlier event of the transaction writes the same tables.
        self.connection.flush().await?;
        self.remove_before(&new).await?;
        let stamped = self.stamp(new).await?;
        let latest = self.latest_before(&stamped.event.kind).await?;
        self.connection.defer(log::insert_event(&stamped, self.reader.keys()));
        let (kind, revision) = (&stamped.event.kind, stamped.event.revision);
        match kind {
            EventKind::Granted { grant } => self.insert_grant(grant, revision)?,
            EventKind::Extended { grant, .. } => {
                self.connection.defer(grants::update(grant, false));
                self.add(grant_row(&grant.tenant_id, &grant.terms, Retained::Live));
            }
            EventKind::Revoked { grant } | EventKind::Expired { grant } => {
                self.end_grant(grant, latest.as_ref());
            }
            EventKind::Locked { lock } => {
                self.connection.defer(locks::insert(lock, revision));
                self.add(StateRow::Lock(&lock.terms));
            }
            EventKind::Unlocked { lock } | EventKind::LockExpired { lock } => {
                self.connection.defer(locks::end(lock));
            }
            EventKind::PolicyUpdated { .. } => {
                let (tenant_id, hash) = (owner(stamped.event.tenant_id.as_ref()), stamped.hash.0);
                self.add(StateRow::Policy(tenant_id, stamped.event.sequence, &hash));
            }
            // The commit updates the head to an accepted clock.
            EventKind::ClockAccepted { .. } => {
                self.add(StateRow::AcceptedClock(revision, &stamped.hash.0));
            }
            EventKind::Forged => return Err(StoreError::broken("a forged event is never written")),
        }
        Ok(stamped)
    }

    /// Removes the state that `new` replaces from the sum.
    async fn remove_before(&mut self, new: &NewEvent) -> Result<(), StoreError> {
        match &new.kind {
            EventKind::Extended { grant, .. }
            | EventKind::Revoked { grant }
            | EventKind::Expired { grant } => {
                let statement = log::last_grant_event(&grant.tenant_id, grant.id());
                let last = self.read_event(statement).await?.filter(|last| !last.kind.is_end());
                let previous = last.as_ref().and_then(|last| last.kind.grant());
                let previous = previous
                    .filter(|previous| previous.create_sequence == grant.create_sequence)
                    .ok_or_else(|| not_live("grant", grant.id()))?;
                self.remove(StateRow::LiveGrant(&grant.tenant_id, &previous.terms));
            }
            EventKind::Unlocked { lock } | EventKind::LockExpired { lock } => {
                let last = self.read_event(log::last_lock_event(lock.id())).await?;
                let last = last.filter(|last| !last.kind.is_end());
                let previous = last.as_ref().and_then(|last| last.kind.lock());
                let previous = previous
                    .filter(|previous| previous.terms.tenant_id == lock.terms.tenant_id)
                    .ok_or_else(|| not_live("lock", lock.id()))?;
                self.remove(StateRow::Lock(&previous.terms));
            }
            EventKind::PolicyUpdated { .. } => {
                let tenant_id = owner(new.tenant_id.as_ref());
                let statement = lists::last_policy_event(tenant_id);
                let previous: Option<EventRow> = self.connection.first(statement).await?;
                if let Some(previous) = previous {
                    let Link { sequence, hash } = previous.into_link(&self.reader)?;
                    self.remove(StateRow::Policy(tenant_id, sequence, &hash.0));
                }
            }
            EventKind::Granted { .. }
            | EventKind::Locked { .. }
            | EventKind::ClockAccepted { .. }
            | EventKind::Forged => {}
        }
        Ok(())
    }

    pub(super) fn add(&mut self, row: StateRow<'_>) {
        self.sum = self.sum.plus(self.reader.keys().hash(row));
    }

    pub(super) fn remove(&mut self, row: StateRow<'_>) {
        self.sum = self.sum.minus(self.reader.keys().hash(row));
    }

    /// The latest ended grant of the group of a grant that the event ends.
    async fn latest_before(&mut self, kind: &EventKind) -> Result<Option<GrantTerms>, StoreError> {
        let Some(grant) = kind.grant().filter(|_| kind.is_end()) else { return Ok(None) };
        let statement = log::latest_ended_event(&grant.tenant_id, &grant.terms.group_id);
        let last = self.read_event(statement).await?;
        Ok(last.and_then(|last| last.kind.grant().map(|latest| latest.terms.clone())))
    }

    fn insert_grant(&mut self, grant: &Grant, revision: Revision) -> Result<(), StoreError> {
        self.connection.defer(grants::insert(grant, revision)?);
        if !grant.terms.agent_ids.is_empty() {
            self.connection.defer(grants::insert_agents(&DB::DIALECT, grant)?);
        }
        self.add(grant_row(&grant.tenant_id, &grant.terms, Retained::Live));
        Ok(())
    }

    fn end_grant(&mut self, grant: &Grant, latest: Option<&GrantTerms>) {
        self.connection.defer(grants::update(grant, true));
        if let Some(upsert) = self.replace_latest_ended(grant, latest) {
            self.connection.defer(upsert);
        }
    }

    /// Replaces the latest ended grant of a group in the sum, if `ended` is later than `latest`.
    /// Returns the statement that replaces the row.
    pub(super) fn replace_latest_ended(
        &mut self,
        ended: &Grant,
        latest: Option<&GrantTerms>,
    ) -> Option<Statement> {
        let (tenant_id, terms) = (&ended.tenant_id, &ended.terms);
        if latest.is_some_and(|latest| latest.end_rank() >= terms.end_rank()) {
            return None;
        }
        if let Some(latest) = latest {
            self.remove(grant_row(tenant_id, latest, Retained::LastEnded));
        }
        self.add(grant_row(tenant_id, terms, Retained::LastEnded));
        terms.end_time().map(|end_time| grants::upsert_latest_ended(ended, end_time))
    }
}
