//! One direction of a network connection.

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use crate::random::Random;

/// A range of milliseconds, both ends included.
pub(crate) type MillisRange = (u64, u64);

/// The faults of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkConditions {
    /// Delay of each message.
    pub(crate) delay: MillisRange,
    /// Time between the read and the commit of a heartbeat.
    pub(crate) commit_gap: MillisRange,
    /// Additional time of each read of the log.
    pub(crate) read_delay: MillisRange,
    /// Maximum number of messages of a stream in transit.
    pub(crate) capacity: u64,
    /// Percentage of responses that are lost.
    pub(crate) lost_responses: u64,
    /// Percentage of notifications that are lost.
    pub(crate) lost_notifications: u64,
    /// A response in transit arrives even if the database has failed meanwhile.
    pub(crate) delivers_after_failure: bool,
    /// No message passes, and the sender is not notified.
    pub(crate) is_cut: bool,
    /// No message passes, and the sender gets an error immediately.
    pub(crate) is_refused: bool,
}

impl LinkConditions {
    pub(crate) const HEALTHY: Self = Self {
        delay: (0, 2),
        commit_gap: (0, 0),
        read_delay: (0, 0),
        capacity: 8,
        lost_responses: 0,
        lost_notifications: 0,
        delivers_after_failure: false,
        is_cut: false,
        is_refused: false,
    };
    /// Healthy, without any delay.
    pub(crate) const INSTANT: Self = Self { delay: (0, 0), ..Self::HEALTHY };
    pub(crate) const CUT: Self = Self { is_cut: true, ..Self::HEALTHY };
    pub(crate) const REFUSED: Self = Self { is_refused: true, ..Self::HEALTHY };
}

#[derive(Debug)]
pub(crate) struct Link {
    conditions: Mutex<LinkConditions>,
    changed: Notify,
    pub(crate) random: Arc<Random>,
}

impl Link {
    pub(crate) fn new(random: Arc<Random>) -> Arc<Self> {
        let conditions = Mutex::new(LinkConditions::HEALTHY);
        Arc::new(Self { conditions, changed: Notify::new(), random })
    }

    pub(crate) fn conditions(&self) -> LinkConditions {
        *self.conditions.lock()
    }

    pub(crate) fn set(&self, conditions: LinkConditions) {
        self.modify(|current| *current = conditions);
    }

    pub(crate) fn modify(&self, modify: impl FnOnce(&mut LinkConditions)) {
        modify(&mut self.conditions.lock());
        self.changed.notify_waiters();
    }

    /// Carries one message: waits for the delay, and until the link is no longer cut.
    pub(crate) async fn traverse(&self) {
        let delay = self.sample(self.conditions().delay);
        if !delay.is_zero() {
            sleep(delay).await;
        }
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.conditions().is_cut {
                return;
            }
            changed.await;
        }
    }

    /// A random span of the range.
    pub(crate) fn sample(&self, (least, most): MillisRange) -> Duration {
        self.random.millis(least, most)
    }

    pub(crate) fn loses_response(&self) -> bool {
        self.random.chance(self.conditions().lost_responses)
    }

    pub(crate) fn loses_notification(&self) -> bool {
        let conditions = self.conditions();
        conditions.is_cut || self.random.chance(conditions.lost_notifications)
    }
}
