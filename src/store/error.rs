//! Why operations of a store fail.

use std::error::Error;

/// Why an operation of a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unavailable, too slow, or rejects writes for now. The caller may retry. If
    /// [`Self::is_outcome_unknown`], the change may have been committed as a whole.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The database contains or returned something invalid. A retry does not help; an operator must
    /// investigate.
    #[error("the database contains or returned invalid data")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

/// A change was rolled back together with the other changes of its group.
#[derive(Debug, thiserror::Error)]
#[error("another change of the same transaction has failed; retry alone")]
struct RolledBack;

/// The database did not confirm a commit.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database did not confirm the commit, and may have made the change; retry with the same \
         request_id"
)]
struct OutcomeUnknown(#[source] Box<dyn Error + Send + Sync>);

/// Why a store could not be opened: one plain sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

impl StoreError {
    pub(super) fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }

    /// The change was rolled back, because another change of the same group has failed.
    pub(super) fn rolled_back() -> Self {
        Self::unavailable(RolledBack)
    }

    /// Whether the change was rolled back because another change of the same group has failed. The
    /// caller makes the change again, with
    /// [`Transactions::begin_alone`](crate::store::Transactions::begin_alone).
    pub fn is_rolled_back(&self) -> bool {
        matches!(self, Self::Unavailable(source) if source.is::<RolledBack>())
    }

    /// The error of a `COMMIT` that was sent.
    pub(super) fn of_commit(self) -> Self {
        match self {
            Self::Unavailable(source) => Self::unavailable(OutcomeUnknown(source)),
            broken @ Self::Broken(_) => broken,
        }
    }

    /// Whether the change may have been committed. The caller looks up the request id, and then
    /// makes the change again if that is necessary.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(source) if source.is::<OutcomeUnknown>())
    }

    pub(super) fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken(error.into())
    }
}
