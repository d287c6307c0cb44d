//! The form in which a call sends and receives messages. The services see gRPC only.

use std::{
    fmt::Debug,
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
    grpc::{Failure, Unread, failure_trailers, unwritten},
    json::{self, Method},
    limit::{CallPermit, UNCOUNTED_BYTES},
};

/// Length of the prefix of a gRPC message: a compression flag and the length.
pub(super) const PREFIX_LENGTH: usize = 5;

/// A compressed message may expand to this length, in bytes,
const EXPANDED_MIN: usize = 64 * 1_024;
/// and further by this factor. So few bytes cause little work.
const EXPANSION_MAX: usize = 64;

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
    /// The messages of another API.
    Translated(Arc<dyn Translator>),
}

/// Translates the request and the response of one call from and to another API.
pub trait Translator: Debug + Send + Sync {
    /// Appends the encoded message of the request `text` to `encoded`. Counts the memory that the
    /// translation takes.
    fn read(&self, text: &[u8], permit: &CallPermit, encoded: &mut Vec<u8>) -> Result<(), Unread>;

    /// Appends the text of the encoded `message` of the response to `text`. Counts the memory that
    /// the translation takes.
    fn write(&self, message: &[u8], permit: &CallPermit, text: &mut Vec<u8>)
    -> Result<(), Failure>;
}

/// The response of a service in another form.
struct FormattedBody {
    inner: Body,
    codec: Codec,
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
        let _share = permit.try_convert(length).ok_or(Unread::Excess)?;
        let mut message = Vec::with_capacity(PREFIX_LENGTH + length);
        message.extend_from_slice(&[0; PREFIX_LENGTH]);
        match codec {
            Codec::Proto => message.extend_from_slice(&body),
            Codec::Json(method) => json::parse(&body, &method.input, permit, &mut message)?,
            Codec::Translated(translator) => translator.read(&body, permit, &mut message)?,
        }
        // A request is shorter than 4 GiB.
        let length = u32::try_from(message.len() - PREFIX_LENGTH).unwrap_or(u32::MAX);
        message[1..PREFIX_LENGTH].copy_from_slice(&length.to_be_bytes());
        Ok(message.into())
    }

    /// The message of a response, which has the prefix of gRPC, in the form of the call.
    pub(super) fn write(&self, message: Vec<u8>, permit: &CallPermit) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Grpc => Ok(message),
            Self::Http { codec, .. } => codec.write(&message, permit),
        }
    }

    /// The response of a service in the form of the call.
    pub(super) fn wrap(&self, inner: Body, permit: &Arc<CallPermit>) -> Body {
        let Self::Http { codec, .. } = self else { return inner };
        let (codec, permit) = (codec.clone(), Arc::clone(permit));
        Body::new(FormattedBody { inner, codec, permit, has_ended: false })
    }
}

// === impl Codec ===

impl Codec {
    /// Messages with the prefix of gRPC, without the prefix.
    fn write(&self, mut messages: &[u8], permit: &CallPermit) -> Result<Vec<u8>, Failure> {
        let mut written = Vec::new();
        while !messages.is_empty() {
            let (message, rest) =
                split_message(messages).ok_or_else(|| unwritten(&"a cut message"))?;
            messages = rest;
            match self {
                Self::Proto => written.extend_from_slice(message),
                Self::Json(method) => {
                    json::write(message, &method.output, permit, &mut written)?;
                    if method.is_streaming {
                        written.push(b'\n');
                    }
                }
                Self::Translated(translator) => {
                    translator.write(message, permit, &mut written)?;
                }
            }
        }
        Ok(written)
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
        if length > EXPANDED_MIN + EXPANSION_MAX * bytes.len() {
            return Err(Unread::Expanded);
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
        let frame = match frame.into_data() {
            Ok(messages) => match self.codec.write(&messages, &self.permit) {
                Ok(written) => Frame::data(written.into()),
                Err(failure) => Frame::trailers(self.fail(failure)),
            },
            Err(trailers) => trailers,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{copy, repeat};

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::api::limit::permit_of as permit;

    const LENGTH_MAX: usize = 1_000_000;
    /// The compressed length is far below a hundredth.
    const LONGEST: usize = EXPANDED_MIN - 1_000;
    const GZIP: Format = Format::Http { codec: Codec::Proto, is_compressed: true };

    fn gzip(length: usize) -> Vec<u8> {
        compress(repeat(0).take(length as u64))
    }

    fn compress(mut bytes: impl Read) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        copy(&mut bytes, &mut encoder).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn compressed_messages_are_expanded_within_the_limits() {
        let expand = |body: Vec<u8>, quota: usize| {
            let read = GZIP.read(body.into(), LENGTH_MAX, &permit(quota));
            read.map(|message| message.len() - PREFIX_LENGTH)
        };
        assert_eq!(expand(gzip(0), 0), Ok(0));
        assert_eq!(expand(gzip(LONGEST), 3 * LONGEST), Ok(LONGEST));
        assert_eq!(expand(gzip(LONGEST), LONGEST / 2), Err(Unread::Excess));
        assert_eq!(expand(gzip(EXPANDED_MIN * 10), 3 * LENGTH_MAX), Err(Unread::Expanded));
        let numbers = (0..=LENGTH_MAX as u64 / 8).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let varied: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        let compressed = compress(&varied[..LENGTH_MAX]);
        assert_eq!(expand(compressed, 3 * LENGTH_MAX), Ok(LENGTH_MAX));
        for longer in [compress(&varied[..=LENGTH_MAX]), gzip(100_000_000)] {
            let too_long = Err(Unread::TooLong { length_max: LENGTH_MAX });
            assert_eq!(expand(longer, 3 * LENGTH_MAX), too_long);
        }
        let mut cut = gzip(1_000);
        cut.pop();
        for malformed in [cut, [gzip(1), vec![0]].concat(), b"no gzip".to_vec(), Vec::new()] {
            assert_eq!(expand(malformed, LENGTH_MAX), Err(Unread::Malformed));
        }
    }

    #[test]
    fn a_message_gets_the_prefix_of_grpc_and_loses_it_again() {
        let format = Format::Http { codec: Codec::Proto, is_compressed: false };
        let read = format.read(Bytes::from_static(b"abc"), LENGTH_MAX, &permit(0)).unwrap();
        assert_eq!(*read, *b"\0\0\0\0\x03abc");
        assert_eq!(format.write(read.to_vec(), &permit(0)).unwrap(), b"abc");
        assert!(format.write(b"\0\0\0\0\x03ab".to_vec(), &permit(0)).is_err());
    }
}
