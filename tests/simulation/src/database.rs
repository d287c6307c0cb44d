//! The one database: the memory store, with row locks that take time, and with failures of the
//! whole server.
//!
//! A statement that has reached the database completes even if the client no longer waits, as in
//! PostgreSQL.

use std::{collections::BTreeMap, ops::Sub, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use crate::{
    checker::{Checker, RestoreKind},
    clocks::DatabaseClock,
    domain::{Ack, Clock, Event, EventKind, NodeId, NodeInfo, Position, Revision, Time},
    forgeries::Forgeries,
    link::Link,
    store::{
        HeartbeatResponse, MemberList, Notification, Registration, Store, StoreError,
        memory::{self, MemoryStore},
    },
};

type RowLock = Arc<tokio::sync::Mutex<()>>;

#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) memory: Arc<MemoryStore>,
    /// All facets of `memory`.
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<DatabaseClock>,
    pub(crate) checker: Arc<Checker>,
    pub(crate) tasks: TaskTracker,
    row_locks: Mutex<BTreeMap<NodeId, RowLock>>,
    /// The number of times that each node's membership row was inserted.
    insertions: Mutex<BTreeMap<NodeId, u64>>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<Notification>>>,
    status: Mutex<Status>,
    statements: Mutex<Statements>,
    pub(crate) forgeries: Mutex<Forgeries>,
}

/// The numbers of statements so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statements {
    /// Heartbeats of all replicas.
    pub heartbeats: u64,
    /// Writes of acknowledgements.
    pub acknowledgements: u64,
    /// Reads of the membership.
    pub membership_reads: u64,
    /// Attempts to evict a member.
    pub evictions: u64,
}

impl Sub for Statements {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            heartbeats: self.heartbeats - earlier.heartbeats,
            acknowledgements: self.acknowledgements - earlier.acknowledgements,
            membership_reads: self.membership_reads - earlier.membership_reads,
            evictions: self.evictions - earlier.evictions,
        }
    }
}

/// A backup of the database.
#[derive(Debug)]
pub(crate) struct Backup {
    content: memory::Backup,
    /// The instant whose time is recorded.
    recorded: Instant,
}

#[derive(Debug, Default)]
struct Status {
    is_down: bool,
    /// The number of failures. A failure closes all connections.
    failures: u64,
}

/// A connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) database: Arc<Database>,
    failures: u64,
}

pub(crate) fn unavailable() -> StoreError {
    StoreError::Unavailable("the database is unavailable".into())
}

impl Database {
    pub(crate) fn new(clock: Arc<DatabaseClock>, checker: Arc<Checker>) -> Arc<Self> {
        let memory = Arc::new(MemoryStore::new(clock.clone()));
        Arc::new(Self {
            store: Store::new(memory.clone()),
            memory,
            clock,
            checker,
            tasks: TaskTracker::new(),
            row_locks: Mutex::default(),
            insertions: Mutex::default(),
            listeners: Mutex::default(),
            status: Mutex::default(),
            statements: Mutex::default(),
            forgeries: Mutex::default(),
        })
    }

    pub(crate) fn connect(self: &Arc<Self>) -> Connection {
        Connection { database: Arc::clone(self), failures: self.status.lock().failures }
    }

    pub(crate) fn notify(&self, notification: Notification) {
        self.listeners.lock().retain(|listener| listener.send(notification).is_ok());
    }

    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Notification> {
        let (listener, notifications) = mpsc::unbounded_channel();
        self.listeners.lock().push(listener);
        notifications
    }

    pub(crate) fn statements(&self) -> Statements {
        *self.statements.lock()
    }

    fn count(&self, count: impl FnOnce(&mut Statements)) {
        count(&mut self.statements.lock());
    }

    /// Records the events of a commit.
    pub(crate) async fn record_commit(&self, events: Vec<Event>) {
        let accepted = events.iter().find_map(|event| match event.kind {
            EventKind::ClockAccepted { .. } => Some(event.time),
            _ => None,
        });
        let mut epoch = None;
        if let Some(time) = accepted {
            self.clock.accept(time);
            self.checker.observed.lock().record_acceptance();
            epoch = self.store.log().head().await.ok().map(|head| head.epoch);
        }
        self.checker.record_commit(events, epoch);
    }

    // === failures ===

    /// Closes all connections, and loses everything that was not committed.
    pub(crate) fn go_down(&self) {
        {
            let mut status = self.status.lock();
            status.is_down = true;
            status.failures += 1;
        }
        self.row_locks.lock().clear();
        self.listeners.lock().clear();
    }

    pub(crate) fn come_up(&self) {
        self.status.lock().is_down = false;
    }

    pub(crate) fn backup(&self) -> Backup {
        let content = self.memory.backup().expect("the database is open");
        Backup { content, recorded: self.checker.observed.lock().recorded }
    }

    /// Comes up with an earlier state.
    pub(crate) async fn come_up_with(&self, backup: Backup, kind: RestoreKind) {
        self.memory.restore(backup.content);
        self.checker.observed.lock().recorded = backup.recorded;
        self.come_up_restored(kind).await;
    }

    /// Comes up as another, empty database.
    pub(crate) async fn come_up_empty(&self) {
        self.memory.new_log();
        self.come_up_restored(RestoreKind::LeasesExpired).await;
    }

    async fn come_up_restored(&self, kind: RestoreKind) {
        if let Ok(head) = self.store.log().head().await {
            self.checker.record_restore(head, kind);
        }
        self.come_up();
    }
}

// === statements on the membership ===

impl Connection {
    /// Fails if the database has failed since the connection was opened.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let status = self.database.status.lock();
        let is_dead = status.is_down || status.failures != self.failures;
        if is_dead { Err(unavailable()) } else { Ok(()) }
    }

    async fn lock_row(&self, node_id: NodeId) -> Result<OwnedMutexGuard<()>, StoreError> {
        let row = self.database.row_locks.lock().entry(node_id).or_default().clone();
        let guard = row.lock_owned().await;
        self.check()?;
        Ok(guard)
    }

    pub(crate) async fn register(&self, registration: &Registration) -> Result<(), StoreError> {
        let node_id = registration.node_id;
        let _row = self.lock_row(node_id).await?;
        if self.row(node_id).await?.is_none() {
            *self.database.insertions.lock().entry(node_id).or_default() += 1;
        }
        self.database.store.membership().register(registration).await?;
        self.database.notify(Notification::Membership);
        Ok(())
    }

    /// Reads the row and the head, and commits later. If the row was inserted in between, the
    /// heartbeat does not update the row.
    pub(crate) async fn heartbeat(
        &self,
        node_id: NodeId,
        heartbeat: i64,
        position: Option<Position>,
        link: &Link,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        self.database.count(|statements| statements.heartbeats += 1);
        let store = &self.database.store;
        let row = self.row(node_id).await?;
        let response = HeartbeatResponse {
            head: store.log().head().await?,
            is_in_log: self.is_in_log(position).await?,
            now: self.database.clock.now(),
        };
        let _row = self.lock_row(node_id).await?;
        let gap = link.sample(link.conditions().commit_gap);
        if !gap.is_zero() {
            sleep(gap).await;
            self.check()?;
        }
        if row.is_none() || row != self.row(node_id).await? {
            return Ok(None);
        }
        Ok(store.membership().heartbeat(node_id, heartbeat, position).await?.map(|_| response))
    }

    pub(crate) async fn membership(&self) -> Result<MemberList, StoreError> {
        self.database.count(|statements| statements.membership_reads += 1);
        self.database.store.membership().members().await
    }

    /// Identifies the membership row of a node; `None` without one.
    async fn row(&self, node_id: NodeId) -> Result<Option<u64>, StoreError> {
        let members = self.database.store.membership().members().await?.members;
        let is_member = members.iter().any(|member| member.node_id == node_id);
        let insertions = self.database.insertions.lock().get(&node_id).copied().unwrap_or(0);
        Ok(is_member.then_some(insertions))
    }

    async fn is_in_log(&self, position: Option<Position>) -> Result<bool, StoreError> {
        let Some(position) = position else { return Ok(false) };
        let store = &self.database.store;
        if store.log().head().await?.epoch != position.epoch {
            return Ok(false);
        }
        let before = (position.revision - 1).max(0);
        let event = store.log().events_after(before, 1).await?.into_iter().next();
        let is_at = |event: &Event| {
            event.revision == position.revision && Some(event.time) == position.time
        };
        Ok(position.revision == 0 || event.as_ref().is_some_and(is_at))
    }

    pub(crate) async fn acknowledge(
        &self,
        node_id: NodeId,
        position: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        self.database.count(|statements| statements.acknowledgements += 1);
        let _row = self.lock_row(node_id).await?;
        let is_written =
            self.database.store.membership().acknowledge(node_id, position, ack).await?;
        if is_written {
            self.database.notify(Notification::Membership);
        }
        Ok(is_written)
    }

    pub(crate) async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        let _row = self.lock_row(node_id).await?;
        self.database.store.membership().write_followers(node_id, followers).await
    }

    pub(crate) async fn record_trusted_time(
        &self,
        node_id: NodeId,
        time: Time,
        accepted_clock: Revision,
    ) -> Result<(), StoreError> {
        let store = &self.database.store;
        store.membership().record_trusted_time(time, accepted_clock).await?;
        let loaded = store.log().load(&mut |_, _, _| {}).await?;
        if loaded.accepted_clocks.last().map_or(0, |clock| clock.revision) == accepted_clock {
            self.database.checker.observed.lock().record_time(node_id);
        }
        Ok(())
    }

    pub(crate) async fn evict(&self, node_id: NodeId, heartbeat: i64) -> Result<bool, StoreError> {
        self.database.count(|statements| statements.evictions += 1);
        let _row = self.lock_row(node_id).await?;
        self.database.store.membership().evict(node_id, heartbeat).await
    }
}
