//! Pooled connections. A connection never returns to the pool in an unknown state.

use std::{fmt, io::ErrorKind, mem, time::Duration};

use futures::{FutureExt, TryStreamExt};
use sqlx::{AssertSqlSafe, Either, Pool, SqlSafeStr, pool::PoolConnection};
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

use crate::{
    domain::Revision,
    store::{
        StoreError,
        query::PageItems,
        sql::{
            Backend, Row, Statement, only,
            rows::LockedHeadRow,
            statements::joined::{joined, script},
        },
    },
};

/// How long a database may pause between two rows of a response.
const ROW_TIMEOUT: Duration = Duration::from_secs(30);
/// After a row that took longer than this, other tasks run.
const ROW_BUSY_MAX: Duration = Duration::from_millis(1);

/// A connection of a pool, possibly in a transaction.
///
/// A caller may be cancelled at any `.await`, and sqlx does not define the state of the connection
/// then. sqlx's own transactions have gaps. In PostgreSQL, a cancelled `BEGIN` returns to the pool
/// in an open transaction, because `transaction_depth` is raised only after the response. Returning
/// a connection waits for the last statement, even if the server is gone. In SQLite, a `COMMIT`
/// that fails because the disk is full has already rolled back; sqlx does not notice, and rejects
/// every later `BEGIN` on the connection.
///
/// This type therefore tracks the state itself. A connection returns to the pool only if the last
/// statement completed without an error. Any other connection is closed at once, and the database
/// rolls back: PostgreSQL when it finds the socket closed, SQLite when the connection's thread
/// ends. The pool opens a new connection on demand.
///
/// Dropping a connection in an open transaction between two statements is the normal way to abandon
/// the transaction. The drop sends a `ROLLBACK` and does not wait. Both drivers send a statement at
/// the first poll. Both databases process the `ROLLBACK` before the next statement. With
/// PostgreSQL, the pool also waits for a ping before the next use.
///
/// Each message to a remote database takes a round trip. A transaction therefore announces what it
/// will read ([`Self::read_ahead`]), and one message reads all of that. Writes wait until the
/// transaction next reads or commits ([`Self::defer`]), and one statement then makes all of them.
#[derive(Debug)]
pub(in crate::store) struct Connection<DB: Backend> {
    /// `None` only after the drop.
    pooled: Option<PoolConnection<DB>>,
    /// Whether the last statement completed without an error.
    is_sound: bool,
    in_transaction: bool,
    ahead: Ahead<DB>,
    /// Writes that were not sent yet. They concern different tables.
    deferred: Vec<Statement>,
}

/// The rows of statements that were read ahead. Nothing was written since.
struct Ahead<DB: Backend>(Vec<(Statement, Vec<DB::Row>)>);

impl<DB: Backend> fmt::Debug for Ahead<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(statement, _)| &statement.sql)).finish()
    }
}

impl<DB: Backend> Connection<DB> {
    /// Takes a connection for single statements.
    pub(super) async fn take(pool: &Pool<DB>) -> Result<Self, StoreError> {
        let connection = pool.acquire().await.map_err(DB::store_error)?;
        Ok(Self {
            pooled: Some(connection),
            is_sound: true,
            in_transaction: false,
            ahead: Ahead(Vec::new()),
            deferred: Vec::new(),
        })
    }

    /// Takes a connection, and begins a transaction with the command `begin`.
    pub(super) async fn begin(pool: &Pool<DB>, begin: &'static str) -> Result<Self, StoreError> {
        let mut taken = Self::take(pool).await?;
        DB::command(taken.inner()?, begin).await.map_err(DB::store_error)?;
        taken.in_transaction = true;
        taken.is_sound = true;
        Ok(taken)
    }

    /// Takes a connection, begins a transaction that will write, and locks the head.
    pub(super) async fn begin_at_head(
        pool: &Pool<DB>,
    ) -> Result<(Self, LockedHeadRow), StoreError> {
        let mut taken = Self::take(pool).await?;
        taken.in_transaction = true;
        let mut rows = taken.script(DB::DIALECT.begin_at_head).await?.into_iter().flatten();
        let head = DB::row(&only(rows.next_back())?).map_err(DB::store_error)?;
        Ok((taken, head))
    }

    /// Executes statements without parameters in one message, and returns the rows of each.
    async fn script(&mut self, sql: impl SqlSafeStr) -> Result<Vec<Vec<DB::Row>>, StoreError> {
        let mut results = DB::script(self.inner()?, sql);
        let (mut done, mut rows) = (Vec::new(), Vec::new());
        while let Some(result) = results.try_next().await.map_err(DB::store_error)? {
            match result {
                Either::Left(_) => done.push(mem::take(&mut rows)),
                Either::Right(row) => rows.push(row),
            }
        }
        drop(results);
        self.is_sound = true;
        Ok(done)
    }

    /// Reads what the statements select, if the database is remote. Until the next write, the same
    /// statements take no round trip.
    ///
    /// In a transaction of a change, the head is locked already. The lock and the reads must not be
    /// one statement: its snapshot would be from before the wait for the lock. With `READ
    /// COMMITTED`, each statement of the message has a snapshot of its own, which is later.
    pub(super) async fn read_ahead(
        &mut self,
        statements: Vec<Statement>,
    ) -> Result<(), StoreError> {
        if !DB::DIALECT.is_remote {
            return Ok(());
        }
        self.flush().await?;
        let rows = self.script(AssertSqlSafe(script(&statements))).await?;
        self.ahead = Ahead(statements.into_iter().zip(rows).collect());
        Ok(())
    }

    /// Executes a statement before the next one that reads, or before the commit. The caller does
    /// not defer two statements that write the same table.
    pub(super) fn defer(&mut self, statement: Statement) {
        self.ahead.0.clear();
        self.deferred.push(statement);
    }

    /// Executes the deferred statements.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        let mut statements = mem::take(&mut self.deferred);
        if statements.is_empty() {
            return Ok(());
        }
        if DB::DIALECT.is_remote {
            statements = Vec::from_iter(joined(statements));
        }
        // The connection is unsound until all statements are complete.
        let connection = self.inner()?;
        for statement in statements {
            DB::execute(connection, statement).await.map_err(DB::store_error)?;
        }
        self.is_sound = true;
        Ok(())
    }

    pub(super) async fn all<T: Row>(&mut self, statement: Statement) -> Result<Vec<T>, StoreError> {
        if let Some((_, rows)) = self.ahead.0.iter().find(|(ahead, _)| *ahead == statement) {
            return rows.iter().map(DB::row).collect::<Result<_, _>>().map_err(DB::store_error);
        }
        self.flush().await?;
        let rows = DB::fetch(self.inner()?, statement);
        let rows = rows.try_collect().await.map_err(DB::store_error)?;
        self.is_sound = true;
        Ok(rows)
    }

    /// The first row of the response.
    pub(super) async fn first<T: Row>(
        &mut self,
        statement: Statement,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.all(statement).await?.into_iter().next())
    }

    /// Visits row after row. The time between two rows is bounded, and the number of rows is not.
    pub(super) async fn each<T: Row>(
        &mut self,
        statement: Statement,
        visit: &mut (dyn FnMut(T) -> Result<(), StoreError> + Send),
    ) -> Result<(), StoreError> {
        self.flush().await?;
        let mut rows = DB::fetch(self.inner()?, statement);
        loop {
            let row = timeout(ROW_TIMEOUT, rows.try_next()).await;
            let row = row.map_err(StoreError::unavailable)?;
            let Some(row) = row.map_err(DB::store_error)? else { break };
            let started = Instant::now();
            visit(row)?;
            // A long row takes milliseconds, and checks must not wait for many of them.
            if started.elapsed() > ROW_BUSY_MAX {
                yield_now().await;
            }
        }
        drop(rows);
        self.is_sound = true;
        Ok(())
    }

    /// Converts row after row until the page is full. Further rows are dropped when they arrive.
    pub(super) async fn page<T: Row, U: Send>(
        &mut self,
        statement: Statement,
        convert: impl Fn(T) -> Result<U, StoreError> + Sync,
        weight: impl Fn(&U) -> usize + Sync,
    ) -> Result<Vec<U>, StoreError> {
        let mut page = PageItems::new();
        let mut failure = None;
        let mut visit = |row| {
            if page.is_full() || failure.is_some() {
                return Ok(());
            }
            match convert(row) {
                Ok(item) => {
                    let weight = weight(&item);
                    page.push(item, weight);
                }
                // The other rows are read, too, so that the connection stays usable.
                Err(error) => failure = Some(error),
            }
            Ok(())
        };
        self.each(statement, &mut visit).await?;
        failure.map_or(Ok(page.items), Err)
    }

    /// Returns the number of written rows.
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        self.flush().await?;
        self.ahead.0.clear();
        let count = DB::execute(self.inner()?, statement).await.map_err(DB::store_error)?;
        self.is_sound = true;
        Ok(count)
    }

    /// Closes the connection if its log ends at `read`, although revision `known` was committed
    /// before. Such a connection leads to another database.
    pub(super) fn ensure_current(
        &mut self,
        known: Revision,
        read: Revision,
    ) -> Result<(), StoreError> {
        if read >= known {
            return Ok(());
        }
        self.is_sound = false;
        Err(StoreError::unavailable(format!(
            "the log ends at revision {read} on this connection, but revision {known} is \
             committed: the connection leads to another database"
        )))
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.flush().await?;
        DB::command(self.inner()?, "COMMIT").await.map_err(DB::store_error)?;
        self.in_transaction = false;
        self.is_sound = true;
        Ok(())
    }

    /// The driver's connection, which counts as unsound until the next statement completes.
    fn inner(&mut self) -> Result<&mut DB::Connection, StoreError> {
        let is_sound = std::mem::replace(&mut self.is_sound, false);
        match &mut self.pooled {
            Some(pooled) if is_sound => Ok(pooled),
            _ => Err(StoreError::unavailable("an earlier statement on this connection failed")),
        }
    }
}

impl<DB: Backend> Drop for Connection<DB> {
    fn drop(&mut self) {
        let Some(mut pooled) = self.pooled.take() else { return };
        if self.is_sound && self.in_transaction {
            let rollback = DB::command(&mut pooled, "ROLLBACK").now_or_never();
            self.is_sound = !matches!(rollback, Some(Err(_)));
        }
        if !self.is_sound {
            drop(pooled.detach());
        }
    }
}

/// Whether only the connection failed, so that another one may work.
pub(super) fn is_disconnect(error: &StoreError) -> bool {
    let StoreError::Unavailable(cause) = error else { return false };
    match cause.downcast_ref() {
        Some(sqlx::Error::Io(error)) => matches!(
            error.kind(),
            ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::UnexpectedEof
        ),
        // admin_shutdown, crash_shutdown: read when the connection is next used.
        Some(sqlx::Error::Database(error)) => {
            matches!(error.code().as_deref(), Some("57P01" | "57P02"))
        }
        _ => false,
    }
}
