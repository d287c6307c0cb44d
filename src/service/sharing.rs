//! Changes that may share a transaction, and that are retried if their transaction fails.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    service::{Service, ServiceError},
    store::Transaction,
};

/// A change that took longer is not retried: both attempts together would exceed the timeout of
/// most callers.
const RETRY_WITHIN: Duration = Duration::from_secs(4);

/// Whether a change may share a transaction with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    Group,
    /// For a change with many events, or that reads outside the transaction.
    Alone,
}

impl Service {
    /// Makes a change in a transaction that other changes may share. See [`retry_alone`].
    pub(super) async fn change<T, F>(
        &self,
        make: impl Fn(Box<dyn Transaction>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, ServiceError>>,
    {
        let make = &make;
        retry_alone(|sharing| async move { make(self.begin(sharing).await?).await }).await
    }
}

/// Makes a change. Retries it once, alone, if the transaction was rolled back because of another
/// change, or if the outcome of the commit is unknown. The retry looks up the request id first, so
/// the change happens only once. Without time for a retry, the caller gets the error.
pub(super) async fn retry_alone<T, F>(make: impl Fn(Sharing) -> F) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, ServiceError>>,
{
    let began = Instant::now();
    match make(Sharing::Group).await {
        Err(ServiceError::Store(error))
            if began.elapsed() < RETRY_WITHIN
                && (error.is_rolled_back() || error.is_outcome_unknown()) =>
        {
            make(Sharing::Alone).await
        }
        result => result,
    }
}
