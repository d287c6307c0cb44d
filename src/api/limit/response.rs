//! The bytes of a response, until the transport has written them.
//!
//! The transport drops a body once it has all bytes, and polls no body without a window. So a body
//! can neither count nor time its own bytes: each chunk does.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::task::AtomicWaker;
use http::{HeaderValue, Response};
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tokio_util::bytes::Bytes;
use tonic::{Status, body::Body};

use crate::{
    api::{
        grpc::{excess_trailers, reject_late},
        limit::permit::{Holder, UNCOUNTED_BYTES},
    },
    service::{
        keyed_semaphore::KeyedPermit,
        unsent::{Unsent, UnsentChunk},
    },
};

/// Number of unsent bytes of one response above which the next chunk waits.
const UNSENT_MAX: usize = 64 * 1_024;

pin_project! {
    /// The future of a response, with a timeout and the permit of the call.
    pub struct LimitedFuture<F> {
        #[pin]
        inner: F,
        timeout: Duration,
        // Created if the response is not ready at once.
        deadline: Option<Pin<Box<Sleep>>>,
        holder: Option<Holder>,
        is_held_by_response: bool,
        // The unsent bytes of the connection.
        unsent: Arc<Unsent>,
    }
}

/// A response whose chunks count until they are written.
pub(super) struct TrackedBody {
    inner: Body,
    holder: Option<Holder>,
    /// The unsent bytes of the connection.
    unsent: Arc<Unsent>,
    in_flight: Arc<InFlight>,
    /// Counts until the transport asks for the next bytes. Without a window, it never does.
    not_polled: Option<UnsentChunk>,
    /// The chunk that waits. Trailers never wait, so that a shutdown ends no whole response.
    next: Option<Bytes>,
    has_ended: bool,
}

/// The unsent bytes of one response.
#[derive(Default)]
struct InFlight {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

/// The longest header of an error, which the transport owns.
struct HeldHeader {
    bytes: Bytes,
    _age: UnsentChunk,
    _holder: Option<Holder>,
}

/// Bytes that the transport owns.
struct Chunk {
    bytes: Bytes,
    in_flight: Arc<InFlight>,
    _age: UnsentChunk,
    _share: Option<KeyedPermit<Arc<str>>>,
    _holder: Option<Holder>,
}

// === impl LimitedFuture ===

impl<F> LimitedFuture<F> {
    /// If `is_held_by_response`, `holder` is released once the response is written or dropped.
    /// Otherwise, `holder` is released once the response starts.
    pub(super) fn new(
        inner: F,
        timeout: Duration,
        holder: Option<Holder>,
        is_held_by_response: bool,
        unsent: Arc<Unsent>,
    ) -> Self {
        Self { inner, timeout, deadline: None, holder, is_held_by_response, unsent }
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
        let holder = this.holder.take().filter(|_| *this.is_held_by_response);
        let unsent = Arc::clone(this.unsent);
        Poll::Ready(response.map(|response| {
            if response.body().is_end_stream() {
                return hold_in_header(response, holder, &unsent);
            }
            response.map(|inner| Body::new(TrackedBody::new(inner, holder, unsent)))
        }))
    }
}

/// Moves `holder` into the longest header of an error. The transport keeps the header until the
/// client reads, and drops the body earlier. A response without details holds nothing.
fn hold_in_header(
    mut response: Response<Body>,
    holder: Option<Holder>,
    unsent: &Arc<Unsent>,
) -> Response<Body> {
    if let Some(value) = response.headers_mut().get_mut(Status::GRPC_STATUS_DETAILS) {
        let bytes = Bytes::copy_from_slice(value.as_bytes());
        let age = unsent.start();
        let held = HeldHeader { bytes, _age: age, _holder: holder };
        if let Ok(mut owner) = HeaderValue::from_maybe_shared(Bytes::from_owner(held)) {
            // Otherwise the table of the header compression would keep the value.
            owner.set_sensitive(true);
            *value = owner;
        }
    }
    response
}

impl<F> fmt::Debug for LimitedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedFuture").field("holder", &self.holder).finish_non_exhaustive()
    }
}

// === impl TrackedBody ===

impl TrackedBody {
    /// A body that keeps `holder` until everything is written.
    pub(super) fn new(inner: Body, holder: Option<Holder>, unsent: Arc<Unsent>) -> Self {
        let not_polled = Some(unsent.start());
        let in_flight = Arc::default();
        Self { inner, holder, unsent, in_flight, not_polled, next: None, has_ended: false }
    }

    /// `None`: the bytes exceed the quota.
    fn chunk(&self, bytes: Bytes) -> Option<Bytes> {
        let count = bytes.len();
        let (bytes, share) = match &self.holder {
            // A copy, because the buffer of an encoder is larger.
            _ if count <= UNCOUNTED_BYTES => (Bytes::copy_from_slice(&bytes), None),
            Some(Holder::Caller(permit)) => (bytes, Some(permit.try_share(count)?)),
            _ => (bytes, None),
        };
        self.in_flight.bytes.fetch_add(count, Ordering::Relaxed);
        Some(Bytes::from_owner(Chunk {
            bytes,
            in_flight: Arc::clone(&self.in_flight),
            _age: self.unsent.start(),
            _share: share,
            _holder: self.holder.clone(),
        }))
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.not_polled = None;
        if self.has_ended {
            return Poll::Ready(None);
        }
        if self.next.is_none() {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(bytes) => self.next = Some(bytes),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        ready!(self.in_flight.poll_room(cx));
        let chunk = self.next.take().and_then(|bytes| self.chunk(bytes));
        self.not_polled = Some(self.unsent.start());
        Poll::Ready(Some(Ok(chunk.map_or_else(
            || {
                self.inner = Body::empty();
                self.has_ended = true;
                Frame::trailers(excess_trailers())
            },
            Frame::data,
        ))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || (self.next.is_none() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl InFlight ===

impl InFlight {
    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < UNSENT_MAX
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // The transport may have written the bytes before the registration.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }
}

// === impl Held ===

impl AsRef<[u8]> for HeldHeader {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

// === impl Chunk ===

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.in_flight.bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.in_flight.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use futures::{FutureExt, StreamExt};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::{api::limit::permit::CallPermit, service::keyed_semaphore::KeyedSemaphore};

    const LARGE: usize = 2 * UNSENT_MAX;

    /// A response of two large chunks to a caller with a quota of one.
    fn response(unsent: &Arc<Unsent>, quota: &Arc<KeyedSemaphore<Arc<str>>>) -> TrackedBody {
        let caller: Arc<str> = "mallory".into();
        let call = Arc::new(KeyedSemaphore::new(1)).try_acquire(&caller).unwrap();
        let permit = Arc::new(CallPermit::new(call, Arc::clone(quota), caller));
        let chunks = [0, 1].map(|byte| Ok::<_, Status>(Frame::data(vec![byte; LARGE].into())));
        let inner = Body::new(StreamBody::new(futures::stream::iter(chunks)));
        TrackedBody::new(inner, Some(Holder::Caller(permit)), Arc::clone(unsent))
    }

    #[test]
    fn a_body_that_the_transport_does_not_poll_is_unsent() {
        let unsent: Arc<Unsent> = Arc::default();
        let is_unsent = || unsent.oldest().is_some();
        let frames = [Ok::<_, Status>(Frame::data(vec![1].into()))];
        let frames = futures::stream::iter(frames).chain(futures::stream::pending());
        let mut body =
            TrackedBody::new(Body::new(StreamBody::new(frames)), None, Arc::clone(&unsent));
        assert!(is_unsent(), "the transport has no window");
        drop(body.frame().now_or_never().unwrap().unwrap().unwrap());
        assert!(is_unsent(), "no window for more");
        assert!(body.frame().now_or_never().is_none());
        assert!(!is_unsent(), "there is nothing to send");
    }

    #[test]
    fn a_chunk_counts_until_it_is_dropped() {
        let (unsent, quota) = (Arc::default(), Arc::new(KeyedSemaphore::new(LARGE)));
        let mut body = response(&unsent, &quota);
        let first = body.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap();
        assert!(unsent.oldest().is_some());
        assert!(quota.try_acquire(&"mallory".into()).is_none());
        assert!(body.frame().now_or_never().is_none(), "the second chunk waits for the first");
        let part = first.slice(LARGE - 1..);
        drop(first);
        assert!(body.frame().now_or_never().is_none());
        drop(part);
        assert!(body.frame().now_or_never().unwrap().unwrap().unwrap().is_data());
        drop(body);
        assert!(unsent.oldest().is_none());
        assert!(quota.try_acquire_many(&"mallory".into(), LARGE).is_some());
    }

    #[test]
    fn an_error_holds_the_permit_of_the_call_until_it_is_dropped() {
        let calls = Arc::new(KeyedSemaphore::new(1));
        let caller: Arc<str> = "mallory".into();
        let call = calls.try_acquire(&caller).unwrap();
        let permit = CallPermit::new(call, Arc::new(KeyedSemaphore::new(1)), Arc::clone(&caller));
        let rejected = ready(Ok::<_, Infallible>(reject_late()));
        let holder = Some(Holder::Caller(Arc::new(permit)));
        let unsent = Arc::default();
        let call = LimitedFuture::new(rejected, Duration::MAX, holder, true, Arc::clone(&unsent));
        let response = call.now_or_never().unwrap().unwrap();
        let details = response.headers()[Status::GRPC_STATUS_DETAILS].clone();
        assert_eq!(details, reject_late().headers()[Status::GRPC_STATUS_DETAILS]);
        drop(response);
        assert!(calls.try_acquire(&caller).is_none() && unsent.oldest().is_some());
        drop(details);
        assert!(calls.try_acquire(&caller).is_some() && unsent.oldest().is_none());
    }

    #[test]
    fn a_response_beyond_the_quota_ends_with_an_error() {
        let quota = Arc::new(KeyedSemaphore::new(LARGE - 1));
        let mut body = response(&Arc::default(), &quota);
        let end = body.frame().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(end.trailers_ref().unwrap()["grpc-status"], "8");
        assert!(body.is_end_stream());
    }
}
