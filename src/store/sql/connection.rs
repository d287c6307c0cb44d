//! A connection on loan, and the promise that nobody gets it back in the middle of something.

use std::{io::ErrorKind, time::Duration};

use futures::{FutureExt, TryStreamExt};
use sqlx::{Pool, pool::PoolConnection};
use tokio::time::timeout;

use crate::{
    domain::Revision,
    store::{
        StoreError,
        sql::{Answer, Backend, Statement, unavailable},
    },
};

/// How long a database that answers row by row may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A connection of a pool, possibly in a transaction.
///
/// Whoever waits for an answer may be cancelled at any `.await`, and sqlx does not promise what state a connection is in
/// then. Its own transactions have holes: in PostgreSQL, a cancelled `BEGIN` goes back to the pool in an open transaction
/// (`transaction_depth` is raised only after the answer), and giving back a connection waits for whatever it was asked last,
/// though the server be gone; in SQLite, a `COMMIT` that fails because the disk is full has rolled back already, and sqlx,
/// which does not notice, refuses every later `BEGIN` on that connection.
///
/// So a lease keeps book itself: a connection goes back to its pool only if the last thing it was asked was answered, well.
/// Any other is closed, at once and without a word, and the database rolls back what it was doing: PostgreSQL when it finds
/// the socket closed, SQLite when the connection's thread ends. The pool opens a new one when it is next asked.
///
/// A lease that is dropped in an open transaction between two statements is the normal way to abandon a change. It asks for
/// a `ROLLBACK` and goes back without waiting: both drivers hand on what they are asked when they are first polled, and the
/// pool pings a connection, behind all that it was asked, before anybody gets it again.
#[derive(Debug)]
pub(in crate::store) struct Connection<DB: Backend> {
    /// `None` only once dropped.
    connection: Option<PoolConnection<DB>>,
    /// Whether the last thing asked was answered, well.
    is_sound: bool,
    in_transaction: bool,
}

impl<DB: Backend> Connection<DB> {
    /// Takes a connection, to read a single statement's answer.
    pub(super) async fn take(pool: &Pool<DB>) -> Result<Self, StoreError> {
        let connection = pool.acquire().await.map_err(DB::store_error)?;
        Ok(Self { connection: Some(connection), is_sound: true, in_transaction: false })
    }

    /// Takes a connection, and begins a transaction with `statement`.
    pub(super) async fn begin(
        pool: &Pool<DB>,
        statement: &'static str,
    ) -> Result<Self, StoreError> {
        let mut taken = Self::take(pool).await?;
        DB::command(taken.ask()?, statement).await.map_err(DB::store_error)?;
        taken.in_transaction = true;
        taken.is_sound = true;
        Ok(taken)
    }

    pub(super) async fn all<T: Answer>(&mut self, ask: Statement) -> Result<Vec<T>, StoreError> {
        let rows = DB::fetch(self.ask()?, ask).try_collect().await.map_err(DB::store_error)?;
        self.is_sound = true;
        Ok(rows)
    }

    /// The first row of the answer, if there is one.
    pub(super) async fn first<T: Answer>(
        &mut self,
        ask: Statement,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.all(ask).await?.into_iter().next())
    }

    /// Hands on row after row. Bounded by the time from one row to the next, not by how many there are.
    pub(super) async fn each<T: Answer>(
        &mut self,
        ask: Statement,
        visit: &mut (dyn FnMut(T) -> Result<(), StoreError> + Send),
    ) -> Result<(), StoreError> {
        let mut rows = DB::fetch(self.ask()?, ask);
        loop {
            let row = timeout(SILENCE_MAX, rows.try_next()).await.map_err(unavailable)?;
            let Some(row) = row.map_err(DB::store_error)? else { break };
            visit(row)?;
        }
        drop(rows);
        self.is_sound = true;
        Ok(())
    }

    /// Answers how many rows were written.
    pub(super) async fn execute(&mut self, ask: Statement) -> Result<u64, StoreError> {
        let count = DB::execute(self.ask()?, ask).await.map_err(DB::store_error)?;
        self.is_sound = true;
        Ok(count)
    }

    /// If it does not know of the event that it is `told` of, nobody shall use this connection again: it had been committed before.
    pub(super) fn ensure_current(
        &mut self,
        told: Revision,
        read: Revision,
    ) -> Result<(), StoreError> {
        if read >= told {
            return Ok(());
        }
        self.is_sound = false;
        Err(unavailable(format!(
            "this connection knows the log up to {read}, but it has grown to {told}: it leads to another database"
        )))
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        DB::command(self.ask()?, "COMMIT").await.map_err(DB::store_error)?;
        self.in_transaction = false;
        self.is_sound = true;
        Ok(())
    }

    /// The connection, unsound until it has answered.
    fn ask(&mut self) -> Result<&mut DB::Connection, StoreError> {
        let is_sound = std::mem::replace(&mut self.is_sound, false);
        match &mut self.connection {
            Some(connection) if is_sound => Ok(connection),
            _ => Err(unavailable("an earlier question on this connection was not answered")),
        }
    }
}

impl<DB: Backend> Drop for Connection<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.is_sound && self.in_transaction {
            let rollback = DB::command(&mut connection, "ROLLBACK").now_or_never();
            self.is_sound = !matches!(rollback, Some(Err(_)));
        }
        if !self.is_sound {
            drop(connection.detach());
        }
    }
}

/// Whether it was the connection that failed, which somebody else may have better.
pub(super) fn was_cut_off(error: &StoreError) -> bool {
    let StoreError::Unavailable(cause) = error else { return false };
    match cause.downcast_ref() {
        Some(sqlx::Error::Io(error)) => matches!(
            error.kind(),
            ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::UnexpectedEof
        ),
        // What PostgreSQL says when it stops, and is read when the connection is next used.
        Some(sqlx::Error::Database(error)) => {
            matches!(error.code().as_deref(), Some("57P01" | "57P02"))
        }
        _ => false,
    }
}
