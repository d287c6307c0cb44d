//! Replicas that load the log again: after a restore, or because the clock was accepted.

use support_access::{
    domain::{Attribution, EventKind},
    server::SystemClock,
    store::{NewEvent, memory::Backup},
};
use tokio::time::timeout;

use super::{accept::HOUR, *};
use crate::server::slow_store::SlowStore;

impl Bench {
    /// Restores a backup. Waits until the replica has loaded the backup, and renews the lease.
    async fn restore(&self, database: &MemoryStore, backup: Backup) {
        database.restore(backup);
        self.store.log().replace_epoch().await.unwrap();
        self.wait_for_epoch().await;
    }

    async fn wait_for_epoch(&self) {
        let epoch = self.store.log().head().await.unwrap().epoch;
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(self.replica.wait_for_epoch(epoch, deadline).await);
        self.replica.renew_lease().await.unwrap();
    }
}

/// The memory may not suffice for two snapshots.
#[tokio::test]
async fn an_accepted_clock_frees_the_snapshot_before_the_next_is_loaded() {
    let database = SlowStore::new();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let bench = Bench::start(clock, database.store()).await;
    bench.grant(10).await.unwrap();
    let node = bench.replica.node();
    let live_grants_become = async |count| {
        let mut progress = node.watch();
        let waiting = async {
            while node.gauges().live_grants != count {
                progress.changed().await;
            }
        };
        timeout(Duration::from_secs(10), waiting).await.unwrap();
    };
    live_grants_become(1).await;
    assert!(node.read_view().is_fresh(), "the lease alone would keep the snapshot");

    database.is_loading_held.send_replace(true);
    let mut transaction = bench.store.begin().await.unwrap();
    let kind = EventKind::ClockAccepted { step_ms: -1, moved_count: 0 };
    let author = Attribution::system();
    let new = NewEvent { tenant_id: None, author, reason: FreeText::default(), kind };
    transaction.append(new).await.unwrap();
    transaction.commit().await.unwrap();
    live_grants_become(0).await;
    database.is_loading_held.send_replace(false);
    live_grants_become(1).await;
}

#[tokio::test]
async fn a_restore_lowers_the_time_of_no_running_replica() {
    let (bench, database) = Bench::with_database().await;
    let start = bench.clock.now();
    record(&bench.store, start).await;
    let grant = bench.grant(10).await.unwrap().grant;
    let backup = database.backup().unwrap();
    bench.clock.pass(Duration::from_hours(6));
    bench.clock.set(TimeDelta::days(-1));
    bench.restore(&database, backup).await;
    assert!(bench.latest() >= start + TimeDelta::minutes(99 * 6 * 60 / 100), "six hours, less 1 %");
    assert_unreliable(&bench.grant(1).await);
    bench.clock.pass(Duration::from_hours(5));
    bench.renew().await;
    assert!(bench.latest() >= grant.terms.expire_time.unwrap(), "the grant has ended");
}

#[tokio::test]
async fn a_restore_that_loses_an_accepted_step_back_extends_no_grant() {
    let (bench, database) = Bench::with_database().await;
    let start = bench.clock.now();
    bench.grant(10).await.unwrap();
    let backup = database.backup().unwrap();
    bench.step(-HOUR).await;
    bench.accept().await.unwrap();
    bench.wait_for_epoch().await;
    assert_eq!(bench.latest(), start - HOUR);
    // The end of the grant is a time of the earlier clock again.
    bench.restore(&database, backup).await;
    assert!(bench.latest() >= start, "{}", bench.latest());
    assert_eq!(bench.service.clock_distance(), -HOUR, "the clock is behind again");
    assert_unreliable(&bench.grant(1).await);

    bench.clock.pass(Duration::from_secs(1));
    bench.accept().await.unwrap();
    bench.wait_for_epoch().await;
    assert_eq!(bench.latest(), start - HOUR + TimeDelta::seconds(1));
    assert!(bench.grant(1).await.is_ok());
}

#[tokio::test]
async fn a_restore_that_loses_an_accepted_step_forward_keeps_the_time() {
    let (bench, database) = Bench::with_database().await;
    let start = bench.clock.now();
    let backup = database.backup().unwrap();
    bench.step(HOUR).await;
    bench.accept().await.unwrap();
    bench.wait_for_epoch().await;
    bench.restore(&database, backup).await;
    assert_eq!(bench.latest(), start + HOUR);
    assert!(bench.grant(1).await.is_ok(), "the clock is trusted");
}
