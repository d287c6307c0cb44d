//! Records that grants have ended by themselves. Nobody waits for it: a check looks at the end time itself.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    domain::{Caller, EventKind, Note, time::between},
    store::{Entry, StoreError},
    work::Work,
};

/// How often to look for grants that have ended.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How many expiries are recorded in one transaction, so that others need not wait long.
const BATCH: usize = 200;

/// Records expiries until stopped.
pub async fn run(work: Arc<Work>, stop: CancellationToken) {
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = work.sweep().await {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, source, "cannot record expiries, will go on trying");
        }
    }
}

impl Work {
    /// Records every expiry that is due, once each, and says how many that were.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let mut recorded = 0;
        loop {
            let now = self.clock.now();
            let next = self.store.next_expiry().await?;
            let lag = next.map_or(Duration::ZERO, |next| between(next, now));
            let lag_us = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
            self.sweep_lag_us.store(lag_us, Ordering::Relaxed);
            if next.is_none_or(|next| next > now) {
                return Ok(recorded);
            }
            let swept = self.sweep_batch().await?;
            recorded += swept;
            if swept == 0 {
                // The database's clock is behind ours, and it is the one that counts.
                return Ok(recorded);
            }
        }
    }

    async fn sweep_batch(&self) -> Result<usize, StoreError> {
        let mut change = self.store.begin().await?;
        let due = change.due_grants(change.now(), BATCH).await?;
        let mut events = Vec::with_capacity(due.len());
        for grant in due {
            let entry = Entry {
                tenant_id: grant.tenant_id.clone(),
                actor: Caller::system().actor,
                reason: Note::default(),
                kind: EventKind::Expired { grant },
                request: None,
            };
            events.push(change.append(entry).await?);
        }
        if !events.is_empty() {
            self.commit(change, &events).await?;
        }
        Ok(events.len())
    }
}
