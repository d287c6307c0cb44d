//! A layer that ends long-lived streams when the server shuts down.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service};

use crate::api::grpc::shutdown_trailers;

/// Creates [`ShutdownService`]s.
#[derive(Debug, Clone)]
pub struct ShutdownLayer {
    stop: CancellationToken,
}

/// Once `stop` is cancelled, a stream without a pending message ends with `UNAVAILABLE`, so that
/// its caller connects to another server. A response that is being written is completed.
#[derive(Debug, Clone)]
pub struct ShutdownService<S> {
    inner: S,
    stop: CancellationToken,
}

pin_project! {
    /// The future of a response.
    #[derive(Debug)]
    pub struct ShutdownFuture<F> {
        #[pin]
        inner: F,
        stop: CancellationToken,
    }
}

pin_project! {
    /// A response body that ends at shutdown.
    #[derive(Debug)]
    pub struct ShutdownBody<B> {
        #[pin]
        inner: B,
        stop: CancellationToken,
        // Created if no frame is ready, which does not happen to unary calls.
        stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
        has_ended: bool,
    }
}

// === impl ShutdownLayer ===

impl ShutdownLayer {
    /// Ends streams once `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop }
    }
}

impl<S> Layer<S> for ShutdownLayer {
    type Service = ShutdownService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ShutdownService { inner, stop: self.stop.clone() }
    }
}

// === impl ShutdownService ===

impl<S, Q, R> Service<Request<Q>> for ShutdownService<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
{
    type Response = Response<ShutdownBody<R>>;
    type Error = S::Error;
    type Future = ShutdownFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        ShutdownFuture { inner: self.inner.call(request), stop: self.stop.clone() }
    }
}

// === impl ShutdownFuture ===

impl<F, R, E> Future for ShutdownFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ShutdownBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let stop = &*this.stop;
        this.inner.poll(cx).map_ok(|response| {
            response.map(|inner| ShutdownBody {
                inner,
                stop: stop.clone(),
                stopped: None,
                has_ended: false,
            })
        })
    }
}

// === impl ShutdownBody ===

impl<B: Default> Default for ShutdownBody<B> {
    fn default() -> Self {
        let stop = CancellationToken::new();
        Self { inner: B::default(), stop, stopped: None, has_ended: false }
    }
}

impl<B: Body> Body for ShutdownBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        if *this.has_ended {
            return Poll::Ready(None);
        }
        if let ready @ Poll::Ready(_) = this.inner.as_mut().poll_frame(cx) {
            return ready;
        }
        let stop = &*this.stop;
        let stopped = this.stopped.get_or_insert_with(|| Box::pin(stop.clone().cancelled_owned()));
        if stopped.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // A message from before the shutdown, such as NOT_SERVING, is still sent.
        if let ready @ Poll::Ready(_) = this.inner.poll_frame(cx) {
            return ready;
        }
        *this.has_ended = true;
        Poll::Ready(Some(Ok(Frame::trailers(shutdown_trailers()))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
