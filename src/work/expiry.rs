//! Stub: stands in until the use cases are merged.
#![allow(missing_docs, reason = "a stub")]

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::work::Work;

pub async fn run(_work: Arc<Work>, stop: CancellationToken) {
    stop.cancelled().await;
}
