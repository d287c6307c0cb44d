//! Follows another node: receives its log, renews leases with pings, and acknowledges changes.
//!
//! The state machine is [`UpstreamSession`], driven by [`follow`].

use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    domain::{BootTime, Revision},
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
/// How long the upstream may be silent before the lease duration is known. Less, but at least the
/// minimum, if there are others and the duration of earlier leases is known.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);
const WELCOME_TIMEOUT_MIN: Duration = Duration::from_millis(250);
/// How long a byte of a snapshot may take, in microseconds, if there are other upstreams.
const MICROS_PER_BYTE_MAX: u64 = 4;

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
    /// Whether the upstream has rejected this node.
    pub(super) fn is_rejection(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// Adds the name of the upstream to a rejection.
    pub(super) fn at(self, upstream: &dyn Debug) -> Self {
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
    welcome_timeout: Duration,
    /// The start of the wait for a lease: the start of the stream, the last lease, or the end of
    /// the snapshot.
    waiting_since: BootTime,
    /// Whether there are other upstreams to follow.
    has_others: bool,
    last_ack: Option<Revision>,
}

impl UpstreamSession {
    /// The session of a new stream. A node that `has_others` leaves an upstream that has had no
    /// lease for [`Self::timeout`].
    pub fn new(node: Arc<CheckNode>, has_others: bool) -> Self {
        let view = node.view();
        let earlier = view.lease().filter(|_| has_others);
        let welcome_timeout = earlier.map_or(WELCOME_TIMEOUT, |lease| {
            (lease.max_staleness / 2).clamp(WELCOME_TIMEOUT_MIN, WELCOME_TIMEOUT)
        });
        Self {
            is_welcome: false,
            is_confirmed: false,
            incoming: None,
            max_staleness: None,
            welcome_timeout,
            waiting_since: node.boot_time(),
            has_others,
            last_ack: None,
            node,
        }
    }

    // === messages to the upstream ===

    /// The first message.
    pub fn hello(&self) -> ToUpstream {
        let read_view = self.node.read_view();
        let snapshot = read_view.view.snapshot();
        // No change ends a quarantine, or adds a grant that was missing.
        let is_tainted = snapshot.has_forged_rows() || snapshot.quarantines() > 0;
        let position = self.node.position().filter(|_| !self.node.is_invalidated() && !is_tainted);
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
        let revision = self.node.ack().revision;
        let is_new = self.last_ack.is_none_or(|last| last < revision);
        if !is_new || !self.is_confirmed || !self.is_welcome || self.incoming.is_some() {
            return None;
        }
        self.last_ack = Some(revision);
        Some(ToUpstream::Ack(revision))
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
            (ToFollower::SnapshotBegin, _) if self.is_confirmed => {
                return Err(out_of_order("snapshot"));
            }
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
            (ToFollower::SnapshotEnd(end), incoming @ Some(_)) => {
                if let Some(mut snapshot) = incoming.take() {
                    snapshot.set_position(end.position, end.token_key);
                    snapshot.set_accepted_clocks(end.accepted_clocks);
                    if end.has_forged_rows {
                        snapshot.set_forged_rows();
                    }
                    self.last_ack = None;
                    self.node.replace_snapshot(snapshot);
                    self.is_confirmed = true;
                    self.waiting_since = self.node.boot_time();
                }
            }
            (ToFollower::Changes(changes), None) => {
                self.node.apply(&changes).map_err(|gap| FollowError::Lost(gap.to_string()))?;
                self.is_confirmed = true;
            }
            (ToFollower::Pong(pong), None) => self.receive_pong(pong)?,
            (_, _) => return Err(out_of_order("snapshot")),
        }
        if self.incoming.is_some() {
            self.node.free_obsolete_snapshot();
        }
        self.make_room()?;
        self.require_lease()
    }

    /// Frees the current snapshot if both snapshots do not fit, although checks may be answered
    /// from it. Fails if the incoming snapshot, or the current one after changes, does not fit
    /// alone.
    fn make_room(&self) -> Result<(), FollowError> {
        let bytes_max = self.node.limits.snapshot_bytes;
        let clocks = self.node.known_clocks_memory();
        let incoming = clocks + self.incoming.as_ref().map_or(0, Snapshot::memory);
        let current = self.node.view().snapshot.memory();
        if current + incoming <= bytes_max {
            return Ok(());
        }
        self.node.free_snapshot();
        if self.incoming.is_some() && incoming <= bytes_max {
            return Ok(());
        }
        Err(FollowError::Lost(format!(
            "the upstream sends more than {} MiB of grants and locks; raise the memory limit of \
             this node, or limits.memory_mib",
            bytes_max >> 20
        )))
    }

    /// Fails if the upstream has granted no lease for too long, and there are others. A snapshot
    /// takes time in proportion to the content, which the memory bounds.
    fn require_lease(&self) -> Result<(), FollowError> {
        let content = self.incoming.as_ref().map_or(0, Snapshot::memory);
        let lease_timeout = self.timeout() + Duration::from_micros(content * MICROS_PER_BYTE_MAX);
        if self.has_others && self.node.boot_time().since(self.waiting_since) > lease_timeout {
            return Err(FollowError::Lost(
                "the upstream has granted no lease in time; trying another".into(),
            ));
        }
        Ok(())
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
        if let Some(lease_grant) = pong.lease {
            self.waiting_since = self.node.boot_time();
            // An upstream that grants a lease has decided how this node resumes. Without a
            // snapshot, the logs agree.
            self.is_confirmed = true;
            self.max_staleness = Some(lease_grant.max_staleness);
            self.node.record_response(pong.seq, lease_grant, None);
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
        self.max_staleness.map_or(self.welcome_timeout, |span| span / 2)
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
    let mut last_message_at = Instant::now();
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
