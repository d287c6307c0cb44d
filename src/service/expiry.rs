//! The sweep records that grants and locks have reached the end time. Checks do not depend on the
//! sweep, because each check compares the end time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    node::failure_log::FailureLogger,
    service::{Service, grants, locks, sharing::Sharing},
    store::StoreError,
};

/// The interval between two sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// The maximum number of expiries in one transaction. Other transactions wait meanwhile.
const BATCH: usize = 200;

/// Records expiries until stopped.
pub async fn run(service: Arc<Service>, stop: CancellationToken) {
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = FailureLogger::new("record expiries");
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let _ = failures.record(service.sweep().await);
    }
}

impl Service {
    /// The time since the earliest end whose expiry event is missing. Zero: none is missing. The
    /// lag grows while the store is unavailable. Checks do not depend on it.
    pub fn sweep_lag(&self) -> Duration {
        let next_us = self.next_expiry_us.load(Ordering::Relaxed);
        let lag_us = self.now().timestamp_micros().saturating_sub(next_us);
        Duration::from_micros(lag_us.try_into().unwrap_or(0))
    }

    /// Records every expiry that is due, once each, and returns their number. Records nothing while
    /// the database clock is not trusted: an expiry is final, even if the clock was wrong.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let mut recorded = 0;
        loop {
            let now = self.now();
            let next = self.store.queries().next_expiry().await?;
            let next_us = next.map_or(i64::MAX, |next| next.timestamp_micros());
            self.next_expiry_us.store(next_us, Ordering::Relaxed);
            let is_due = next.is_some_and(|next| next <= now);
            if !is_due || !self.replica.database_clock().is_trusted() {
                return Ok(recorded);
            }
            let swept = self.sweep_batch().await?;
            recorded += swept;
            if swept == 0 {
                // The database's clock, which decides, is behind this node's.
                return Ok(recorded);
            }
        }
    }

    async fn sweep_batch(&self) -> Result<usize, StoreError> {
        let mut change = self.begin(Sharing::Alone).await?;
        if !self.replica.database_clock().is_trusted() {
            return Ok(0);
        }
        let due = change.due_grants(change.now(), BATCH).await?;
        let mut events = Vec::with_capacity(due.len());
        for grant in due {
            events.push(change.append(grants::expiry(&grant)).await?);
        }
        for lock in change.due_locks(change.now(), BATCH).await? {
            events.push(change.append(locks::expiry(&lock)).await?);
        }
        if !events.is_empty() {
            self.commit(change, &events).await?;
        }
        Ok(events.len())
    }
}
