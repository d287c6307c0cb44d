//! The store as a model: everything in memory, gone with the process. What the contract means, in the simplest code.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    domain::{
        Ack, Clock, Enforced, Epoch, Event, Grant, GrantId, GrantState, GrantTerms, GroupId, Lock,
        LockState, NodeId, NodeInfo, PolicyOverrides, Position, Revision, TenantId, Time,
        chain::{ChainHead, Record, Sequence},
    },
    store::{
        EventQuery, GrantQuery, HeartbeatResponse, History, HistoryEvent, Listener, Loaded,
        LockQuery, Log, MemberList, Membership, Notification, Notifications, Queries, Registration,
        Retained, Store, StoreError, TIMEOUT, Transaction,
        notify::{LocalNotifier, Notifier},
    },
};
use content::{Content, Database};
use transaction::MemoryTransaction;

mod chain;
mod content;
mod membership;
mod state;
mod transaction;

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    /// What is committed.
    database: Arc<Database>,
    /// Held by the one change that is being made.
    writer: Arc<Mutex<()>>,
    bell: Arc<LocalNotifier>,
}

/// Everything that a store held at some time.
#[derive(Debug, Clone)]
pub struct Backup(Content);

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_epoch(clock, Epoch(Uuid::new_v4()))
    }

    /// An empty store whose log has this name.
    pub fn with_epoch(clock: Arc<dyn Clock>, epoch: Epoch) -> Self {
        Self {
            clock,
            database: Arc::new(Database::new(Content::empty(epoch))),
            writer: Arc::default(),
            bell: Arc::default(),
        }
    }

    /// Everything that is committed: log, grants and roll.
    pub fn backup(&self) -> Result<Backup, StoreError> {
        self.database.content().map(Backup)
    }

    /// Makes everything as it was, as when a database is restored, or fails over and loses its last commits. Whoever listens or
    /// is in the middle of a change is cut off.
    pub fn restore(&self, backup: Backup) {
        self.database.replace(backup.0);
        self.bell.cut();
    }

    /// Puts another, empty database, with another log, in the place of this one. Cuts everybody off, as [`Self::restore`].
    pub fn new_log(&self) {
        self.restore(Backup(Content::empty(Epoch(Uuid::new_v4()))));
    }

    async fn turn(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        let turn = timeout(TIMEOUT, Arc::clone(&self.writer).lock_owned()).await;
        turn.map_err(|error| StoreError::Unavailable(Box::new(error)))
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn log(&self) -> &dyn Log {
        self
    }

    fn queries(&self) -> &dyn Queries {
        self
    }

    fn history(&self) -> &dyn History {
        self
    }

    fn membership(&self) -> &dyn Membership {
        self
    }

    fn notifications(&self) -> &dyn Notifications {
        self
    }

    async fn close(&self) {
        self.database.close();
        self.bell.close().await;
    }
}

#[async_trait]
impl Log for MemoryStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let writer = self.turn().await?;
        let (content, incarnation) = self.database.begin()?;
        let last = content.state.events.last().map(|event| event.time);
        let now = self.clock.now();
        Ok(Box::new(MemoryTransaction {
            now: last.map_or(now, |last| last.max(now)),
            max_staleness: content.roll.max_staleness,
            log: content.epoch,
            working: content.state,
            incarnation,
            database: Arc::clone(&self.database),
            bell: Arc::clone(&self.bell),
            _writer: writer,
        }))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        Ok(self.database.content()?.head())
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        let content = self.database.content()?;
        let state = &content.state;
        let mut last_ended: std::collections::HashMap<(&TenantId, &GroupId), &GrantTerms> =
            std::collections::HashMap::new();
        for (key, grant) in &state.grants {
            if state.live.contains(key) {
                visit(grant.tenant_id.clone(), grant.terms.clone(), Retained::Live);
                continue;
            }
            let last = last_ended.entry((&grant.tenant_id, &grant.terms.group_id));
            let rank = |terms: &GrantTerms| (terms.end_time(), terms.access_level, terms.grant_id);
            last.and_modify(|last| {
                if rank(&grant.terms) > rank(last) {
                    *last = &grant.terms;
                }
            })
            .or_insert(&grant.terms);
        }
        for ((tenant_id, _), terms) in last_ended {
            visit(tenant_id.clone(), terms.clone(), Retained::LastEnded);
        }
        let locks = state.live_locks().map(|lock| lock.terms.clone()).collect();
        Ok(Loaded { position: content.head(), locks })
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let state = self.database.content()?.state;
        let skipped = usize::try_from(revision).unwrap_or(0).min(state.events.len());
        Ok(state.events.iter().skip(skipped).take(limit).cloned().collect())
    }
}

#[async_trait]
impl Queries for MemoryStore {
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        Ok(self.database.content()?.state.grant(tenant_id, grant_id))
    }

    async fn grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        let state = self.database.content()?.state;
        Ok(state
            .grants_of(&query.tenant_id, query.before)
            .filter(|grant| matches(grant, state.is_live(grant), query))
            .take(query.limit)
            .cloned()
            .collect())
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<HistoryEvent>, StoreError> {
        let before = query.before.unwrap_or(Revision::MAX);
        let Content { state, roll, .. } = self.database.content()?;
        Ok(state
            .events
            .iter()
            .rev()
            .skip_while(|event| event.revision >= before)
            .filter(|event| event.tenant_id == query.tenant_id)
            .filter(|event| query.grant_id.is_none() || event.grant_id() == query.grant_id)
            .take(query.limit)
            .map(|event| HistoryEvent {
                event: event.clone(),
                enforced: roll.enforced(event.revision),
                link: state.chains.link(event.revision),
            })
            .collect())
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let state = self.database.content()?.state;
        Ok(state.policy_overrides.get(tenant_id).cloned().unwrap_or_default())
    }

    async fn locks(&self, query: &LockQuery) -> Result<Vec<Lock>, StoreError> {
        let LockQuery { tenant_id, include_ended, now, before, limit } = query;
        let state = self.database.content()?.state;
        let is_held = |lock: &Lock| state.is_lock_live(lock) && lock.state(*now) == LockState::Held;
        Ok(state
            .locks
            .range(..before.unwrap_or(Revision::MAX))
            .rev()
            .map(|(_, lock)| lock)
            .filter(|lock| tenant_id.is_none() || lock.tenant_id() == tenant_id.as_ref())
            .filter(|lock| *include_ended || is_held(lock))
            .take(*limit)
            .cloned()
            .collect())
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        let state = self.database.content()?.state;
        let of_grants = state.live_grants().filter_map(|grant| grant.terms.expire_time);
        let of_locks = state.live_locks().filter_map(|lock| lock.terms.expire_time);
        Ok(of_grants.chain(of_locks).min())
    }
}

#[async_trait]
impl History for MemoryStore {
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
        Ok(self.database.content()?.roll.enforced(revision))
    }

    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let state = self.database.content()?.state;
        Ok(state.chains.after(tenant_id, sequence).take(limit).cloned().collect())
    }

    async fn tenant_after(&self, tenant_id: &str) -> Result<Option<String>, StoreError> {
        Ok(self.database.content()?.state.chains.tenant_after(tenant_id))
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        let content = self.database.content()?;
        Ok(ChainHead { log: content.epoch, link: content.state.chains.last(tenant_id) })
    }
}

#[async_trait]
impl Membership for MemoryStore {
    async fn register(&self, member: &Registration) -> Result<(), StoreError> {
        let _writer = self.turn().await?;
        let now = self.clock.now();
        self.database.write(|content| content.roll.register(member, now))?;
        self.bell.tell(Notification::Membership);
        Ok(())
    }

    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        let now = self.clock.now();
        self.database.write(|content| content.heartbeat(node_id, seq, held, now))
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        let is_written = self.database.write(|content| content.acknowledge(node_id, held, ack))?;
        if is_written {
            self.bell.tell(Notification::Membership);
        }
        Ok(is_written)
    }

    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        self.database.write(|content| content.roll.write_followers(node_id, followers))
    }

    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        Ok(self.database.content()?.roll.read_followers())
    }

    async fn members(&self) -> Result<MemberList, StoreError> {
        Ok(self.database.content()?.roll_at(self.clock.now()))
    }

    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        self.database.write(|content| content.roll.evict(node_id, seq))
    }
}

#[async_trait]
impl Notifications for MemoryStore {
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        self.bell.listen().await
    }
}

fn matches(grant: &Grant, is_live: bool, query: &GrantQuery) -> bool {
    let terms = &grant.terms;
    let state = match grant.state(query.now) {
        state if is_live || state.is_ended() => state,
        _ => GrantState::Expired, // says its last event, whatever the asker's clock says
    };
    let end = terms.end_time().unwrap_or(Time::MAX_UTC);
    // A grant that was revoked before it started was never in force.
    let was_in_force = terms.start_time < end;
    let has_overlap = query.overlap_start.is_some() || query.overlap_end.is_some();
    (query.states.is_empty() || query.states.contains(&state))
        && query.group_id.as_ref().is_none_or(|group| *group == terms.group_id)
        && query.agent_id.as_ref().is_none_or(|agent| terms.agent_ids.contains(agent))
        && query.overlap_start.is_none_or(|start| end > start)
        && query.overlap_end.is_none_or(|limit| terms.start_time < limit)
        && (was_in_force || !has_overlap)
}
