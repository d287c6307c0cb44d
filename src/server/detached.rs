//! A layer around a service whose calls must not be dropped half-way.

use std::{
    convert::Infallible,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Code, Status, body::Body, server::NamedService};
use tower::Service;

use crate::{
    api::{
        grpc::{MESSAGE_LENGTH_MAX, Unread, refuse_unread},
        limit::Place,
    },
    server::tasks::Tasks,
};

/// The most calls under way at a time. More wait: they are not counted by their connections if callers hang up.
const CALLS_MAX: usize = 1_024;
/// The longest that a caller may take to send its message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX_LENGTH: usize = 5;

/// A call begins once its message is here: until then it takes no place, and whoever hangs up has asked for nothing.
///
/// A call once begun runs to its end, even if its caller hangs up or its deadline passes: a transaction is committed or
/// rolled back because of what was asked, not because of when somebody stopped listening.
#[derive(Debug, Clone)]
pub(super) struct Detached<S> {
    inner: S,
    tasks: Tasks,
    room: Arc<Semaphore>,
    patience: Duration,
}

impl<S> Detached<S> {
    /// Runs the calls of `inner` as `tasks`.
    pub(super) fn new(inner: S, tasks: Tasks) -> Self {
        let room = Arc::new(Semaphore::new(CALLS_MAX));
        Self { inner, tasks, room, patience: MESSAGE_TIMEOUT }
    }
}

impl<S> Service<Request<Body>> for Detached<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.uri().path().to_owned();
        // As long as the call goes on, whoever hung up has one more.
        let of_caller = request.extensions().get::<Arc<Place>>().cloned();
        // The one that is ready.
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        let (tasks, room) = (self.tasks.clone(), Arc::clone(&self.room));
        let read = timeout(self.patience, read_whole(request));
        Box::pin(async move {
            let request = match read.await.unwrap_or(Err(Unread::Late)) {
                Ok(request) => request,
                Err(why) => return Ok(refuse_unread(why)),
            };
            let place = room.acquire_owned().await;
            let in_its_place = async move {
                let _places = (place, of_caller);
                inner.call(request).await
            };
            tasks.detached(name, in_its_place).await
        })
    }
}

impl<S: NamedService> NamedService for Detached<S> {
    const NAME: &'static str = S::NAME;
}

/// The request with all of its body.
async fn read_whole(request: Request<Body>) -> Result<Request<Body>, Unread> {
    let (parts, body) = request.into_parts();
    match Limited::new(body, MESSAGE_LENGTH_MAX + PREFIX_LENGTH).collect().await {
        Ok(body) => Ok(Request::from_parts(parts, Body::new(body))),
        Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLong),
        Err(error) => Err(match error.downcast_ref::<Status>().map(Status::code) {
            Some(Code::ResourceExhausted) => Unread::Excess,
            _ => Unread::BrokenOff,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::FutureExt;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use tokio_util::bytes::Bytes;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// What a call with this body comes to, and how many calls it made. Nobody waits longer than `patience`.
    async fn answer(body: Body, patience: Duration) -> (Option<Code>, usize) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let inner = service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Status::ok("").into_http()) }
        });
        let detached = Detached { patience, ..Detached::new(inner, Tasks::new()) };
        let response = detached.oneshot(Request::new(body)).await.unwrap();
        let status = Status::from_header_map(response.headers());
        (status.map(|it| it.code()), calls.load(Ordering::SeqCst))
    }

    fn never_sent() -> Body {
        let frames = futures::stream::once(pending::<Result<Frame<Bytes>, Status>>());
        Body::new(StreamBody::new(frames))
    }

    #[tokio::test]
    async fn only_calls_with_a_whole_message_are_made() {
        let patience = MESSAGE_TIMEOUT;
        let longest = MESSAGE_LENGTH_MAX + PREFIX_LENGTH;
        let sent = |length| Body::new(Full::from(vec![0; length]));
        assert_eq!(answer(sent(longest), patience).await, (Some(Code::Ok), 1));
        let too_long = answer(sent(longest + 1), patience).await;
        assert_eq!(too_long, (Some(Code::InvalidArgument), 0));
        let late = answer(never_sent(), Duration::from_millis(1)).await;
        assert_eq!(late, (Some(Code::DeadlineExceeded), 0));
        let broken = futures::stream::iter([Err::<Frame<Bytes>, _>(Status::cancelled("gone"))]);
        let broken = answer(Body::new(StreamBody::new(broken)), patience).await;
        assert_eq!(broken, (Some(Code::Cancelled), 0));
    }

    #[tokio::test]
    async fn a_call_without_its_message_takes_no_place() {
        let inner = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::default()));
        let detached = Detached::new(inner, Tasks::new());
        let mut waiting = Box::pin(detached.clone().oneshot(Request::new(never_sent())));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(detached.room.available_permits(), CALLS_MAX);
    }
}
