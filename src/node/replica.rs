//! Follows the log in the database, renews the lease with heartbeats, and acknowledges.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    domain::{BootTime, Epoch, Event, Position, Revision},
    node::{
        check_node::CheckNode,
        database_clock::DatabaseClock,
        enforcer::Enforcer,
        failure_log::{FailureLogger, READ_TIMEOUT, READ_TIMEOUT_MAX, error_chain, with_timeout},
        lease::EARLY_RENEWAL_PAUSE,
        message::LeaseGrant,
    },
    store::{HeartbeatResponse, Notification, Registration, Store, StoreError},
};

mod acknowledge;
mod forgeries;
mod last_ack;
mod load;
mod time;

use last_ack::LastAck;
pub use load::load_snapshot;

/// Maximum number of events in one read. Divided by four after each failure, down to the minimum.
const BATCH: usize = 1_000;
const BATCH_MIN: usize = 16;
/// Number of heartbeats in one lease duration. Heartbeats also poll the head of the log.
const HEARTBEATS_PER_LEASE: u32 = 8;
/// Minimum timeout of a heartbeat, for short leases.
const HEARTBEAT_TIMEOUT_MIN: Duration = Duration::from_millis(150);
/// Pause before an operation is retried.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Keeps a check node up to date with the log of a store.
#[derive(Debug)]
pub struct Replica {
    node: Arc<CheckNode>,
    store: Arc<Store>,
    enforcer: Arc<Enforcer>,
    database_clock: DatabaseClock,
    registration: Registration,
    /// Notified when the log may have grown.
    log_changed: Notify,
    /// The sequence number of the last heartbeat with a response, and the head in that response.
    last_heartbeat: Mutex<(i64, Revision)>,
    last_ack: Mutex<LastAck>,
}

/// The state of the node when a heartbeat was sent.
#[derive(Debug, Clone, Copy)]
struct HeartbeatRequest {
    seq: i64,
    sent_at: BootTime,
    generation: u64,
    position: Option<Position>,
}

impl Replica {
    /// A replica that keeps `node` up to date, with leases of `max_staleness`.
    pub fn new(node: Arc<CheckNode>, store: Arc<Store>, max_staleness: Duration) -> Arc<Self> {
        let enforcer = Enforcer::new(Arc::clone(&node), Arc::clone(&store));
        let database_clock = DatabaseClock::new(node.clock());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let registration =
            Registration { node_id: node.id(), version, max_staleness, first_heartbeat: 0 };
        Arc::new(Self {
            node,
            store,
            enforcer,
            database_clock,
            registration,
            log_changed: Notify::new(),
            last_heartbeat: Mutex::default(),
            last_ack: Mutex::default(),
        })
    }

    /// The store of the log.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The check node.
    pub fn node(&self) -> &Arc<CheckNode> {
        &self.node
    }

    /// The enforcer of this replica's changes.
    pub fn enforcer(&self) -> &Arc<Enforcer> {
        &self.enforcer
    }

    /// The judge of the database clock.
    pub fn database_clock(&self) -> &DatabaseClock {
        &self.database_clock
    }

    /// Loads the snapshot, registers as a member, and takes the first lease. After that, the node
    /// answers checks.
    pub async fn join(&self) -> Result<(), StoreError> {
        // Load first: from the registration on, every change waits for this node.
        self.load().await?;
        self.register().await?;
        self.renew_lease().await
    }

    /// Requests a read of the log, which may have grown.
    pub fn wake(&self) {
        self.log_changed.notify_one();
    }

    /// Waits until the node has loaded `epoch`, which another process may have begun. Returns false
    /// if `deadline` comes first.
    pub async fn wait_for_epoch(&self, epoch: Epoch, deadline: Instant) -> bool {
        self.wake();
        // The next heartbeat reads the epoch.
        self.node.request_lease();
        self.node.wait_for_epoch(epoch, deadline).await
    }

    /// Follows the log until stopped. Then leaves the membership, unless a follower holds a lease
    /// from this node.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            tokio::join!(
                self.follow_log(),
                self.renew_leases(),
                self.listen(),
                self.acknowledge(),
                self.report_followers(),
                self.record_time(),
                self.deny_forged_histories()
            );
        };
        stop.run_until_cancelled(work).await;
        if self.node.step_down()
            && let Err(error) = self.leave().await
        {
            let error = error_chain(&error);
            debug!(%error, "cannot leave the membership, another replica will evict this node");
        }
    }

    // === the log ===

    async fn follow_log(&self) {
        let mut failures = FailureLogger::new("follow the log");
        loop {
            self.log_changed.notified().await;
            let (mut batch, mut read_timeout) = (BATCH, READ_TIMEOUT);
            while failures.record(self.catch_up(batch, read_timeout).await).is_err() {
                // The database may be slow: read less, and wait longer.
                batch = (batch / 4).max(BATCH_MIN);
                read_timeout = (read_timeout * 2).min(READ_TIMEOUT_MAX);
                sleep(RETRY_INTERVAL).await;
            }
        }
    }

    /// Applies all events after the node's position.
    async fn catch_up(&self, batch: usize, read_timeout: Duration) -> Result<(), StoreError> {
        loop {
            let Some(position) = self.node.position() else { return self.load().await };
            if self.node.is_invalidated() {
                return self.load().await;
            }
            // Start with the last applied event. If that event differs, the database has another
            // log.
            let before = (position.revision - 1).max(0);
            let seq_before = self.last_heartbeat.lock().0;
            let events =
                with_timeout(read_timeout, self.store.log().events_after(before, batch)).await?;
            let has_known = position.revision > 0 && !events.is_empty();
            let (known, new) = events.split_at(usize::from(has_known));
            let is_same_log = position.revision == 0
                || known.first().is_some_and(|event| is_at(event, &position));
            if !is_same_log {
                warn!(
                    revision = position.revision,
                    "the log differs from the snapshot of this node, loading a new snapshot"
                );
                self.node.invalidate();
                return self.load().await;
            }
            let Some(last) = new.last() else { return Ok(()) };
            let (seq, head) = *self.last_heartbeat.lock();
            if seq != seq_before && head < last.revision {
                // During the read, a heartbeat returned a head before these events. A restore
                // before that heartbeat may have lost these events. So read again.
                continue;
            }
            self.apply(new).await?;
        }
    }

    async fn apply(&self, events: &[Event]) -> Result<(), StoreError> {
        if events.iter().any(|event| event.accepted_clock().is_some()) {
            info!("an operator accepted the database clock, loading a new snapshot");
            // The next heartbeat would invalidate the snapshot anyway. The load frees it first.
            self.node.invalidate();
            return self.load().await;
        }
        let changes = self.changes(events);
        if let Err(gap) = self.node.apply(&changes) {
            warn!(%gap, "loading a new snapshot");
            return self.load().await;
        }
        Ok(())
    }

    async fn load(&self) -> Result<(), StoreError> {
        self.node.free_obsolete_snapshot();
        let (snapshot, trusted_time) = load_snapshot(&self.store).await?;
        self.continue_time(&snapshot, trusted_time).await?;
        self.node.replace_snapshot(snapshot);
        // A forgery may have been read during the load.
        self.node.quarantine(self.store.forged_histories().get());
        self.last_ack.lock().invalidate();
        Ok(())
    }

    // === leases ===

    async fn renew_leases(&self) {
        let max_staleness = self.registration.max_staleness;
        let interval = max_staleness / HEARTBEATS_PER_LEASE;
        // The connection may be dead. A third of the lease leaves time to try another connection.
        let heartbeat_timeout = (max_staleness / 3).max(HEARTBEAT_TIMEOUT_MIN);
        let mut failures = FailureLogger::new("renew the lease");
        loop {
            let _ = failures.record(with_timeout(heartbeat_timeout, self.renew_lease()).await);
            sleep(EARLY_RENEWAL_PAUSE.min(interval)).await;
            let rest = interval.saturating_sub(EARLY_RENEWAL_PAUSE);
            let _ = timeout(rest, self.node.lease_requested()).await;
        }
    }

    /// Renews the lease once, with a heartbeat.
    pub async fn renew_lease(&self) -> Result<(), StoreError> {
        let request = self.start_heartbeat();
        let (node_id, heartbeat) = (self.registration.node_id, self.next_heartbeat());
        let response =
            self.store.membership().heartbeat(node_id, heartbeat, request.position).await?;
        let Some(response) = response else {
            info!("this node was evicted from the membership, registering again");
            return self.register().await;
        };
        *self.last_heartbeat.lock() = (request.seq, response.head.revision);
        // Applied events beyond the head may be newer than the heartbeat, or lost in an earlier
        // restore.
        let is_beyond_head = response.is_in_log && self.node.revision() > response.head.revision;
        if is_beyond_head && !self.confirm_position(request).await? {
            return Ok(());
        }
        self.accept(request, response);
        Ok(())
    }

    /// Whether the log still contains the node's position.
    async fn confirm_position(&self, request: HeartbeatRequest) -> Result<bool, StoreError> {
        let Some(position) = self.node.position() else { return Ok(false) };
        let read = self.store.log().events_after(position.revision - 1, 1);
        let events = with_timeout(READ_TIMEOUT, read).await?;
        if request.generation != self.node.generation() {
            return Ok(false);
        }
        let is_in_log = events.first().is_some_and(|event| is_at(event, &position));
        if !is_in_log {
            self.invalidate();
            self.log_changed.notify_one();
        }
        Ok(is_in_log)
    }

    fn start_heartbeat(&self) -> HeartbeatRequest {
        let (generation, position) = (self.node.generation(), self.node.position());
        let sent_at = self.node.boot_time();
        HeartbeatRequest { seq: self.node.start_renewal(), sent_at, generation, position }
    }

    /// The number of the next heartbeat. No number is used twice, not even after a restore of the
    /// database. So every heartbeat changes the row, as other replicas observe it. The boot time is
    /// such a number, because it advances between any two heartbeats.
    fn next_heartbeat(&self) -> i64 {
        self.node.boot_time().0
    }

    fn accept(&self, request: HeartbeatRequest, response: HeartbeatResponse) {
        let HeartbeatRequest { seq, sent_at, generation, position } = request;
        let HeartbeatResponse { head, is_in_log, now } = response;
        let judgement = self.database_clock.judge(now, sent_at);
        // `is_in_log` refers to the snapshot that the node had when the request was sent.
        let is_current = position.is_some() && generation == self.node.generation();
        if is_in_log {
            let lease_grant = LeaseGrant {
                revision: head.revision,
                age: Duration::ZERO,
                max_staleness: self.registration.max_staleness,
                now: judgement.now,
                is_clock_trusted: judgement.is_trusted(),
            };
            self.node.record_response(seq, lease_grant, Some(head));
        } else if is_current && !self.node.is_invalidated() {
            self.invalidate();
        }
        if self.node.is_invalidated() || self.node.revision() < head.revision {
            self.log_changed.notify_one();
        }
    }

    fn invalidate(&self) {
        warn!("the snapshot of this node is not in the log of the database");
        self.node.invalidate();
    }

    // === notifications ===

    async fn listen(&self) {
        let mut failures = FailureLogger::new("listen to the database");
        loop {
            let _ = failures.record(self.listen_once().await);
            // A failure of the database may have lost an acknowledgement.
            self.last_ack.lock().invalidate();
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn listen_once(&self) -> Result<(), StoreError> {
        let mut notifications = self.store.notifications().listen().await?;
        // Earlier notifications may have been missed.
        self.log_changed.notify_one();
        self.enforcer.wake();
        loop {
            match notifications.next().await? {
                Notification::Log => self.log_changed.notify_one(),
                Notification::Membership => self.enforcer.wake(),
            }
        }
    }

    // === membership ===

    /// Inserts or resets the membership row, which then acknowledges nothing.
    async fn register(&self) -> Result<(), StoreError> {
        // Invalidate before the statement: the row may be written even if the response is lost.
        self.last_ack.lock().invalidate();
        let first_heartbeat = self.next_heartbeat();
        let registration = Registration { first_heartbeat, ..self.registration.clone() };
        self.store.membership().register(&registration).await?;
        self.node.request_lease();
        Ok(())
    }

    /// Deletes the membership row, so that no change waits for this node. Call after
    /// [`CheckNode::step_down`].
    async fn leave(&self) -> Result<(), StoreError> {
        loop {
            let members = self.store.membership().members().await?.members;
            let row = members.iter().find(|member| member.node_id == self.registration.node_id);
            let Some(row) = row else { return Ok(()) };
            if self.store.membership().evict(row.node_id, row.heartbeat_seq).await? {
                return Ok(());
            }
            // A heartbeat that was in flight has changed the row.
        }
    }
}

fn is_at(event: &Event, position: &Position) -> bool {
    event.revision == position.revision && Some(event.time) == position.time
}
