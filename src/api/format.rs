//! The form in which a call sends and receives messages. The services see gRPC only.

use std::{
    io::Read,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use flate2::bufread::GzDecoder;
use http::HeaderMap;
use http_body::Frame;
use tokio_util::bytes::Bytes;
use tonic::{Status, body::Body};

use crate::api::{
    grpc::{Failure, Unread, excess, failure_trailers, unwritten},
    json::{self, Method},
    limit::{CallPermit, UNCOUNTED_BYTES},
};

/// Length of the prefix of a gRPC message: a compression flag and the length.
pub(super) const PREFIX_LENGTH: usize = 5;

/// The form of the messages of a call.
#[derive(Debug, Clone)]
pub enum Format {
    /// Messages with the prefix of gRPC.
    Grpc,
    /// A message is a whole body of HTTP.
    Http {
        /// The encoding of messages.
        codec: Codec,
        /// Whether the request is compressed by gzip.
        is_compressed: bool,
    },
}

/// The encoding of a message.
#[derive(Debug, Clone)]
pub enum Codec {
    /// Protobuf.
    Proto,
    /// JSON. The messages of a stream are lines.
    Json(Arc<Method>),
}

/// The response of a service in another form.
struct FormattedBody {
    inner: Body,
    format: Format,
    permit: Arc<CallPermit>,
    has_ended: bool,
}

// === impl Format ===

impl Format {
    /// The length of a body whose message has this length.
    pub(super) fn body_length(&self, message_length: usize) -> usize {
        match self {
            Self::Grpc => message_length + PREFIX_LENGTH,
            Self::Http { .. } => message_length,
        }
    }

    /// The message of a request, with the prefix of gRPC. Expands a message to at most `length_max`
    /// bytes.
    pub(super) fn read(
        &self,
        body: Bytes,
        length_max: usize,
        permit: &CallPermit,
    ) -> Result<Bytes, Unread> {
        let Self::Http { codec, is_compressed } = self else { return Ok(body) };
        let body = if *is_compressed { expand(&body, length_max, permit)?.into() } else { body };
        // The message is shorter than its JSON.
        let length = body.len();
        let _share = if length > UNCOUNTED_BYTES {
            Some(permit.try_share(length).ok_or(Unread::Excess)?)
        } else {
            None
        };
        let mut message = Vec::with_capacity(PREFIX_LENGTH + length);
        message.extend_from_slice(&[0; PREFIX_LENGTH]);
        match codec {
            Codec::Proto => message.extend_from_slice(&body),
            Codec::Json(method) => json::parse(&body, &method.input, permit, &mut message)?,
        }
        // A request is shorter than 4 GiB.
        let length = u32::try_from(message.len() - PREFIX_LENGTH).unwrap_or(u32::MAX);
        message[1..PREFIX_LENGTH].copy_from_slice(&length.to_be_bytes());
        Ok(message.into())
    }

    /// Messages of a response that have the prefix of gRPC, in the form of the call.
    pub(super) fn write(&self, messages: Vec<u8>, permit: &CallPermit) -> Result<Vec<u8>, Failure> {
        let Self::Http { codec, .. } = self else { return Ok(messages) };
        let mut written = Vec::new();
        let mut rest = &messages[..];
        while !rest.is_empty() {
            let (message, next) = split_message(rest).ok_or_else(|| unwritten(&"a cut message"))?;
            rest = next;
            match codec {
                Codec::Proto => written.extend_from_slice(message),
                Codec::Json(method) => {
                    json::write(message, &method.output, permit, &mut written)?;
                    if method.is_streaming {
                        written.push(b'\n');
                    }
                }
            }
        }
        Ok(written)
    }

    /// The response of a service in the form of the call.
    pub(super) fn wrap(&self, inner: Body, permit: &Arc<CallPermit>) -> Body {
        if matches!(self, Self::Grpc) {
            return inner;
        }
        let (format, permit) = (self.clone(), Arc::clone(permit));
        Body::new(FormattedBody { inner, format, permit, has_ended: false })
    }
}

/// Expands bytes that were compressed by gzip. Counts the result while it grows.
fn expand(bytes: &[u8], length_max: usize, permit: &CallPermit) -> Result<Vec<u8>, Unread> {
    let (mut expanded, mut counted) = (Vec::new(), UNCOUNTED_BYTES);
    let mut decoder = GzDecoder::new(bytes);
    loop {
        let part = decoder.by_ref().take(UNCOUNTED_BYTES as u64).read_to_end(&mut expanded);
        if part.map_err(|_| Unread::Malformed)? == 0 {
            break;
        }
        let length = expanded.len();
        if length > length_max {
            return Err(Unread::TooLong { length_max });
        }
        if length > counted {
            if !permit.try_count(length - counted) {
                return Err(Unread::Excess);
            }
            counted = length;
        }
    }
    if decoder.into_inner().is_empty() { Ok(expanded) } else { Err(Unread::Malformed) }
}

/// The first message, and the rest.
fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([_, length @ ..], rest) = bytes.split_first_chunk::<PREFIX_LENGTH>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

// === impl FormattedBody ===

impl FormattedBody {
    fn format(&self, messages: &Bytes) -> Result<Vec<u8>, Failure> {
        let _share = if messages.len() > UNCOUNTED_BYTES {
            Some(self.permit.try_share(messages.len()).ok_or_else(excess)?)
        } else {
            None
        };
        self.format.write(messages.to_vec(), &self.permit)
    }

    fn fail(&mut self, failure: Failure) -> HeaderMap {
        self.has_ended = true;
        self.inner = Body::empty();
        failure_trailers(failure)
    }
}

impl http_body::Body for FormattedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        let frame = frame.into_data().map(|messages| match self.format(&messages) {
            Ok(written) => Frame::data(written.into()),
            Err(failure) => Frame::trailers(self.fail(failure)),
        });
        Poll::Ready(Some(Ok(frame.unwrap_or_else(|trailers| trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.inner.is_end_stream()
    }
}
