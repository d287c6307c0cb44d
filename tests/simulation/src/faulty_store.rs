//! A replica's store: the one database, at the end of a line that may fail.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::{
    database::{Database, Session, away},
    domain::{
        Ack, Enforced, Event, Grant, GrantId, GrantTerms, Lock, NodeId, NodeInfo, PolicyOverrides,
        Position, Revision, TenantId, Time,
        chain::{ChainHead, Record, Sequence},
    },
    faulty_transaction::FaultyChange,
    link::Line,
    store::{
        EventQuery, GrantQuery, HeartbeatResponse, HistoryEvent, Loaded, LockQuery, Membership,
        Notification, Notifications, Registration, Retained, Store, StoreError, Transaction,
    },
};

/// How long a client waits for the database.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct FaultyStore {
    database: Arc<Database>,
    line: Arc<Line>,
}

struct FaultyHints {
    hints: mpsc::UnboundedReceiver<Notification>,
    line: Arc<Line>,
}

impl FaultyStore {
    pub(crate) fn new(database: Arc<Database>, line: Arc<Line>) -> Self {
        Self { database, line }
    }

    /// Has something done at the database, however long the way is. It is done even if nobody waits for the answer any more.
    async fn ask<T, F>(
        &self,
        work: impl FnOnce(Session) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let (session, line) = (self.database.session(), Arc::clone(&self.line));
        self.database.tasks.spawn(async move {
            line.pass().await;
            let is_there = !line.weather().is_refused && session.check().is_ok();
            let failure = session.clone();
            let mut done = if is_there { work(session).await } else { Err(away()) };
            let outlives = line.weather().outlives;
            line.pass().await;
            if failure.check().is_err() && !outlives {
                done = Err(away());
            }
            if !line.loses_answer() {
                let _ = answer.send(done);
            }
        });
        match timeout(TIMEOUT, answered).await {
            Ok(Ok(done)) => done,
            _ => Err(away()),
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let begin = |session: Session| async move {
            let change = session.database.store.begin().await?;
            session.check()?;
            Ok((change, session))
        };
        let (change, session) = self.ask(begin).await?;
        Ok(Box::new(FaultyChange::new(change, session, Arc::clone(&self.line))))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.ask(|session| async move { session.database.store.head().await }).await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        let load = |session: Session| async move {
            let mut grants = Vec::new();
            let mut visit = |tenant_id, terms, held| grants.push((tenant_id, terms, held));
            let loaded = session.database.store.load(&mut visit).await?;
            Ok((grants, loaded))
        };
        let (grants, loaded) = self.ask(load).await?;
        for (tenant_id, terms, held) in grants {
            visit(tenant_id, terms, held);
        }
        Ok(loaded)
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        // Few at a time, so that it matters how many are read.
        let limit = limit.min(usize::try_from(self.line.random.between(2, 20)).unwrap_or(2));
        let reading = self.line.reading();
        let read = move |session: Session| async move {
            let events = session.database.store.events_after(revision, limit).await;
            if !reading.is_zero() {
                sleep(reading).await;
            }
            events
        };
        self.ask(read).await
    }

    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        let tenant_id = tenant_id.clone();
        let read = move |session: Session| async move {
            session.database.store.grant(&tenant_id, grant_id).await
        };
        self.ask(read).await
    }

    async fn list_grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        let query = query.clone();
        self.ask(|session| async move { session.database.store.list_grants(&query).await }).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Vec<HistoryEvent>, StoreError> {
        let query = query.clone();
        self.ask(|session| async move { session.database.store.list_events(&query).await }).await
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let tenant_id = tenant_id.clone();
        self.ask(|session| async move { session.database.store.overrides(&tenant_id).await }).await
    }

    async fn list_locks(&self, query: &LockQuery) -> Result<Vec<Lock>, StoreError> {
        let query = query.clone();
        self.ask(|session| async move { session.database.store.list_locks(&query).await }).await
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        self.ask(|session| async move { session.database.store.next_expiry().await }).await
    }

    async fn register(&self, member: &Registration) -> Result<(), StoreError> {
        let member = member.clone();
        self.ask(|session| async move { session.register(&member).await }).await
    }

    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        let line = Arc::clone(&self.line);
        self.ask(move |session| async move { session.heartbeat(node_id, seq, held, &line).await })
            .await
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        self.ask(move |session| async move { session.acknowledge(node_id, held, ack).await }).await
    }

    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        let followers = followers.to_vec();
        self.ask(move |session| async move { session.write_followers(node_id, &followers).await })
            .await
    }

    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        self.ask(|session| async move { session.database.store.read_followers().await }).await
    }

    async fn membership(&self) -> Result<Membership, StoreError> {
        self.ask(|session| async move { session.database.store.membership().await }).await
    }

    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        self.ask(move |session| async move { session.evict(node_id, seq).await }).await
    }

    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        let record = move |session: Session| async move {
            session.database.store.record_enforced(first, last, time, enforced).await
        };
        self.ask(record).await
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        let read =
            move |session: Session| async move { session.database.store.enforced(revision).await };
        self.ask(read).await
    }

    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let tenant_id = tenant_id.cloned();
        let read = move |session: Session| async move {
            session.database.store.records(tenant_id.as_ref(), sequence, limit).await
        };
        self.ask(read).await
    }

    async fn tenant_after(&self, tenant_id: &str) -> Result<Option<String>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        let read =
            |session: Session| async move { session.database.store.tenant_after(&tenant_id).await };
        self.ask(read).await
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        let tenant_id = tenant_id.cloned();
        let read = |session: Session| async move {
            session.database.store.chain_head(tenant_id.as_ref()).await
        };
        self.ask(read).await
    }

    async fn listen(&self) -> Result<Box<dyn Notifications>, StoreError> {
        let hints = self.ask(|session| async move { Ok(session.database.listen()) }).await?;
        Ok(Box::new(FaultyHints { hints, line: Arc::clone(&self.line) }))
    }

    async fn close(&self) {}
}

#[async_trait]
impl Notifications for FaultyHints {
    async fn next(&mut self) -> Result<Notification, StoreError> {
        loop {
            let hint = self.hints.recv().await.ok_or_else(away)?;
            if self.line.weather().is_refused {
                return Err(away());
            }
            if self.line.loses_hint() {
                continue;
            }
            let (least, most) = self.line.weather().delay;
            let delay = self.line.random.millis(least, most);
            if !delay.is_zero() {
                sleep(delay).await;
            }
            return Ok(hint);
        }
    }
}
