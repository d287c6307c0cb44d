//! `CheckNodes`: for check nodes that follow this one, and for whoever looks after them.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, unfold},
};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{
    api::{
        grpc::{
            call::{admit, admit_to},
            convert::{follow, responses::duration},
            status::{Failure, ask_a_replica, credentials_expired, late, unread_in_stream},
        },
        keyed_semaphore::{KeyedPermit, KeyedSemaphore},
        proto::v1::{self as pb, check_nodes_server::CheckNodes},
    },
    domain::{Action, NodeInfo, Scope},
    node::{
        CheckNode,
        follower_session::{SessionEnd, serve},
        message::{ToFollower, ToUpstream},
    },
    service::{Service, nodes::CheckNodeList},
};

/// The most bytes of a message from a follower.
pub const REQUEST_LENGTH_MAX: usize = 256 * 1_024;
/// The most bytes of a message to a follower: far more than one ever has.
pub const RESPONSE_LENGTH_MAX: usize = 1_024 * 1_024;
/// How long a follower may take to say its first word.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages to one follower that wait to be sent. More are not made before there is room.
const WAITING_MAX: usize = 2;

/// The service, at a replica or a sidecar.
#[derive(Debug, Clone)]
pub struct Nodes {
    node: Arc<CheckNode>,
    work: Option<Arc<Service>>,
    /// By what limits count callers by.
    followers: Arc<KeyedSemaphore<Arc<str>>>,
}

impl Nodes {
    /// The service at `node`, which feeds at most so many for each caller. Only a replica, which has `work`, knows all check nodes.
    pub fn new(
        node: Arc<CheckNode>,
        work: Option<Arc<Service>>,
        followers_per_caller: usize,
    ) -> Self {
        Self { node, work, followers: Arc::new(KeyedSemaphore::new(followers_per_caller)) }
    }
}

type Answered<T> = Result<Response<T>, Status>;

#[async_trait]
impl CheckNodes for Nodes {
    type FollowStream = Fed;

    async fn follow(&self, request: Request<Streaming<pb::FollowRequest>>) -> Answered<Fed> {
        let caller = admit_to(Action::Follow, Scope::Global, request.extensions())?;
        let place = self.followers.try_acquire(&caller.identity).ok_or(SessionEnd::TooMany);
        let place = place.map_err(Failure::from)?;
        let (node, incoming) = (Arc::clone(&self.node), request.into_inner().boxed());
        Ok(Response::new(Fed::new(node, incoming, place, caller.valid_for)))
    }

    async fn list_check_nodes(
        &self,
        request: Request<pb::ListCheckNodesRequest>,
    ) -> Answered<pb::ListCheckNodesResponse> {
        admit(request)?;
        let work = self.work.as_ref().ok_or_else(ask_a_replica)?;
        let CheckNodeList { nodes, head, max_staleness } =
            work.check_nodes().await.map_err(Failure::from)?;
        let message = |info: NodeInfo| {
            let lag = (head - info.revision).max(0);
            follow::node_message(info, lag)
        };
        Ok(Response::new(pb::ListCheckNodesResponse {
            check_nodes: nodes.into_iter().map(message).collect(),
            head_revision: head,
            max_staleness: Some(duration(max_staleness)),
        }))
    }
}

/// What one follower is told. All that is done for it is done when this is polled: for one that does not read, nothing is; and
/// with this, all of it is dropped.
pub struct Fed {
    /// `None` once it has ended.
    feeding: Option<BoxFuture<'static, Result<(), Failure>>>,
    messages: mpsc::Receiver<ToFollower>,
    _place: KeyedPermit<Arc<str>>,
}

impl Fed {
    fn new(
        node: Arc<CheckNode>,
        incoming: BoxStream<'static, Said>,
        place: KeyedPermit<Arc<str>>,
        valid_for: Option<Duration>,
    ) -> Self {
        let (outgoing, messages) = mpsc::channel(WAITING_MAX);
        let feeding = feed(node, incoming, outgoing);
        let feeding = async move {
            match valid_for {
                Some(limit) => timeout(limit, feeding).await.unwrap_or(Err(credentials_expired())),
                None => feeding.await,
            }
        };
        Self { feeding: Some(Box::pin(feeding)), messages, _place: place }
    }
}

impl Stream for Fed {
    type Item = Result<pb::FollowResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(feeding) = &mut self.feeding
            && let Poll::Ready(ended) = feeding.as_mut().poll(cx)
        {
            self.feeding = None;
            if let Err(failure) = ended {
                // What waits to be sent is of no use any more.
                self.messages.close();
                while self.messages.try_recv().is_ok() {}
                return Poll::Ready(Some(Err(failure.into())));
            }
        }
        let message = ready!(self.messages.poll_recv(cx));
        Poll::Ready(message.map(|down| Ok(follow::response(down))))
    }
}

impl fmt::Debug for Fed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fed").finish_non_exhaustive()
    }
}

/// A message of a follower, or why there are no more.
type Said = Result<pb::FollowRequest, Status>;

/// Feeds a follower until it goes, or must go.
async fn feed(
    node: Arc<CheckNode>,
    incoming: BoxStream<'static, Said>,
    outgoing: mpsc::Sender<ToFollower>,
) -> Result<(), Failure> {
    let mut failure = None;
    let words = words(incoming, HELLO_TIMEOUT).map(|up| up.map_err(|found| failure = Some(found)));
    let ended = serve(node, words, outgoing).await;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(ended?),
    }
}

/// What a follower says, in words. The first must come within `patience`.
fn words(
    incoming: BoxStream<'static, Said>,
    patience: Duration,
) -> impl Stream<Item = Result<ToUpstream, Failure>> {
    unfold((incoming, Some(patience)), async |(mut incoming, patience)| {
        let next = incoming.next();
        let said = match patience {
            Some(patience) => match timeout(patience, next).await {
                Ok(said) => said?,
                Err(_) => return Some((Err(late()), (incoming, None))),
            },
            None => next.await?,
        };
        let up = match said {
            Ok(message) => follow::up(message).map_err(Failure::from),
            Err(status) => Err(unread_in_stream(status, REQUEST_LENGTH_MAX)),
        };
        Some((up, (incoming, None)))
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::stream::{iter, pending};
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn only_the_first_word_must_come_soon() {
        let patience = Duration::from_millis(1);
        let mut silent = pin!(words(pending().boxed(), patience));
        let late = silent.next().await.unwrap().unwrap_err();
        assert_eq!(Status::from(late).code(), Code::DeadlineExceeded);

        let said = iter([Ok(follow::request(ToUpstream::Leave))]).chain(pending());
        let mut slow = pin!(words(said.boxed(), patience));
        assert!(matches!(slow.next().await, Some(Ok(ToUpstream::Leave))));
        assert!(timeout(10 * patience, slow.next()).await.is_err(), "it may think about the next");
    }
}
