//! The line between a replica and the database: what the weather does to it.

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use crate::random::Random;

/// How things are on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    /// How long a question or an answer is on its way, in milliseconds.
    pub(crate) delay: (u64, u64),
    /// How long a renewal takes from reading to committing, in milliseconds.
    pub(crate) gap: (u64, u64),
    /// How much longer reading the log takes, in milliseconds.
    pub(crate) reading: (u64, u64),
    /// How many messages of a stream are under way at most.
    pub(crate) room: u64,
    /// How many answers in a hundred are lost.
    pub(crate) lost_answers: u64,
    /// How many hints in a hundred are lost.
    pub(crate) lost_hints: u64,
    /// An answer that is under way arrives, though the database has failed meanwhile.
    pub(crate) outlives: bool,
    /// Nothing passes, and nobody is told.
    pub(crate) is_cut: bool,
    /// Nothing passes, and whoever asks is told at once.
    pub(crate) is_refused: bool,
}

impl Weather {
    pub(crate) const FINE: Self = Self {
        delay: (0, 2),
        gap: (0, 0),
        reading: (0, 0),
        room: 8,
        lost_answers: 0,
        lost_hints: 0,
        outlives: false,
        is_cut: false,
        is_refused: false,
    };
}

#[derive(Debug)]
pub(crate) struct Line {
    weather: Mutex<Weather>,
    changed: Notify,
    pub(crate) random: Arc<Random>,
}

impl Line {
    pub(crate) fn new(random: Arc<Random>) -> Arc<Self> {
        Arc::new(Self { weather: Mutex::new(Weather::FINE), changed: Notify::new(), random })
    }

    pub(crate) fn weather(&self) -> Weather {
        *self.weather.lock()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.weather.lock());
        self.changed.notify_waiters();
    }

    /// One way, after however long that takes.
    pub(crate) async fn pass(&self) {
        let (least, most) = self.weather().delay;
        let delay = self.random.millis(least, most);
        if !delay.is_zero() {
            sleep(delay).await;
        }
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.weather().is_cut {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn gap(&self) -> Duration {
        let (least, most) = self.weather().gap;
        self.random.millis(least, most)
    }

    pub(crate) fn reading(&self) -> Duration {
        let (least, most) = self.weather().reading;
        self.random.millis(least, most)
    }

    pub(crate) fn loses_answer(&self) -> bool {
        self.random.chance(self.weather().lost_answers)
    }

    pub(crate) fn loses_hint(&self) -> bool {
        self.weather().is_cut || self.random.chance(self.weather().lost_hints)
    }
}
