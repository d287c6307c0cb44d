//! Notifications: how those who wait for something learn that it may be there.

use std::fmt::Debug;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::store::{Listener, Notification, StoreError};

/// How hints reach those who listen.
#[async_trait]
pub(super) trait Notifier: Debug + Send + Sync {
    /// Tells them what this process has done, unless the database does.
    fn tell(&self, hint: Notification);

    /// As [`Store::listen`](crate::store::Store::listen).
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError>;

    /// Whoever listens then hears so, and nobody can listen any more.
    async fn close(&self);
}

/// Tells others in the same process, where nobody else writes to the database.
#[derive(Debug, Default)]
pub(super) struct LocalNotifier(watch::Sender<Rung>);

/// How often it was rung, and for what. A listener that is slow misses numbers, never a hint.
#[derive(Debug, Clone, Copy, Default)]
struct Rung {
    log: u64,
    roll: u64,
    /// How often those who listened were cut off.
    cuts: u64,
    is_closed: bool,
}

struct LocalNotifications {
    rung: watch::Receiver<Rung>,
    /// What the caller was told of.
    told: Rung,
}

impl LocalNotifier {
    /// Whoever listens hears that hints were lost.
    pub(super) fn cut(&self) {
        self.0.send_modify(|rung| rung.cuts += 1);
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

#[async_trait]
impl Notifier for LocalNotifier {
    fn tell(&self, hint: Notification) {
        self.0.send_modify(|rung| match hint {
            Notification::Log => rung.log += 1,
            Notification::Membership => rung.roll += 1,
        });
    }

    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        let rung = self.0.subscribe();
        let told = *rung.borrow();
        if told.is_closed { Err(closed()) } else { Ok(Box::new(LocalNotifications { rung, told })) }
    }

    async fn close(&self) {
        self.0.send_modify(|rung| rung.is_closed = true);
    }
}

#[async_trait]
impl Listener for LocalNotifications {
    async fn next(&mut self) -> Result<Notification, StoreError> {
        loop {
            let rung = *self.rung.borrow_and_update();
            if rung.is_closed {
                return Err(closed());
            }
            if rung.cuts != self.told.cuts {
                return Err(StoreError::Unavailable("the database was replaced".into()));
            }
            if rung.log != self.told.log {
                self.told.log = rung.log;
                return Ok(Notification::Log);
            }
            if rung.roll != self.told.roll {
                self.told.roll = rung.roll;
                return Ok(Notification::Membership);
            }
            self.rung.changed().await.map_err(|_| closed())?;
        }
    }
}
