//! The files of an embedded database: the lock file, permissions, and the identity of open files.
//!
//! A process can lose its files without an error. It keeps the open files when their names are
//! removed, or given to other files, and each later change is lost when the process ends. A process
//! that starts later can find files that lack acknowledged changes. Both are detected here.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tracing::{error, info, warn};

use crate::{
    domain::Revision,
    store::{OpenError, StoreError},
};

/// Mode of created files: they contain the histories of all tenants.
const MODE: u32 = 0o600;
/// The mode bits of other users.
const MODE_OF_OTHERS: u32 = 0o077;
/// The suffixes of the files of an open database.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The lock file beside a database, which excludes other processes. The content is the last
/// acknowledged revision.
///
/// Acknowledged changes may be in the write-ahead log alone. If that file is deleted, or any file
/// is replaced by an older one, the database ends before this revision. The content is not synced:
/// after a crash of the machine, the revision may be too low, and never too high.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
    database: PathBuf,
}

/// The files of an open database.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    /// The configured name of the main file, whose links may change, and the names in use.
    expected: Vec<(PathBuf, FileId)>,
    /// `None`: closed.
    open: Mutex<Option<Open>>,
    are_lost: AtomicBool,
}

#[derive(Debug)]
struct Open {
    lock: LockFile,
    /// SQLite removes the write-ahead log when the last connection closes. While this connection is
    /// open, only others remove the file.
    keeper: SqliteConnection,
}

/// Device and inode of a file.
type FileId = (u64, u64);

/// A file of the open database was removed or replaced.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{file} was {event} while the server was running; put the original files back, or stop the \
     server, restore a backup, run `support-access database restored` and start the server"
)]
pub struct FileLost {
    file: String,
    event: &'static str,
}

// === impl LockFile ===

impl LockFile {
    /// Creates and locks the lock file of the database at `database`.
    pub(super) fn acquire(database: &Path) -> Result<Self, OpenError> {
        let name = with_suffix(database, ".lock");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(MODE);
        let file = options.open(&name).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => read_only(database),
            _ => OpenError(format!("{} cannot be created: {error}", name.display())),
        })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file, database: database.into() }),
            Err(TryLockError::WouldBlock) => Err(OpenError(format!(
                "{} is in use by another process, and SQLite serves only one; \
                 stop the other process, or use PostgreSQL",
                describe(database)
            ))),
            Err(TryLockError::Error(error)) => {
                Err(OpenError(format!("{} cannot be locked: {error}", name.display())))
            }
        }
    }

    /// Creates the main file, unless the file was lost. SQLite gives the mode of this file to the
    /// others. Warns if other users may access existing files.
    ///
    /// Call before the first connection: closing a file releases all locks of the process on it.
    pub(super) fn create_database(&self) -> Result<(), OpenError> {
        if !self.database.exists() {
            self.check(0)?;
            let mut options = File::options();
            options.write(true).create(true).truncate(false).mode(MODE);
            let created = options.open(&self.database);
            return created.map(drop).map_err(|error| match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    read_only(&self.database)
                }
                _ => self.failed("cannot be created", &error),
            });
        }
        for path in SUFFIXES.map(|suffix| with_suffix(&self.database, suffix)) {
            let mode = fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode());
            if mode & MODE_OF_OTHERS != 0 {
                warn!(
                    path = %path.display(),
                    mode = format!("{:o}", mode & 0o777),
                    "other users of this host may access the database; run chmod 600 on the file"
                );
            }
        }
        Ok(())
    }

    /// Fails if the database, which ends at `revision`, lacks acknowledged changes.
    pub(super) fn check(&self, revision: Revision) -> Result<(), OpenError> {
        let mut content = [0; 32];
        let length = self.file.read_at(&mut content, 0);
        let length = length.map_err(|error| self.failed("has an unreadable lock file", &error))?;
        // A crash of the machine may leave any content.
        let text = content.get(..length).and_then(|content| str::from_utf8(content).ok());
        let acknowledged: Revision = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if revision >= acknowledged {
            return Ok(());
        }
        Err(OpenError(format!(
            "{} ends at revision {revision}, but revision {acknowledged} was acknowledged; put the \
             original file and its -wal file back, or, after restoring a backup, run \
             `support-access database restored`",
            describe(&self.database)
        )))
    }

    /// Forgets the acknowledged revision, because a backup was restored.
    pub(super) fn reset(&self) -> Result<(), OpenError> {
        self.file.set_len(0).map_err(|error| self.failed("has an unwritable lock file", &error))
    }

    fn record(&self, revision: Revision) -> io::Result<()> {
        // Every revision has the same length, so a write replaces the previous one.
        self.file.write_all_at(format!("{revision:020}\n").as_bytes(), 0)
    }

    fn failed(&self, problem: &str, error: &io::Error) -> OpenError {
        OpenError(format!("{} {problem}: {error}", describe(&self.database)))
    }
}

// === impl DatabaseFiles ===

impl DatabaseFiles {
    /// Opens the database at `options`. `configured` is the configured name of the main file.
    pub(super) async fn open(
        lock: LockFile,
        options: &SqliteConnectOptions,
        configured: &Path,
    ) -> Result<Self, sqlx::Error> {
        let mut keeper = options.connect().await?;
        // Opens the write-ahead log.
        sqlx::query("SELECT revision FROM head").fetch_all(&mut keeper).await?;
        let paths = SUFFIXES.map(|suffix| with_suffix(&lock.database, suffix));
        let paths = std::iter::once(configured.to_owned()).chain(paths);
        let expected = paths.map(|path| file_id(&path).map(|id| (path, id)));
        let expected = expected.collect::<Result<Vec<_>, _>>()?;
        let open = Mutex::new(Some(Open { lock, keeper }));
        Ok(Self { expected, open, are_lost: AtomicBool::new(false) })
    }

    /// Fails if a file is no longer the one that was opened.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        let lost = self.expected.iter().find_map(|(path, id)| lost(path, *id));
        let were_lost = self.are_lost.swap(lost.is_some(), Ordering::Relaxed);
        let Some(lost) = lost else {
            if were_lost {
                info!("the files of the database are back");
            }
            return Ok(());
        };
        if !were_lost {
            error!(error = %lost, "rejecting changes, because they would be lost");
        }
        Err(StoreError::unavailable(lost))
    }

    /// Call after a commit of events up to `revision`. Fails if they would be lost.
    pub(super) fn acknowledge(&self, revision: Revision) -> Result<(), StoreError> {
        self.verify()?;
        if let Some(Open { lock, .. }) = &*self.open.lock()
            && let Err(error) = lock.record(revision)
        {
            warn!(%error, "cannot write the lock file of the database");
        }
        Ok(())
    }

    /// Closes the last connection, and admits other processes. Call once all other connections are
    /// closed.
    pub(super) async fn close(&self) {
        let Some(Open { lock, keeper }) = self.open.lock().take() else { return };
        // Errors do not matter: the write-ahead log stays, and the next start reads it.
        let _ = keeper.close().await;
        drop(lock);
    }
}

fn lost(path: &Path, id: FileId) -> Option<FileLost> {
    let event = match file_id(path) {
        Ok(found) if found == id => return None,
        Ok(_) => "replaced",
        Err(_) => "removed",
    };
    Some(FileLost { file: path.display().to_string(), event })
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The database in an error text.
pub(super) fn describe(path: &Path) -> String {
    format!("the database {}", path.display())
}

pub(super) fn read_only(path: &Path) -> OpenError {
    OpenError(format!(
        "{} is read-only, but support-access must write; \
         make the file and its directory writable",
        describe(path)
    ))
}
