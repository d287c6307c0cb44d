//! Stub: stands in until the check node is merged.
#![allow(missing_docs, reason = "a stub")]

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{node::CheckNode, store::Store};

pub async fn run(_node: Arc<CheckNode>, _store: Arc<dyn Store>, stop: CancellationToken) {
    stop.cancelled().await;
}
