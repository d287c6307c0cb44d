//! What a call takes up as long as it lasts: one of its caller's places, and the bytes of its message.

use std::{
    fmt,
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

use crate::api::{
    grpc::{broken_off, excess, refuse_late},
    keyed_semaphore::{KeyedPermit, KeyedSemaphore},
};

/// So many bytes of a message count for nothing: most have far less.
const BYTES_FREE: usize = 64 * 1_024;

/// A call's place. Whatever of the call goes on shares it: what is left of its message, those who work on it, its answer.
pub struct Place {
    _call: KeyedPermit<Arc<str>>,
    /// Of its caller, by name.
    received: Arc<KeyedSemaphore<Arc<str>>>,
    name: Arc<str>,
    bytes: Mutex<Option<KeyedPermit<Arc<str>>>>,
}

pin_project! {
    /// The answer to come, in time and in its caller's place.
    pub struct LimitedFuture<F> {
        #[pin]
        inner: F,
        patience: Duration,
        // Only of answers that were not there at once.
        late: Option<Pin<Box<Sleep>>>,
        place: Option<Arc<Place>>,
        keeps_place: bool,
    }
}

/// A message that is counted while it comes in, if it has a place.
pub(super) struct Received {
    inner: Body,
    length: usize,
    place: Option<Arc<Place>>,
}

/// An answer that keeps its place until it was taken, or dropped.
struct Answer {
    inner: Body,
    _place: Arc<Place>,
}

// === impl Place ===

impl Place {
    pub(super) fn new(
        call: KeyedPermit<Arc<str>>,
        received: Arc<KeyedSemaphore<Arc<str>>>,
        name: Arc<str>,
    ) -> Self {
        Self { _call: call, received, name, bytes: Mutex::default() }
    }

    fn has_room_for(&self, more: usize) -> bool {
        let mut bytes = self.bytes.lock();
        match &mut *bytes {
            Some(held) => held.grow(more),
            none => {
                *none = self.received.take_many(&self.name, more);
                none.is_some()
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl LimitedFuture ===

impl<F> LimitedFuture<F> {
    /// `keeps_place`: until the answer was taken, and not only until it begins.
    pub(super) fn new(
        inner: F,
        patience: Duration,
        place: Option<Arc<Place>>,
        keeps_place: bool,
    ) -> Self {
        Self { inner, patience, late: None, place, keeps_place }
    }
}

impl<F, E> Future for LimitedFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Poll::Ready(answer) = this.inner.poll(cx) else {
            let patience = *this.patience;
            let late = this.late.get_or_insert_with(|| Box::pin(sleep(patience)));
            return late.as_mut().poll(cx).map(|()| Ok(refuse_late()));
        };
        let place = this.place.take().filter(|_| *this.keeps_place);
        Poll::Ready(answer.map(|answer| {
            answer.map(|inner| match place {
                Some(place) if !inner.is_end_stream() => Body::new(Answer { inner, _place: place }),
                _ => inner,
            })
        }))
    }
}

impl<F> fmt::Debug for LimitedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedFuture").field("place", &self.place).finish_non_exhaustive()
    }
}

// === impl Received ===

impl Received {
    pub(super) fn new(inner: Body, place: Option<Arc<Place>>) -> Self {
        Self { inner, length: 0, place }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let more = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            // However a caller or its connection goes, nothing is wrong here.
            Some(Err(_)) => return Poll::Ready(Some(Err(broken_off()))),
            None => 0,
        };
        let before = self.length.max(BYTES_FREE);
        self.length += more;
        let counted = self.length.saturating_sub(before);
        if counted > 0 && !self.place.as_ref().is_none_or(|place| place.has_room_for(counted)) {
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

// === impl Answer ===

impl http_body::Body for Answer {
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
