//! The resources of a call: a permit of the caller, and the bytes of its messages.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio_util::bytes::Bytes;
use tonic::{Status, body::Body};

use crate::{
    api::grpc::{disconnected, excess, too_long},
    auth::UnauthenticatedCall,
    service::keyed_semaphore::{KeyedPermit, KeyedSemaphore},
};

/// Bytes of a request or a chunk of a response that are not counted: they are part of the memory
/// that each call takes. Most messages are shorter.
pub(super) const UNCOUNTED_BYTES: usize = 4 * 1_024;

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

/// A message whose bytes are counted while it arrives, if the call has a permit.
pub(super) struct CountedBody {
    inner: Body,
    length: usize,
    length_max: usize,
    permit: Option<Arc<CallPermit>>,
}

/// The resource of a call until the response is written.
#[derive(Debug, Clone)]
pub(super) enum Holder {
    Caller(Arc<CallPermit>),
    Unauthenticated(#[expect(dead_code, reason = "counts until dropped")] Arc<UnauthenticatedCall>),
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
    pub(in crate::api) fn try_count(&self, count: usize) -> bool {
        let mut bytes = self.bytes.lock();
        match &mut *bytes {
            Some(held) => held.try_grow(count),
            none => {
                *none = self.byte_quota.try_acquire_many(&self.caller, count);
                none.is_some()
            }
        }
    }

    /// The identity of the caller.
    pub(super) fn caller(&self) -> &Arc<str> {
        &self.caller
    }

    /// A share of `count` bytes in the quota. `None`: the caller exceeds the quota.
    pub(super) fn try_share(&self, count: usize) -> Option<KeyedPermit<Arc<str>>> {
        self.byte_quota.try_acquire_many(&self.caller, count)
    }
}

// === impl CountedBody ===

impl CountedBody {
    /// A message of at most `length_max` bytes.
    pub(super) fn new(inner: Body, length_max: usize, permit: Option<Arc<CallPermit>>) -> Self {
        Self { inner, length: 0, length_max, permit }
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
            // Nothing reads trailers of a request, and a call must not keep them while it waits.
            Some(Ok(frame)) if frame.is_trailers() => return Poll::Ready(None),
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            // A client that resets the stream or the connection is not a fault of the server.
            Some(Err(_)) => return Poll::Ready(Some(Err(disconnected()))),
            None => 0,
        };
        let before = self.length.max(UNCOUNTED_BYTES);
        self.length += count;
        if self.length > self.length_max {
            return Poll::Ready(Some(Err(too_long(self.length_max))));
        }
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
