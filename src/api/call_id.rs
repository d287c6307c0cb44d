//! Ids of calls in logs.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header with the id of a call, in requests and responses.
pub const CALL_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of a call id from a caller.
const CALL_ID_LENGTH_MAX: usize = 128;
/// The id of a call in logs: the caller's `x-request-id`, or a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallId(HeaderValue);

impl CallId {
    /// The valid id that the caller sent.
    pub(super) fn received(headers: &HeaderMap) -> Option<Self> {
        let is_valid = |id: &&HeaderValue| {
            (1..=CALL_ID_LENGTH_MAX).contains(&id.len())
                && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        let received = headers.get(CALL_ID).filter(is_valid)?;
        // A clone would keep all headers of the request in memory.
        HeaderValue::from_bytes(received.as_bytes()).ok().map(Self)
    }

    /// A new id.
    pub(super) fn generate() -> Self {
        let id = HeaderValue::try_from(Uuid::now_v7().to_string());
        Self(id.unwrap_or_else(|_| HeaderValue::from_static("unnamed")))
    }

    /// The value of [`CALL_ID`].
    pub(super) fn as_header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}
