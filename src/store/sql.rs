//! The store in a database, whichever of the two: [`sqlite`](super::sqlite) and [`postgres`](super::postgres) open it and
//! say what differs; what is asked, in what order and what it means is here, once.

use std::{
    error::Error,
    fmt,
    fs::File,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use futures::{future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use sqlx::{Database, Pool};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    domain::{
        Ack, Clock, Enforced, Event, Grant, GrantId, GrantTerms, Lock, NodeId, NodeInfo,
        PolicyOverrides, Position, Revision, TenantId, Time,
        chain::{ChainHead, Record, Sequence},
    },
    store::{
        EventQuery, GrantQuery, HeartbeatResponse, History, HistoryEvent, Listener, Loaded,
        LockQuery, Log, MemberList, Membership, Notifications, Queries, Registration, Retained,
        Store, StoreError, TIMEOUT, Transaction, notify::Notifier,
    },
};
use connection::Connection;
use rows::{EventRow, GrantRow, GrantTermsRow, HeadRow, ListedEventRow};
use statements::{Value, locks, read};
use transaction::SqlTransaction;

pub(super) use rows::Answer;
pub(super) use statements::{Dialect, Statement};

mod chain;
mod connection;
mod membership;
mod rows;
pub(super) mod schema;
pub(super) mod statements;
mod transaction;

/// What the two databases differ in.
pub(super) trait Backend: Database {
    /// Their words.
    const DIALECT: Dialect;

    /// Asks, and hands on row after row as they come.
    fn fetch<T: Answer>(
        connection: &mut Self::Connection,
        ask: Statement,
    ) -> BoxStream<'_, Result<T, sqlx::Error>>;

    /// Writes; answers how many rows.
    fn execute(
        connection: &mut Self::Connection,
        ask: Statement,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>>;

    /// Sends a command that takes no values and answers no rows; to be on its way when first polled.
    fn command<'c>(
        connection: &'c mut Self::Connection,
        sql: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>>;

    /// Whether an error that the database reports passes by itself: it is overloaded, restarting, read-only for now.
    fn passes(error: &dyn sqlx::error::DatabaseError) -> bool;

    /// What an error means to whoever asked.
    fn store_error(error: sqlx::Error) -> StoreError {
        use sqlx::Error as E;
        let passes = match &error {
            E::Database(error) => Self::passes(error.as_ref()),
            E::Io(_)
            | E::Tls(_)
            | E::Protocol(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::BeginFailed => true,
            _ => false,
        };
        if passes { unavailable(error) } else { StoreError::Broken(Box::new(error)) }
    }
}

/// A store in a database.
pub(super) struct SqlStore<DB: Backend> {
    /// For changes.
    pub(super) writers: Pool<DB>,
    /// Whoever begins a change waits here first. So where the writers are also those of the roll, a renewal waits for one change,
    /// and not behind all that are to come.
    pub(super) turns: Arc<Semaphore>,
    /// For everything else. May be the same.
    pub(super) readers: Pool<DB>,
    /// For what check nodes write. Where it can be, apart: they must not queue behind changes that wait for each other, nor
    /// behind slow readers, or else checks would be denied.
    pub(super) roll_writers: Pool<DB>,
    /// For reading the roll, and the log as it grows. Where it can be, apart from what callers read.
    pub(super) roll_readers: Pool<DB>,
    /// The end of the log, as the last renewal told. Who reads of less is connected to a database that is not the one that counts
    /// any more, as after a failover that has left the old one running.
    pub(super) known_head: AtomicI64,
    /// Brings hints.
    pub(super) notifier: Arc<dyn Notifier>,
    /// Tells the time where the database has no clock.
    pub(super) clock: Arc<dyn Clock>,
    /// What keeps other processes out, where they must be kept out. Let go once all is closed.
    pub(super) lock: Mutex<Option<File>>,
}

pub(super) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// Waits for `work`, but not for ever: a server whose machine is gone without a word must not hang those who ask it.
async fn with_timeout<T>(
    work: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    timeout(TIMEOUT, work).await.map_err(unavailable)?
}

/// Makes a statement's values a driver's arguments.
pub(super) fn arguments<A>(values: Vec<Value>) -> Result<A, sqlx::error::BoxDynError>
where
    A: sqlx::Arguments,
    i64: sqlx::Encode<'static, A::Database> + sqlx::Type<A::Database>,
    Option<i64>: sqlx::Encode<'static, A::Database>,
    String: sqlx::Encode<'static, A::Database> + sqlx::Type<A::Database>,
    Option<String>: sqlx::Encode<'static, A::Database>,
    Vec<u8>: sqlx::Encode<'static, A::Database> + sqlx::Type<A::Database>,
{
    let mut arguments = A::default();
    for value in values {
        match value {
            Value::Int(number) => arguments.add(number)?,
            Value::MaybeInt(number) => arguments.add(number)?,
            Value::Text(text) => arguments.add(text)?,
            Value::MaybeText(text) => arguments.add(text)?,
            Value::Bytes(bytes) => arguments.add(bytes)?,
        }
    }
    Ok(arguments)
}

// === impl SqlStore ===

impl<DB: Backend> SqlStore<DB> {
    async fn begin_at_head(&self) -> Result<SqlTransaction<DB>, StoreError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(unavailable)?;
        let connection = Connection::begin(&self.writers, DB::DIALECT.begin_change).await?;
        let notifier = Arc::clone(&self.notifier);
        SqlTransaction::at_head(connection, turn, notifier, self.clock.as_ref()).await
    }

    /// Reads; and anew on another connection, if this one was cut off when the database went away, and nobody has used it since.
    async fn read<T: Answer>(&self, ask: Statement) -> Result<Vec<T>, StoreError> {
        with_timeout(async {
            let mut others = self.readers.options().get_max_connections();
            loop {
                match Connection::take(&self.readers).await?.all(ask.clone()).await {
                    Err(error) if others > 0 && connection::was_cut_off(&error) => others -= 1,
                    other => return other,
                }
            }
        })
        .await
    }

    async fn read_first<T: Answer>(&self, ask: Statement) -> Result<Option<T>, StoreError> {
        Ok(self.read(ask).await?.into_iter().next())
    }

    /// All that [`Store::load`] reads, in one snapshot.
    async fn read_load(
        connection: &mut Connection<DB>,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        let head = with_timeout(connection.first(read::head())).await?;
        for (ask, held) in
            [(read::load_live(), Retained::Live), (read::load_latest_ended(), Retained::LastEnded)]
        {
            let mut visit_row = |row: GrantTermsRow| {
                let (tenant_id, terms) = row.into_domain()?;
                visit(tenant_id, terms, held);
                Ok(())
            };
            connection.each(ask, &mut visit_row).await?;
        }
        let mut locks = Vec::new();
        let mut add_row = |row: (String,)| {
            locks.push(rows::lock(row)?.terms);
            Ok(())
        };
        connection.each(locks::load(), &mut add_row).await?;
        Ok(Loaded { position: position(head)?, locks })
    }
}

fn position(head: Option<HeadRow>) -> Result<Position, StoreError> {
    head.ok_or_else(|| StoreError::Broken("the table head is empty".into()))?.into_domain()
}

#[async_trait]
impl<DB: Backend> Store for SqlStore<DB> {
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

    /// Waits some seconds for whoever still listens, reads or writes.
    async fn close(&self) {
        // The writers last: SQLite puts its log away when the last connection closes, alone.
        let ended = tokio::join!(
            timeout(TIMEOUT, self.notifier.close()),
            timeout(TIMEOUT, self.roll_readers.close()),
            timeout(TIMEOUT, self.readers.close()),
        );
        let writers = tokio::join!(
            timeout(TIMEOUT, self.roll_writers.close()),
            timeout(TIMEOUT, self.writers.close()),
        );
        if matches!((ended, writers), ((Ok(()), Ok(()), Ok(())), (Ok(()), Ok(())))) {
            self.lock.lock().take();
        }
    }
}

#[async_trait]
impl<DB: Backend> Log for SqlStore<DB> {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let change = with_timeout(self.begin_linked()).await?;
        Ok(Box::new(change))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        with_timeout(async {
            let mut connection = Connection::take(&self.readers).await?;
            let head = position(connection.first(read::head()).await?)?;
            connection.ensure_current(self.known_head.load(Ordering::Relaxed), head.revision)?;
            Ok(head)
        })
        .await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        let begin = Connection::begin(&self.readers, DB::DIALECT.begin_snapshot);
        let told = self.known_head.load(Ordering::Relaxed);
        let mut connection = with_timeout(begin).await?;
        let loaded = Self::read_load(&mut connection, visit).await?;
        connection.ensure_current(told, loaded.position.revision)?;
        Ok(loaded)
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let ask = read::events_after(revision, limit);
        let told = self.known_head.load(Ordering::Relaxed);
        with_timeout(async {
            let mut connection = Connection::take(&self.roll_readers).await?;
            let rows: Vec<EventRow> = connection.all(ask).await?;
            let events = rows.into_iter().map(EventRow::into_domain);
            let events: Vec<_> = events.collect::<Result<_, _>>()?;
            if events.len() < limit {
                let read = events.last().map_or(revision, |event: &Event| event.revision);
                connection.ensure_current(told, read)?;
            }
            Ok(events)
        })
        .await
    }
}

#[async_trait]
impl<DB: Backend> Queries for SqlStore<DB> {
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        let row = self.read_first(read::grant(tenant_id, grant_id)).await?;
        row.map(GrantRow::into_domain).transpose()
    }

    async fn grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        let rows = self.read(read::list_grants(&DB::DIALECT, query)).await?;
        rows.into_iter().map(GrantRow::into_domain).collect()
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<HistoryEvent>, StoreError> {
        let rows = self.read(read::list_events(&DB::DIALECT, query)).await?;
        rows.into_iter().map(ListedEventRow::into_domain).collect()
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let row: Option<(String,)> = self.read_first(read::overrides(tenant_id)).await?;
        row.map_or_else(|| Ok(PolicyOverrides::default()), |(body,)| rows::overrides(&body))
    }

    async fn locks(&self, query: &LockQuery) -> Result<Vec<Lock>, StoreError> {
        let rows = self.read(locks::list(&DB::DIALECT, query)).await?;
        rows.into_iter().map(rows::lock).collect()
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        let next: Option<(Option<i64>, Option<i64>)> = self.read_first(read::next_expiry()).await?;
        let next =
            next.and_then(|(of_grants, of_locks)| of_grants.into_iter().chain(of_locks).min());
        next.map(|micros| rows::time("expire_time", micros)).transpose()
    }
}

#[async_trait]
impl<DB: Backend> History for SqlStore<DB> {
    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        self.insert_enforced(first, last, time, enforced).await
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        self.read_enforced(revision).await
    }

    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.read_records(tenant_id, sequence, limit).await
    }

    async fn tenant_after(&self, tenant_id: &str) -> Result<Option<String>, StoreError> {
        self.read_tenant_after(tenant_id).await
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        self.read_chain_head(tenant_id).await
    }
}

#[async_trait]
impl<DB: Backend> Membership for SqlStore<DB> {
    async fn register(&self, member: &Registration) -> Result<(), StoreError> {
        self.insert_member(member).await
    }

    async fn heartbeat(
        &self,
        node_id: NodeId,
        seq: i64,
        held: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        self.renew_member(node_id, seq, held).await
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        held: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        self.write_ack(node_id, held, ack).await
    }

    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        self.write_report(node_id, followers).await
    }

    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        self.read_reports().await
    }

    async fn members(&self) -> Result<MemberList, StoreError> {
        self.read_roll().await
    }

    async fn evict(&self, node_id: NodeId, seq: i64) -> Result<bool, StoreError> {
        self.delete_member(node_id, seq).await
    }
}

#[async_trait]
impl<DB: Backend> Notifications for SqlStore<DB> {
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        self.notifier.listen().await
    }
}

impl<DB: Backend> fmt::Debug for SqlStore<DB> {
    /// Not the pools: they would show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("database", &DB::NAME).finish_non_exhaustive()
    }
}
