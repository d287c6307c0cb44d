//! `Replication`: the upstream side of a stream between check nodes.

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
            call::admit_to,
            status::{Failure, credentials_expired, late_message, unread_in_stream},
        },
        proto::replication::v1::{self as rpb, replication_server::Replication},
    },
    domain::{Action, Caller, Scope},
    node::{
        CheckNode,
        follower_session::{SessionEnd, serve},
        message::{ToFollower, ToUpstream},
    },
    service::keyed_semaphore::{KeyedPermit, KeyedSemaphore},
};

pub use crate::api::grpc::convert::replication::{
    parse_request, parse_response, request, response,
};

/// The maximum length of a message from a follower, in bytes. Such a message is not counted.
pub const REQUEST_LENGTH_MAX: usize = 4 * 1_024;
/// The maximum length of a message to a follower, in bytes, twice that of the longest real message.
/// The decoded message may take a hundred times as much memory.
pub const RESPONSE_LENGTH_MAX: usize = 128 * 1_024;
/// The time in which a follower must send its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which a follower must send each further message. A follower sends at least ten pings
/// in one lease duration, which is five minutes at most.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
/// The maximum number of messages that wait to be sent to one follower.
const QUEUE_LENGTH: usize = 1;

/// The service at a node that other nodes may follow.
#[derive(Debug, Clone)]
pub struct ReplicationService {
    node: Arc<CheckNode>,
    /// Streams of each caller, by [`Caller::identity`](crate::domain::Caller::identity).
    followers: Arc<KeyedSemaphore<Arc<str>>>,
}

impl ReplicationService {
    /// The service at `node`, with a maximum number of followers for each caller, and for all.
    pub fn new(node: Arc<CheckNode>, followers_per_caller: usize, followers: usize) -> Self {
        let streams = KeyedSemaphore::new(followers_per_caller).with_total(followers);
        Self { node, followers: Arc::new(streams) }
    }
}

#[async_trait]
impl Replication for ReplicationService {
    type FollowStream = FollowStream;

    async fn follow(
        &self,
        request: Request<Streaming<rpb::FollowRequest>>,
    ) -> Result<Response<FollowStream>, Status> {
        let caller = admit_to(Action::Follow, Scope::Global, request.extensions())?;
        let permit = self.followers.try_acquire(&caller.identity).ok_or(SessionEnd::TooMany);
        let permit = permit.map_err(Failure::from)?;
        let (node, incoming) = (Arc::clone(&self.node), request.into_inner().boxed());
        Ok(Response::new(FollowStream::new(node, &caller, incoming, permit)))
    }
}

/// The messages to one follower. The session runs only when this stream is polled, so a follower
/// that does not read causes no work. Dropping the stream ends the session.
pub struct FollowStream {
    /// `None`: the session has ended.
    session: Option<BoxFuture<'static, Result<(), Failure>>>,
    messages: mpsc::Receiver<ToFollower>,
    _permit: KeyedPermit<Arc<str>>,
}

impl FollowStream {
    fn new(
        node: Arc<CheckNode>,
        caller: &Caller,
        incoming: BoxStream<'static, Incoming>,
        permit: KeyedPermit<Arc<str>>,
    ) -> Self {
        let (outgoing, messages) = mpsc::channel(QUEUE_LENGTH);
        let valid_for = caller.valid_for;
        let session = run_session(node, Arc::clone(&caller.identity), incoming, outgoing);
        let session = async move {
            match valid_for {
                Some(limit) => timeout(limit, session).await.unwrap_or(Err(credentials_expired())),
                None => session.await,
            }
        };
        Self { session: Some(Box::pin(session)), messages, _permit: permit }
    }
}

impl Stream for FollowStream {
    type Item = Result<rpb::FollowResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(session) = &mut self.session
            && let Poll::Ready(ended) = session.as_mut().poll(cx)
        {
            self.session = None;
            if let Err(failure) = ended {
                // Queued messages are of no use after an error.
                self.messages.close();
                while self.messages.try_recv().is_ok() {}
                return Poll::Ready(Some(Err(failure.into())));
            }
        }
        let message = ready!(self.messages.poll_recv(cx));
        Poll::Ready(message.map(|message| Ok(response(message))))
    }
}

impl fmt::Debug for FollowStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowStream").finish_non_exhaustive()
    }
}

/// A message of a follower, or the error that ended the stream.
type Incoming = Result<rpb::FollowRequest, Status>;

async fn run_session(
    node: Arc<CheckNode>,
    credential: Arc<str>,
    incoming: BoxStream<'static, Incoming>,
    outgoing: mpsc::Sender<ToFollower>,
) -> Result<(), Failure> {
    let mut failure = None;
    let messages = parsed(incoming, HELLO_TIMEOUT, SILENCE_TIMEOUT)
        .map(|message| message.map_err(|found| failure = Some(found)));
    let ended = serve(node, credential, messages, outgoing).await;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(ended?),
    }
}

/// The parsed messages of a follower. The first must arrive within `hello_timeout`, and each
/// further one within `silence_timeout`: a silent follower must not keep a slot.
fn parsed(
    incoming: BoxStream<'static, Incoming>,
    hello_timeout: Duration,
    silence_timeout: Duration,
) -> impl Stream<Item = Result<ToUpstream, Failure>> {
    unfold((incoming, hello_timeout), move |(mut incoming, limit)| async move {
        let message = match timeout(limit, incoming.next()).await {
            Ok(Some(Ok(message))) => parse_request(message).map_err(Failure::from),
            Ok(Some(Err(status))) => Err(unread_in_stream(status, REQUEST_LENGTH_MAX)),
            Ok(None) => return None,
            Err(_) => Err(late_message()),
        };
        Some((message, (incoming, silence_timeout)))
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::stream::{iter, pending};
    use tokio::time::{Instant, sleep};
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_follower_loses_its_stream() {
        let ends = async |sent: usize| {
            let sent = iter((0..sent).map(|_| Ok(request(ToUpstream::Leave))));
            let incoming = sent.chain(pending()).boxed();
            let mut messages = pin!(parsed(incoming, HELLO_TIMEOUT, SILENCE_TIMEOUT));
            let started = Instant::now();
            loop {
                if let Err(late) = messages.next().await.unwrap() {
                    assert_eq!(Status::from(late).code(), Code::DeadlineExceeded);
                    return started.elapsed().as_secs();
                }
            }
        };
        assert_eq!(ends(0).await, HELLO_TIMEOUT.as_secs());
        assert_eq!(ends(3).await, SILENCE_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_that_pings_with_the_longest_lease_keeps_its_stream() {
        let interval = Duration::from_mins(5) / 10;
        let pings = unfold((), move |()| async move {
            sleep(interval).await; // virtual time
            Some((Ok(request(ToUpstream::Ping { seq: 1 })), ()))
        });
        let mut messages = pin!(parsed(pings.boxed(), HELLO_TIMEOUT + interval, SILENCE_TIMEOUT));
        for _ in 0..100 {
            assert!(matches!(messages.next().await, Some(Ok(ToUpstream::Ping { .. }))));
        }
    }
}
