//! The bodies of responses. Their bytes count until the transport has written them.
//!
//! The transport drops a body once it has all bytes, and polls no body without a window. So a body
//! can neither count nor time its own bytes: each chunk does.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::task::AtomicWaker;
use http::{HeaderValue, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio_util::{bytes::Bytes, sync::CancellationToken};
use tonic::{Status, body::Body};

use crate::{
    api::{
        grpc::excess_trailers,
        limit::{BytesPermit, CallPermit, UNCOUNTED_BYTES},
        shutdown::ShutdownBody,
        unary::UnaryBody,
    },
    auth::UnauthenticatedCall,
    service::unsent::{Unsent, UnsentChunk},
};

/// Number of unsent bytes of one response above which the next chunk waits.
const UNSENT_MAX: usize = 64 * 1_024;

/// The body of a response.
#[derive(Debug)]
pub enum CallBody {
    /// One message.
    Unary(UnaryBody),
    /// The response of a tonic route.
    Routed(ShutdownBody<TrackedBody>),
    /// Nothing. The headers contain the status.
    Rejected(Body),
}

/// A body whose chunks count until they are written.
#[derive(Debug)]
pub struct TrackedBody {
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
#[derive(Debug, Default)]
struct InFlight {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

/// The permit of a call, held until its response is written.
#[derive(Debug, Clone)]
pub(super) enum Holder {
    Caller(Arc<CallPermit>),
    Unauthenticated(#[expect(dead_code, reason = "counts until dropped")] Arc<UnauthenticatedCall>),
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
    _share: Option<BytesPermit>,
    _holder: Option<Holder>,
}

/// Moves `holder` into the longest header of an error. The transport keeps the header until the
/// client reads, and drops the body earlier. A response without details holds nothing.
pub(super) fn hold_in_header(
    mut response: Response<Body>,
    holder: Option<Holder>,
    unsent: &Arc<Unsent>,
) -> Response<Body> {
    if let Some(value) = response.headers_mut().get_mut(Status::GRPC_STATUS_DETAILS) {
        let bytes = Bytes::copy_from_slice(value.as_bytes());
        let held = HeldHeader { bytes, _age: unsent.start(), _holder: holder };
        if let Ok(mut owner) = HeaderValue::from_maybe_shared(Bytes::from_owner(held)) {
            // Otherwise the table of the header compression would keep the value.
            owner.set_sensitive(true);
            *value = owner;
        }
    }
    response
}

// === impl CallBody ===

impl CallBody {
    /// The response of a routed call. Ends once `stop` is cancelled, unless it is complete by then.
    pub(super) fn routed(
        response: Response<Body>,
        holder: Option<Holder>,
        unsent: &Arc<Unsent>,
        stop: &CancellationToken,
    ) -> Response<Self> {
        if response.body().is_end_stream() {
            return hold_in_header(response, holder, unsent).map(Self::Rejected);
        }
        response.map(|inner| {
            let tracked = TrackedBody::new(inner, holder, Arc::clone(unsent));
            Self::Routed(ShutdownBody::new(tracked, stop.clone()))
        })
    }
}

impl Default for CallBody {
    fn default() -> Self {
        Self::Rejected(Body::empty())
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Unary(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Routed(body) => Pin::new(body).poll_frame(cx),
            Self::Rejected(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Unary(body) => body.is_end_stream(),
            Self::Routed(body) => body.is_end_stream(),
            Self::Rejected(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Unary(body) => body.size_hint(),
            Self::Routed(body) => body.size_hint(),
            Self::Rejected(body) => body.size_hint(),
        }
    }
}

// === impl TrackedBody ===

impl TrackedBody {
    /// A body that keeps `holder` until everything is written.
    fn new(inner: Body, holder: Option<Holder>, unsent: Arc<Unsent>) -> Self {
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

// === impl HeldHeader ===

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
    use std::num::NonZeroU32;

    use futures::{FutureExt, StreamExt};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::{
        api::{
            grpc::reject_late,
            limit::{CallerLimits, CallerUsage, Limits},
        },
        domain::Action,
    };

    const LARGE: usize = 2 * UNSENT_MAX;

    /// The usage of a caller with a quota of `bytes`.
    fn usage(bytes: usize) -> Arc<CallerUsage> {
        let one = NonZeroU32::MIN;
        let limits = CallerLimits {
            calls: 1,
            calls_in_all: 1,
            bytes,
            bytes_in_all: bytes,
            checks_per_second: one,
            requests_per_second: one,
        };
        Limits::new(limits).usage_of(&"mallory".into())
    }

    /// A response of two large chunks.
    fn response(unsent: &Arc<Unsent>, usage: &Arc<CallerUsage>) -> TrackedBody {
        let permit = Arc::new(usage.admit(None).unwrap());
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
        let (unsent, usage) = (Arc::default(), usage(LARGE));
        let mut body = response(&unsent, &usage);
        let first = body.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap();
        assert!(unsent.oldest().is_some());
        assert_eq!(usage.bytes(), LARGE);
        assert!(body.frame().now_or_never().is_none(), "the second chunk waits for the first");
        let part = first.slice(LARGE - 1..);
        drop(first);
        assert!(body.frame().now_or_never().is_none());
        drop(part);
        assert!(body.frame().now_or_never().unwrap().unwrap().unwrap().is_data());
        drop(body);
        assert!(unsent.oldest().is_none());
        assert_eq!(usage.bytes(), 0);
    }

    #[test]
    fn an_error_holds_the_permit_of_the_call_until_it_is_dropped() {
        let (unsent, usage) = (Arc::default(), usage(LARGE));
        let holder = Holder::Caller(Arc::new(usage.admit(None).unwrap()));
        let response = hold_in_header(reject_late(), Some(holder), &unsent);
        let details = response.headers()[Status::GRPC_STATUS_DETAILS].clone();
        assert_eq!(details, reject_late().headers()[Status::GRPC_STATUS_DETAILS]);
        drop(response);
        assert!(usage.admit(Some(Action::BatchCheckAccess)).is_err() && unsent.oldest().is_some());
        drop(details);
        assert!(usage.admit(Some(Action::BatchCheckAccess)).is_ok() && unsent.oldest().is_none());
    }

    #[test]
    fn a_response_beyond_the_quota_ends_with_an_error() {
        let mut body = response(&Arc::default(), &usage(LARGE - 1));
        let end = body.frame().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(end.trailers_ref().unwrap()["grpc-status"], "8");
        assert!(body.is_end_stream());
    }
}
