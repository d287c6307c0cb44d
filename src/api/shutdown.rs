//! Ends long-lived streams when the server shuts down.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::api::grpc::shutdown_trailers;

pin_project! {
    /// Once `stop` is cancelled, a stream without a pending message ends with `UNAVAILABLE`, so
    /// that its caller connects to another server. A response that is being written is completed.
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

// === impl ShutdownBody ===

impl<B> ShutdownBody<B> {
    /// Ends `inner` once `stop` is cancelled.
    pub(super) fn new(inner: B, stop: CancellationToken) -> Self {
        Self { inner, stop, stopped: None, has_ended: false }
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
