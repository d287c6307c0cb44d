//! The store in memory, which is lost when the process ends: the simplest implementation of the
//! contract.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

use crate::{
    domain::{
        Ack, Clock, Enforced, Epoch, Event, Grant, GrantId, GrantTerms, Lock, LogName, NodeId,
        NodeInfo, PolicyOverrides, Position, Revision, Sequence, TenantId, Time, TokenKey,
        chain::{ChainHead, Record},
    },
    store::{
        ComparePosition, Comparison, EventQuery, Facets, ForgedHistories, GrantQuery,
        HeartbeatResponse, History, HistoryEvent, Listed, Listener, Loaded, LockQuery, Log,
        MemberList, Membership, Notification, Notifications, Queries, Registration, Retained,
        StoreError, TIMEOUT, Transaction, Transactions, new_epoch,
        notify::{LocalNotifier, Notifier},
    },
};
use content::{Content, Database};
use transaction::MemoryTransaction;

mod content;
mod lists;
mod members;
mod state;
mod transaction;

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    database: Arc<Database>,
    /// Held by the open transaction.
    writer: Arc<Mutex<()>>,
    notifier: Arc<LocalNotifier>,
}

/// A copy of everything that a store contained at some time.
#[derive(Debug, Clone)]
pub struct Backup(Content);

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (epoch, token_key) = new_epoch();
        Self::with_log(clock, LogName(epoch.0), epoch, token_key)
    }

    /// An empty store whose log has this identity.
    pub fn with_log(
        clock: Arc<dyn Clock>,
        log: LogName,
        epoch: Epoch,
        token_key: TokenKey,
    ) -> Self {
        let content = Content::empty(log, epoch, token_key);
        let database = Arc::new(Database::new(content));
        Self { clock, database, writer: Arc::default(), notifier: Arc::default() }
    }

    /// A copy of everything that is committed.
    pub fn backup(&self) -> Result<Backup, StoreError> {
        self.database.content().map(Backup)
    }

    /// Replaces everything, like a restore of a database, or a failover that loses the last
    /// commits. Open transactions and listeners fail.
    pub fn restore(&self, backup: Backup) {
        self.database.replace(backup.0);
        self.notifier.disconnect();
    }

    /// Replaces the database by an empty one with another log. Open transactions and listeners
    /// fail.
    pub fn new_log(&self) {
        let (epoch, token_key) = new_epoch();
        self.restore(Backup(Content::empty(LogName(epoch.0), epoch, token_key)));
    }

    async fn lock_writer(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        let writer = timeout(TIMEOUT, Arc::clone(&self.writer).lock_owned()).await;
        writer.map_err(StoreError::unavailable)
    }
}

#[async_trait]
impl Facets for MemoryStore {
    /// No read of this store reports a forgery: no other party can change the memory.
    fn forged_histories(&self) -> Arc<ForgedHistories> {
        Arc::default()
    }

    async fn close(&self) {
        self.database.close();
        self.notifier.close().await;
    }
}

#[async_trait]
impl Transactions for MemoryStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let writer = self.lock_writer().await?;
        let (content, incarnation) = self.database.begin()?;
        let (last, clock) = (content.head().time, self.clock.now());
        Ok(Box::new(MemoryTransaction {
            clock,
            last,
            now: last.map_or(clock, |last| last.max(clock)),
            epoch: content.epoch,
            new_epoch: None,
            max_staleness: content.members.max_staleness,
            log: content.log,
            begin_revision: content.state.head(),
            state: content.state,
            incarnation,
            database: Arc::clone(&self.database),
            notifier: Arc::clone(&self.notifier),
            _writer: writer,
        }))
    }
}

#[async_trait]
impl Log for MemoryStore {
    async fn head(&self) -> Result<Position, StoreError> {
        Ok(self.database.content()?.head())
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let events = self.database.content()?.state.events;
        let skipped = usize::try_from(revision).unwrap_or(0).min(events.len());
        Ok(events.iter().skip(skipped).take(limit).map(|stored| stored.event.clone()).collect())
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        let content = self.database.content()?;
        let live = content.state.live_grants().map(|stored| (&stored.item, Retained::Live));
        let ended = content.state.last_ended().map(|grant| (grant, Retained::LastEnded));
        for (grant, retained) in live.chain(ended) {
            visit(grant.tenant_id.clone(), grant.terms.clone(), retained);
        }
        let locks = content.state.live_locks().map(|stored| stored.item.terms.clone()).collect();
        Ok(Loaded {
            position: content.head(),
            token_key: content.token_key,
            locks,
            accepted_clocks: content
                .state
                .clock_events()
                .filter_map(Event::accepted_clock)
                .collect(),
            trusted_time: content.trusted_time,
            rejected: Vec::new(),
            is_authentic: true,
        })
    }

    async fn replace_epoch(&self) -> Result<Epoch, StoreError> {
        let _writer = self.lock_writer().await?;
        let (epoch, token_key) = new_epoch();
        self.database.write(|content| {
            content.epoch = epoch;
            content.token_key = token_key;
        })?;
        Ok(epoch)
    }
}

#[async_trait]
impl Queries for MemoryStore {
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        Ok(self.database.content()?.state.grant(tenant_id, grant_id).cloned())
    }

    async fn grants(&self, query: &GrantQuery) -> Result<Vec<Listed<Grant>>, StoreError> {
        Ok(lists::grants(&self.database.content()?.state, query))
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Listed<HistoryEvent>>, StoreError> {
        Ok(lists::events(&self.database.content()?, query))
    }

    async fn locks(&self, query: &LockQuery) -> Result<Vec<Listed<Lock>>, StoreError> {
        Ok(lists::locks(&self.database.content()?.state, query))
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        Ok(lists::tenants(&self.database.content()?.state, after, limit))
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let overrides = self.database.content()?.state.overrides;
        Ok(overrides.get(tenant_id).cloned().unwrap_or_default())
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        let state = self.database.content()?.state;
        let grants = state.live_grants().filter_map(|stored| stored.item.terms.expire_time);
        let locks = state.live_locks().filter_map(|stored| stored.item.terms.expire_time);
        Ok(grants.chain(locks).min())
    }
}

#[async_trait]
impl History for MemoryStore {
    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        lists::records(&self.database.content()?, tenant_id, sequence, limit)
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        let content = self.database.content()?;
        Ok(ChainHead { log: content.log, link: content.state.chain_head(tenant_id) })
    }

    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        self.database.write(|content| content.record_enforced(first, last, time, enforced))
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        Ok(self.database.content()?.members.enforced(revision))
    }

    /// There are no rows besides the state that follows from the log.
    async fn compare(&self, _: ComparePosition, _: usize) -> Result<Comparison, StoreError> {
        self.database.content().map(|_| Comparison::NONE)
    }
}

#[async_trait]
impl Membership for MemoryStore {
    async fn register(&self, member: &Registration) -> Result<(), StoreError> {
        let _writer = self.lock_writer().await?;
        let now = self.clock.now();
        self.database.write(|content| content.members.register(member, now))?;
        self.notifier.notify(Notification::Membership);
        Ok(())
    }

    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        position: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        let now = self.clock.now();
        self.database.write(|content| content.heartbeat(node_id, seq, position, now))
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        position: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        let is_written =
            self.database.write(|content| content.acknowledge(node_id, position, ack))?;
        if is_written {
            self.notifier.notify(Notification::Membership);
        }
        Ok(is_written)
    }

    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        self.database.write(|content| content.members.write_followers(node_id, followers))
    }

    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        Ok(self.database.content()?.members.read_followers())
    }

    async fn members(&self) -> Result<MemberList, StoreError> {
        Ok(self.database.content()?.members(self.clock.now()))
    }

    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        self.database.write(|content| content.members.evict(node_id, seq))
    }

    async fn record_trusted_time(
        &self,
        time: Time,
        accepted_clock: Revision,
    ) -> Result<(), StoreError> {
        self.database.write(|content| content.record_trusted_time(time, accepted_clock))
    }
}

#[async_trait]
impl Notifications for MemoryStore {
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        self.notifier.listen().await
    }
}
