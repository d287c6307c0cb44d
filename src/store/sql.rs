//! The store in a database. [`sqlite`](super::sqlite) and [`postgres`](super::postgres) open the
//! database and define the differences. This module contains the statements.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use futures::{future::BoxFuture, stream::BoxStream};
use sqlx::{Database, Either, Pool, SqlSafeStr};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    domain::{
        Clock, Epoch, Event, GrantTerms, Position, Revision, TenantId, authenticity::EventKey,
    },
    store::{
        Facets, ForgedHistories, Listener, Loaded, Log, Notifications, Retained, StoreError,
        TIMEOUT, Transaction, Transactions, database_files::DatabaseFiles, new_epoch,
        notify::Notifier,
    },
};
use connection::Connection;
use event_key::CurrentKeys;
use rows::{EventRow, HeadRow, LockedHeadRow};
use statements::{Value, log};
use transaction::SqlTransaction;

pub(super) use event_key::log_keys;
pub(super) use rows::Row;
pub(super) use statements::{Dialect, Statement};

mod connection;
mod event_key;
mod history;
mod load;
mod membership;
mod queries;
mod rows;
pub(super) mod schema;
pub(super) mod statements;
mod transaction;

/// The differences between the two databases.
pub(super) trait Backend: Database {
    /// The differences in SQL.
    const DIALECT: Dialect;

    /// Executes a statement, and returns the rows as a stream.
    fn fetch<T: Row>(
        connection: &mut Self::Connection,
        statement: Statement,
    ) -> BoxStream<'_, Result<T, sqlx::Error>>;

    /// Executes a statement, and returns the number of rows that it wrote.
    fn execute(
        connection: &mut Self::Connection,
        statement: Statement,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>>;

    /// Executes statements without parameters, in one message. Returns the rows of each, and then
    /// the end of it.
    fn script(connection: &mut Self::Connection, sql: impl SqlSafeStr) -> Results<'_, Self>;

    /// Converts a row.
    fn row<T: Row>(row: &Self::Row) -> Result<T, sqlx::Error>;

    /// Executes a command without values and rows. The command is sent at the first poll.
    fn command<'c>(
        connection: &'c mut Self::Connection,
        sql: &'static str,
    ) -> BoxFuture<'c, Result<(), sqlx::Error>>;

    /// Whether an error is transient: the database is overloaded, restarting, or read-only for now.
    fn is_transient(error: &dyn sqlx::error::DatabaseError) -> bool;

    /// The meaning of an error for the caller.
    fn store_error(error: sqlx::Error) -> StoreError {
        use sqlx::Error as E;
        let is_transient = match &error {
            E::Database(error) => Self::is_transient(error.as_ref()),
            E::Io(_)
            | E::Tls(_)
            | E::Protocol(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::BeginFailed => true,
            _ => false,
        };
        if is_transient { StoreError::unavailable(error) } else { StoreError::broken(error) }
    }
}

/// The rows of several statements, and the end of each.
pub(super) type Results<'c, DB> = BoxStream<
    'c,
    Result<Either<<DB as Database>::QueryResult, <DB as Database>::Row>, sqlx::Error>,
>;

/// A store in a database.
pub(super) struct SqlStore<DB: Backend> {
    /// For transactions.
    pub(super) writers: Pool<DB>,
    /// Limits the transactions that wait for a connection. If heartbeats share the pool, a
    /// heartbeat then waits for one transaction, and not for the whole queue.
    pub(super) transactions: Arc<Semaphore>,
    /// Limits the lists that are read at a time, to the number of `readers`.
    pub(super) lists: Semaphore,
    /// For callers' reads. May be the same pool as `writers`.
    pub(super) readers: Pool<DB>,
    /// For writes of check nodes. Separate where possible: a heartbeat that queues behind
    /// transactions or slow readers would let leases expire.
    pub(super) node_writers: Pool<DB>,
    /// For reads of check nodes: the membership, and the growing log. Separate where possible.
    pub(super) node_readers: Pool<DB>,
    /// The end of the log in the last heartbeat. A connection whose log ends earlier leads to
    /// another database, such as the old primary after a failover.
    pub(super) known_head: AtomicI64,
    /// Delivers notifications.
    pub(super) notifier: Arc<dyn Notifier>,
    /// The clock of the process, for a database without a clock.
    pub(super) clock: Arc<dyn Clock>,
    /// The files of an embedded database.
    pub(super) files: Option<Arc<DatabaseFiles>>,
    /// Authenticate what is read and written.
    pub(super) keys: CurrentKeys,
}

/// Bounds the wait for an operation: a server that disappears must not block the callers.
async fn with_timeout<T>(
    operation: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    timeout(TIMEOUT, operation).await.map_err(StoreError::unavailable)?
}

/// Converts a statement's values to a driver's arguments.
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

/// The only row of a statement on a table that always has one.
fn only<T>(row: Option<T>) -> Result<T, StoreError> {
    row.ok_or_else(|| StoreError::broken("the table head or trusted_time is empty"))
}

// === impl SqlStore ===

impl<DB: Backend> SqlStore<DB> {
    fn known_head(&self) -> Revision {
        self.known_head.load(Ordering::Relaxed)
    }

    /// Begins a transaction and locks the head of the log.
    async fn begin_at_head(&self) -> Result<SqlTransaction<DB>, StoreError> {
        let permit = Arc::clone(&self.transactions).acquire_owned().await;
        let permit = permit.map_err(StoreError::unavailable)?;
        self.verify_files()?;
        let (connection, head) = Connection::begin_at_head(&self.writers).await?;
        let (notifier, files) = (Arc::clone(&self.notifier), self.files.clone());
        let clock = self.clock.as_ref();
        SqlTransaction::at_head(connection, head, permit, notifier, files, clock, &self.keys)
    }

    /// Fails if what this process writes would be lost.
    fn verify_files(&self) -> Result<(), StoreError> {
        self.files.as_ref().map_or(Ok(()), |files| files.verify())
    }

    /// Executes statements that update the head, in a transaction that has locked the head.
    async fn update_head(&self, statements: Vec<Statement>) -> Result<(), StoreError> {
        with_timeout(async {
            let (mut connection, _) = Connection::begin_at_head(&self.writers).await?;
            for statement in statements {
                connection.execute(statement).await?;
            }
            connection.commit().await?;
            self.verify_files()
        })
        .await
    }

    /// A connection to the current database, for reads that do not include the head.
    async fn current_reader(&self) -> Result<Connection<DB>, StoreError> {
        let known_head = self.known_head();
        let mut connection = Connection::take(&self.readers).await?;
        let head: HeadRow = only(connection.first(log::head()).await?)?;
        connection.ensure_current(known_head, head.revision)?;
        Ok(connection)
    }

    async fn read<T: Row>(&self, statement: Statement) -> Result<Vec<T>, StoreError> {
        self.read_page(statement, Ok, |_| 0).await
    }

    /// Reads a page. Retries on another connection if a connection failed while idle.
    async fn read_page<T: Row, U: Send>(
        &self,
        statement: Statement,
        convert: impl Fn(T) -> Result<U, StoreError> + Send + Sync,
        weight: impl Fn(&U) -> usize + Send + Sync,
    ) -> Result<Vec<U>, StoreError> {
        with_timeout(async {
            let mut retries = self.readers.options().get_max_connections();
            loop {
                let mut connection = Connection::take(&self.readers).await?;
                match connection.page(statement.clone(), &convert, &weight).await {
                    Err(error) if retries > 0 && connection::is_disconnect(&error) => retries -= 1,
                    result => return result,
                }
            }
        })
        .await
    }

    async fn read_first<T: Row>(&self, statement: Statement) -> Result<Option<T>, StoreError> {
        Ok(self.read(statement).await?.into_iter().next())
    }
}

#[async_trait]
impl<DB: Backend> Facets for SqlStore<DB> {
    fn forged_histories(&self) -> Arc<ForgedHistories> {
        self.keys.forged_histories()
    }

    /// Waits a few seconds for operations in progress.
    async fn close(&self) {
        let readers = tokio::join!(
            timeout(TIMEOUT, self.notifier.close()),
            timeout(TIMEOUT, self.node_readers.close()),
            timeout(TIMEOUT, self.readers.close()),
        );
        let writers = tokio::join!(
            timeout(TIMEOUT, self.node_writers.close()),
            timeout(TIMEOUT, self.writers.close()),
        );
        if matches!((readers, writers), ((Ok(()), Ok(()), Ok(())), (Ok(()), Ok(()))))
            && let Some(files) = &self.files
        {
            files.close().await;
        }
    }
}

#[async_trait]
impl<DB: Backend> Transactions for SqlStore<DB> {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(with_timeout(self.begin_at_head()).await?))
    }
}

#[async_trait]
impl<DB: Backend> Log for SqlStore<DB> {
    async fn head(&self) -> Result<Position, StoreError> {
        with_timeout(async {
            let mut connection = Connection::take(&self.readers).await?;
            let head: HeadRow = only(connection.first(log::head()).await?)?;
            let (head, _) = head.into_domain()?;
            connection.ensure_current(self.known_head(), head.revision)?;
            Ok(head)
        })
        .await
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let known_head = self.known_head();
        with_timeout(async {
            let mut connection = Connection::take(&self.node_readers).await?;
            let rows: Vec<EventRow> = connection.all(log::events_after(revision, limit)).await?;
            let reader = self.keys.reader();
            let events = rows.into_iter().map(|row| row.into_domain(&reader));
            let events: Vec<_> = events.collect::<Result<_, _>>()?;
            if events.len() < limit {
                let last = events.last().map_or(revision, |event: &Event| event.revision);
                connection.ensure_current(known_head, last)?;
            }
            Ok(events)
        })
        .await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        let known_head = self.known_head();
        // Before the snapshot of the database, which may lack a forgery that is reported meanwhile.
        let known_forgeries = self.keys.forged_histories().get();
        let begin = Connection::begin(&self.readers, DB::DIALECT.begin_snapshot);
        let mut connection = with_timeout(begin).await?;
        let loaded = self.load_all(&mut connection, &known_forgeries, visit).await?;
        connection.ensure_current(known_head, loaded.position.revision)?;
        Ok(loaded)
    }

    async fn replace_epoch(&self) -> Result<Epoch, StoreError> {
        let (epoch, token_key) = new_epoch();
        with_timeout(async {
            let begin = Connection::begin_at_head(&self.writers);
            let (mut connection, LockedHeadRow { state, .. }) = begin.await?;
            let reader = self.keys.reader_of(state.log()?);
            let keys = reader.keys();
            let masked = keys.mask(state.sum(keys)?, epoch, state.revision);
            let masked = masked.map_err(StoreError::unavailable)?;
            let statement = log::update_epoch(&DB::DIALECT, epoch, token_key, &masked);
            connection.execute(statement).await?;
            connection.commit().await?;
            self.verify_files()
        })
        .await?;
        Ok(epoch)
    }

    async fn rotate_event_key(&self, new: &EventKey) -> Result<(), StoreError> {
        self.rotate(new).await
    }
}

#[async_trait]
impl<DB: Backend> Notifications for SqlStore<DB> {
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        self.notifier.listen().await
    }
}

impl<DB: Backend> fmt::Debug for SqlStore<DB> {
    /// Omits the pools, which contain the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("database", &DB::NAME).finish_non_exhaustive()
    }
}
