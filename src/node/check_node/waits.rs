//! Waits for the progress of a check node.

use tokio::time::{Instant, timeout_at};

use crate::{
    domain::{Epoch, Revision},
    node::check_node::CheckNode,
};

impl CheckNode {
    /// Waits until checks are answered from `revision` or a later one. Returns false if `deadline`
    /// comes first.
    pub async fn wait_for(&self, revision: Revision, deadline: Instant) -> bool {
        self.wait_until(|| self.revision() >= revision, deadline).await
    }

    /// Waits until checks are answered from a snapshot of `epoch`. Returns false if `deadline`
    /// comes first.
    pub async fn wait_for_epoch(&self, epoch: Epoch, deadline: Instant) -> bool {
        self.wait_until(|| self.epoch() == Some(epoch), deadline).await
    }

    async fn wait_until(&self, is_reached: impl Fn() -> bool, deadline: Instant) -> bool {
        let mut progress = self.watch();
        let reached = async {
            while !is_reached() {
                progress.changed().await;
            }
        };
        timeout_at(deadline, reached).await.is_ok()
    }
}
