//! A replica's store: the one database, at the end of a line of a certain length.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    domain::{
        Ack, Enforced, Event, Grant, GrantId, Lock, NodeId, NodeInfo, Position, Revision, TenantId,
        Terms, Tightening, Time,
        chain::{ChainHead, Record, Sequence},
    },
    simulation::scale::{
        change::MeteredChange,
        database::{Database, End},
        meter::Kind,
    },
    store::{
        Change, EventQuery, GrantQuery, Held, Hint, Hints, Listed, Loaded, LockQuery, NewMember,
        Renewal, Roll, Store, StoreError, memory::MemoryStore,
    },
};

/// How long a client waits for the database, or the database for a lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The database, and how far it is.
#[derive(Debug, Clone)]
pub(super) struct MeteredStore {
    pub(super) database: Arc<Database>,
    pub(super) latency: Duration,
}

struct MeteredHints {
    hints: mpsc::UnboundedReceiver<(Instant, Hint)>,
    line: MeteredStore,
}

pub(super) fn late(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

impl MeteredStore {
    /// One way.
    pub(super) fn way(&self) -> Duration {
        if self.database.is_measured() { self.latency } else { Duration::ZERO }
    }

    /// Has a statement done, `after` some moment: says when the answer is back. Waits are rounded up to whole milliseconds, so
    /// that nobody waits for less than one on the way there.
    pub(super) async fn pass(&self, kind: Kind, end: End, after: Instant) -> Instant {
        let arrives = after + self.way();
        if self.way() >= Duration::from_millis(1) {
            sleep_until(arrives).await;
        }
        let done = self.database.serve(kind, end, arrives);
        sleep_until(done).await;
        done + self.way()
    }

    /// Has something done at the database, even if nobody waits for the answer any more.
    async fn ask<T, F>(
        &self,
        kind: Kind,
        end: End,
        work: impl FnOnce(Arc<Database>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let line = self.clone();
        self.database.tasks.spawn(async move {
            let back = line.pass(kind, end, Instant::now()).await;
            let done = work(line.database).await;
            sleep_until(back).await;
            let _ = answer.send(done);
        });
        timeout(PATIENCE, answered).await.map_err(late)?.map_err(late)?
    }

    async fn read<T, F>(
        &self,
        kind: Kind,
        work: impl FnOnce(Arc<Database>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.ask(kind, End::Read, work).await
    }

    fn store(&self) -> &MemoryStore {
        &self.database.store
    }
}

#[async_trait]
impl Store for MeteredStore {
    async fn begin(&self) -> Result<Box<dyn Change>, StoreError> {
        Ok(Box::new(MeteredChange::begin(self.clone()).await?))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.read(Kind::Other, |it| async move { it.store.head().await }).await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, Terms, Held) + Send),
    ) -> Result<Loaded, StoreError> {
        self.pass(Kind::Other, End::Read, Instant::now()).await;
        self.store().load(visit).await
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let read =
            move |it: Arc<Database>| async move { it.store.events_after(revision, limit).await };
        self.read(Kind::LogRead, read).await
    }

    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.store().grant(tenant_id, grant_id).await
    }

    async fn list_grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        self.store().list_grants(query).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Vec<Listed>, StoreError> {
        self.store().list_events(query).await
    }

    async fn tightening(&self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        self.store().tightening(tenant_id).await
    }

    async fn list_locks(&self, query: &LockQuery) -> Result<Vec<Lock>, StoreError> {
        self.store().list_locks(query).await
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        self.read(Kind::Other, |it| async move { it.store.next_expiry().await }).await
    }

    /// As a change, it holds the head from one statement to the next.
    async fn register(&self, member: &NewMember) -> Result<(), StoreError> {
        let begun = self.pass(Kind::Change, End::Read, Instant::now()).await;
        let head = Arc::clone(&self.database.head).lock_owned();
        let _head = timeout(PATIENCE, head).await.map_err(late)?;
        let mut at = begun.max(Instant::now());
        for end in [End::Read, End::Read, End::Read, End::KeptAndTold] {
            at = self.pass(Kind::Change, end, at).await;
        }
        self.store().register(member).await?;
        self.database.tell(Hint::Roll);
        Ok(())
    }

    async fn renew(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<Renewal>, StoreError> {
        let renew =
            move |it: Arc<Database>| async move { it.store.renew(node_id, seq, held).await };
        self.ask(Kind::Renewal, End::Kept, renew).await
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        let acknowledge = move |it: Arc<Database>| async move {
            let is_written = it.store.acknowledge(node_id, held, ack).await?;
            if is_written {
                it.tell(Hint::Roll);
            }
            Ok(is_written)
        };
        self.ask(Kind::Acknowledgement, End::Told, acknowledge).await
    }

    async fn report(&self, node_id: NodeId, followers: &[NodeInfo]) -> Result<(), StoreError> {
        let bytes = serde_json::to_string(followers).map_err(late)?.len();
        self.database.meter.count(|figures| {
            figures.messages.entry("row of a report").or_default().add(bytes, Duration::ZERO);
        });
        let followers = followers.to_vec();
        let report =
            move |it: Arc<Database>| async move { it.store.report(node_id, &followers).await };
        self.ask(Kind::Report, End::Kept, report).await
    }

    async fn reports(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        self.store().reports().await
    }

    async fn roll(&self) -> Result<Roll, StoreError> {
        let read = |it: Arc<Database>| async move {
            let roll = it.store.roll().await?;
            it.note_members(roll.members.len());
            Ok(roll)
        };
        self.read(Kind::RollRead, read).await
    }

    async fn strike_off(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        let strike =
            move |it: Arc<Database>| async move { it.store.strike_off(node_id, seq).await };
        self.ask(Kind::Strike, End::Kept, strike).await
    }

    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        let record = move |it: Arc<Database>| async move {
            it.store.record_enforced(first, last, time, enforced).await
        };
        self.ask(Kind::Other, End::Kept, record).await
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        self.store().enforced(revision).await
    }

    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.store().records(tenant_id, sequence, limit).await
    }

    async fn tenant_after(&self, tenant_id: &str) -> Result<Option<String>, StoreError> {
        self.store().tenant_after(tenant_id).await
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        self.store().chain_head(tenant_id).await
    }

    async fn listen(&self) -> Result<Box<dyn Hints>, StoreError> {
        let hints = self.database.listen();
        Ok(Box::new(MeteredHints { hints, line: self.clone() }))
    }

    async fn close(&self) {}
}

#[async_trait]
impl Hints for MeteredHints {
    async fn next(&mut self) -> Result<Hint, StoreError> {
        let gone = || StoreError::Unavailable("the database is gone".into());
        let (sent, hint) = self.hints.recv().await.ok_or_else(gone)?;
        sleep_until(sent + self.line.way()).await;
        Ok(hint)
    }
}
