//! Notifications within one process, for stores that no other process writes to.

use std::fmt::Debug;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::store::{Listener, StoreError};

/// A hint about new data. The receiver must read the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// The log may have new events.
    Log,
    /// A node may have registered, or acknowledged a revision.
    Membership,
}

/// Delivers notifications to listeners.
#[async_trait]
pub(super) trait Notifier: Debug + Send + Sync {
    /// Notifies the listeners of a change by this process, unless the database does.
    fn notify(&self, notification: Notification);

    /// As [`Notifications::listen`](crate::store::Notifications::listen).
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError>;

    /// Ends every subscription, and rejects new ones.
    async fn close(&self);
}

/// Notifies listeners in the same process.
#[derive(Debug, Default)]
pub(super) struct LocalNotifier(watch::Sender<Counts>);

/// The number of notifications so far. A slow listener misses counts, but no notification.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    log: u64,
    membership: u64,
    /// How often the listeners were disconnected.
    disconnects: u64,
    is_closed: bool,
}

struct LocalListener {
    current: watch::Receiver<Counts>,
    /// The counts that the caller has received.
    seen: Counts,
}

impl LocalNotifier {
    /// Fails every subscription: notifications may have been lost.
    pub(super) fn disconnect(&self) {
        self.0.send_modify(|counts| counts.disconnects += 1);
    }
}

fn closed() -> StoreError {
    StoreError::unavailable("the store is closed")
}

#[async_trait]
impl Notifier for LocalNotifier {
    fn notify(&self, notification: Notification) {
        self.0.send_modify(|counts| match notification {
            Notification::Log => counts.log += 1,
            Notification::Membership => counts.membership += 1,
        });
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        let current = self.0.subscribe();
        let seen = *current.borrow();
        if seen.is_closed { Err(closed()) } else { Ok(Box::new(LocalListener { current, seen })) }
    }

    async fn close(&self) {
        self.0.send_modify(|counts| counts.is_closed = true);
    }
}

#[async_trait]
impl Listener for LocalListener {
    async fn next(&mut self) -> Result<Notification, StoreError> {
        loop {
            let counts = *self.current.borrow_and_update();
            if counts.is_closed {
                return Err(closed());
            }
            if counts.disconnects != self.seen.disconnects {
                return Err(StoreError::unavailable("the database was replaced"));
            }
            if counts.log != self.seen.log {
                self.seen.log = counts.log;
                return Ok(Notification::Log);
            }
            if counts.membership != self.seen.membership {
                self.seen.membership = counts.membership;
                return Ok(Notification::Membership);
            }
            self.current.changed().await.map_err(|_| closed())?;
        }
    }
}
