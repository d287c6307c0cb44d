//! A transaction at the end of a line that may fail.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use crate::{
    database::{Session, away},
    domain::{
        Event, Grant, GrantId, Lock, LockId, Party, PolicyOverrides, RequestId, Revision, TenantId,
        Time,
    },
    link::Line,
    store::{IdempotentResult, NewEvent, Notification, StoreError, Transaction},
};

/// How long the database waits for the next statement of a transaction, and a client for its answer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client waits for the answer to a commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct FaultyChange {
    /// `None` once it was committed.
    change: Option<Box<dyn Transaction>>,
    now: Time,
    max_staleness: Duration,
    events: Vec<Event>,
    session: Session,
    line: Arc<Line>,
}

impl FaultyChange {
    pub(crate) fn new(change: Box<dyn Transaction>, session: Session, line: Arc<Line>) -> Self {
        let (now, max_staleness) = (change.now(), change.max_staleness());
        Self { change: Some(change), now, max_staleness, events: Vec::new(), session, line }
    }

    /// To the database and back, for one statement.
    async fn open(&mut self) -> Result<&mut Box<dyn Transaction>, StoreError> {
        timeout(STATEMENT_TIMEOUT, self.line.pass()).await.map_err(|_| away())?;
        self.session.check()?;
        self.change.as_mut().ok_or_else(away)
    }
}

impl Drop for FaultyChange {
    /// The database notices a while later that nobody is there any more, and rolls back. Until then, others wait.
    fn drop(&mut self) {
        if let Some(change) = self.change.take()
            && Handle::try_current().is_ok()
        {
            let (line, database) = (Arc::clone(&self.line), Arc::clone(&self.session.database));
            database.tasks.spawn(async move {
                let _ = timeout(STATEMENT_TIMEOUT, line.pass()).await;
                drop(change);
            });
        }
    }
}

#[async_trait]
impl Transaction for FaultyChange {
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
        self.open().await?.grant(tenant_id, grant_id).await
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<IdempotentResult>, StoreError> {
        self.open().await?.remembered(tenant_id, request_id).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        self.open().await?.live_grants(tenant_id, limit).await
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.open().await?.count_live_grants(tenant_id).await
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        self.open().await?.due_grants(now, limit).await
    }

    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        self.open().await?.overrides(tenant_id).await
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        self.open().await?.lock(lock_id).await
    }

    async fn count_live_locks(
        &mut self,
        side: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        self.open().await?.count_live_locks(side, tenant_id).await
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        self.open().await?.due_locks(now, limit).await
    }

    async fn append(&mut self, entry: NewEvent) -> Result<Event, StoreError> {
        let event = self.open().await?.append(entry).await?;
        self.events.push(event.clone());
        Ok(event)
    }

    async fn commit(mut self: Box<Self>) -> Result<Revision, StoreError> {
        let change = self.change.take().ok_or_else(away)?;
        let (session, line) = (self.session.clone(), Arc::clone(&self.line));
        let events = std::mem::take(&mut self.events);
        let (answer, answered) = oneshot::channel();
        self.session.database.tasks.spawn(async move {
            line.pass().await;
            let is_there = !line.weather().is_refused && session.check().is_ok();
            let committed = if is_there { change.commit().await } else { Err(away()) };
            if committed.is_ok() {
                session.database.judge.committed(events);
                session.database.tell(Notification::Log);
            }
            line.pass().await;
            if !line.loses_answer() {
                let _ = answer.send(committed);
            }
        });
        let answered = timeout(COMMIT_TIMEOUT, answered).await;
        let revision = answered.map_err(|_| away())?.map_err(|_| away())??;
        self.session.database.judge.answered(revision);
        Ok(revision)
    }
}
