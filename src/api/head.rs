//! The parts of a request's head that the server reads.
//!
//! A header field of one byte takes a hundred bytes of memory, and a short value keeps the whole
//! block of headers in memory. So a call copies what is read, and frees the rest before any wait.

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, TE},
    request::Parts,
};
use tonic::body::Body;

use crate::api::{
    credentials::ACTOR,
    grpc::{reject_head, reject_name},
};

pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Maximum number of header fields of a request.
pub(super) const FIELDS_MAX: usize = 100;
/// Maximum length of a path. The paths of all methods are shorter.
const PATH_LENGTH_MAX: usize = 256;
/// Maximum length of the value of a header that is read, except for credentials, in bytes.
const VALUE_LENGTH_MAX: usize = 1_024;
/// The scheme of bearer tokens (RFC 6750, section 2.1). Schemes are case-insensitive.
const BEARER: &str = "bearer ";
/// The headers that tonic and the handlers read. Each has one value.
const READ_BY_HANDLERS: [HeaderName; 4] =
    [CONTENT_TYPE, TE, HeaderName::from_static("grpc-encoding"), GRPC_TIMEOUT];

/// The fields that the server reads before a handler runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    /// The bearer token. Empty if the header has another form, so that the token is rejected.
    pub(super) token: Option<&'a str>,
    /// The name that the caller asserts.
    pub(super) actor: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// Reads a head. Rejects too many or too long fields.
    pub(super) fn read(headers: &'a HeaderMap) -> Result<Self, Response<Body>> {
        if headers.len() > FIELDS_MAX {
            return Err(reject_head(&format!("must have at most {FIELDS_MAX} fields")));
        }
        let is_long = |name| headers.get(name).is_some_and(|value| value.len() > VALUE_LENGTH_MAX);
        if READ_BY_HANDLERS.into_iter().chain([ACTOR]).any(is_long) {
            let description = format!("must have fields of at most {VALUE_LENGTH_MAX} bytes");
            return Err(reject_head(&description));
        }
        let actor = headers.get(ACTOR).map(HeaderValue::to_str).transpose();
        let actor = actor.map_err(|_| reject_name("must be visible ASCII characters"))?;
        Ok(Self { token: headers.get(AUTHORIZATION).map(bearer_token), actor })
    }
}

fn bearer_token(value: &HeaderValue) -> &str {
    let text = value.to_str().unwrap_or("");
    let (scheme, token) = text.split_at_checked(BEARER.len()).unwrap_or(("", ""));
    if scheme.eq_ignore_ascii_case(BEARER) { token.trim_start() } else { "" }
}

/// A copy of the headers for tonic and the handlers. No handler needs the token, so none can leak
/// it.
pub(super) fn headers_of_handlers(headers: &HeaderMap) -> HeaderMap {
    let mut copy = HeaderMap::new();
    for name in READ_BY_HANDLERS {
        let value = headers.get(&name).map(HeaderValue::as_bytes);
        if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(value).ok()) {
            copy.insert(name, value);
        }
    }
    copy
}

/// A copy of the path and the headers that handlers read. Frees the rest.
pub(super) fn head_of_handlers(parts: Parts) -> Request<()> {
    let Parts { uri, headers, .. } = parts;
    let mut head = Request::new(());
    *head.uri_mut() = path_of(&uri);
    *head.headers_mut() = headers_of_handlers(&headers);
    head
}

/// A copy of the path. A path that is too long becomes `/`, which is no method either.
fn path_of(uri: &Uri) -> Uri {
    let path = Some(uri.path()).filter(|path| path.len() <= PATH_LENGTH_MAX);
    path.and_then(|path| path.parse().ok()).unwrap_or_else(|| Uri::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headers of a request.
    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let request = Request::builder();
        let request =
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0.headers
    }

    #[test]
    fn only_the_headers_that_are_read_are_kept() {
        let fields = [
            ("grpc-timeout", "7S"),
            ("cookie", "a"),
            ("te", "trailers"),
            ("te", "again"),
            ("authorization", "bearer  a token"),
            ("support-access-actor", "ann"),
        ];
        let headers = headers(&fields);
        let kept = headers_of_handlers(&headers);
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert_eq!(kept["grpc-timeout"], "7S");
        assert_eq!(kept["te"], "trailers");
        let Head { token, actor } = Head::read(&headers).unwrap();
        assert_eq!((token, actor), (Some("a token"), Some("ann")));
    }

    #[test]
    fn credentials_of_another_scheme_are_no_token() {
        for other in ["Basic YTpi", "Bearer", "", "b\u{e9}arer a"] {
            let value = HeaderValue::from_bytes(other.as_bytes()).unwrap();
            assert_eq!(bearer_token(&value), "", "{other}");
        }
    }

    #[test]
    fn a_request_with_too_many_fields_is_rejected() {
        let is_read = |count| Head::read(&headers(&vec![("a", ""); count])).is_ok();
        assert!(is_read(FIELDS_MAX));
        assert!(!is_read(FIELDS_MAX + 1));
    }

    #[test]
    fn only_credentials_may_be_long() {
        let is_read = |name, length| {
            let headers = headers(&[(name, "a".repeat(length).as_str())]);
            Head::read(&headers).is_ok()
        };
        for (name, is_accepted) in [("authorization", true), ("te", false), ("cookie", true)] {
            assert!(is_read(name, VALUE_LENGTH_MAX));
            assert_eq!(is_read(name, VALUE_LENGTH_MAX + 1), is_accepted, "{name}");
        }
    }

    #[test]
    fn a_long_path_is_no_method() {
        let path = |length| path_of(&format!("/{}", "a".repeat(length)).parse().unwrap());
        assert_eq!(path(PATH_LENGTH_MAX), "/");
        assert_eq!(path(PATH_LENGTH_MAX - 1).path().len(), PATH_LENGTH_MAX);
    }
}
