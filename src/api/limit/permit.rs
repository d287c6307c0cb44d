//! The resources of a call: a permit of the caller, and the bytes of the message.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tokio_util::bytes::Bytes;
use tonic::{Status, body::Body};

use crate::{
    api::grpc::{disconnected, excess, reject_late},
    service::keyed_semaphore::{KeyedPermit, KeyedSemaphore},
};

/// Bytes of a message that are not counted. Most messages are much shorter.
const UNCOUNTED_BYTES: usize = 64 * 1_024;

/// The permit of a call. Shared by the parts of the call that may outlive each other: the rest of
/// the message, a detached handler, and the response.
#[derive(Debug)]
pub struct CallPermit {
    _call: KeyedPermit<Arc<str>>,
    /// The bytes in flight of each caller.
    byte_quota: Arc<KeyedSemaphore<Arc<str>>>,
    caller: Arc<str>,
    bytes: Mutex<Option<KeyedPermit<Arc<str>>>>,
}

pin_project! {
    /// The future of a response, with a timeout and the permit of the call.
    #[derive(Debug)]
    pub struct LimitedFuture<F> {
        #[pin]
        inner: F,
        timeout: Duration,
        // Created if the response is not ready at once.
        deadline: Option<Pin<Box<Sleep>>>,
        permit: Option<Arc<CallPermit>>,
        is_held_by_response: bool,
    }
}

/// A message whose bytes are counted while it arrives, if the call has a permit.
pub(super) struct CountedBody {
    inner: Body,
    length: usize,
    permit: Option<Arc<CallPermit>>,
}

/// A response that holds the permit of its call until the response is read or dropped.
struct PermitBody {
    inner: Body,
    _permit: Arc<CallPermit>,
}

// === impl CallPermit ===

impl CallPermit {
    pub(super) fn new(
        call: KeyedPermit<Arc<str>>,
        byte_quota: Arc<KeyedSemaphore<Arc<str>>>,
        caller: Arc<str>,
    ) -> Self {
        Self { _call: call, byte_quota, caller, bytes: Mutex::default() }
    }

    /// Counts `count` further bytes. False: the caller exceeds the quota.
    fn try_count(&self, count: usize) -> bool {
        let mut bytes = self.bytes.lock();
        match &mut *bytes {
            Some(held) => held.try_grow(count),
            none => {
                *none = self.byte_quota.try_acquire_many(&self.caller, count);
                none.is_some()
            }
        }
    }
}

// === impl LimitedFuture ===

impl<F> LimitedFuture<F> {
    /// If `is_held_by_response`, the permit is released once the response is read or dropped.
    /// Otherwise, the permit is released once the response starts.
    pub(super) fn new(
        inner: F,
        timeout: Duration,
        permit: Option<Arc<CallPermit>>,
        is_held_by_response: bool,
    ) -> Self {
        Self { inner, timeout, deadline: None, permit, is_held_by_response }
    }
}

impl<F, E> Future for LimitedFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Poll::Ready(response) = this.inner.poll(cx) else {
            let timeout = *this.timeout;
            let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
            return deadline.as_mut().poll(cx).map(|()| Ok(reject_late()));
        };
        let permit = this.permit.take().filter(|_| *this.is_held_by_response);
        Poll::Ready(response.map(|response| {
            response.map(|inner| match permit {
                Some(permit) if !inner.is_end_stream() => {
                    Body::new(PermitBody { inner, _permit: permit })
                }
                _ => inner,
            })
        }))
    }
}

// === impl CountedBody ===

impl CountedBody {
    pub(super) fn new(inner: Body, permit: Option<Arc<CallPermit>>) -> Self {
        Self { inner, length: 0, permit }
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let count = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            // A client that resets the stream or the connection is not a fault of the server.
            Some(Err(_)) => return Poll::Ready(Some(Err(disconnected()))),
            None => 0,
        };
        let before = self.length.max(UNCOUNTED_BYTES);
        self.length += count;
        let counted = self.length.saturating_sub(before);
        if counted > 0 && !self.permit.as_ref().is_none_or(|permit| permit.try_count(counted)) {
            return Poll::Ready(Some(Err(excess())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl PermitBody ===

impl http_body::Body for PermitBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
