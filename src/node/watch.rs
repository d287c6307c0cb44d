//! Tells those who wait that a node has changed. They are woken in the order in which they came: a simulation repeats itself
//! exactly, which it could not with `tokio::sync::watch`.

use std::{pin::pin, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::Revision;

/// What has changed, for those who wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeProgress {
    /// What checks are answered from.
    pub revision: Revision,
    /// Counts the snapshots that did not follow on the one before. Who has followed since another number must stop.
    pub generation: u64,
    /// Counts leases.
    pub leases: u64,
}

/// Where progress is put up.
#[derive(Debug, Default)]
pub(super) struct WatchSender(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The progress, and how often it has changed.
    progress: Mutex<(NodeProgress, u64)>,
    changed: Notify,
}

/// Reads the progress, and waits for more.
#[derive(Debug)]
pub struct Reader {
    board: Arc<Shared>,
    seen: u64,
}

impl WatchSender {
    /// The progress now.
    pub(super) fn read(&self) -> NodeProgress {
        self.0.progress.lock().0
    }

    /// Changes it, and wakes everybody who waits.
    pub(super) fn change(&self, change: impl FnOnce(&mut NodeProgress)) {
        {
            let (progress, version) = &mut *self.0.progress.lock();
            change(progress);
            *version += 1;
        }
        self.0.changed.notify_waiters();
    }

    /// Somebody who has seen what there is now.
    pub(super) fn reader(&self) -> Reader {
        let seen = self.0.progress.lock().1;
        Reader { board: Arc::clone(&self.0), seen }
    }
}

impl Reader {
    /// Whatever there is now is not progress any more.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.board.progress.lock().1;
    }

    /// The progress now, which then is not progress any more.
    pub fn read(&mut self) -> NodeProgress {
        let (progress, version) = *self.board.progress.lock();
        self.seen = version;
        progress
    }

    /// Waits until there is something that was not seen.
    pub async fn changed(&mut self) {
        loop {
            let mut changed = pin!(self.board.changed.notified());
            changed.as_mut().enable();
            let version = self.board.progress.lock().1;
            if version != self.seen {
                self.seen = version;
                return;
            }
            changed.await;
        }
    }
}
