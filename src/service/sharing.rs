//! Changes that may share a transaction.

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
    /// Makes a change in a transaction that other changes may share. If another change of the group
    /// fails, makes the change again in a transaction of its own.
    pub(super) async fn change<T, F>(
        &self,
        make: impl Fn(Box<dyn Transaction>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, ServiceError>>,
    {
        match make(self.begin(Sharing::Group).await?).await {
            Err(ServiceError::Store(error)) if error.is_rolled_back() => {
                make(self.begin(Sharing::Alone).await?).await
            }
            result => result,
        }
    }
}
