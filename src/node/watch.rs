//! Notifies tasks of changes of a node, like `tokio::sync::watch`.
//!
//! In contrast to `tokio::sync::watch`, waiting tasks wake in first-in, first-out order. The
//! simulation depends on that order: the same seed must give the same history.

use std::{pin::pin, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::Revision;

/// Counters that advance as a node changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeProgress {
    /// The revision that checks are answered from.
    pub revision: Revision,
    /// The number of loaded snapshots. A stream that started in another generation must end.
    pub generation: u64,
    /// The number of changes of the lease.
    pub leases: u64,
}

/// The sending half.
#[derive(Debug, Default)]
pub(super) struct WatchSender(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The progress, and the number of changes so far.
    progress: Mutex<(NodeProgress, u64)>,
    changed: Notify,
}

/// The receiving half.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    seen_version: u64,
}

impl WatchSender {
    /// The current progress.
    pub(super) fn read(&self) -> NodeProgress {
        self.0.progress.lock().0
    }

    /// Modifies the progress, and wakes all waiting tasks.
    pub(super) fn send_modify(&self, modify: impl FnOnce(&mut NodeProgress)) {
        {
            let (progress, version) = &mut *self.0.progress.lock();
            modify(progress);
            *version += 1;
        }
        self.0.changed.notify_waiters();
    }

    /// A watcher that has seen the current progress.
    pub(super) fn subscribe(&self) -> Watcher {
        let seen_version = self.0.progress.lock().1;
        Watcher { shared: Arc::clone(&self.0), seen_version }
    }
}

impl Watcher {
    /// Marks the current progress as seen.
    pub fn mark_unchanged(&mut self) {
        self.seen_version = self.shared.progress.lock().1;
    }

    /// Returns the current progress, and marks that progress as seen.
    pub fn read(&mut self) -> NodeProgress {
        let (progress, version) = *self.shared.progress.lock();
        self.seen_version = version;
        progress
    }

    /// Waits for progress that was not seen, and marks that progress as seen.
    pub async fn changed(&mut self) {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let version = self.shared.progress.lock().1;
            if version != self.seen_version {
                self.seen_version = version;
                return;
            }
            changed.await;
        }
    }
}
