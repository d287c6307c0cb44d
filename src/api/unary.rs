//! Calls with one message in each direction, without the layers of tonic.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use prost::Message;
use tokio_util::bytes::Bytes;

use crate::{
    api::{
        format::{Format, PREFIX_LENGTH},
        grpc::{Failure, Unread},
        limit::{CallPermit, UNCOUNTED_BYTES},
        observe::GRPC_STATUS,
    },
    service::unsent::{Unsent, UnsentChunk},
};

/// The type of every message.
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// The status of a call that was answered.
const OK: HeaderValue = HeaderValue::from_static("0");

/// The body of a response with one message.
#[derive(Debug)]
pub struct UnaryBody {
    message: Option<Bytes>,
    has_ended: bool,
}

/// Bytes that the transport owns, and the holder of the permit of their call.
struct Sent<T, H> {
    bytes: T,
    _age: UnsentChunk,
    _holder: H,
}

/// Decodes the only message of a request, after the prefix.
pub(super) fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Unread> {
    let (prefix, message) = body.split_first_chunk::<PREFIX_LENGTH>().ok_or(Unread::Malformed)?;
    let [compression, length @ ..] = *prefix;
    match compression {
        0 if u32::from_be_bytes(length) as usize == message.len() => {}
        1 => return Err(Unread::Compressed),
        _ => return Err(Unread::Malformed),
    }
    M::decode(message).map_err(|_| Unread::Malformed)
}

/// The response with `message`. The call holds its permit until the transport has written the
/// response.
pub(super) fn respond(
    message: &impl Message,
    format: &Format,
    permit: CallPermit,
    unsent: &Arc<Unsent>,
) -> Result<Response<UnaryBody>, Failure> {
    let size = PREFIX_LENGTH + message.encoded_len();
    if size > UNCOUNTED_BYTES && !permit.try_count(size) {
        return Err(Unread::Excess.into());
    }
    let bytes = format.write(encode(message), &permit)?;
    let grown = bytes.len().saturating_sub(size.max(UNCOUNTED_BYTES));
    if grown > 0 && !permit.try_count(grown) {
        return Err(Unread::Excess.into());
    }
    Ok(response_of(bytes, permit, unsent))
}

/// As [`respond`] for gRPC, with any holder of the permit.
pub(super) fn respond_uncounted(
    message: &impl Message,
    holder: impl Send + Sync + 'static,
    unsent: &Arc<Unsent>,
) -> Response<UnaryBody> {
    response_of(encode(message), holder, unsent)
}

/// The bytes of a response, which own `holder` until the transport has written them.
pub(super) fn hold(
    bytes: impl AsRef<[u8]> + Send + 'static,
    holder: impl Send + Sync + 'static,
    unsent: &Arc<Unsent>,
) -> Bytes {
    Bytes::from_owner(Sent { bytes, _age: unsent.start(), _holder: holder })
}

/// A message with the prefix of gRPC.
pub(super) fn encode(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(PREFIX_LENGTH + length);
    bytes.push(0);
    // A response is shorter than 4 GiB.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(&mut bytes);
    bytes
}

fn response_of(
    bytes: Vec<u8>,
    holder: impl Send + Sync + 'static,
    unsent: &Arc<Unsent>,
) -> Response<UnaryBody> {
    let body = UnaryBody { message: Some(hold(bytes, holder, unsent)), has_ended: false };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

impl<T: AsRef<[u8]>, H> AsRef<[u8]> for Sent<T, H> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl http_body::Body for UnaryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.has_ended = true;
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, OK)]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.message.as_ref().map_or(0, Bytes::len) as u64)
    }
}
