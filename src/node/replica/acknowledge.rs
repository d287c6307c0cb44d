//! Writes the acknowledgement and the followers of a replica into the membership row.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::{
    domain::Ack,
    node::{
        failure_log::{FailureLogger, with_timeout},
        replica::Replica,
    },
};

/// Maximum interval between two comparisons of the acknowledgement with the row. The
/// acknowledgement also changes when leases of followers expire.
const ACK_INTERVAL: Duration = Duration::from_millis(250);
/// Timeout of the write of an acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a failed write is retried.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of writes of the followers.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

impl Replica {
    /// Writes the acknowledgement whenever it changes.
    pub(super) async fn acknowledge(&self) {
        let mut acks = self.node.watch_acks();
        let mut failures = FailureLogger::new("acknowledge changes");
        loop {
            acks.mark_unchanged();
            let due = self.node.ack_in_log().filter(|(ack, _)| self.is_due(*ack));
            let mut pause = self.node.ack_unchanged_for().unwrap_or(ACK_INTERVAL).min(ACK_INTERVAL);
            if let Some((ack, position)) = due {
                let invalidations = self.last_ack.lock().invalidations;
                let write =
                    self.store.membership().acknowledge(self.registration.node_id, position, ack);
                match failures.record(with_timeout(ACK_TIMEOUT, write).await) {
                    Ok(true) => {
                        let mut last = self.last_ack.lock();
                        if last.invalidations == invalidations {
                            last.written = Some((ack, Instant::now()));
                        }
                        continue;
                    }
                    // The row is missing, or the log is another one. The next heartbeat shows
                    // which.
                    Ok(false) | Err(_) => pause = RETRY_INTERVAL,
                }
            }
            let _ = timeout(pause, acks.changed()).await;
        }
    }

    /// Whether the acknowledgement must be written. A sole member need not acknowledge.
    fn is_due(&self, ack: Ack) -> bool {
        let is_new = match self.last_ack.lock().written {
            // Only the numbers of nodes differ, which are for operators.
            Some((last, written_at)) if last.revision == ack.revision => {
                last != ack && written_at.elapsed() >= ACK_INTERVAL
            }
            _ => true,
        };
        is_new && !self.enforcer.is_only_member()
    }

    /// Writes the followers of this node, for operators, and an empty list once there are none.
    pub(super) async fn report_followers(&self) {
        let mut failures = FailureLogger::new("report the followers of this node");
        let mut is_reported = false;
        loop {
            sleep(REPORT_INTERVAL).await;
            let followers = self.node.followers();
            if followers.is_empty() && !is_reported {
                continue;
            }
            let node_id = self.registration.node_id;
            let written = self.store.membership().write_followers(node_id, &followers).await;
            if failures.record(written).is_ok() {
                is_reported = !followers.is_empty();
            }
        }
    }
}
