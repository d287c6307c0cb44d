//! The event key of a database: the first use of a key, and its replacement.

use std::{error::Error, sync::Arc};

use parking_lot::RwLock;
use sqlx::Pool;

use crate::{
    domain::{
        LogName, Revision,
        authenticity::{EventKey, LogKeys, StateSum},
    },
    store::{
        ForgedHistories, OpenError, StoreError,
        event_key_file::KeySource,
        sql::{
            Backend, Connection, SqlStore, only,
            rows::{self, EventKeyRow, EventReader, EventRow, LockedHeadRow},
            statements::log,
        },
    },
};

/// The keys of the log in the database, as last read. The address of a database may lead to another
/// database, with another log.
#[derive(Debug)]
pub(in crate::store) struct CurrentKeys {
    secret: EventKey,
    keys: RwLock<Arc<LogKeys>>,
    forged_histories: Arc<ForgedHistories>,
}

/// Events per read. A rotation of the key reads all events.
const PAGE: usize = 500;

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn failed(error: StoreError) -> OpenError {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    OpenError(format!("the event key cannot be checked: {error} ({cause})"))
}

async fn read<DB: Backend>(connection: &mut Connection<DB>) -> Result<EventKeyRow, OpenError> {
    only(connection.first(log::event_key()).await.map_err(failed)?).map_err(failed)
}

impl CurrentKeys {
    pub(super) fn forged_histories(&self) -> Arc<ForgedHistories> {
        Arc::clone(&self.forged_histories)
    }

    /// Reads events of the log that was last read.
    pub(super) fn reader(&self) -> EventReader {
        EventReader::new(Arc::clone(&self.keys.read()), self.forged_histories())
    }

    /// Reads events of the log that was read now.
    pub(super) fn reader_of(&self, log: LogName) -> EventReader {
        if self.keys.read().log() != log {
            *self.keys.write() = Arc::new(self.secret.of_log(log));
        }
        self.reader()
    }
}

fn incomplete() -> StoreError {
    StoreError::broken("events are missing; restore the database from a backup")
}

/// The keys of the log in the database, which must have been used with no other event key.
pub(in crate::store) async fn log_keys<DB: Backend>(
    pool: &Pool<DB>,
    source: &KeySource,
) -> Result<CurrentKeys, OpenError> {
    let mut connection = Connection::take(pool).await.map_err(failed)?;
    let mut row = read(&mut connection).await?;
    let key = source.read(row.event_key_id.is_none())?;
    let keys = key.of_log(rows::log_name(row.log_name.clone()).map_err(failed)?);
    if row.event_key_id.is_none() {
        let masked = keys.mask(StateSum::ZERO, row.epoch().map_err(failed)?, 0);
        let masked = masked.map_err(|error| OpenError(error.to_string()))?;
        let insert = log::insert_event_key(keys.id(), &masked);
        connection.execute(insert).await.map_err(failed)?;
        // Another process may have been first.
        row = read(&mut connection).await?;
    }
    if row.event_key_id.as_deref() == Some(&keys.id()) {
        let (keys, forged_histories) = (RwLock::new(Arc::new(keys)), Arc::default());
        return Ok(CurrentKeys { secret: key, keys, forged_histories });
    }
    Err(OpenError(
        "the database was written with another event key; correct event-key-file, or restore the \
         database together with its key"
            .into(),
    ))
}

impl<DB: Backend> SqlStore<DB> {
    /// Implements [`Log::rotate_event_key`](crate::store::Log::rotate_event_key).
    pub(super) async fn rotate(&self, new: &EventKey) -> Result<(), StoreError> {
        let begin = Connection::begin_at_head(&self.writers);
        let (mut connection, LockedHeadRow { state, .. }) = begin.await?;
        let log = state.log()?;
        let (old, keys) = (self.keys.reader_of(log), new.of_log(log));
        let mut visit = |_, _, _| {};
        let (_, locks) = Self::load_rows(old.keys(), &mut connection, &mut visit).await?;
        let replayed = Self::replay(&old, &mut connection, state.revision).await?;
        if !replayed.equals_rows(&locks) {
            return Err(StoreError::broken(
                "a grant, lock or event differs from the history; restore the rows that the \
                 verification names, then repeat the command",
            ));
        }
        Self::rotate_macs((&old, &keys), &mut connection, state.revision).await?;
        let (sum, _) = Self::load_rows(&keys, &mut connection, &mut visit).await?;
        let sum = sum.ok_or_else(|| {
            StoreError::broken("a row cannot be read; restore it, then repeat the command")
        })?;
        let masked = keys.mask(sum, state.epoch()?, state.revision);
        let masked = masked.map_err(StoreError::unavailable)?;
        connection.execute(log::update_event_key(keys.id(), &masked)).await?;
        connection.commit().await?;
        self.verify_files()
    }

    async fn rotate_macs(
        (old, new): (&EventReader, &LogKeys),
        connection: &mut Connection<DB>,
        head: Revision,
    ) -> Result<(), StoreError> {
        let mut revision = 0;
        while revision < head {
            let rows: Vec<EventRow> = connection.all(log::events_after(revision, PAGE)).await?;
            if rows.is_empty() {
                return Err(incomplete());
            }
            for row in rows {
                revision += 1;
                if row.revision() != revision {
                    return Err(incomplete());
                }
                let macs = row.macs_with(old, new)?;
                connection.execute(log::update_macs(revision, macs)).await?;
            }
        }
        Ok(())
    }
}
