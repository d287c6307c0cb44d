//! Changes that may share a transaction, and that are made again if their transaction fails.

use crate::{
    service::{Service, ServiceError},
    store::Transaction,
};

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

/// Makes a change. Makes it once more, alone, if the transaction was rolled back because of another
/// change, or if the outcome of the commit is unknown. The change looks up its request id first, so
/// that it happens only once.
pub(super) async fn retry_alone<T, F>(make: impl Fn(Sharing) -> F) -> Result<T, ServiceError>
where
    F: Future<Output = Result<T, ServiceError>>,
{
    match make(Sharing::Group).await {
        Err(ServiceError::Store(error)) if error.is_rolled_back() || error.is_outcome_unknown() => {
            make(Sharing::Alone).await
        }
        result => result,
    }
}
