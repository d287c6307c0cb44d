//! The assembly: configuration, and the parts put together.

pub mod config;

/// Why the server could not start, or stopped. Displayed, it is one plain sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServeError(pub String);

/// Serves until a signal ends it.
#[expect(clippy::unused_async, reason = "the parts to wait for are still to come")]
pub async fn run(config: config::Config) -> Result<(), ServeError> {
    Err(ServeError(format!("cannot serve {config:?} yet")))
}
