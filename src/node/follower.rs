//! Follows the log: what was committed, by this process or another, becomes the next snapshot.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    node::{BATCH, CheckNode},
    store::{Store, StoreError},
};

/// How often a follower looks at the log unasked. Changes made by this process wake it at once; this is for those of others.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Keeps `node` up with the log of `store` until stopped. While the store is away the node stays as it is, and the follower
/// goes on trying.
pub async fn run(node: Arc<CheckNode>, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut is_away = false;
    while stop.run_until_cancelled(node.news(POLL_INTERVAL)).await.is_some() {
        match catch_up(&node, store.as_ref()).await {
            Ok(()) if is_away => {
                is_away = false;
                info!("the log can be followed again");
            }
            Ok(()) => {}
            Err(error) if is_away => debug!(error = %chain(&error), "still cannot follow the log"),
            Err(error) => {
                is_away = true;
                warn!(error = %chain(&error), "cannot follow the log, will go on trying");
            }
        }
    }
}

/// Applies everything that the node does not have yet.
async fn catch_up(node: &CheckNode, store: &dyn Store) -> Result<(), StoreError> {
    loop {
        let revision = node.snapshot().revision();
        let events = store.events_after(revision, BATCH).await?;
        if events.is_empty() {
            return Ok(());
        }
        if !node.apply(&events) {
            warn!(revision, "the log does not follow on what this node holds, loading it anew");
            node.load(store).await?;
        }
    }
}

/// An error with all of its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
