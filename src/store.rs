//! The state: the log of events and the grants it adds up to, behind one small trait.
//!
//! Three stores keep the contract: [`memory`] (the model), [`sqlite`] and [`postgres`], which share [`sql`]. `tests/store`
//! runs one suite over all of them. Everything that speaks SQL is in this room.

use std::{error::Error, fmt::Debug, time::Duration};

use async_trait::async_trait;

use crate::domain::{
    Ack, Attribution, Enforced, Event, EventKind, FreeText, Grant, GrantId, GrantState, GrantTerms,
    GroupId, Lock, LockId, NodeId, NodeInfo, Party, PolicyOverrides, Position, RequestId, Revision,
    TenantId, Time,
    chain::{ChainHead, Content, Link, Record, Sequence},
    text::{Actor, AgentId},
};

mod locks;
mod membership;
pub mod memory;
mod migrations;
mod notify;
mod opening;
mod postgres;
mod sql;
mod sqlite;

pub use locks::{Loaded, LockQuery};
pub use membership::{HeartbeatResponse, Member, Membership, Registration};
pub use opening::{migrate, open};

/// How long anybody waits for a database before they are told that it is not available.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, too slow, or refuses writes for now. If it happened in [`Transaction::commit`], the change may have
    /// been made, whole. The caller may try again.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The database answered what it never should. Trying again does not help; a person has to look.
    #[error("the database holds or said what it should not")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

/// Why a store could not be opened. Displayed, it is one plain sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// What a `request_id` was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotentResult {
    /// SHA-256 of the request's content.
    pub fingerprint: [u8; 32],
    /// The grant as it was made then.
    pub grant: Grant,
}

/// Ties a grant to the request that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's id.
    pub request_id: RequestId,
    /// SHA-256 of the request's content.
    pub fingerprint: [u8; 32],
}

/// An event to be written: all of [`Event`] but what the store adds, its revision and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Scope history it belongs to; `None`: the vendor's own.
    pub tenant_id: Option<TenantId>,
    /// Who did it.
    pub author: Attribution,
    /// Why.
    pub reason: FreeText,
    /// What happened. The revisions in its grant or lock are set by the store.
    pub kind: EventKind,
    /// For [`EventKind::Granted`]: the request to remember.
    pub request: Option<IdempotencyKey>,
}

/// Which grants of a tenant to list. Filters are combined with "and".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantQuery {
    /// The tenant.
    pub tenant_id: TenantId,
    /// In one of these states at `now`; empty: any. A grant whose end time came, says its last event, is `EXPIRED` even
    /// where `now` is by a clock that is behind.
    pub states: Vec<GrantState>,
    /// To this group.
    pub group_id: Option<GroupId>,
    /// Naming this agent.
    pub agent_id: Option<AgentId>,
    /// With an end time (of expiry or revocation) after this moment.
    pub overlap_start: Option<Time>,
    /// With a start time before this moment. With either of the two, a grant that was revoked before it started is left out:
    /// it was never in force.
    pub overlap_end: Option<Time>,
    /// The moment that states are told at.
    pub now: Time,
    /// Made before the event of this revision.
    pub before: Option<Revision>,
    /// At most so many.
    pub limit: usize,
}

/// Which events to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Of this tenant; `None`: of the vendor's own history.
    pub tenant_id: Option<TenantId>,
    /// Of this grant.
    pub grant_id: Option<GrantId>,
    /// Before this revision.
    pub before: Option<Revision>,
    /// At most so many.
    pub limit: usize,
}

/// An event, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The event.
    pub event: Event,
    /// What was proven of its enforcement.
    pub enforced: Option<Enforced>,
    /// Its place in its chain. `None`: an older version of this program has written it, and no change was made since.
    pub link: Option<Link>,
}

/// Why a grant is held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retained {
    /// No event has ended it.
    Live,
    /// It is the one of its tenant and group that ended last, and can explain a denial.
    LastEnded,
}

/// What somebody who listens may have missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// There may be new events.
    Log,
    /// A node may have acknowledged something, or joined.
    Membership,
}

/// Notifications, as they come.
#[async_trait]
pub trait Notifications: Send {
    /// Waits for the next. After an error, or if the caller stops waiting, all may have been lost: listen anew.
    async fn next(&mut self) -> Result<Notification, StoreError>;
}

/// The log and the grants it adds up to.
///
/// # Contract
///
/// - The log is the truth. [`Store::load`] is always what replaying [`Store::events_after`] 0 gives.
/// - Revisions are gap-free: 1, 2, 3 and so on, in the order of commits. Whoever sees revision `n` can see every smaller one.
/// - What [`Transaction::commit`] has answered survives the death of this process and of the database's.
/// - Nothing is ever deleted.
/// - Every event is in the chain of its tenant, or of the vendor: at the next sequence, 1, 2, 3 and so on, with the hash that
///   follows from its content and the link before. Both are given to it once. Where an older version of this program has written
///   events meanwhile, which knows of no chains, they are linked before the next change, before a chain is read, and when a store
///   is opened.
/// - Reads outside a [`Transaction`] see committed changes only, and every change that was committed before they began.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// Begins a change. Changes are made one at a time, over all processes on one database: while this one is open, every
    /// other `begin` waits (and is `Unavailable` after some seconds). So a change sees the latest state, conflicts with
    /// nobody and cannot deadlock. Dropped without a commit, it leaves no trace.
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// The end of the log.
    async fn head(&self) -> Result<Position, StoreError>;

    /// Visits, as of one position in the log, which it returns with the locks that hold there: every grant that no event has ended,
    /// and of those that one has, the latest of each tenant and group by (end time, level, grant id). In no particular order.
    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError>;

    /// The events after `revision`, oldest first, at most `limit`.
    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError>;

    /// One grant, if this tenant has it.
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError>;

    /// A tenant's grants, newest (greatest `create_revision`) first.
    async fn list_grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError>;

    /// A history's events, newest first, each with what was proven of its enforcement.
    async fn list_events(&self, query: &EventQuery) -> Result<Vec<HistoryEvent>, StoreError>;

    /// A tenant's own policy settings; the default if it never made any.
    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError>;

    /// Locks, newest (greatest `create_revision`) first.
    async fn list_locks(&self, query: &LockQuery) -> Result<Vec<Lock>, StoreError>;

    /// The earliest end time of a grant or a lock that no event has ended yet.
    async fn next_expiry(&self) -> Result<Option<Time>, StoreError>;

    /// Puts a node in the roll of check nodes, with nothing acknowledged. From then on no change is enforced without
    /// it. Ordered with changes: one that begins later is told of the node's `max_staleness`. If the node has a row already, that
    /// row keeps its `seq`, which never goes back.
    async fn register(&self, member: &Registration) -> Result<(), StoreError>;

    /// In one statement, which has been committed when this returns: advances `seq` of the node's row, to the given one if that is
    /// greater, and reads the end of the log and the database's clock. So when this was asked, no event after the head it tells
    /// had been committed. `None` if the node has no row: somebody has struck it off, and it must register anew. `held` is what
    /// the node holds. The `seq` that is given was never given before: who watched the row before an older state of the database
    /// was restored must not take what it says now for what it said then.
    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError>;

    /// Writes into the node's row what it acknowledges, unless that is less than what is there, and tells whoever listens. False
    /// if nothing was written: there is no such row, or `held`, which has the acknowledged revision, is not in this log. May
    /// be lost when the database dies; that is safe.
    async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError>;

    /// Writes into the node's row who it feeds, for people.
    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError>;

    /// Whom each node feeds, as it last reported: all that are on the roll.
    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError>;

    /// The roll of check nodes as it is committed, read on the primary.
    async fn membership(&self) -> Result<Membership, StoreError>;

    /// Strikes a node off the roll, if its row still has this `seq`; false if it does not. Waits for a renewal in flight. Once
    /// this has answered true, the node cannot renew, and later changes do not wait for the length of its lease.
    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError>;

    /// Keeps with the events from `first` to `last`, which one change wrote, that they are in force everywhere. Only the first
    /// word on a change is kept, and none on what is not in the log: `time` is that of the last event, since in a log that was
    /// restored, another event may have its place.
    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError>;

    /// What was proven of the enforcement of an event.
    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError>;

    /// The records of a chain after `sequence`, oldest first, at most `limit`: each with the link that was given to it, right or
    /// wrong. `None`: of the vendor's own history.
    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// The first tenant after this one, in the order of their ids, that has a history: as it is written there, though that may be
    /// no tenant's id. Before all others comes the vendor's own history, which is an empty text.
    async fn tenant_after(&self, tenant_id: &str) -> Result<Option<String>, StoreError>;

    /// How far a chain goes. `None`: that of the vendor's own history.
    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError>;

    /// Listens to what is going on in the log and in the roll. A hint may be lost; what counts is what is read afterwards.
    async fn listen(&self) -> Result<Box<dyn Notifications>, StoreError>;

    /// Closes every connection. Later calls are `Unavailable`.
    async fn close(&self);
}

/// One change: a transaction that holds the head of the log. Reads see what it appended.
#[async_trait]
pub trait Transaction: Send {
    /// When this change happens: by the database's clock, or the process's where the database is embedded; never before the
    /// last event.
    fn now(&self) -> Time;

    /// The longest that any check node may answer from one lease, of those that registered before this change.
    fn max_staleness(&self) -> Duration;

    /// As [`Store::grant`].
    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError>;

    /// What this tenant used `request_id` for.
    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<IdempotentResult>, StoreError>;

    /// A tenant's grants that no event has ended (some may have expired since), newest first, at most `limit`.
    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError>;

    /// How many grants of a tenant no event has ended.
    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError>;

    /// Grants of any tenant that no event has ended and whose end time is `now` or earlier, earliest first, at most `limit`.
    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError>;

    /// As [`Store::overrides`].
    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError>;

    /// One lock.
    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError>;

    /// How many locks of one side no event has ended: on this tenant, or all of that side's.
    async fn count_live_locks(
        &mut self,
        side: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError>;

    /// Locks that no event has ended and whose end time is `now` or earlier, earliest first, at most `limit`.
    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError>;

    /// Writes one event at the next revision and at [`Transaction::now`], and brings the grant, lock or policy it is about to what it
    /// says. Sets the `revision` of the grant or lock, and `create_revision` if it is new. Returns the event as written. Of a grant that
    /// or lock that exists, only the end changes; one that has ended never does. After an error, or if the caller stops waiting, the change
    /// can no longer be committed.
    async fn append(&mut self, entry: NewEvent) -> Result<Event, StoreError>;

    /// Makes what was appended permanent, and returns the revision of the log then. Whatever this change has read is permanent, too,
    /// once this has answered, though nothing was appended. That cannot be taken for granted: a primary that is killed while a
    /// standby keeps it waiting, and starts again, shows what it has not answered, and may lose it yet. So whoever confirms to
    /// somebody what was there already commits first.
    async fn commit(self: Box<Self>) -> Result<Revision, StoreError>;
}

/// Makes the event that `entry` becomes at `revision` and `time`. Shared by the stores.
fn stamp(entry: NewEvent, revision: Revision, time: Time) -> (Event, Option<IdempotencyKey>) {
    let NewEvent { tenant_id, author, reason, mut kind, request } = entry;
    let is_new = matches!(kind, EventKind::Granted { .. });
    if let Some(grant) = kind.grant_mut() {
        grant.revision = revision;
        if is_new {
            grant.create_revision = revision;
        }
    }
    let is_new = matches!(kind, EventKind::Locked { .. });
    if let Some(lock) = kind.lock_mut() {
        lock.revision = revision;
        if is_new {
            lock.create_revision = revision;
        }
    }
    (Event { revision, tenant_id, time, author, reason, kind }, request)
}

/// What of an event goes into its hash; `body` is the JSON that is stored of its kind. Shared by the stores.
fn recorded<'a>(event: &'a Event, body: &'a str) -> Content<'a> {
    let Event { revision, tenant_id, time, author, reason, kind: _ } = event;
    Content {
        tenant_id: tenant_id.as_ref().map_or("", TenantId::as_str),
        revision: *revision,
        time: *time,
        actor: author.actor.as_str(),
        via: author.via.as_ref().map(Actor::as_str),
        is_asserted: author.is_asserted,
        reason: reason.as_str(),
        body,
    }
}
