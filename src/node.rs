//! A check node: what checks are answered from, and how it keeps up with the log.
//!
//! Checks never touch the database. A node holds an immutable [`Snapshot`] behind one atomic pointer, and replaces it as it
//! follows the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use crate::{
    domain::{Clock, Event, Revision, Time, time},
    store::{Store, StoreError},
};

pub mod follower;
pub mod snapshot;

pub use snapshot::Snapshot;

/// How many events are applied between two snapshots.
const BATCH: usize = 1_000;

/// Owns the snapshot. Written by its follower alone, read by every check.
#[derive(Debug)]
pub struct CheckNode {
    current: ArcSwap<Snapshot>,
    /// The revision of `current`, told after it is in place: who sees the number will see the snapshot.
    published: watch::Sender<Revision>,
    /// Tells the follower that there is something new.
    news: Notify,
    /// The latest time that anything was decided at, in microseconds since 1970.
    latest_us: AtomicI64,
}

/// What metrics say of a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// The last event that the snapshot includes.
    pub revision: Revision,
    /// Grants that no event has ended.
    pub live_grants: u64,
    /// Tenants with a grant, live or ended.
    pub tenants: u64,
    /// The snapshot's memory, estimated, in bytes.
    pub snapshot_bytes: u64,
}

impl CheckNode {
    /// A node that knows nothing yet, and so denies everything.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::default(),
            published: watch::Sender::new(0),
            news: Notify::new(),
            latest_us: AtomicI64::new(i64::MIN),
        })
    }

    /// Replaces whatever the node holds by what the store holds.
    pub async fn load(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut loaded = Snapshot::default();
        let mut visit = |tenant_id, terms, held| loaded.insert(&tenant_id, terms, held);
        let position = store.load(&mut visit).await?;
        loaded.set_head(position.revision, position.time);
        self.publish(loaded);
        Ok(())
    }

    /// What checks are answered from now: grants and revision together.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The time that checks are decided at: the clock's, but never before the last event of `snapshot`, and never before a time
    /// that was used already. So a clock that is behind or set back cannot bring back what has ended.
    pub fn now(&self, snapshot: &Snapshot, clock: &dyn Clock) -> Time {
        let now = clock.now().max(snapshot.time().unwrap_or(Time::MIN_UTC));
        let latest_us = self.latest_us.fetch_max(now.timestamp_micros(), Ordering::Relaxed);
        time::from_micros(latest_us).map_or(now, |latest| latest.max(now))
    }

    /// Tells the node that the log has grown, so that it need not wait for its next look.
    pub fn wake(&self) {
        self.news.notify_one();
    }

    /// Waits until checks are answered from `revision` or later. False if that has not come by `deadline`.
    pub async fn wait_for(&self, revision: Revision, deadline: Instant) -> bool {
        let mut published = self.published.subscribe();
        let reached = published.wait_for(|current| *current >= revision);
        matches!(timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// What metrics say.
    pub fn gauges(&self) -> Gauges {
        self.snapshot().gauges()
    }

    /// Waits for [`Self::wake`], at most for `patience`.
    async fn news(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.news.notified()).await;
    }

    /// Applies events that follow on the snapshot; false if they do not, and nothing was changed.
    fn apply(&self, events: &[Event]) -> bool {
        let mut next = Snapshot::clone(&self.snapshot());
        for event in events {
            if event.revision != next.revision() + 1 {
                return false;
            }
            next.apply(event);
        }
        self.publish(next);
        true
    }

    fn publish(&self, snapshot: Snapshot) {
        let revision = snapshot.revision();
        self.current.store(Arc::new(snapshot));
        self.published.send_replace(revision);
    }
}
