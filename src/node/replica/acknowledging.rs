//! What a replica writes into its row of the roll: what it acknowledges, and whom it feeds.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::{
    domain::Ack,
    node::{
        failure_log::{FailureLogger, with_timeout},
        replica::{RETRY_INTERVAL, Replica},
    },
};

/// How often to see whether an acknowledgement is due that nothing has told of.
const ACK_INTERVAL: Duration = Duration::from_millis(250);
/// How long the database may take to write an acknowledgement, before another connection is tried.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often those that this node feeds are told of.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct LastAck {
    /// What the node's row says, and since when.
    written: Option<(Ack, Instant)>,
    /// How often the row may have come to say something else.
    forgotten: u64,
}

impl LastAck {
    pub(super) fn forget(&mut self) {
        self.written = None;
        self.forgotten += 1;
    }
}

impl Replica {
    pub(super) async fn acknowledge(&self) {
        let mut acks = self.node.watch_acks();
        let mut trouble = FailureLogger::new("acknowledge changes");
        loop {
            acks.mark_unchanged();
            let due = self.node.ack_in_history().filter(|(ack, _)| self.is_due(*ack));
            let mut patience = self.node.ack_stands_for().unwrap_or(ACK_INTERVAL).min(ACK_INTERVAL);
            if let Some((ack, held)) = due {
                let forgotten = self.last_ack.lock().forgotten;
                let written = with_timeout(
                    ACK_TIMEOUT,
                    self.store.membership().acknowledge(self.member.node_id, held, ack),
                );
                match trouble.note(written.await) {
                    Ok(true) => {
                        let mut last = self.last_ack.lock();
                        if last.forgotten == forgotten {
                            last.written = Some((ack, Instant::now()));
                        }
                        continue;
                    }
                    // Not on the roll, or of another history: the renewal sees to it.
                    Ok(false) | Err(_) => patience = RETRY_INTERVAL,
                }
            }
            let _ = timeout(patience, acks.changed()).await;
        }
    }

    /// Whether others wait, or may, for an acknowledgement that was not written yet.
    fn is_due(&self, ack: Ack) -> bool {
        let is_new = match self.last_ack.lock().written {
            // Only the numbers of nodes differ, which are for people.
            Some((last, at)) if last.revision == ack.revision => {
                last != ack && at.elapsed() >= ACK_INTERVAL
            }
            _ => true,
        };
        is_new && !self.enforcer.is_only_one()
    }

    /// Writes whom this node feeds, for people; and once that there is nobody any more.
    pub(super) async fn report(&self) {
        let mut trouble = FailureLogger::new("report those that this node feeds");
        let mut has_told_of_some = false;
        loop {
            sleep(REPORT_INTERVAL).await;
            let followers = self.node.followers();
            if followers.is_empty() && !has_told_of_some {
                continue;
            }
            let written =
                self.store.membership().write_followers(self.member.node_id, &followers).await;
            if trouble.note(written).is_ok() {
                has_told_of_some = !followers.is_empty();
            }
        }
    }
}
