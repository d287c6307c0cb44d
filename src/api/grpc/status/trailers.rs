//! Errors at the end of a response that has started.

use http::HeaderMap;
use tonic::Status;
use tracing::warn;

use super::{Failure, StatusBuilder, excess};
use crate::api::proto::v1::ErrorReason;

/// The trailers that end a stream when the server shuts down.
pub fn shutdown_trailers() -> HeaderMap {
    let status = StatusBuilder::new(ErrorReason::ShuttingDown, "the server is shutting down");
    trailers(&status.build())
}

/// The trailers that end a response whose bytes exceed the limit of the caller.
pub fn excess_trailers() -> HeaderMap {
    trailers(&excess())
}

/// The trailers that end a response whose rest cannot be sent.
pub fn failure_trailers(failure: Failure) -> HeaderMap {
    trailers(&failure.into())
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(error) = status.add_header(&mut trailers) {
        warn!(%error, "the trailers of a response cannot be written");
    }
    trailers
}
