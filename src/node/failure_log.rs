//! Logging and timeouts for operations that are retried until the database responds.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::store::StoreError;

/// Timeout of a read that the node needs to keep the lease.
pub(super) const READ_TIMEOUT: Duration = Duration::from_millis(750);
/// Upper bound of that timeout, which doubles after each failure.
pub(super) const READ_TIMEOUT_MAX: Duration = Duration::from_secs(6);

/// Fails with [`StoreError::Unavailable`] after `limit`. The connection may be dead, and another
/// connection must be tried while the lease is valid.
pub(super) async fn with_timeout<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let result = timeout(limit, operation).await;
    result.unwrap_or_else(|elapsed| Err(StoreError::Unavailable(elapsed.into())))
}

/// Logs the first failure of a repeated operation as a warning, further failures at debug level,
/// and the recovery.
#[derive(Debug)]
pub struct FailureLogger {
    operation: &'static str,
    is_failing: bool,
}

impl FailureLogger {
    /// A logger for an operation that is named by an infinitive, such as `follow the log`.
    pub fn new(operation: &'static str) -> Self {
        Self { operation, is_failing: false }
    }

    /// Logs and returns the result of one attempt.
    pub fn record<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) if self.is_failing => {
                self.is_failing = false;
                info!("can {} again", self.operation);
            }
            Ok(_) => {}
            Err(error) if self.is_failing => {
                debug!(error = %error_chain(error), "still cannot {}", self.operation);
            }
            Err(error) => {
                self.is_failing = true;
                warn!(error = %error_chain(error), "cannot {}, will keep trying", self.operation);
            }
        }
        result
    }
}

/// An error and all sources, on one line.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
