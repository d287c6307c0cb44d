//! A change: one transaction that holds the head of the log.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    domain::{
        Clock, Event, EventKind, Grant, GrantId, Lock, LockId, Party, PolicyOverrides, RequestId,
        Revision, TenantId, Time, time::from_micros,
    },
    store::{
        IdempotencyKey, IdempotentResult, NewEvent, Notification, StoreError, Transaction,
        sql::{
            Backend, Connection, Notifier,
            chain::Chains,
            rows::{self, GrantRow, RequestRow, overrides, to_json},
            statements::{locks, read, write},
            unavailable, with_timeout,
        },
        stamp,
    },
};

/// What [`Dialect::lock_head`](super::Dialect::lock_head) answers.
type LockedHead = (i64, Option<i64>, i64, Option<i64>, String, i64);

/// A change in a database.
#[derive(Debug)]
pub(super) struct SqlTransaction<DB: Backend> {
    connection: Connection<DB>,
    /// Given back when the connection is.
    _turn: OwnedSemaphorePermit,
    notifier: Arc<dyn Notifier>,
    now: Time,
    max_staleness: Duration,
    /// The revision of the last event, appended ones included.
    revision: Revision,
    has_events: bool,
    chains: Chains,
    /// Whether there may be events in no chain.
    is_behind: bool,
    /// False from the moment something is being appended until it is, all of it: a part of an event must never be committed,
    /// not even by a caller who gave up waiting or ignored an error.
    is_whole: bool,
}

impl<DB: Backend> SqlTransaction<DB> {
    /// The transaction has begun: takes the head, and the time.
    pub(super) async fn at_head(
        mut connection: Connection<DB>,
        turn: OwnedSemaphorePermit,
        notifier: Arc<dyn Notifier>,
        clock: &dyn Clock,
    ) -> Result<Self, StoreError> {
        let head = connection.first(super::Statement::plain(DB::DIALECT.lock_head)).await?;
        let (revision, last, max_staleness, database_clock, log, linked): LockedHead =
            head.ok_or_else(|| StoreError::Broken("the table head is empty".into()))?;
        let micros = database_clock.unwrap_or_else(|| clock.now().timestamp_micros());
        let now = from_micros(last.map_or(micros, |last| last.max(micros)))
            .ok_or_else(|| StoreError::Broken("the time is not in the years 1 to 9999".into()))?;
        let max_staleness = rows::span("max_staleness", max_staleness)?;
        Ok(Self {
            connection,
            _turn: turn,
            notifier,
            now,
            max_staleness,
            revision,
            has_events: false,
            chains: Chains::new(rows::epoch(log)?),
            is_behind: linked < revision,
            is_whole: true,
        })
    }

    /// This change, if it finds every event in its chain; else it becomes one that only links some of them, and is committed.
    pub(super) async fn unless_behind(mut self) -> Result<Option<Self>, StoreError> {
        if self.is_behind && self.chains.catch_up(&mut self.connection).await? {
            self.connection.commit().await?;
            return Ok(None);
        }
        Ok(Some(self))
    }

    async fn write(
        &mut self,
        event: &Event,
        request: Option<IdempotencyKey>,
    ) -> Result<(), StoreError> {
        let body = to_json(&event.kind)?;
        self.connection.execute(write::insert_event(event, body.clone())).await?;
        self.chains.push(&mut self.connection, event, &body).await?;
        match &event.kind {
            EventKind::Granted { grant } => self.write_new(grant).await?,
            EventKind::Extended { grant, .. }
            | EventKind::Revoked { grant }
            | EventKind::Expired { grant } => {
                self.write_known(grant, event.kind.ends_grant()).await?;
            }
            EventKind::PolicyUpdated { overrides, policy: _ } => {
                let body = to_json(overrides)?;
                self.connection.execute(write::upsert_overrides(event, body)).await?;
            }
            EventKind::Locked { lock } => {
                self.connection.execute(locks::insert(lock)?).await?;
            }
            EventKind::Unlocked { lock } | EventKind::LockExpired { lock } => {
                self.write_end(lock).await?;
            }
        }
        if let Some(mark) = request {
            self.connection.execute(write::insert_request(event, &mark)).await?;
        }
        Ok(())
    }

    async fn write_new(&mut self, grant: &Grant) -> Result<(), StoreError> {
        self.connection.execute(write::insert_grant(grant)?).await?;
        if !grant.terms.agent_ids.is_empty() {
            self.connection.execute(write::insert_agents(&DB::DIALECT, grant)?).await?;
        }
        Ok(())
    }

    async fn write_known(&mut self, grant: &Grant, is_ended: bool) -> Result<(), StoreError> {
        if self.connection.execute(write::update_grant(grant, is_ended)).await? != 1 {
            let id = grant.id();
            let complaint =
                format!("an event is about grant {id}, which does not exist or has ended");
            return Err(StoreError::Broken(complaint.into()));
        }
        if is_ended && let Some(end_time) = grant.terms.end_time() {
            self.connection.execute(write::upsert_latest_ended(grant, end_time)).await?;
        }
        Ok(())
    }

    async fn write_end(&mut self, lock: &Lock) -> Result<(), StoreError> {
        if self.connection.execute(locks::end(lock)?).await? == 1 {
            return Ok(());
        }
        let id = lock.id();
        let complaint = format!("an event is about lock {id}, which does not exist or has ended");
        Err(StoreError::Broken(complaint.into()))
    }

    async fn locks(&mut self, ask: super::Statement) -> Result<Vec<Lock>, StoreError> {
        let rows: Vec<(String,)> = self.connection.all(ask).await?;
        rows.into_iter().map(rows::lock).collect()
    }

    async fn grants(&mut self, ask: super::Statement) -> Result<Vec<Grant>, StoreError> {
        let rows: Vec<GrantRow> = self.connection.all(ask).await?;
        rows.into_iter().map(GrantRow::into_domain).collect()
    }

    fn check_whole(&self) -> Result<(), StoreError> {
        if self.is_whole {
            return Ok(());
        }
        Err(unavailable("an event of this change was written only in part: begin again"))
    }
}

#[async_trait]
impl<DB: Backend> Transaction for SqlTransaction<DB> {
    fn now(&self) -> Time {
        self.now
    }

    fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        let ask = read::grant(tenant_id, grant_id);
        Ok(with_timeout(self.grants(ask)).await?.pop())
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<IdempotentResult>, StoreError> {
        let ask = read::remembered(tenant_id, request_id.as_str());
        let row: Option<RequestRow> = with_timeout(self.connection.first(ask)).await?;
        row.map(RequestRow::into_domain).transpose()
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        with_timeout(self.grants(read::live_grants(&DB::DIALECT, tenant_id, limit))).await
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        let ask = read::count_live_grants(&DB::DIALECT, tenant_id);
        let count: Option<(i64,)> = with_timeout(self.connection.first(ask)).await?;
        Ok(count.and_then(|(count,)| usize::try_from(count).ok()).unwrap_or_default())
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        with_timeout(self.grants(read::due_grants(now, limit))).await
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let row: Option<(String,)> =
            with_timeout(self.connection.first(read::overrides(tenant_id))).await?;
        row.map_or_else(|| Ok(PolicyOverrides::default()), |(body,)| overrides(&body))
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        Ok(with_timeout(self.locks(locks::lock(lock_id))).await?.pop())
    }

    async fn count_live_locks(
        &mut self,
        side: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        let ask = locks::count_live(&DB::DIALECT, side, tenant_id);
        let count: Option<(i64,)> = with_timeout(self.connection.first(ask)).await?;
        Ok(count.and_then(|(count,)| usize::try_from(count).ok()).unwrap_or_default())
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        with_timeout(self.locks(locks::due(now, limit))).await
    }

    async fn append(&mut self, entry: NewEvent) -> Result<Event, StoreError> {
        self.check_whole()?;
        self.is_whole = false;
        let (event, request) = stamp(entry, self.revision + 1, self.now);
        with_timeout(self.write(&event, request)).await?;
        self.revision = event.revision;
        self.has_events = true;
        self.is_whole = true;
        Ok(event)
    }

    async fn commit(mut self: Box<Self>) -> Result<Revision, StoreError> {
        self.check_whole()?;
        let Self { mut connection, notifier, now, revision, has_events, .. } = *self;
        with_timeout(async move {
            if has_events {
                let _told: Vec<(String,)> =
                    connection.all(write::update_head(&DB::DIALECT, revision, now)).await?;
            }
            // The lock on the head was a write: so PostgreSQL waits for its standbys even if there is nothing else.
            connection.commit().await
        })
        .await?;
        if has_events {
            notifier.tell(Notification::Log);
        }
        Ok(revision)
    }
}
