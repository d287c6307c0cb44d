//! A layer that completes calls even if callers disconnect.

use std::{
    convert::Infallible,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::api::{
    grpc::{Unread, reject_unread},
    limit::CallPermit,
    message::{read_message, whole},
};

/// Maximum number of concurrent calls. Further calls wait. The limit of a connection does not count
/// calls whose callers have disconnected.
const CALLS_MAX: usize = 1_024;
/// Timeout for the arrival of a whole message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs futures as tasks.
pub trait Spawn: Clone + Send + Sync + 'static {
    /// Runs `future` to completion, even if the returned future is dropped.
    fn spawn_detached<T: Send + 'static>(
        &self,
        name: String,
        future: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T>;
}

/// Starts a call once the whole message has arrived. Until then, the call holds no permit, and a
/// caller that disconnects has changed nothing.
///
/// A started call runs to completion, even if the caller disconnects or the deadline passes. So the
/// outcome of a transaction depends on the request, and not on when the caller stops waiting.
#[derive(Debug, Clone)]
pub struct Detached<S, T> {
    inner: S,
    spawner: T,
    permits: Arc<Semaphore>,
    message_timeout: Duration,
}

impl<S, T> Detached<S, T> {
    /// Runs the calls of `inner` on `spawner`.
    pub fn new(inner: S, spawner: T) -> Self {
        let permits = Arc::new(Semaphore::new(CALLS_MAX));
        Self { inner, spawner, permits, message_timeout: MESSAGE_TIMEOUT }
    }
}

impl<S, T> Service<Request<Body>> for Detached<S, T>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    T: Spawn,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.uri().path().to_owned();
        // Held until the call ends, so that a caller cannot exceed the limit by disconnecting.
        let call_permit = request.extensions().get::<Arc<CallPermit>>().cloned();
        // `self.inner` was polled ready; the clone was not.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let (spawner, permits) = (self.spawner.clone(), Arc::clone(&self.permits));
        let message_timeout = self.message_timeout;
        Box::pin(async move {
            let try_count = |size| call_permit.as_ref().is_none_or(|permit| permit.try_count(size));
            let read = timeout(message_timeout, read_message(request, try_count));
            let request = match read.await.unwrap_or(Err(Unread::Late)) {
                Ok((parts, body)) => Request::from_parts(parts, whole(body)),
                Err(reason) => return Ok(reject_unread(reason)),
            };
            let permit = permits.acquire_owned().await;
            let call = async move {
                let _permits = (permit, call_permit);
                inner.call(request).await
            };
            spawner.spawn_detached(name, call).await
        })
    }
}

impl<S: NamedService, T> NamedService for Detached<S, T> {
    const NAME: &'static str = S::NAME;
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
    use tonic::{Code, Status};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::api::{grpc::MESSAGE_LENGTH_MAX, message::PREFIX_LENGTH};

    /// Runs futures in place.
    #[derive(Clone)]
    struct InPlace;

    impl Spawn for InPlace {
        fn spawn_detached<T: Send + 'static>(
            &self,
            _name: String,
            future: impl Future<Output = T> + Send + 'static,
        ) -> BoxFuture<'static, T> {
            Box::pin(future)
        }
    }

    /// The code of the response to a call with this body, and the number of calls of the handler.
    async fn outcome(body: Body, message_timeout: Duration) -> (Option<Code>, usize) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let inner = service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Status::ok("").into_http()) }
        });
        let detached = Detached { message_timeout, ..Detached::new(inner, InPlace) };
        let response = detached.oneshot(Request::new(body)).await.unwrap();
        let status = Status::from_header_map(response.headers());
        (status.map(|status| status.code()), calls.load(Ordering::SeqCst))
    }

    fn body_that_never_arrives() -> Body {
        let frames = futures::stream::once(pending::<Result<Frame<Bytes>, Status>>());
        Body::new(StreamBody::new(frames))
    }

    #[tokio::test]
    async fn only_calls_with_a_whole_message_reach_the_handler() {
        let longest = MESSAGE_LENGTH_MAX + PREFIX_LENGTH;
        let body = |length| Body::new(Full::from(vec![0; length]));
        assert_eq!(outcome(body(longest), MESSAGE_TIMEOUT).await, (Some(Code::Ok), 1));
        let too_long = outcome(body(longest + 1), MESSAGE_TIMEOUT).await;
        assert_eq!(too_long, (Some(Code::InvalidArgument), 0));
        let late = outcome(body_that_never_arrives(), Duration::from_millis(1)).await;
        assert_eq!(late, (Some(Code::DeadlineExceeded), 0));
        let reset = futures::stream::iter([Err::<Frame<Bytes>, _>(Status::cancelled("reset"))]);
        let reset = outcome(Body::new(StreamBody::new(reset)), MESSAGE_TIMEOUT).await;
        assert_eq!(reset, (Some(Code::Cancelled), 0));
    }

    #[tokio::test]
    async fn a_call_without_its_message_holds_no_permit() {
        let inner = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::default()));
        let detached = Detached::new(inner, InPlace);
        let request = Request::new(body_that_never_arrives());
        let mut call = Box::pin(detached.clone().oneshot(request));
        assert!(call.as_mut().now_or_never().is_none());
        assert_eq!(detached.permits.available_permits(), CALLS_MAX);
    }
}
