//! When the database does not answer, or not in time: what is done about it, and what is said.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::store::StoreError;

/// How long a database may take to answer what a node must know to go on answering; and at most, if it has not done so in time.
pub(super) const READ_TIMEOUT: Duration = Duration::from_millis(750);
pub(super) const READ_TIMEOUT_MAX: Duration = Duration::from_secs(6);

/// If the answer does not come in time, the connection may be dead: another is to be tried while the lease is valid.
pub(super) async fn with_timeout<T>(
    patience: Duration,
    asking: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answered = timeout(patience, asking).await;
    answered.unwrap_or_else(|late| Err(StoreError::Unavailable(late.into())))
}

/// Says once that something does not work, and once that it works again.
pub(super) struct FailureLogger {
    what: &'static str,
    is_there: bool,
}

impl FailureLogger {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, is_there: false }
    }

    pub(super) fn note<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) if self.is_there => {
                self.is_there = false;
                info!("can {} again", self.what);
            }
            Ok(_) => {}
            Err(error) if self.is_there => {
                debug!(error = %chain(error), "still cannot {}", self.what);
            }
            Err(error) => {
                self.is_there = true;
                warn!(error = %chain(error), "cannot {}, will go on trying", self.what);
            }
        }
        result
    }
}

/// An error with all of its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
