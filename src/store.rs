//! Storage: the log of events, and the grants, locks and policy overrides that follow from the log.
//!
//! [`Store`] is the contract, split into facets. Three stores implement it: [`memory`] (the model),
//! SQLite and PostgreSQL. The two databases share the module `sql`. `tests/it/store` runs one suite
//! against all three. This module contains all SQL.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::{
    Ack, Enforced, Epoch, Event, Grant, GrantId, GrantTerms, Lock, NodeId, NodeInfo,
    PolicyOverrides, Position, Revision, Sequence, TenantId, Time, TokenKey,
    authenticity::EventKey,
    chain::{ChainHead, Record},
};

mod database_files;
mod differences;
mod error;
mod event_key_file;
mod fold;
mod forged_histories;
mod group;
mod loaded;
mod members;
pub mod memory;
mod migrations;
mod notify;
mod open;
mod postgres;
mod query;
mod sql;
mod sqlite;
mod transaction;

pub use database_files::FileLost;
pub use differences::{ComparePosition, Comparison, Difference, DifferenceProblem};
pub use error::{OpenError, StoreError};
pub use event_key_file::read_event_key;
pub use forged_histories::ForgedHistories;
use group::GroupedTransactions;
pub use loaded::{Loaded, Retained};
pub use members::{HeartbeatResponse, Member, MemberList, Registration};
pub use notify::Notification;
pub use open::{accept_restored, check_integrity, migrate, open};
pub use query::{
    EventFilter, EventQuery, GrantFilter, GrantQuery, HistoryEvent, ListOrder, ListPosition,
    Listed, LockFilter, LockQuery, PAGE_WEIGHT_MAX, PageBounds, QueryScope,
};
pub use transaction::{IdempotencyKey, NewEvent, Read, RequestPart, Transaction};

/// How long an operation may wait for the database before the operation is `Unavailable`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The database, by facets.
///
/// # Contract
///
/// - The log is the truth. [`Log::load`] returns the result of a replay of all events.
/// - Revisions are gap-free: 1, 2, 3 and so on, in the order of commits. A reader that sees one
///   revision sees every smaller one.
/// - A change that [`Transaction::commit`] has confirmed survives a crash of this process and of
///   the database.
/// - Only rows of check nodes are deleted.
/// - Every event is part of the hash chain of its tenant, or of the vendor, at the next sequence.
///   The hash is computed once, when the event is appended.
/// - Reads outside a [`Transaction`] see committed changes only, and every change that was
///   committed before the read started.
#[derive(Clone)]
pub struct Store {
    transactions: Arc<dyn Transactions>,
    log: Arc<dyn Log>,
    queries: Arc<dyn Queries>,
    history: Arc<dyn History>,
    membership: Arc<dyn Membership>,
    notifications: Arc<dyn Notifications>,
    forged_histories: Arc<ForgedHistories>,
    backend: Arc<dyn Facets>,
}

/// A database: implements every facet of a [`Store`].
#[async_trait]
pub trait Facets:
    Debug + Transactions + Log + Queries + History + Membership + Notifications
{
    /// The histories in which this store has read a forged event, by any facet.
    fn forged_histories(&self) -> Arc<ForgedHistories>;

    /// Closes every connection. Later calls are `Unavailable`.
    async fn close(&self);
}

/// Transactions, which make every change.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// Begins a transaction. Transactions run one at a time over all processes of one database.
    /// While one is open, every other `begin` waits, and is `Unavailable` after a few seconds. A
    /// transaction therefore sees the latest state, conflicts with no other and cannot deadlock. A
    /// transaction that is dropped without a commit changes nothing.
    ///
    /// A transaction may become part of a group, which is committed as a whole. If another change
    /// of the group fails first, this change fails with [`StoreError::is_rolled_back`].
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// As [`Self::begin`], but the transaction is in no group. For a change with many events, which
    /// would delay the others, and for a change that reads outside the transaction.
    async fn begin_alone(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.begin().await
    }
}

/// The log.
#[async_trait]
pub trait Log: Send + Sync {
    /// The end of the log.
    async fn head(&self) -> Result<Position, StoreError>;

    /// The events after `revision`, oldest first, at most `limit`.
    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError>;

    /// Visits the grants that a check node holds, in no particular order. These are every grant
    /// that no event has ended, and the latest ended grant of each tenant and group. The latest is
    /// the greatest by (end time, level, grant id). All grants and the returned locks are as of one
    /// position in the log.
    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError>;

    /// Replaces the epoch and the token key after a restore, and returns the new epoch. Ordered
    /// with changes. Check nodes notice at the next heartbeat, drop all leases and load again.
    async fn replace_epoch(&self) -> Result<Epoch, StoreError>;

    /// Rotates the event key: verifies all events with the current key, compares all rows with
    /// them, and authenticates both with `new`, in one transaction. This store cannot be used
    /// afterwards. Stores without an event key do nothing.
    async fn rotate_event_key(&self, new: &EventKey) -> Result<(), StoreError> {
        let _ = new;
        Ok(())
    }
}

/// Reads of single objects and lists. A list ends after the first item beyond [`PAGE_WEIGHT_MAX`]
/// bytes, but has at least two items if there are two.
#[async_trait]
pub trait Queries: Send + Sync {
    /// One grant of a tenant.
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError>;

    /// Grants, in order of creation.
    async fn grants(&self, query: &GrantQuery) -> Result<Vec<Listed<Grant>>, StoreError>;

    /// Events, each with the hash and the recorded enforcement.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Listed<HistoryEvent>>, StoreError>;

    /// Locks, in order of creation.
    async fn locks(&self, query: &LockQuery) -> Result<Vec<Listed<Lock>>, StoreError>;

    /// The tenants that have a history, after the id `after`, in the byte order of the ids, at most
    /// `limit`. The ids are returned as stored, and may be invalid after a manipulation.
    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<String>, StoreError>;

    /// A tenant's policy overrides. Without any, the default.
    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError>;

    /// The earliest end time of the grants and locks that no event has ended.
    async fn next_expiry(&self) -> Result<Option<Time>, StoreError>;
}

/// The hash chains, and the recorded enforcement of changes.
#[async_trait]
pub trait History: Send + Sync {
    /// The records of a chain after `sequence`, oldest first, at most `limit`. Cut like a list of
    /// [`Queries`]. Each contains the stored hash, which the reader verifies. `None`: the vendor's
    /// own history.
    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// The end of a chain. `None`: that of the vendor's own history.
    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError>;

    /// Records that the events from `first` to `last`, which one change appended, are enforced at
    /// every check node. Only the first record of a change is kept. Nothing is recorded if the log
    /// has no event `last` of this `time`: after a restore, another event may have the same
    /// revision.
    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError>;

    /// The recorded enforcement of an event.
    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError>;

    /// Compares at most `limit` rows with the events about them, from `from` on.
    async fn compare(&self, from: ComparePosition, limit: usize) -> Result<Comparison, StoreError>;
}

/// The table of check nodes.
#[async_trait]
pub trait Membership: Send + Sync {
    /// Adds a node, which has acknowledged nothing. From then on, no change is enforced without the
    /// node. Ordered with changes: a later transaction knows the node's `max_staleness`. A node
    /// that has a row keeps `heartbeat_seq`, which never decreases.
    async fn register(&self, member: &Registration) -> Result<(), StoreError>;

    /// Advances the `heartbeat_seq` of the node's row by one, or to `seq` if that is greater. Also
    /// reads the end of the log and the clock. This is one statement, committed when the method
    /// returns. No event after the returned head was committed before the call. `position` is the
    /// position of the node's snapshot. Returns `None` if the node has no row because of an
    /// eviction. The node must then register again.
    ///
    /// The caller never passes the same `seq` twice. After a restore, a node that watches the row
    /// must be able to distinguish the new state from an earlier one.
    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        position: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError>;

    /// Writes the node's acknowledgement into its row, unless the row has a later one, and notifies
    /// the listeners. Returns false if nothing was written: the node has no row, or `position`,
    /// which includes the acknowledged revision, is not in this log. An acknowledgement may be lost
    /// if the database crashes. That is safe.
    async fn acknowledge(
        &self,
        node_id: NodeId,
        position: Position,
        ack: Ack,
    ) -> Result<bool, StoreError>;

    /// Writes the node's followers into the node's row, for display.
    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError>;

    /// The followers of every registered node, as last written.
    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError>;

    /// All registered nodes, as committed, read on the primary.
    async fn members(&self) -> Result<MemberList, StoreError>;

    /// Removes a node if the row still has this `heartbeat_seq`; otherwise returns false. Waits for
    /// a heartbeat in flight. Once this has returned true, the node cannot renew the lease, and
    /// later changes do not wait for the node.
    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError>;

    /// Records a trusted time, unless a later one is recorded. The time counts since the event of
    /// revision `accepted_clock`; 0: no clock was accepted. If another clock was accepted since,
    /// nothing is recorded.
    async fn record_trusted_time(
        &self,
        time: Time,
        accepted_clock: Revision,
    ) -> Result<(), StoreError>;
}

/// Notifications of changes.
#[async_trait]
pub trait Notifications: Send + Sync {
    /// Subscribes to notifications about the log and the membership.
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError>;
}

/// A subscription. Notifications may be lost.
#[async_trait]
pub trait Listener: Send {
    /// Waits for the next notification. After an error, the caller must subscribe again, and read
    /// what may have changed. A dropped future loses no notification.
    async fn next(&mut self) -> Result<Notification, StoreError>;
}

/// The identity of a new incarnation of a log.
fn new_epoch() -> (Epoch, TokenKey) {
    // Some bits of a random UUID are fixed. The rotation pairs each fixed bit with a random one.
    let key = Uuid::new_v4().as_u128() ^ Uuid::new_v4().as_u128().rotate_left(32);
    (Epoch(Uuid::new_v4()), TokenKey(key.to_be_bytes()))
}

// === impl Store ===

impl Store {
    /// All facets of one database.
    pub fn new(backend: Arc<impl Facets + 'static>) -> Arc<Self> {
        Arc::new(Self {
            transactions: backend.clone(),
            log: backend.clone(),
            queries: backend.clone(),
            history: backend.clone(),
            membership: backend.clone(),
            notifications: backend.clone(),
            forged_histories: backend.forged_histories(),
            backend,
        })
    }

    /// The same store with other transactions.
    #[must_use]
    pub fn with_transactions(&self, transactions: Arc<dyn Transactions>) -> Arc<Self> {
        Arc::new(Self { transactions, ..self.clone() })
    }

    /// The same store, which commits the changes of this process in groups.
    #[must_use]
    pub fn with_groups(&self) -> Arc<Self> {
        self.with_transactions(Arc::new(GroupedTransactions::new(Arc::clone(&self.transactions))))
    }

    /// The same store with another log.
    #[must_use]
    pub fn with_log(&self, log: Arc<dyn Log>) -> Arc<Self> {
        Arc::new(Self { log, ..self.clone() })
    }

    /// The same store with other queries.
    #[must_use]
    pub fn with_queries(&self, queries: Arc<dyn Queries>) -> Arc<Self> {
        Arc::new(Self { queries, ..self.clone() })
    }

    /// Begins a transaction, see [`Transactions::begin`].
    pub async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.transactions.begin().await
    }

    /// Begins a transaction in no group, see [`Transactions::begin_alone`].
    pub async fn begin_alone(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.transactions.begin_alone().await
    }

    /// The log.
    pub fn log(&self) -> &dyn Log {
        self.log.as_ref()
    }

    /// Reads of single objects and lists.
    pub fn queries(&self) -> &dyn Queries {
        self.queries.as_ref()
    }

    /// The hash chains, and the recorded enforcement of changes.
    pub fn history(&self) -> &dyn History {
        self.history.as_ref()
    }

    /// The table of check nodes.
    pub fn membership(&self) -> &dyn Membership {
        self.membership.as_ref()
    }

    /// Notifications of changes.
    pub fn notifications(&self) -> &dyn Notifications {
        self.notifications.as_ref()
    }

    /// The histories in which this process has read a forged event.
    pub fn forged_histories(&self) -> &ForgedHistories {
        &self.forged_histories
    }

    /// Closes every connection. Later calls are `Unavailable`.
    pub async fn close(&self) {
        self.backend.close().await;
    }
}

impl Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.backend).finish()
    }
}
