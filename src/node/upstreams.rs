//! Follows one upstream after the other.
//!
//! A node is configured with the names of its upstreams. A name may have several addresses, each an
//! upstream of its own. An upstream that responds slowly delays the next attempt only briefly, and
//! an upstream that has failed is tried last.

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::{BoxStream, FuturesUnordered},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::node::{
    check_node::CheckNode,
    message::{ToFollower, ToUpstream},
    upstream_session::{FollowError, follow},
};

/// How long an attempt may take before the next upstream is tried, too. Less with short leases, so
/// that some attempts fit into the rest of a lease.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const ATTEMPTS_PER_LEASE: u32 = 8;
/// How long the resolution of a name may take. With known addresses, as long as an attempt.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the next upstream is tried. Doubles from the minimum to the maximum.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// How long a stopping node waits until the upstream has read the leave message.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Capacity of the queue of messages to the upstream.
const OUTGOING_CAPACITY: usize = 64;

/// The messages from an upstream.
pub type Incoming = BoxStream<'static, Result<ToFollower, FollowError>>;

/// A name of one or more upstreams. The `Debug` form is a text for logs and errors.
#[async_trait]
pub trait UpstreamName: fmt::Debug + Send + Sync {
    /// The upstreams that have this name now.
    async fn resolve(&self) -> Result<Vec<Arc<dyn Upstream>>, FollowError>;

    /// Whether the name may have other upstreams later.
    fn may_change(&self) -> bool;
}

/// A node that can be followed. The `Debug` form is a text for logs and errors, and differs from
/// that of every other node.
#[async_trait]
pub trait Upstream: fmt::Debug + Send + Sync {
    /// Opens a stream to the upstream, which receives the messages of `outgoing`.
    async fn open(&self, outgoing: mpsc::Receiver<ToUpstream>) -> Result<Incoming, FollowError>;
}

/// All upstreams of a node.
#[derive(Debug)]
struct Upstreams {
    names: Vec<Arc<dyn UpstreamName>>,
    /// The last known upstreams of all names.
    known: Vec<Known>,
}

/// An upstream, and the outcome of the last attempt to follow it.
#[derive(Debug, Clone)]
struct Known {
    /// The index of the name.
    name: usize,
    upstream: Arc<dyn Upstream>,
    /// `None`: not tried yet.
    failed_at: Option<Instant>,
    /// Set if the upstream has rejected this node.
    rejection: Option<FollowError>,
}

/// An open stream to the upstream with an index.
struct Opened {
    index: usize,
    incoming: Incoming,
    outgoing: mpsc::Sender<ToUpstream>,
}

impl Upstreams {
    fn new(names: Vec<Arc<dyn UpstreamName>>) -> Self {
        Self { names, known: Vec::new() }
    }

    /// Whether there is another upstream, or may be one later.
    fn has_others(&self) -> bool {
        self.known.len() > 1 || self.names.iter().any(|name| name.may_change())
    }

    /// Resolves all names. A name that cannot be resolved in time keeps its upstreams.
    async fn resolve(&mut self, attempt_delay: Duration) {
        let known = &self.known;
        let resolving = self.names.iter().enumerate().map(async |(index, name)| {
            let earlier = || known.iter().filter(move |known| known.name == index);
            let limit = if earlier().next().is_some() { attempt_delay } else { RESOLVE_TIMEOUT };
            let slow = |_| Err(FollowError::Lost("the resolver does not respond".into()));
            let resolved = timeout(limit, name.resolve()).await.unwrap_or_else(slow);
            let updated = |upstream| {
                let text = format!("{upstream:?}");
                let same = earlier().find(|known| format!("{:?}", known.upstream) == text);
                let new = Known { name: index, upstream, failed_at: None, rejection: None };
                same.cloned().unwrap_or(new)
            };
            match resolved {
                Ok(resolved) => resolved.into_iter().map(updated).collect::<Vec<_>>(),
                Err(error) => {
                    warn!(upstream = ?name, %error, "cannot resolve the name of an upstream");
                    earlier().cloned().collect()
                }
            }
        });
        self.known = join_all(resolving).await.concat();
    }

    /// Opens a stream to the upstream that responds first. An attempt without a response does not
    /// end when the next upstream is tried. `None` if all attempts fail.
    async fn open(&mut self, attempt_delay: Duration) -> Option<Opened> {
        let mut waiting: Vec<usize> = (0..self.known.len()).collect();
        // Untried upstreams first, in the configured order.
        waiting.sort_by_key(|index| self.known[*index].failed_at);
        let mut waiting = waiting.into_iter().peekable();
        let mut attempts: FuturesUnordered<
            BoxFuture<'static, (usize, Result<Opened, FollowError>)>,
        > = FuturesUnordered::new();
        // The indices of the attempts, from the first to the last.
        let mut in_flight = Vec::new();
        loop {
            if let Some(index) = waiting.next() {
                in_flight.push(index);
                let upstream = Arc::clone(&self.known[index].upstream);
                attempts.push(Box::pin(async move {
                    let (outgoing, to_send) = mpsc::channel(OUTGOING_CAPACITY);
                    let incoming = upstream.open(to_send).await;
                    (index, incoming.map(|incoming| Opened { index, incoming, outgoing }))
                }));
            }
            let attempt = attempts.next();
            let outcome = if waiting.peek().is_none() {
                attempt.await
            } else {
                let Ok(outcome) = timeout(attempt_delay, attempt).await else { continue };
                outcome
            };
            let (index, opened) = outcome?;
            match opened {
                Ok(opened) => {
                    // Earlier attempts have taken longer than this one.
                    for earlier in in_flight.into_iter().take_while(|earlier| *earlier != index) {
                        let error =
                            FollowError::Lost("it responds more slowly than another".into());
                        self.fail(earlier, error);
                    }
                    return Some(opened);
                }
                Err(error) => {
                    in_flight.retain(|other| *other != index);
                    self.fail(index, error);
                }
            }
        }
    }

    /// Records why an upstream cannot be followed. The upstream is then tried last.
    fn fail(&mut self, index: usize, error: FollowError) {
        let Known { upstream, failed_at, rejection, .. } = &mut self.known[index];
        warn!(?upstream, %error, "cannot follow, trying the next");
        *failed_at = Some(Instant::now());
        *rejection = Some(error).filter(FollowError::is_rejection);
    }

    /// A rejection, if all upstreams of all names have rejected this node.
    fn rejection(&self) -> Option<FollowError> {
        let has_upstream = |name| self.known.iter().any(|known| known.name == name);
        if !(0..self.names.len()).all(has_upstream) {
            return None;
        }
        let rejections = self.known.iter().map(|known| known.rejection.clone());
        rejections.collect::<Option<Vec<_>>>()?.pop()
    }
}

/// Follows the upstreams in turn, until stopped. Fails only if all upstreams reject this node
/// before the first snapshot. Then the configuration must be corrected.
pub async fn run(
    node: Arc<CheckNode>,
    names: Vec<Arc<dyn UpstreamName>>,
    stop: CancellationToken,
) -> Result<(), FollowError> {
    if names.is_empty() {
        info!("there is no upstream to follow");
        return Ok(());
    }
    let mut upstreams = Upstreams::new(names);
    let mut back_off = BACK_OFF_MIN;
    loop {
        let started_at = Instant::now();
        let attempt_delay = attempt_delay(&node);
        let opening = async {
            upstreams.resolve(attempt_delay).await;
            upstreams.open(attempt_delay).await
        };
        let Some(opened) = stop.run_until_cancelled(opening).await else { return Ok(()) };
        if let Some(Opened { index, incoming, outgoing }) = opened {
            let to_leave = outgoing.clone();
            let mut stream = pin!(follow(&node, incoming, outgoing, upstreams.has_others()));
            let Some(error) = stop.run_until_cancelled(stream.as_mut()).await else {
                // While a follower holds a lease from this node, this node must not leave. The
                // upstream then waits until that lease expires.
                if node.step_down() {
                    let _ = to_leave.try_send(ToUpstream::Leave);
                    // The upstream reads the message, and ends the stream.
                    let _ = timeout(LEAVE_TIMEOUT, stream).await;
                }
                return Ok(());
            };
            let upstream = Arc::clone(&upstreams.known[index].upstream);
            upstreams.fail(index, error.at(&upstream));
        }
        // Before the first snapshot, the node is not ready.
        if node.generation() == 0
            && let Some(rejection) = upstreams.rejection()
        {
            return Err(rejection);
        }
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
}

fn attempt_delay(node: &CheckNode) -> Duration {
    let view = node.view();
    view.lease()
        .map_or(ATTEMPT_DELAY, |lease| ATTEMPT_DELAY.min(lease.max_staleness / ATTEMPTS_PER_LEASE))
}

#[cfg(test)]
mod tests {
    use futures::future::pending;
    use parking_lot::Mutex;
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{Epoch, NodeId, NodeKind, TokenKey, clock::ManualClock, time::from_micros},
        node::snapshot::Snapshot,
    };

    /// An upstream that opens a stream after a while, never responds, or rejects this node.
    #[derive(Clone, Copy)]
    enum Behaviour {
        Opens(Duration),
        Hangs,
        Rejects,
    }
    use Behaviour::{Hangs, Opens, Rejects};

    struct Node(&'static str, Behaviour);

    impl fmt::Debug for Node {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    #[async_trait]
    impl Upstream for Node {
        async fn open(&self, _: mpsc::Receiver<ToUpstream>) -> Result<Incoming, FollowError> {
            match self.1 {
                Opens(after) => sleep(after).await, // virtual time
                Hangs => pending().await,
                Rejects => return Err(FollowError::Rejected("rejected".into())),
            }
            Ok(futures::stream::pending().boxed())
        }
    }

    /// A name with these nodes. `None`: the resolver hangs.
    #[derive(Debug, Default)]
    struct Name(Mutex<Option<Vec<Arc<dyn Upstream>>>>);

    impl Name {
        fn set(&self, nodes: &[(&'static str, Behaviour)]) {
            let node = |&(name, behaviour)| Arc::new(Node(name, behaviour)) as Arc<dyn Upstream>;
            *self.0.lock() = Some(nodes.iter().map(node).collect());
        }
    }

    #[async_trait]
    impl UpstreamName for Name {
        async fn resolve(&self) -> Result<Vec<Arc<dyn Upstream>>, FollowError> {
            let nodes = self.0.lock().clone();
            match nodes {
                Some(nodes) => Ok(nodes),
                None => pending().await,
            }
        }

        fn may_change(&self) -> bool {
            true
        }
    }

    /// Opens a stream. Returns the name of the node, and the time that it took.
    async fn open(upstreams: &mut Upstreams) -> (Option<String>, Duration) {
        let start = Instant::now();
        upstreams.resolve(ATTEMPT_DELAY).await;
        let opened = upstreams.open(ATTEMPT_DELAY).await;
        let name = opened.map(|opened| format!("{:?}", upstreams.known[opened.index].upstream));
        (name, start.elapsed())
    }

    fn upstreams(nodes: &[(&'static str, Behaviour)]) -> (Arc<Name>, Upstreams) {
        let name = Arc::new(Name::default());
        name.set(nodes);
        (Arc::clone(&name), Upstreams::new(vec![name]))
    }

    const AT_ONCE: Behaviour = Opens(Duration::ZERO);

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_delays_one_attempt_and_is_then_tried_last() {
        let (_, mut upstreams) = upstreams(&[("a", Hangs), ("b", Hangs), ("c", AT_ONCE)]);
        let (name, elapsed) = open(&mut upstreams).await;
        assert_eq!(name.as_deref(), Some("c"));
        assert!(elapsed < 3 * ATTEMPT_DELAY, "{elapsed:?}");
        let (name, elapsed) = open(&mut upstreams).await;
        assert_eq!((name.as_deref(), elapsed), (Some("c"), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_is_not_abandoned_for_a_silent_one() {
        let slow = Opens(10 * ATTEMPT_DELAY);
        let (_, mut upstreams) = upstreams(&[("slow", slow), ("silent", Hangs)]);
        let (name, elapsed) = open(&mut upstreams).await;
        assert_eq!((name.as_deref(), elapsed), (Some("slow"), 10 * ATTEMPT_DELAY));
    }

    #[tokio::test(start_paused = true)]
    async fn known_addresses_are_used_while_the_resolver_hangs() {
        let (name, mut upstreams) = upstreams(&[("a", AT_ONCE)]);
        open(&mut upstreams).await;
        *name.0.lock() = None;
        let (opened, elapsed) = open(&mut upstreams).await;
        assert_eq!(opened.as_deref(), Some("a"));
        assert!(elapsed < 2 * ATTEMPT_DELAY, "{elapsed:?}");
        name.set(&[("b", AT_ONCE)]);
        assert_eq!(open(&mut upstreams).await.0.as_deref(), Some("b"));
    }

    /// A running sidecar may lose the content of its snapshot, because the log has changed.
    #[tokio::test(start_paused = true)]
    async fn a_rejection_is_final_only_before_the_first_snapshot() {
        let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
        let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Sidecar, clock);
        let run = || {
            let (name, _) = upstreams(&[("a", Rejects)]);
            run(Arc::clone(&node), vec![name], CancellationToken::new())
        };
        assert_eq!(run().await, Err(FollowError::Rejected("rejected".into())));
        node.replace_snapshot(Snapshot::beginning(Epoch(Uuid::nil()), TokenKey([0; 16])));
        node.invalidate();
        node.free_obsolete_snapshot();
        assert_eq!(node.position(), None);
        let waiting = timeout(Duration::from_mins(10), run()).await;
        assert!(waiting.is_err(), "the sidecar tries again: {waiting:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_rejection_at_every_address_is_final() {
        let (name, mut upstreams) = upstreams(&[("a", Rejects), ("b", Rejects)]);
        assert_eq!(open(&mut upstreams).await.0, None);
        assert_eq!(upstreams.rejection(), Some(FollowError::Rejected("rejected".into())));
        name.set(&[("a", Rejects), ("c", Hangs)]);
        upstreams.resolve(ATTEMPT_DELAY).await;
        assert_eq!(upstreams.rejection(), None);
        name.set(&[]);
        upstreams.resolve(ATTEMPT_DELAY).await;
        assert_eq!(upstreams.rejection(), None);
    }
}
