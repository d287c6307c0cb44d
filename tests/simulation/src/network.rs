//! The network between followers and upstreams: ordered streams with delays, stalls, cuts and
//! half-open connections.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::Cluster,
    link::{Link, LinkConditions},
    node::{
        follower_session,
        message::ToUpstream,
        upstream_session::FollowError,
        upstreams::{Incoming, Upstream, UpstreamName},
    },
    random::Random,
};

/// How long the surviving end of a half-open connection stays open.
const HALF_OPEN: Duration = Duration::from_secs(3);
/// Timeout of a follower that opens a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// The connections between all followers and upstreams, by machine numbers.
#[derive(Debug)]
pub(crate) struct Network {
    routes: Mutex<BTreeMap<(usize, usize), Arc<Route>>>,
    random: Arc<Random>,
}

/// The connection between a follower and an upstream.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) to_upstream: Arc<Link>,
    pub(crate) to_follower: Arc<Link>,
    /// Cancelled to end all current streams.
    streams: Mutex<CancellationToken>,
}

impl Network {
    pub(crate) fn new(random: Arc<Random>) -> Self {
        Self { routes: Mutex::default(), random }
    }

    pub(crate) fn route(&self, follower: usize, upstream: usize) -> Arc<Route> {
        let mut routes = self.routes.lock();
        let route = routes.entry((follower, upstream)).or_insert_with(|| {
            Arc::new(Route {
                to_upstream: Link::new(Arc::clone(&self.random)),
                to_follower: Link::new(Arc::clone(&self.random)),
                streams: Mutex::default(),
            })
        });
        Arc::clone(route)
    }

    pub(crate) fn routes(&self) -> Vec<Arc<Route>> {
        self.routes.lock().values().cloned().collect()
    }
}

impl Route {
    /// Ends all current streams.
    pub(crate) fn disconnect(&self) {
        std::mem::take(&mut *self.streams.lock()).cancel();
    }

    /// Sets the conditions of both directions.
    pub(crate) fn set(&self, conditions: LinkConditions) {
        self.to_upstream.set(conditions);
        self.to_follower.set(conditions);
    }
}

/// Carries messages in one direction, in order, until an end is closed or the stream is
/// disconnected.
async fn carry<T>(
    link: Arc<Link>,
    disconnected: CancellationToken,
    mut from: mpsc::Receiver<T>,
    to: mpsc::Sender<T>,
) {
    let carrying = async {
        while let Some(message) = from.recv().await {
            link.traverse().await;
            if to.send(message).await.is_err() {
                return;
            }
        }
        link.traverse().await;
    };
    disconnected.run_until_cancelled(carrying).await;
    // Sometimes one of the two ends stays open.
    let (keeps_receiver, keeps_sender) = (link.loses_response(), link.loses_response());
    if keeps_receiver || keeps_sender {
        let _kept = if keeps_receiver { (None, Some(to)) } else { (Some(from), None) };
        sleep(HALF_OPEN).await;
    }
}

/// A name with several addresses.
#[derive(Debug)]
pub(crate) struct SimulatedName(pub(crate) Vec<Arc<dyn Upstream>>);

#[async_trait]
impl UpstreamName for SimulatedName {
    async fn resolve(&self) -> Result<Vec<Arc<dyn Upstream>>, FollowError> {
        Ok(self.0.clone())
    }

    fn may_change(&self) -> bool {
        false
    }
}

/// An upstream of a follower.
pub(crate) struct SimulatedUpstream {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) follower: usize,
    pub(crate) upstream: usize,
}

impl fmt::Debug for SimulatedUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "machine {}", self.upstream)
    }
}

fn lost(reason: &str) -> FollowError {
    FollowError::Lost(reason.into())
}

#[async_trait]
impl Upstream for SimulatedUpstream {
    async fn open(&self, outgoing: mpsc::Receiver<ToUpstream>) -> Result<Incoming, FollowError> {
        let opened = timeout(OPEN_TIMEOUT, self.open_stream(outgoing)).await;
        opened.unwrap_or_else(|_| Err(lost("the upstream does not respond")))
    }
}

impl SimulatedUpstream {
    async fn open_stream(
        &self,
        outgoing: mpsc::Receiver<ToUpstream>,
    ) -> Result<Incoming, FollowError> {
        let cluster = &self.cluster;
        let route = cluster.network.route(self.follower, self.upstream);
        route.to_upstream.traverse().await;
        let Some(server) = cluster.machines[self.upstream].serving_node() else {
            route.to_follower.traverse().await;
            return Err(lost("the upstream is unavailable"));
        };
        let capacity = |link: &Link| {
            usize::try_from(cluster.random.between(1, link.conditions().capacity)).unwrap_or(1)
        };
        let (to_upstream, mut incoming) = mpsc::channel(capacity(&route.to_upstream));
        let (to_follower, responses) = mpsc::channel(capacity(&route.to_follower));
        let (delivered, mut received) = mpsc::channel(capacity(&route.to_follower));
        let streams = route.streams.lock().clone();
        let up = carry(Arc::clone(&route.to_upstream), streams.clone(), outgoing, to_upstream);
        let down = carry(Arc::clone(&route.to_follower), streams, responses, delivered);
        cluster.tasks.spawn(up);
        cluster.tasks.spawn(down);
        let (accept, accepted) = oneshot::channel();
        let (checker, follower) = (Arc::clone(&cluster.checker), self.follower);
        let (node, closed) = (Arc::clone(&server.node), server.closed.clone());
        server.process.spawn(async move {
            let _ = accept.send(());
            let incoming = stream::poll_fn(move |context| incoming.poll_recv(context));
            let incoming = incoming.map(Ok::<_, ()>);
            let credential = format!("machine {follower}").into();
            let session = follower_session::serve(node, credential, incoming, to_follower);
            if let Some(Err(end)) = closed.run_until_cancelled(session).await {
                checker.log(&format!("the stream of machine {follower} was ended: {end}"));
            }
        });
        accepted.await.map_err(|_| lost("the upstream has died"))?;
        route.to_follower.traverse().await;
        Ok(stream::poll_fn(move |context| received.poll_recv(context)).map(Ok).boxed())
    }
}
