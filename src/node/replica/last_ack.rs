//! The acknowledgement in the membership row of a replica.

use tokio::time::Instant;

use crate::domain::Ack;

#[derive(Debug, Default)]
pub(super) struct LastAck {
    /// The acknowledgement in the row, and the time of the write; `None` if the row may show
    /// another.
    pub(super) written: Option<(Ack, Instant)>,
    /// The number of times at which the row may have changed.
    pub(super) invalidations: u64,
}

impl LastAck {
    /// Forgets the content of the row, which may have been reset or lost.
    pub(super) fn invalidate(&mut self) {
        self.written = None;
        self.invalidations += 1;
    }
}
