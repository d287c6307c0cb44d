//! Messages that are read as a whole before they are decoded.

use http::{Request, request::Parts};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tokio_util::bytes::Bytes;
use tonic::{Code, Status, body::Body};

use crate::api::grpc::{MESSAGE_LENGTH_MAX, Unread};

/// Length of the prefix of a gRPC message: a compression flag and the length.
pub(super) const PREFIX_LENGTH: usize = 5;
/// Maximum of [`decoded_size`], in bytes. The largest valid message is a batch of 1,000 checks with
/// 500 groups each.
const DECODED_SIZE_MAX: usize = 32 * 1_024 * 1_024;
/// Decoded sizes that are not counted, in bytes: they are part of the memory that each call takes.
const UNCOUNTED_SIZE: usize = 4 * 1_024;
/// Estimated memory of a field of a message, in bytes.
const FIELD_SIZE: usize = 256;
/// Estimated memory of a field of such a field, in bytes. Most are texts.
const INNER_FIELD_SIZE: usize = 48;

/// The head of a request, and the whole body. Counts the memory of the decoded message, unless the
/// message is short: two bytes of an empty field may take more than a hundred bytes.
pub(super) async fn read_message(
    request: Request<Body>,
    try_count: impl FnOnce(usize) -> bool,
) -> Result<(Parts, Bytes), Unread> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MESSAGE_LENGTH_MAX + PREFIX_LENGTH).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Unread::TooLong),
        Err(error) => {
            return Err(match error.downcast_ref::<Status>().map(Status::code) {
                Some(Code::ResourceExhausted) => Unread::Excess,
                _ => Unread::Disconnected,
            });
        }
    };
    let size = decoded_size(&body);
    if size > DECODED_SIZE_MAX {
        return Err(Unread::TooManyFields);
    }
    if size > UNCOUNTED_SIZE && !try_count(size) {
        return Err(Unread::Excess);
    }
    Ok((parts, body))
}

/// A body of these bytes.
pub(super) fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes).map_err(|never| match never {}))
}

/// The number of fields of the message in `body` that have this tag.
pub(super) fn count_fields(body: &[u8], tag: u32) -> usize {
    Fields::of(body).filter(|field| field.tag == tag).count()
}

/// An estimate of the memory that the decoded message takes beyond the texts in it, in bytes.
fn decoded_size(body: &[u8]) -> usize {
    let size = |field: Field<'_>| FIELD_SIZE + Fields(field.bytes).count() * INNER_FIELD_SIZE;
    Fields::of(body).map(size).sum()
}

/// The fields of a message, until the first malformed one.
struct Fields<'a>(&'a [u8]);

struct Field<'a> {
    tag: u32,
    /// Empty for numbers.
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of the message after the prefix.
    fn of(body: &'a [u8]) -> Self {
        Self(body.get(PREFIX_LENGTH..).unwrap_or_default())
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let (tag, wire_type) = decode_key(&mut self.0).ok()?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut self.0, DecodeContext::default()).ok()?;
            return Some(Field { tag, bytes: &[] });
        }
        let length = usize::try_from(decode_varint(&mut self.0).ok()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Field { tag, bytes })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::api::proto::v1::{AccessCheck, BatchCheckAccessRequest};

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
