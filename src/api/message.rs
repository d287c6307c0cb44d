//! Messages that are read as a whole before they are decoded.

use std::{
    error::Error,
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::time::{Sleep, sleep};
use tokio_util::bytes::{Bytes, BytesMut};
use tonic::{Status, body::Body};

use crate::api::{
    format::{Format, PREFIX_LENGTH},
    grpc::{Unread, disconnected, excess},
    limit::{CallPermit, UNCOUNTED_BYTES},
    wire::{Field, Fields},
};

/// Maximum of [`decoded_size`], in bytes. The largest valid message is a batch of 1,000 checks with
/// 500 groups each.
const DECODED_SIZE_MAX: usize = 32 * 1_024 * 1_024;
/// Timeout for the arrival of a whole message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Decoded sizes that are not counted, in bytes: they are part of the memory that each call takes.
const UNCOUNTED_SIZE: usize = 4 * 1_024;
/// Estimated memory of a field of a message, in bytes.
const FIELD_SIZE: usize = 256;
/// Estimated memory of a field of such a field, in bytes. Most are texts.
const INNER_FIELD_SIZE: usize = 48;

/// The error of a body of the transport.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A message of a stream, or of health or reflection, whose bytes are counted while it arrives.
pub(super) struct CountedBody<B> {
    inner: B,
    length: usize,
    /// `None`: the bytes are few.
    permit: Option<Arc<CallPermit>>,
}

/// Reads a whole message of at most `length_max` bytes, within [`MESSAGE_TIMEOUT`]. The result has
/// the prefix of gRPC. Counts the bytes, and the memory of the decoded message, unless both are
/// few: two bytes of an empty field may take more than a hundred bytes.
pub(super) async fn read_message<B>(
    body: B,
    length_max: usize,
    format: &Format,
    permit: &CallPermit,
) -> Result<Bytes, Unread>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let body = {
        let reading = pin!(read_body(body, format.body_length(length_max), permit));
        within(MESSAGE_TIMEOUT, reading).await.unwrap_or(Err(Unread::Late))?
    };
    let message = format.read(body.ok_or(Unread::TooLong { length_max })?, length_max, permit)?;
    let size = decoded_size(&message);
    if size > DECODED_SIZE_MAX {
        return Err(Unread::TooManyFields);
    }
    if size > UNCOUNTED_SIZE && !permit.try_count(size) {
        return Err(Unread::Excess);
    }
    Ok(message)
}

/// Ends a future after `timeout`. A future that is ready at once needs no timer. By reference,
/// because an `async fn` reserves memory for a future twice: as an argument, and while it waits.
pub(super) async fn within<F: Future>(
    timeout: Duration,
    mut future: Pin<&mut F>,
) -> Option<F::Output> {
    let mut deadline: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(timeout)));
        deadline.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// `None`: the body is too long.
async fn read_body<B>(
    mut body: B,
    length_max: usize,
    permit: &CallPermit,
) -> Result<Option<Bytes>, Unread>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut message = Bytes::new();
    let mut joined = BytesMut::new();
    let mut counted = UNCOUNTED_BYTES;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        // A client that resets the stream or the connection is not a fault of the server.
        let Ok(data) = frame.map_err(|_| Unread::Disconnected)?.into_data() else { continue };
        let length = message.len() + joined.len() + data.len();
        if length > length_max {
            return Ok(None);
        }
        if length > counted {
            if !permit.try_count(length - counted) {
                return Err(Unread::Excess);
            }
            counted = length;
        }
        // Most messages arrive in one frame.
        if message.is_empty() && joined.is_empty() {
            message = data;
        } else {
            joined.extend_from_slice(&mem::take(&mut message));
            joined.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(Some(if joined.is_empty() { message } else { joined.freeze() }))
}

/// A body of these bytes.
pub(super) fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes).map_err(|never| match never {}))
}

/// The number of fields of the message in `body` that have this tag.
pub(super) fn count_fields(body: &[u8], tag: u32) -> usize {
    fields_of(body).filter(|field| field.tag == tag).count()
}

/// An estimate of the memory that the decoded message takes beyond the texts in it, in bytes.
fn decoded_size(body: &[u8]) -> usize {
    let size = |field: Field<'_>| FIELD_SIZE + Fields(field.bytes).count() * INNER_FIELD_SIZE;
    fields_of(body).map(size).sum()
}

/// The fields of the message after the prefix.
fn fields_of(body: &[u8]) -> Fields<'_> {
    Fields(body.get(PREFIX_LENGTH..).unwrap_or_default())
}

// === impl CountedBody ===

impl<B> CountedBody<B> {
    pub(super) fn new(inner: B, permit: Option<Arc<CallPermit>>) -> Self {
        Self { inner, length: 0, permit }
    }
}

impl<B> http_body::Body for CountedBody<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) if frame.is_data() => frame,
            Some(Err(_)) => return Poll::Ready(Some(Err(disconnected()))),
            // Nothing reads trailers of a request, and a call must not keep them while it waits.
            Some(Ok(_)) | None => return Poll::Ready(None),
        };
        let before = self.length.max(UNCOUNTED_BYTES);
        self.length += frame.data_ref().map_or(0, Bytes::len);
        let counted = self.length.saturating_sub(before);
        if counted > 0 && !self.permit.as_ref().is_none_or(|permit| permit.try_count(counted)) {
            return Poll::Ready(Some(Err(excess())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http_body_util::StreamBody;
    use prost::Message;

    use super::*;
    use crate::api::{
        limit::permit_of,
        proto::v1::{AccessCheck, BatchCheckAccessRequest},
    };

    const LENGTH_MAX: usize = 10_000;

    /// Reads a message that arrives in these parts. `None`: the client resets the stream.
    async fn read(parts: &[Option<usize>]) -> Result<usize, Unread> {
        let frame = |part: &Option<usize>| match part {
            Some(length) => Ok(Frame::data(Bytes::from(vec![0; *length]))),
            None => Err(Status::cancelled("reset")),
        };
        let frames = futures::stream::iter(parts.iter().map(frame).collect::<Vec<_>>());
        let body = StreamBody::new(frames);
        let read = read_message(body, LENGTH_MAX, &Format::Grpc, &permit_of(LENGTH_MAX)).await;
        read.map(|message| message.len())
    }

    #[tokio::test]
    async fn a_message_is_read_whole_or_not_at_all() {
        let longest = LENGTH_MAX + PREFIX_LENGTH;
        assert_eq!(read(&[Some(longest)]).await, Ok(longest));
        assert_eq!(read(&[Some(longest - 1), Some(0), Some(1)]).await, Ok(longest));
        let too_long = Err(Unread::TooLong { length_max: LENGTH_MAX });
        assert_eq!(read(&[Some(longest + 1)]).await, too_long);
        assert_eq!(read(&[Some(longest), Some(1)]).await, too_long);
        assert_eq!(read(&[Some(5), None]).await, Err(Unread::Disconnected));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_arrive_is_late() {
        let frames = futures::stream::once(pending::<Result<Frame<Bytes>, Status>>());
        let body = Box::pin(StreamBody::new(frames));
        let read = read_message(body, LENGTH_MAX, &Format::Grpc, &permit_of(LENGTH_MAX)).await;
        assert_eq!(read, Err(Unread::Late));
    }

    #[tokio::test]
    async fn bytes_beyond_the_quota_are_rejected() {
        let first = permit_of(LENGTH_MAX);
        assert!(first.try_count(LENGTH_MAX));
        let body = Full::new(Bytes::from(vec![0; UNCOUNTED_BYTES + 1]));
        let read = read_message(body, LENGTH_MAX, &Format::Grpc, &first).await;
        assert_eq!(read, Err(Unread::Excess));
        let body = Full::new(Bytes::from(vec![0; UNCOUNTED_BYTES]));
        assert!(read_message(body, LENGTH_MAX, &Format::Grpc, &first).await.is_ok());
    }

    fn body(checks: Vec<AccessCheck>) -> Vec<u8> {
        let message = BatchCheckAccessRequest { checks, consistency_token: "token".to_owned() };
        [vec![0; PREFIX_LENGTH], message.encode_to_vec()].concat()
    }

    #[test]
    fn the_checks_of_a_batch_are_counted() {
        assert_eq!(count_fields(&body(vec![AccessCheck::default(); 1_000]), 1), 1_000);
        assert_eq!(count_fields(&body(vec![]), 1), 0);
        assert_eq!(count_fields(b"no message", 1), 0);
    }

    #[test]
    fn the_size_of_empty_fields_is_estimated() {
        let empty = body(vec![AccessCheck::default(); 10_000]);
        assert!(empty.len() < 21_000 && decoded_size(&empty) > 2_500_000);
        let group_ids = vec![String::new(); 10_000];
        let check = AccessCheck { group_ids, ..AccessCheck::default() };
        assert!(decoded_size(&body(vec![check])) > 240_000);
    }
}
