//! A transaction in a database, which holds the lock on the head.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    domain::{
        Clock, Epoch, Event, Grant, GrantId, GroupId, Lock, LockId, LogName, Party,
        PolicyOverrides, RequestId, Revision, Sequence, TenantId, Time, TokenKey,
        authenticity::StateSum, chain::Link,
    },
    store::{
        IdempotencyKey, Listed, NewEvent, Notification, Read, RequestPart, StoreError, Transaction,
        database_files::DatabaseFiles,
        notify::Notifier,
        sql::{
            Backend, Connection, CurrentKeys, Statement,
            rows::{self, EventReader, EventRow, ListedRow, LockedHeadRow, RequestRow},
            statements::{grants, lists, locks, log, members, owner},
            with_timeout,
        },
        transaction::{StampedEvent, append_each},
    },
};

mod ends;
mod state;

/// A transaction in a database.
#[derive(Debug)]
pub(super) struct SqlTransaction<DB: Backend> {
    connection: Connection<DB>,
    /// Released together with the connection.
    _permit: OwnedSemaphorePermit,
    notifier: Arc<dyn Notifier>,
    /// The files of an embedded database.
    files: Option<Arc<DatabaseFiles>>,
    clock: Time,
    /// The time of the last event, including appended ones.
    last: Option<Time>,
    now: Time,
    /// The epoch that begins with this transaction, if the transaction accepts the clock.
    new_epoch: Option<(Epoch, TokenKey)>,
    max_staleness: Duration,
    log: LogName,
    epoch: Epoch,
    reader: EventReader,
    /// The sum over all rows that decide access, after the appended events.
    sum: StateSum,
    /// The revision of the log when the head was locked.
    locked_revision: Revision,
    /// The revision of the log when the current change began.
    begin_revision: Revision,
    /// The revision of the last event, including appended ones.
    revision: Revision,
    /// The ends of the chains that the transaction has appended to.
    links: HashMap<Option<TenantId>, Link>,
    /// Whether the update of the head was sent.
    is_head_updated: bool,
    /// False while a write is incomplete. A part of an event must never be committed, even if the
    /// caller was cancelled or ignored an error.
    is_whole: bool,
}

impl<DB: Backend> SqlTransaction<DB> {
    /// A transaction that has locked the head.
    pub(super) fn at_head(
        connection: Connection<DB>,
        head: LockedHeadRow,
        permit: OwnedSemaphorePermit,
        notifier: Arc<dyn Notifier>,
        files: Option<Arc<DatabaseFiles>>,
        clock: &dyn Clock,
        keys: &CurrentKeys,
    ) -> Result<Self, StoreError> {
        let LockedHeadRow { max_staleness, clock: database_clock, state } = head;
        let log = state.log()?;
        let reader = keys.reader_of(log);
        let (revision, last) = (state.revision, state.time);
        let micros = database_clock.unwrap_or_else(|| clock.now().timestamp_micros());
        let clock = rows::time("the clock", micros)?;
        let last = last.map(|last| rows::time("head.time", last)).transpose()?;
        Ok(Self {
            connection,
            _permit: permit,
            notifier,
            files,
            clock,
            last,
            now: last.map_or(clock, |last| last.max(clock)),
            new_epoch: None,
            max_staleness: rows::span("max_staleness", max_staleness)?,
            log,
            epoch: state.epoch()?,
            sum: state.sum(reader.keys())?,
            reader,
            locked_revision: revision,
            begin_revision: revision,
            revision,
            links: HashMap::new(),
            is_head_updated: false,
            is_whole: true,
        })
    }

    /// The end of the chain of a tenant, or of the vendor.
    async fn last_link(&mut self, tenant_id: Option<&TenantId>) -> Result<Link, StoreError> {
        if let Some(link) = self.links.get(&tenant_id.cloned()) {
            return Ok(*link);
        }
        let last: Option<EventRow> =
            self.connection.first(log::last_event(owner(tenant_id))).await?;
        last.map_or(Ok(Link::START), |last| last.into_link(&self.reader))
    }

    async fn stamp(&mut self, new: NewEvent) -> Result<StampedEvent, StoreError> {
        let previous = self.last_link(new.tenant_id.as_ref()).await?;
        StampedEvent::new(new, self.log, previous, self.revision + 1, self.now)
    }

    async fn read_count(&mut self, statement: Statement) -> Result<usize, StoreError> {
        let count: Option<(i64,)> = with_timeout(self.connection.first(statement)).await?;
        Ok(count.and_then(|(count,)| usize::try_from(count).ok()).unwrap_or_default())
    }

    /// The statements that a read executes.
    fn statements(read: Read<'_>) -> Vec<Statement> {
        match read {
            Read::Request(tenant_id, request_id) => vec![log::request(tenant_id, request_id)],
            Read::Grant(tenant_id, grant_id) => vec![
                log::last_grant_event(tenant_id, grant_id),
                grants::select(tenant_id, grant_id),
            ],
            Read::LiveGrants(tenant_id) => vec![
                grants::live(tenant_id, None, usize::MAX),
                grants::live_events(tenant_id, None, usize::MAX),
            ],
            Read::SizeOfLiveGrants(tenant_id) => {
                vec![grants::size_of_live(&DB::DIALECT, tenant_id)]
            }
            Read::Overrides(tenant_id) => vec![lists::last_policy_event(tenant_id.as_str())],
            Read::Lock(lock_id) => vec![log::last_lock_event(lock_id), locks::select(lock_id)],
            Read::History(tenant_id) => vec![log::last_event(owner(tenant_id))],
        }
    }

    /// Writes the head, which then includes the appended events.
    async fn update_head(&mut self) -> Result<(), StoreError> {
        let Some(last) = self.last.filter(|_| self.revision > self.locked_revision) else {
            return Ok(());
        };
        let epoch = self.new_epoch.map_or(self.epoch, |(epoch, _)| epoch);
        let masked = self.reader.keys().mask(self.sum, epoch, self.revision);
        let masked = masked.map_err(StoreError::unavailable)?;
        let (dialect, revision) = (&DB::DIALECT, self.revision);
        let Some(new_epoch) = self.new_epoch else {
            self.connection.defer(log::update_head(dialect, revision, last, &masked));
            return self.connection.flush().await;
        };
        // The triggers of both tables read the event that accepts the clock.
        let update = log::update_head_and_epoch(dialect, revision, last, &masked, new_epoch);
        self.connection.execute(update).await?;
        self.connection.execute(members::accept_time(last, revision)).await?;
        Ok(())
    }

    fn check_whole(&self) -> Result<(), StoreError> {
        if self.is_whole {
            return Ok(());
        }
        Err(StoreError::unavailable(
            "a write of this transaction is incomplete; begin another transaction",
        ))
    }
}

#[async_trait]
impl<DB: Backend> Transaction for SqlTransaction<DB> {
    fn clock(&self) -> Time {
        self.clock
    }

    fn now(&self) -> Time {
        self.now
    }

    fn set_now(&mut self, time: Time) {
        self.now = self.last.map_or(time, |last| last.max(time));
    }

    fn head(&self) -> Revision {
        self.begin_revision
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    fn next_change(&mut self, elapsed: Duration) {
        self.clock += elapsed;
        self.begin_revision = self.revision;
        self.set_now(self.clock);
    }

    async fn read_ahead(&mut self, reads: &[Read<'_>]) -> Result<(), StoreError> {
        let statements = reads.iter().copied().flat_map(Self::statements).collect();
        with_timeout(self.connection.read_ahead(statements)).await
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        with_timeout(self.find_grant(tenant_id, grant_id)).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        let rows = grants::live(tenant_id, before, limit);
        let events = grants::live_events(tenant_id, before, limit);
        self.read_grants(rows, events).await
    }

    async fn live_grants_by_events(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
    ) -> Result<Vec<Grant>, StoreError> {
        let mut live = self.grants_of(log::live_grant_events(tenant_id)).await?;
        live.retain(|grant| before.is_none_or(|before| grant.create_sequence < before));
        Ok(live)
    }

    async fn live_grants_of(
        &mut self,
        tenant_id: &TenantId,
        grant_ids: &[GrantId],
    ) -> Result<Vec<Grant>, StoreError> {
        let grant_ids: Vec<String> = grant_ids.iter().map(GrantId::to_string).collect();
        self.grants_of(log::last_grant_events(&DB::DIALECT, tenant_id, &grant_ids)?).await
    }

    async fn size_of_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.read_count(grants::size_of_live(&DB::DIALECT, tenant_id)).await
    }

    async fn count_live_grants(
        &mut self,
        tenant_id: &TenantId,
        group_id: &GroupId,
    ) -> Result<usize, StoreError> {
        self.read_count(grants::count_live(tenant_id, group_id)).await
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        let due = self.read_grants(grants::due(now, limit), grants::due_events(now, limit)).await?;
        let is_due = |grant: &Grant| grant.terms.expire_time.is_some_and(|end| end <= now);
        Ok(due.into_iter().filter(is_due).collect())
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let statement = lists::last_policy_event(tenant_id.as_str());
        let row = with_timeout(self.connection.first(statement)).await?;
        rows::overrides(row, &self.reader)
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        with_timeout(self.find_lock(lock_id)).await
    }

    async fn count_live_locks(
        &mut self,
        party: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        self.read_count(locks::count_live(party, tenant_id)).await
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        with_timeout(self.find_due_locks(now, limit)).await
    }

    async fn last_events_of_live_grants(
        &mut self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Listed<Event>>, StoreError> {
        let statement = grants::last_events_of_live(after, limit);
        let rows: Vec<ListedRow<EventRow>> = with_timeout(self.connection.all(statement)).await?;
        let reader = &self.reader;
        rows.into_iter().map(|row| row.into_domain(|row| row.into_authentic(reader))).collect()
    }

    async fn live_grant_ids(&mut self) -> Result<Vec<GrantId>, StoreError> {
        self.read_live_grant_ids().await
    }

    async fn clock_events(&mut self) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<EventRow> = with_timeout(self.connection.all(log::clock_events())).await?;
        rows.into_iter().map(|row| row.into_authentic(&self.reader)).collect()
    }

    async fn revision_of(
        &mut self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> Result<Revision, StoreError> {
        let event = with_timeout(self.event_at(owner(tenant_id), sequence)).await?;
        let missing = || self.reader.report_missing(tenant_id.cloned());
        event.map(|event| event.revision).ok_or_else(missing)
    }

    async fn request(
        &mut self,
        tenant_id: Option<&TenantId>,
        request_id: &RequestId,
    ) -> Result<Vec<RequestPart>, StoreError> {
        let statement = log::request(tenant_id, request_id);
        let rows: Vec<RequestRow> = with_timeout(self.connection.all(statement)).await?;
        rows.into_iter().map(RequestRow::into_domain).collect()
    }

    async fn append(&mut self, new: NewEvent) -> Result<Event, StoreError> {
        self.check_whole()?;
        self.is_whole = false;
        let stamped = with_timeout(self.write(new)).await?;
        self.links.insert(stamped.event.tenant_id.clone(), stamped.link());
        (self.revision, self.last) = (stamped.event.revision, Some(stamped.event.time));
        self.is_whole = true;
        Ok(stamped.event)
    }

    async fn append_all(&mut self, new: Vec<NewEvent>) -> Result<Vec<Event>, StoreError> {
        let Some(tenant_id) = ends::tenant_of_ends(&new) else {
            return append_each(self, new).await;
        };
        self.check_whole()?;
        self.is_whole = false;
        let stamped = self.write_ends(&tenant_id, new).await?;
        if let Some(last) = stamped.last() {
            self.links.insert(Some(tenant_id), last.link());
            (self.revision, self.last) = (last.event.revision, Some(last.event.time));
        }
        self.is_whole = true;
        Ok(stamped.into_iter().map(|stamped| stamped.event).collect())
    }

    async fn record_request(&mut self, key: &IdempotencyKey, part: u32) -> Result<(), StoreError> {
        self.check_whole()?;
        if self.revision == self.begin_revision {
            return Ok(());
        }
        let (first, last) = (self.begin_revision + 1, self.revision);
        let statement = log::insert_request(key, part, first, last);
        self.connection.defer(statement);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        self.check_whole()?;
        if !self.is_head_updated {
            self.is_whole = false;
            with_timeout(self.update_head()).await?;
            (self.is_whole, self.is_head_updated) = (true, true);
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Revision, StoreError> {
        self.flush().await?;
        let Self { connection, notifier, files, revision, locked_revision, .. } = *self;
        // The lock on the head is a write: PostgreSQL waits for its standbys even if the
        // transaction wrote nothing else.
        with_timeout(connection.commit()).await.map_err(StoreError::of_commit)?;
        files.map_or(Ok(()), |files| files.acknowledge(revision))?;
        if revision > locked_revision {
            notifier.notify(Notification::Log);
        }
        Ok(revision)
    }
}
