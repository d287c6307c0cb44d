//! The age of bytes that a client has not read.

use std::{
    array::from_fn,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The precision of ages.
const PERIOD: Duration = Duration::from_secs(1);
/// The number of periods, after which ages wrap around. The connection is closed much earlier.
const PERIODS: usize = 128;

/// The response bytes that the transport of a connection has not written yet.
#[derive(Debug)]
pub struct Unsent {
    created: Instant,
    /// The number of chunks that were ready in each period.
    chunks: [AtomicU32; PERIODS],
}

/// Bytes that are unsent until this value is dropped.
#[derive(Debug)]
pub struct UnsentChunk {
    period: usize,
    unsent: Arc<Unsent>,
}

impl Unsent {
    /// Records bytes that are ready to be sent.
    pub fn start(self: &Arc<Self>) -> UnsentChunk {
        let period = self.period() % PERIODS;
        self.chunks[period].fetch_add(1, Ordering::Relaxed);
        UnsentChunk { period, unsent: Arc::clone(self) }
    }

    /// When the oldest unsent bytes were ready, or up to a second later. `None`: everything was
    /// sent.
    pub fn oldest(&self) -> Option<Instant> {
        let now = self.period();
        let mut periods = (now + 1).saturating_sub(PERIODS)..=now;
        let is_unsent = |period: &usize| self.chunks[period % PERIODS].load(Ordering::Relaxed) > 0;
        let oldest = u32::try_from(periods.find(is_unsent)?).ok()?;
        Some((self.created + PERIOD * (oldest + 1)).min(Instant::now()))
    }

    /// The number of periods since the creation.
    fn period(&self) -> usize {
        usize::try_from(self.created.elapsed().as_secs() / PERIOD.as_secs()).unwrap_or(usize::MAX)
    }
}

impl Default for Unsent {
    fn default() -> Self {
        Self { created: Instant::now(), chunks: from_fn(|_| AtomicU32::new(0)) }
    }
}

impl Drop for UnsentChunk {
    fn drop(&mut self) {
        self.unsent.chunks[self.period].fetch_sub(1, Ordering::Relaxed);
    }
}
