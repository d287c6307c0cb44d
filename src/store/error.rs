//! Why operations of a store fail.

use std::error::Error;

/// Why an operation of a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unavailable, too slow, or rejects writes for now. The caller may retry. If
    /// [`Transaction::commit`](crate::store::Transaction::commit) returns this error, the change
    /// may have been committed as a whole.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The database contains or returned something invalid. A retry does not help; an operator must
    /// investigate.
    #[error("the database contains or returned invalid data")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

/// Why a store could not be opened: one plain sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

impl StoreError {
    pub(super) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }

    pub(super) fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken(error.into())
    }
}
