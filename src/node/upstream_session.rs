//! Follows another node: receives its log, renews leases with pings, and acknowledges changes.
//!
//! The state machine is [`UpstreamSession`]. [`follow`] drives the session of one upstream, and
//! [`run`] moves from one upstream to the next.

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{Ack, BootTime, NodeInfo},
    node::{
        check_node::CheckNode,
        lease::EARLY_RENEWAL_PAUSE,
        message::{Hello, PATH_MAX, PROTOCOL, Pong, ToFollower, ToUpstream, Welcome},
        snapshot::Snapshot,
    },
};

/// Number of pings in one lease duration.
const PINGS_PER_LEASE: u32 = 10;
/// Interval of pings before the lease duration is known.
const FIRST_PING_INTERVAL: Duration = Duration::from_millis(100);
/// How long the upstream may be silent before the lease duration is known.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of reports about the followers of this node.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before the next upstream is tried. Doubles from the minimum to the maximum.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// How long a stopping node waits until the upstream has read the leave message.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Capacity of the queue of messages to the upstream.
const OUTGOING_CAPACITY: usize = 64;

/// A node that can be followed. The `Debug` form is a name for logs and errors.
#[async_trait]
pub trait Upstream: fmt::Debug + Send + Sync {
    /// Opens a stream to the upstream, which receives the messages of `outgoing`.
    async fn open(
        &self,
        outgoing: mpsc::Receiver<ToUpstream>,
    ) -> Result<BoxStream<'static, Result<ToFollower, FollowError>>, FollowError>;
}

/// Why a node cannot follow an upstream, or has stopped following it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// A retry would fail, too: the configuration must be corrected. Contains one sentence.
    #[error("{0}")]
    Rejected(String),
    /// A retry, or another upstream, may succeed.
    #[error("{0}")]
    Lost(String),
}

impl FollowError {
    /// Adds the name of the upstream to a rejection.
    fn at(self, upstream: &dyn Upstream) -> Self {
        match self {
            Self::Rejected(reason) => Self::Rejected(format!("{upstream:?}: {reason}")),
            lost @ Self::Lost(_) => lost,
        }
    }
}

/// The stream from an upstream.
#[derive(Debug)]
pub struct UpstreamSession {
    node: Arc<CheckNode>,
    is_welcome: bool,
    /// Whether the node's snapshot is known to belong to the upstream's log. Until then, the node
    /// must not acknowledge: in the upstream's log, the same revision may be another event.
    is_confirmed: bool,
    /// The snapshot that is being received.
    incoming: Option<Snapshot>,
    max_staleness: Option<Duration>,
    /// Since when the upstream has had no valid lease; `None` while there is one.
    no_lease_since: Option<BootTime>,
    /// Whether there are other upstreams to follow.
    has_others: bool,
    last_ack: Option<Ack>,
}

impl UpstreamSession {
    /// The session of a new stream. A node that `has_others` leaves an upstream that has had no
    /// lease for [`Self::timeout`].
    pub fn new(node: Arc<CheckNode>, has_others: bool) -> Self {
        Self {
            node,
            is_welcome: false,
            is_confirmed: false,
            incoming: None,
            max_staleness: None,
            no_lease_since: None,
            has_others,
            last_ack: None,
        }
    }

    // === messages to the upstream ===

    /// The first message.
    pub fn hello(&self) -> ToUpstream {
        let position = self.node.position().filter(|_| !self.node.is_invalidated());
        let read_view = self.node.read_view();
        let lease = read_view.view.lease().filter(|_| read_view.is_fresh());
        let received_at = lease.map(|lease| lease.database_clock.received_at);
        ToUpstream::Hello(Hello {
            protocol: PROTOCOL,
            node_id: self.node.id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            position,
            lease_age: received_at.map(|received_at| self.node.boot_time().since(received_at)),
        })
    }

    /// A request for a lease. Call right before sending: the lease starts now.
    pub fn ping(&self) -> ToUpstream {
        ToUpstream::Ping { seq: self.node.start_renewal() }
    }

    /// The acknowledgement, if it has changed and the node may acknowledge.
    pub fn ack(&mut self) -> Option<ToUpstream> {
        let ack = self.node.ack();
        let is_new = self.last_ack.is_none_or(|last| last != ack && last.revision <= ack.revision);
        if !is_new || !self.is_confirmed || !self.is_welcome || self.incoming.is_some() {
            return None;
        }
        self.last_ack = Some(ack);
        Some(ToUpstream::Ack(ack))
    }

    // === messages from the upstream ===

    /// Handles a message from the upstream.
    pub fn receive(&mut self, message: ToFollower) -> Result<(), FollowError> {
        let is_welcome = matches!(message, ToFollower::Welcome(_));
        if is_welcome == self.is_welcome {
            return Err(out_of_order("welcome"));
        }
        match (message, &mut self.incoming) {
            (ToFollower::Welcome(welcome), _) => self.receive_welcome(&welcome)?,
            (ToFollower::SnapshotBegin, None) => self.incoming = Some(Snapshot::default()),
            (ToFollower::SnapshotLocks(locks), Some(snapshot)) => {
                for terms in locks {
                    snapshot.insert_lock(terms);
                }
            }
            (ToFollower::SnapshotGrants(grants), Some(snapshot)) => {
                for (tenant_id, retained, terms) in grants {
                    snapshot.insert(&tenant_id, terms, retained);
                }
            }
            (ToFollower::SnapshotEnd { position, token_key }, incoming @ Some(_)) => {
                if let Some(mut snapshot) = incoming.take() {
                    snapshot.set_position(position, token_key);
                    self.last_ack = None;
                    self.node.replace_snapshot(snapshot);
                    self.is_confirmed = true;
                }
            }
            (ToFollower::Changes(changes), None) => {
                self.node.apply(&changes).map_err(|gap| FollowError::Lost(gap.to_string()))?;
                self.is_confirmed = true;
            }
            (ToFollower::Pong(pong), _) => self.receive_pong(pong)?,
            (_, _) => return Err(out_of_order("snapshot")),
        }
        self.require_memory()
    }

    /// Fails if the upstream has sent more than the memory of this node allows.
    fn require_memory(&self) -> Result<(), FollowError> {
        let bytes = match &self.incoming {
            Some(snapshot) => snapshot.memory(),
            None => self.node.view().snapshot.memory(),
        };
        let bytes_max = self.node.limits.snapshot_bytes;
        if bytes <= bytes_max {
            return Ok(());
        }
        Err(FollowError::Lost(format!(
            "the upstream sends more than {} MiB of grants and locks; raise the memory limit",
            bytes_max >> 20
        )))
    }

    fn receive_welcome(&mut self, welcome: &Welcome) -> Result<(), FollowError> {
        if welcome.protocol != PROTOCOL {
            return Err(FollowError::Rejected(format!(
                "the upstream speaks version {} of the protocol, but this node speaks {PROTOCOL}; \
                upgrade the older of the two",
                welcome.protocol
            )));
        }
        self.is_welcome = true;
        Ok(())
    }

    fn receive_pong(&mut self, pong: Pong) -> Result<(), FollowError> {
        if pong.path.contains(&self.node.id()) {
            return Err(FollowError::Rejected(
                "the upstream follows this node, directly or through others, so neither node \
                reaches a replica; correct the upstreams"
                    .into(),
            ));
        }
        if pong.path.len() > PATH_MAX {
            return Err(FollowError::Rejected(format!(
                "the upstream is {} steps from the replica, and at most {PATH_MAX} are allowed; \
                follow a node that is nearer",
                pong.path.len()
            )));
        }
        self.node.set_upstream_path(pong.path);
        let now = self.node.boot_time();
        if let Some(lease_grant) = pong.lease {
            self.no_lease_since = None;
            // An upstream that grants a lease has decided how this node resumes. Without a
            // snapshot, the logs agree.
            self.is_confirmed |= self.incoming.is_none();
            self.max_staleness = Some(lease_grant.max_staleness);
            self.node.record_response(pong.seq, lease_grant, None);
        } else if self.has_others
            && now.since(*self.no_lease_since.get_or_insert(now)) > self.timeout()
        {
            return Err(FollowError::Lost("the upstream has no valid lease".into()));
        }
        Ok(())
    }

    // === timers ===

    /// The interval of pings.
    pub fn ping_interval(&self) -> Duration {
        self.max_staleness.map_or(FIRST_PING_INTERVAL, |span| span / PINGS_PER_LEASE)
    }

    /// How long the upstream may be silent. Half a lease leaves time to get a lease from another
    /// upstream.
    pub fn timeout(&self) -> Duration {
        self.max_staleness.map_or(WELCOME_TIMEOUT, |span| span / 2)
    }
}

fn out_of_order(message: &str) -> FollowError {
    FollowError::Lost(format!("the upstream sent {message} out of order"))
}

/// Follows one upstream until the stream ends.
pub async fn follow(
    node: &Arc<CheckNode>,
    incoming: impl Stream<Item = Result<ToFollower, FollowError>>,
    outgoing: mpsc::Sender<ToUpstream>,
    has_others: bool,
) -> FollowError {
    let mut incoming = pin!(incoming);
    let mut session = UpstreamSession::new(Arc::clone(node), has_others);
    let mut acks = node.watch_acks();
    let (mut last_message_at, mut next_report_at) =
        (Instant::now(), Instant::now() + REPORT_INTERVAL);
    let (mut next_ping_at, mut last_ping_at) = (Instant::now(), Instant::now());
    let closed = |_| FollowError::Lost("the upstream has closed the stream".into());
    if let Err(error) = outgoing.try_send(session.hello()).map_err(closed) {
        return error;
    }
    loop {
        tokio::select! {
            biased;
            message = incoming.next() => {
                let received = match message {
                    Some(Ok(message)) => session.receive(message),
                    Some(Err(error)) => Err(error),
                    None => Err(FollowError::Lost("the upstream has ended the stream".into())),
                };
                if let Err(error) = received {
                    return error;
                }
                last_message_at = Instant::now();
            }
            () = sleep_until(next_ping_at), if session.is_welcome => {
                last_ping_at = Instant::now();
                next_ping_at = last_ping_at + session.ping_interval();
                // Without capacity, earlier pings have not been sent yet.
                if let Ok(permit) = outgoing.try_reserve() {
                    permit.send(session.ping());
                }
                if next_report_at <= Instant::now() {
                    next_report_at = Instant::now() + REPORT_INTERVAL;
                    let report: Vec<NodeInfo> = node.followers();
                    if !report.is_empty() {
                        let _ = outgoing.try_send(ToUpstream::Report(report));
                    }
                }
            }
            () = sleep_until(last_message_at + session.timeout()) => {
                return FollowError::Lost("the upstream does not respond".into());
            }
            () = node.lease_requested() => {
                next_ping_at = next_ping_at.min(last_ping_at + EARLY_RENEWAL_PAUSE);
            }
            () = acks.changed() => {}
        }
        if outgoing.capacity() > 0
            && let Some(ack) = session.ack()
            && let Err(error) = outgoing.try_send(ack)
        {
            return closed(error);
        }
    }
}

/// Follows the upstreams in turn, until stopped. Fails only if all upstreams reject this node
/// before the first snapshot. Then the configuration must be corrected.
pub async fn run(
    node: Arc<CheckNode>,
    upstreams: Vec<Arc<dyn Upstream>>,
    stop: CancellationToken,
) -> Result<(), FollowError> {
    let mut back_off = BACK_OFF_MIN;
    // The number of consecutive rejections.
    let mut rejections = 0;
    for upstream in upstreams.iter().cycle() {
        let started_at = Instant::now();
        let (outgoing, to_send) = mpsc::channel(OUTGOING_CAPACITY);
        let to_leave = outgoing.clone();
        let stream = async {
            match upstream.open(to_send).await {
                Ok(incoming) => {
                    let has_others = upstreams.len() > 1;
                    follow(&node, incoming, outgoing, has_others).await.at(upstream.as_ref())
                }
                Err(error) => error,
            }
        };
        let mut stream = pin!(stream);
        let Some(error) = stop.run_until_cancelled(stream.as_mut()).await else {
            // While a follower holds a lease from this node, this node must not leave. The upstream
            // then waits until that lease expires.
            if node.step_down() {
                let _ = to_leave.try_send(ToUpstream::Leave);
                // The upstream reads the message, and ends the stream.
                let _ = timeout(LEAVE_TIMEOUT, stream).await;
            }
            return Ok(());
        };
        let is_rejected = matches!(error, FollowError::Rejected(_)) && node.position().is_none();
        rejections = if is_rejected { rejections + 1 } else { 0 };
        if rejections == upstreams.len() {
            return Err(error);
        }
        warn!(?upstream, %error, "cannot follow, trying the next");
        if started_at.elapsed() > BACK_OFF_MAX {
            back_off = BACK_OFF_MIN;
        }
        // The pause depends on the node id, so that nodes that lose the same upstream do not
        // reconnect all at once.
        let share = u32::from(node.id().0.as_bytes()[15]);
        let pause = back_off / 2 + back_off * share / (2 * u32::from(u8::MAX));
        back_off = (back_off * 2).min(BACK_OFF_MAX);
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
    info!("there is no upstream to follow");
    Ok(())
}
