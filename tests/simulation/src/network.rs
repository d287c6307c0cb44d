//! The network between followers and those that feed them: ordered streams, with delays, stalls, cuts and half-open ends.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::World,
    link::Line,
    node::{
        follower_session,
        message::{ToFollower, ToUpstream},
        upstream_session::{FollowError, Upstream},
    },
    random::Random,
};

/// How long the end of a stream that nobody tells of is not noticed.
const UNNOTICED: Duration = Duration::from_secs(3);

/// How long somebody who wants to follow waits for the one that is to feed it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// All ways between a follower and a node that feeds it, by their numbers.
#[derive(Debug)]
pub(crate) struct Network {
    pairs: Mutex<BTreeMap<(usize, usize), Arc<Pair>>>,
    random: Arc<Random>,
}

/// The way between two machines, and all that is sent on it.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) up: Arc<Line>,
    pub(crate) down: Arc<Line>,
    cut: Mutex<CancellationToken>,
}

impl Network {
    pub(crate) fn new(random: Arc<Random>) -> Self {
        Self { pairs: Mutex::default(), random }
    }

    pub(crate) fn pair(&self, follower: usize, upstream: usize) -> Arc<Pair> {
        let mut pairs = self.pairs.lock();
        let pair = pairs.entry((follower, upstream)).or_insert_with(|| {
            Arc::new(Pair {
                up: Line::new(Arc::clone(&self.random)),
                down: Line::new(Arc::clone(&self.random)),
                cut: Mutex::default(),
            })
        });
        Arc::clone(pair)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Pair>> {
        self.pairs.lock().values().cloned().collect()
    }
}

impl Pair {
    /// Ends every stream there is.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.cut.lock()).cancel();
    }
}

/// Carries messages one way, in order, until an end is gone or the way is cut.
async fn carry<T>(
    line: Arc<Line>,
    cut: CancellationToken,
    mut from: mpsc::Receiver<T>,
    to: mpsc::Sender<T>,
) {
    let carrying = async {
        while let Some(message) = from.recv().await {
            line.pass().await;
            if to.send(message).await.is_err() {
                return;
            }
        }
        line.pass().await;
    };
    cut.run_until_cancelled(carrying).await;
    // Sometimes one of the two ends does not hear of it.
    let (upper, lower) = (line.loses_answer(), line.loses_answer());
    if upper || lower {
        let _kept = if upper { (None, Some(to)) } else { (Some(from), None) };
        sleep(UNNOTICED).await;
    }
}

/// A node that can be followed, as its follower knows it.
pub(crate) struct Address {
    pub(crate) world: Arc<World>,
    pub(crate) follower: usize,
    pub(crate) upstream: usize,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.follower).field(&self.upstream).finish()
    }
}

fn lost(why: &str) -> FollowError {
    FollowError::Lost(why.into())
}

#[async_trait]
impl Upstream for Address {
    async fn open(
        &self,
        outgoing: mpsc::Receiver<ToUpstream>,
    ) -> Result<BoxStream<'static, Result<ToFollower, FollowError>>, FollowError> {
        // As the real one, it does not wait for ever.
        let opening = timeout(OPEN_TIMEOUT, self.open_stream(outgoing));
        opening.await.unwrap_or_else(|_| Err(lost("it does not answer")))
    }
}

impl Address {
    async fn open_stream(
        &self,
        outgoing: mpsc::Receiver<ToUpstream>,
    ) -> Result<BoxStream<'static, Result<ToFollower, FollowError>>, FollowError> {
        let world = &self.world;
        let pair = world.network.pair(self.follower, self.upstream);
        pair.up.pass().await;
        let Some(process) = world.machines[self.upstream].open_process() else {
            pair.down.pass().await;
            return Err(lost("nobody is there"));
        };
        let room = |line: &Line| {
            usize::try_from(world.random.between(1, line.weather().room)).unwrap_or(1)
        };
        let (to_upstream, mut said) = mpsc::channel(room(&pair.up));
        let (to_follower, answers) = mpsc::channel(room(&pair.down));
        let (sent, mut heard) = mpsc::channel(room(&pair.down));
        let cut = pair.cut.lock().clone();
        world.tasks.spawn(carry(Arc::clone(&pair.up), cut.clone(), outgoing, to_upstream));
        world.tasks.spawn(carry(Arc::clone(&pair.down), cut, answers, sent));
        let (accept, accepted) = oneshot::channel();
        let (judge, follower) = (Arc::clone(&world.judge), self.follower);
        let (node, doors) = (Arc::clone(&process.node), process.doors.clone());
        process.host.spawn(async move {
            let _ = accept.send(());
            let said = stream::poll_fn(move |context| said.poll_recv(context)).map(Ok::<_, ()>);
            let fed =
                doors.run_until_cancelled(follower_session::serve(node, said, to_follower)).await;
            if let Some(Err(end)) = fed {
                judge.note(&format!("{follower}'s stream was ended: {end}"));
            }
        });
        accepted.await.map_err(|_| lost("it is gone"))?;
        pair.down.pass().await;
        Ok(stream::poll_fn(move |context| heard.poll_recv(context)).map(Ok).boxed())
    }
}
