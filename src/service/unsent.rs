//! The age of bytes that a client has not read.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The response bytes that the transport of a connection has not written yet.
#[derive(Debug, Default)]
pub struct Unsent {
    chunks: Mutex<Chunks>,
}

#[derive(Debug, Default)]
struct Chunks {
    last_id: u64,
    /// By id, so the oldest is first.
    since: BTreeMap<u64, Instant>,
}

/// Bytes that are unsent until this value is dropped.
#[derive(Debug)]
pub struct UnsentChunk {
    id: u64,
    unsent: Arc<Unsent>,
}

impl Unsent {
    /// Records bytes that are ready to be sent.
    pub fn start(self: &Arc<Self>) -> UnsentChunk {
        let mut chunks = self.chunks.lock();
        chunks.last_id += 1;
        let id = chunks.last_id;
        chunks.since.insert(id, Instant::now());
        UnsentChunk { id, unsent: Arc::clone(self) }
    }

    /// When the oldest unsent bytes were ready. `None`: everything was sent.
    pub fn oldest(&self) -> Option<Instant> {
        self.chunks.lock().since.first_key_value().map(|(_, since)| *since)
    }
}

impl Drop for UnsentChunk {
    fn drop(&mut self) {
        self.unsent.chunks.lock().since.remove(&self.id);
    }
}
