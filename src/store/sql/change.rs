//! A change: one transaction that holds the head of the log.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    domain::{
        Clock, Event, EventKind, Grant, GrantId, Lock, LockId, RequestId, Revision, Side, TenantId,
        Tightening, Time, time::from_micros,
    },
    store::{
        Change, Entry, Hint, Remembered, RequestMark, StoreError,
        sql::{
            Backend, Lease, Messenger,
            chain::Chains,
            rows::{self, GrantRow, RequestRow, tightening, to_json},
            statements::{locks, read, write},
            unavailable, within_patience,
        },
        stamp,
    },
};

/// What [`Dialect::lock_head`](super::Dialect::lock_head) answers.
type LockedHead = (i64, Option<i64>, i64, Option<i64>, String, i64);

/// A change in a database.
#[derive(Debug)]
pub(super) struct SqlChange<DB: Backend> {
    lease: Lease<DB>,
    /// Given back when the lease is.
    _turn: OwnedSemaphorePermit,
    messenger: Arc<dyn Messenger>,
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

impl<DB: Backend> SqlChange<DB> {
    /// The transaction has begun: takes the head, and the time.
    pub(super) async fn at_head(
        mut lease: Lease<DB>,
        turn: OwnedSemaphorePermit,
        messenger: Arc<dyn Messenger>,
        clock: &dyn Clock,
    ) -> Result<Self, StoreError> {
        let head = lease.first(super::Statement::plain(DB::DIALECT.lock_head)).await?;
        let (revision, last, max_staleness, database_clock, log, linked): LockedHead =
            head.ok_or_else(|| StoreError::Broken("the table head is empty".into()))?;
        let micros = database_clock.unwrap_or_else(|| clock.now().timestamp_micros());
        let now = from_micros(last.map_or(micros, |last| last.max(micros)))
            .ok_or_else(|| StoreError::Broken("the time is not in the years 1 to 9999".into()))?;
        let max_staleness = rows::span("max_staleness", max_staleness)?;
        Ok(Self {
            lease,
            _turn: turn,
            messenger,
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
        if self.is_behind && self.chains.catch_up(&mut self.lease).await? {
            self.lease.commit().await?;
            return Ok(None);
        }
        Ok(Some(self))
    }

    async fn write(
        &mut self,
        event: &Event,
        request: Option<RequestMark>,
    ) -> Result<(), StoreError> {
        let body = to_json(&event.kind)?;
        self.lease.execute(write::insert_event(event, body.clone())).await?;
        self.chains.push(&mut self.lease, event, &body).await?;
        match &event.kind {
            EventKind::Granted { grant } => self.write_new(grant).await?,
            EventKind::Extended { grant, .. }
            | EventKind::Revoked { grant }
            | EventKind::Expired { grant } => {
                self.write_known(grant, event.kind.ends_grant()).await?;
            }
            EventKind::PolicyUpdated { tightening, policy: _ } => {
                let body = to_json(tightening)?;
                self.lease.execute(write::upsert_tightening(event, body)).await?;
            }
            EventKind::Locked { lock } => {
                self.lease.execute(locks::insert(lock)?).await?;
            }
            EventKind::Unlocked { lock } | EventKind::LockExpired { lock } => {
                self.write_end(lock).await?;
            }
        }
        if let Some(mark) = request {
            self.lease.execute(write::insert_request(event, &mark)).await?;
        }
        Ok(())
    }

    async fn write_new(&mut self, grant: &Grant) -> Result<(), StoreError> {
        self.lease.execute(write::insert_grant(grant)?).await?;
        if !grant.terms.agent_ids.is_empty() {
            self.lease.execute(write::insert_agents(&DB::DIALECT, grant)?).await?;
        }
        Ok(())
    }

    async fn write_known(&mut self, grant: &Grant, is_ended: bool) -> Result<(), StoreError> {
        if self.lease.execute(write::update_grant(grant, is_ended)).await? != 1 {
            let id = grant.id();
            let complaint =
                format!("an event is about grant {id}, which does not exist or has ended");
            return Err(StoreError::Broken(complaint.into()));
        }
        if is_ended && let Some(end_time) = grant.terms.end_time() {
            self.lease.execute(write::upsert_latest_ended(grant, end_time)).await?;
        }
        Ok(())
    }

    async fn write_end(&mut self, lock: &Lock) -> Result<(), StoreError> {
        if self.lease.execute(locks::end(lock)?).await? == 1 {
            return Ok(());
        }
        let id = lock.id();
        let complaint = format!("an event is about lock {id}, which does not exist or has ended");
        Err(StoreError::Broken(complaint.into()))
    }

    async fn locks(&mut self, ask: super::Statement) -> Result<Vec<Lock>, StoreError> {
        let rows: Vec<(String,)> = self.lease.all(ask).await?;
        rows.into_iter().map(rows::lock).collect()
    }

    async fn grants(&mut self, ask: super::Statement) -> Result<Vec<Grant>, StoreError> {
        let rows: Vec<GrantRow> = self.lease.all(ask).await?;
        rows.into_iter().map(GrantRow::into_words).collect()
    }

    fn check_whole(&self) -> Result<(), StoreError> {
        if self.is_whole {
            return Ok(());
        }
        Err(unavailable("an event of this change was written only in part: begin again"))
    }
}

#[async_trait]
impl<DB: Backend> Change for SqlChange<DB> {
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
        Ok(within_patience(self.grants(ask)).await?.pop())
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<Remembered>, StoreError> {
        let ask = read::remembered(tenant_id, request_id.as_str());
        let row: Option<RequestRow> = within_patience(self.lease.first(ask)).await?;
        row.map(RequestRow::into_words).transpose()
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        within_patience(self.grants(read::live_grants(&DB::DIALECT, tenant_id, limit))).await
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        let ask = read::count_live_grants(&DB::DIALECT, tenant_id);
        let count: Option<(i64,)> = within_patience(self.lease.first(ask)).await?;
        Ok(count.and_then(|(count,)| usize::try_from(count).ok()).unwrap_or_default())
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        within_patience(self.grants(read::due_grants(now, limit))).await
    }

    async fn tightening(&mut self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        let row: Option<(String,)> =
            within_patience(self.lease.first(read::tightening(tenant_id))).await?;
        row.map_or_else(|| Ok(Tightening::default()), |(body,)| tightening(&body))
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        Ok(within_patience(self.locks(locks::lock(lock_id))).await?.pop())
    }

    async fn count_live_locks(
        &mut self,
        side: Side,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        let ask = locks::count_live(&DB::DIALECT, side, tenant_id);
        let count: Option<(i64,)> = within_patience(self.lease.first(ask)).await?;
        Ok(count.and_then(|(count,)| usize::try_from(count).ok()).unwrap_or_default())
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        within_patience(self.locks(locks::due(now, limit))).await
    }

    async fn append(&mut self, entry: Entry) -> Result<Event, StoreError> {
        self.check_whole()?;
        self.is_whole = false;
        let (event, request) = stamp(entry, self.revision + 1, self.now);
        within_patience(self.write(&event, request)).await?;
        self.revision = event.revision;
        self.has_events = true;
        self.is_whole = true;
        Ok(event)
    }

    async fn commit(mut self: Box<Self>) -> Result<Revision, StoreError> {
        self.check_whole()?;
        let Self { mut lease, messenger, now, revision, has_events, .. } = *self;
        within_patience(async move {
            if has_events {
                let _told: Vec<(String,)> =
                    lease.all(write::update_head(&DB::DIALECT, revision, now)).await?;
            }
            // The lock on the head was a write: so PostgreSQL waits for its standbys even if there is nothing else.
            lease.commit().await
        })
        .await?;
        if has_events {
            messenger.tell(Hint::Log);
        }
        Ok(revision)
    }
}
