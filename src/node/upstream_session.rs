//! Follows another node: takes what it is fed, proves that it is current, and acknowledges. The machine is [`UpstreamSession`];
//! [`run`] drives it, from one upstream to the next.

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
        CheckNode, Snapshot,
        lease::EARLY_RENEWAL_PAUSE,
        message::{Hello, PROTOCOL, Pong, ToFollower, ToUpstream},
        snapshot::SnapshotPart,
    },
};

/// The longest way from a replica to a sidecar. Each step makes leases older.
pub(super) const PATH_MAX: usize = 4;
/// A lease is asked for so many times in the length of a lease.
const PINGS: u32 = 10;
/// How often a lease is asked for while the length of a lease is not known.
const FIRST_PING_INTERVAL: Duration = Duration::from_millis(100);
/// How long an upstream may take to answer at all.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);
/// How often those that this node feeds are told of.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait before the next upstream is tried: at first, and at most.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// How long an upstream may take to hear that this node leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Messages on their way to the upstream.
const OUTGOING: usize = 64;

/// Somebody who can be followed.
#[async_trait]
pub trait Upstream: fmt::Debug + Send + Sync {
    /// Opens a stream, on which `outgoing` is sent.
    async fn open(
        &self,
        outgoing: mpsc::Receiver<ToUpstream>,
    ) -> Result<BoxStream<'static, Result<ToFollower, FollowError>>, FollowError>;
}

/// Why an upstream is not followed, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// It will be no different next time: somebody has to correct something. One plain sentence.
    #[error("{0}")]
    Refused(String),
    /// It may work next time, or elsewhere.
    #[error("{0}")]
    Lost(String),
}

impl FollowError {
    /// Names who has refused.
    fn at(self, upstream: &dyn Upstream) -> Self {
        match self {
            Self::Refused(why) => Self::Refused(format!("{upstream:?}: {why}")),
            lost @ Self::Lost(_) => lost,
        }
    }
}

/// A stream from an upstream, as the follower sees it.
#[derive(Debug)]
pub struct UpstreamSession {
    node: Arc<CheckNode>,
    is_welcome: bool,
    /// Whether what the node holds is known to be of the upstream's history. What it held before is worth nothing there, and
    /// must not be acknowledged, until the upstream goes on from it.
    is_confirmed: bool,
    /// The snapshot that is coming in.
    incoming: Option<Snapshot>,
    max_staleness: Option<Duration>,
    /// Since when the upstream has not been able to grant_lease, if it is not.
    no_lease_since: Option<BootTime>,
    /// Whether there are others to follow.
    has_others: bool,
    acked: Option<Ack>,
}

impl UpstreamSession {
    /// A stream on which nothing was said. An upstream that cannot grant_lease for long is left if the node `has_others` to follow.
    pub fn new(node: Arc<CheckNode>, has_others: bool) -> Self {
        Self {
            node,
            is_welcome: false,
            is_confirmed: false,
            incoming: None,
            max_staleness: None,
            no_lease_since: None,
            has_others,
            acked: None,
        }
    }

    /// What is said first.
    pub fn hello(&self) -> ToUpstream {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        // What was disowned is of no use.
        let held = self.node.held().filter(|_| !self.node.is_invalidated());
        let read_view = self.node.read_view();
        let lease = read_view.view.lease().filter(|_| read_view.is_fresh());
        let lease_age = lease.map(|it| self.node.boot_time().since(it.clock.answered_at));
        ToUpstream::Hello(Hello {
            protocol: PROTOCOL,
            node_id: self.node.id(),
            version,
            held,
            lease_age,
        })
    }

    /// Asks for a lease. Call it right before sending.
    pub fn ping(&self) -> ToUpstream {
        ToUpstream::Ping { seq: self.node.start_renewal() }
    }

    /// What is to be acknowledged, if that has changed.
    pub fn ack(&mut self) -> Option<ToUpstream> {
        let ack = self.node.ack();
        let is_new = self.acked.is_none_or(|acked| acked != ack && acked.revision <= ack.revision);
        if !is_new || !self.is_confirmed || !self.is_welcome || self.incoming.is_some() {
            return None;
        }
        self.acked = Some(ack);
        Some(ToUpstream::Ack(ack))
    }

    /// What the upstream says.
    pub fn receive(&mut self, down: ToFollower) -> Result<(), FollowError> {
        let is_welcome = matches!(down, ToFollower::Welcome(_));
        if is_welcome == self.is_welcome {
            return Err(out_of_order("welcome"));
        }
        match (down, &mut self.incoming) {
            (ToFollower::Welcome(welcome), _) if welcome.protocol != PROTOCOL => {
                return Err(FollowError::Refused(format!(
                    "it speaks version {} of the protocol, but this program speaks {PROTOCOL}: upgrade the older of the two",
                    welcome.protocol
                )));
            }
            (ToFollower::Welcome(_), _) => self.is_welcome = true,
            (ToFollower::SnapshotBegin, None) => self.incoming = Some(Snapshot::default()),
            (ToFollower::SnapshotPart(SnapshotPart::Locks(locks)), Some(snapshot)) => {
                for terms in locks {
                    snapshot.insert_lock(terms);
                }
            }
            (ToFollower::SnapshotPart(SnapshotPart::Grants(grants)), Some(snapshot)) => {
                for (tenant_id, held, terms) in grants {
                    snapshot.insert(&tenant_id, terms, held);
                }
            }
            (ToFollower::SnapshotEnd(position), incoming @ Some(_)) => {
                if let Some(mut snapshot) = incoming.take() {
                    snapshot.set_position(position);
                    self.acked = None;
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
        Ok(())
    }

    /// How often to ask for a lease.
    pub fn ping_interval(&self) -> Duration {
        self.max_staleness.map_or(FIRST_PING_INTERVAL, |max_staleness| max_staleness / PINGS)
    }

    /// For how long the upstream may say nothing before another is tried: so that there is time to get a lease from that one.
    pub fn silence_max(&self) -> Duration {
        self.max_staleness.map_or(WELCOME_TIMEOUT, |max_staleness| max_staleness / 2)
    }

    fn receive_pong(&mut self, pong: Pong) -> Result<(), FollowError> {
        if pong.path.contains(&self.node.id()) {
            return Err(FollowError::Refused(
                "it follows this very node, directly or by others, so that nobody in the ring is fed: correct the upstreams"
                    .into(),
            ));
        }
        if pong.path.len() > PATH_MAX {
            return Err(FollowError::Refused(format!(
                "it is {} steps from the replica, and at most {PATH_MAX} are allowed: follow one that is nearer",
                pong.path.len()
            )));
        }
        self.node.set_path(pong.path);
        let now = self.node.boot_time();
        if let Some(lease_grant) = pong.lease {
            self.no_lease_since = None;
            // Who can grant_lease has decided how to go on, and has begun with it.
            self.is_confirmed |= self.incoming.is_none();
            self.max_staleness = Some(lease_grant.max_staleness);
            self.node.record_response(pong.seq, lease_grant, None);
        } else if self.has_others
            && now.since(*self.no_lease_since.get_or_insert(now)) > self.silence_max()
        {
            return Err(FollowError::Lost("it cannot prove that it is current".into()));
        }
        Ok(())
    }
}

fn out_of_order(what: &str) -> FollowError {
    FollowError::Lost(format!("it sent {what} out of order"))
}

/// Follows one stream until it ends.
pub async fn follow(
    node: &Arc<CheckNode>,
    incoming: impl Stream<Item = Result<ToFollower, FollowError>>,
    outgoing: mpsc::Sender<ToUpstream>,
    has_others: bool,
) -> FollowError {
    let mut incoming = pin!(incoming);
    let mut following = UpstreamSession::new(Arc::clone(node), has_others);
    let mut acks = node.watch_acks();
    let (mut heard, mut report_at) = (Instant::now(), Instant::now() + REPORT_INTERVAL);
    let (mut ping_at, mut pinged_at) = (Instant::now(), Instant::now());
    let gone = |_| FollowError::Lost("it takes no messages any more".into());
    if let Err(error) = outgoing.try_send(following.hello()).map_err(gone) {
        return error;
    }
    loop {
        tokio::select! {
            biased;
            down = incoming.next() => {
                let received = match down {
                    Some(Ok(down)) => following.receive(down),
                    Some(Err(error)) => Err(error),
                    None => Err(FollowError::Lost("it has ended the stream".into())),
                };
                if let Err(error) = received {
                    return error;
                }
                heard = Instant::now();
            }
            () = sleep_until(ping_at), if following.is_welcome => {
                pinged_at = Instant::now();
                ping_at = pinged_at + following.ping_interval();
                // If there is no room, the pings before are still on their way.
                if let Ok(permit) = outgoing.try_reserve() {
                    permit.send(following.ping());
                }
                if report_at <= Instant::now() {
                    report_at = Instant::now() + REPORT_INTERVAL;
                    let report: Vec<NodeInfo> = node.followers();
                    if !report.is_empty() {
                        let _ = outgoing.try_send(ToUpstream::Report(report));
                    }
                }
            }
            () = sleep_until(heard + following.silence_max()) => {
                return FollowError::Lost("it has fallen silent".into());
            }
            () = node.lease_requested() => ping_at = ping_at.min(pinged_at + EARLY_RENEWAL_PAUSE),
            () = acks.changed() => {}
        }
        if outgoing.capacity() > 0
            && let Some(ack) = following.ack()
            && outgoing.try_send(ack).is_err()
        {
            return gone(mpsc::error::TrySendError::Closed(ToUpstream::Leave));
        }
    }
}

/// Follows one of `upstreams` after the other, until stopped. Ends early only if all of them refuse, before anything was ever
/// taken from any: then somebody has to correct something.
pub async fn run(
    node: Arc<CheckNode>,
    upstreams: Vec<Arc<dyn Upstream>>,
    stop: CancellationToken,
) -> Result<(), FollowError> {
    let mut back_off = BACK_OFF_MIN;
    // How many have refused this node, one after the other.
    let mut refusals = 0;
    for upstream in upstreams.iter().cycle() {
        let began = Instant::now();
        let (outgoing, to_send) = mpsc::channel(OUTGOING);
        let leave = outgoing.clone();
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
            // Those that this node has fed may go on answering for a while: then the upstream must wait for that.
            if node.step_down() {
                let _ = leave.try_send(ToUpstream::Leave);
                // The upstream ends the stream when it has read that.
                let _ = timeout(LEAVE_TIMEOUT, stream).await;
            }
            return Ok(());
        };
        let is_refused = matches!(error, FollowError::Refused(_)) && node.held().is_none();
        refusals = if is_refused { refusals + 1 } else { 0 };
        if refusals == upstreams.len() {
            return Err(error);
        }
        warn!(?upstream, %error, "cannot follow, trying the next");
        if began.elapsed() > BACK_OFF_MAX {
            back_off = BACK_OFF_MIN;
        }
        // So that those who lose an upstream at the same time do not come to the next at the same time.
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
