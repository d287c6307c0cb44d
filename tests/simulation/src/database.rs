//! The one database: the memory store, with row locks that take time, and with failures of the whole.
//!
//! What a client asks for runs here to its end, whether the client still waits or not, as it does in PostgreSQL.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    time::sleep,
};
use tokio_util::task::TaskTracker;

use crate::{
    checker::{Aftermath, Judge},
    clocks::DatabaseClock,
    domain::{Ack, NodeId, NodeInfo, Position},
    link::Line,
    store::{
        HeartbeatResponse, Notification, Registration, Store, StoreError,
        memory::{Backup, MemoryStore},
    },
};

type RowLock = Arc<tokio::sync::Mutex<()>>;

#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) store: MemoryStore,
    pub(crate) clock: Arc<DatabaseClock>,
    pub(crate) judge: Arc<Judge>,
    pub(crate) tasks: TaskTracker,
    rows: Mutex<BTreeMap<NodeId, RowLock>>,
    /// How often each node's row was made.
    births: Mutex<BTreeMap<NodeId, u64>>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<Notification>>>,
    status: Mutex<Status>,
}

#[derive(Debug, Default)]
struct Status {
    is_down: bool,
    /// Counts failures: what was under way before one is gone.
    incarnation: u64,
}

/// What one client is connected to.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) database: Arc<Database>,
    incarnation: u64,
}

pub(crate) fn away() -> StoreError {
    StoreError::Unavailable("the database is away".into())
}

impl Database {
    pub(crate) fn new(clock: Arc<DatabaseClock>, judge: Arc<Judge>) -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::new(clock.clone()),
            clock,
            judge,
            tasks: TaskTracker::new(),
            rows: Mutex::default(),
            births: Mutex::default(),
            listeners: Mutex::default(),
            status: Mutex::default(),
        })
    }

    pub(crate) fn session(self: &Arc<Self>) -> Session {
        Session { database: Arc::clone(self), incarnation: self.status.lock().incarnation }
    }

    pub(crate) fn tell(&self, hint: Notification) {
        self.listeners.lock().retain(|listener| listener.send(hint).is_ok());
    }

    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<Notification> {
        let (listener, hints) = mpsc::unbounded_channel();
        self.listeners.lock().push(listener);
        hints
    }

    // === failures ===

    /// Everybody is cut off, and everything that was not committed is lost.
    pub(crate) fn go_down(&self) {
        {
            let mut status = self.status.lock();
            status.is_down = true;
            status.incarnation += 1;
        }
        self.rows.lock().clear();
        self.listeners.lock().clear();
    }

    pub(crate) fn come_up(&self) {
        self.status.lock().is_down = false;
    }

    /// Comes up with what it held earlier.
    pub(crate) async fn come_up_with(&self, backup: Backup, aftermath: Aftermath) {
        self.store.restore(backup);
        if let Ok(head) = self.store.head().await {
            self.judge.restored(head, aftermath);
        }
        self.come_up();
    }

    /// Another, empty database has the address.
    pub(crate) async fn come_up_empty(&self) {
        self.store.new_log();
        if let Ok(head) = self.store.head().await {
            self.judge.restored(head, Aftermath::Clean);
        }
        self.come_up();
    }
}

// === what clients ask for ===

impl Session {
    /// Whether the database is still the one that the client has connected to.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let status = self.database.status.lock();
        if status.is_down || status.incarnation != self.incarnation { Err(away()) } else { Ok(()) }
    }

    async fn lock_row(&self, node_id: NodeId) -> Result<OwnedMutexGuard<()>, StoreError> {
        let row = self.database.rows.lock().entry(node_id).or_default().clone();
        let guard = row.lock_owned().await;
        self.check()?;
        Ok(guard)
    }

    pub(crate) async fn register(&self, member: &Registration) -> Result<(), StoreError> {
        let _row = self.lock_row(member.node_id).await?;
        if self.row(member.node_id).await?.is_none() {
            *self.database.births.lock().entry(member.node_id).or_default() += 1;
        }
        self.database.store.register(member).await?;
        self.database.tell(Notification::Membership);
        Ok(())
    }

    /// In two phases: the row and the head are read at one time, and the commit comes later. It is for that very row: one that was
    /// made meanwhile is not seen.
    pub(crate) async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
        line: &Line,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        let store = &self.database.store;
        let row = self.row(node_id).await?;
        let read = HeartbeatResponse {
            head: store.head().await?,
            is_held: self.holds(held).await?,
            now: crate::domain::Clock::now(self.database.clock.as_ref()),
        };
        let _row = self.lock_row(node_id).await?;
        let gap = line.gap();
        if !gap.is_zero() {
            sleep(gap).await;
            self.check()?;
        }
        if row.is_none() || row != self.row(node_id).await? {
            return Ok(None);
        }
        Ok(store.heartbeat(node_id, seq, held).await?.map(|_| read))
    }

    /// Which row a node has, if it has one.
    async fn row(&self, node_id: NodeId) -> Result<Option<u64>, StoreError> {
        let members = self.database.store.membership().await?.members;
        let is_there = members.iter().any(|member| member.node_id == node_id);
        Ok(is_there.then(|| self.database.births.lock().get(&node_id).copied().unwrap_or(0)))
    }

    async fn holds(&self, held: Option<Position>) -> Result<bool, StoreError> {
        let Some(held) = held else { return Ok(false) };
        let store = &self.database.store;
        if store.head().await?.epoch != held.epoch {
            return Ok(false);
        }
        let event = store.events_after((held.revision - 1).max(0), 1).await?.into_iter().next();
        let is_event = |event: &crate::domain::Event| {
            event.revision == held.revision && Some(event.time) == held.time
        };
        Ok(held.revision == 0 || event.as_ref().is_some_and(is_event))
    }

    pub(crate) async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        let _row = self.lock_row(node_id).await?;
        let is_written = self.database.store.acknowledge(node_id, held, ack).await?;
        if is_written {
            self.database.tell(Notification::Membership);
        }
        Ok(is_written)
    }

    pub(crate) async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        let _row = self.lock_row(node_id).await?;
        self.database.store.write_followers(node_id, followers).await
    }

    pub(crate) async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        let _row = self.lock_row(node_id).await?;
        self.database.store.evict(node_id, seq).await
    }
}
