//! A layer that frees the parts of a request's head that no other layer reads.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::{Either, Ready, ready};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::api::{credentials::ACTOR, grpc::reject_head, observe::GRPC_TIMEOUT};

/// Maximum number of header fields of a request.
const FIELDS_MAX: usize = 100;
/// Maximum length of a path. The paths of all methods are shorter.
const PATH_LENGTH_MAX: usize = 256;
/// Maximum length of the value of a header that is read, except for credentials, in bytes.
const VALUE_LENGTH_MAX: usize = 1_024;
/// The headers that an inner layer or tonic reads. Each has one value.
const READ: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::TE,
    HeaderName::from_static("grpc-encoding"),
    GRPC_TIMEOUT,
    ACTOR,
];

/// Creates [`Trim`] services.
#[derive(Debug, Clone, Copy)]
pub struct TrimLayer;

/// Replaces the head of each request by a copy of the headers that are read. A field of one byte
/// takes a hundred bytes of memory, and a short value keeps the whole block of headers in memory.
/// So this layer must precede every wait. Rejects requests with too many or too long fields.
#[derive(Debug, Clone)]
pub struct Trim<S> {
    inner: S,
}

// === impl TrimLayer ===

impl<S> Layer<S> for TrimLayer {
    type Service = Trim<S>;

    fn layer(&self, inner: S) -> Trim<S> {
        Trim { inner }
    }
}

// === impl Trim ===

impl<S, Q> Service<Request<Q>> for Trim<S>
where
    S: Service<Request<Q>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        if request.headers().len() > FIELDS_MAX {
            let description = format!("must have at most {FIELDS_MAX} fields");
            return Either::Right(ready(Ok(reject_head(&description))));
        }
        let Some(headers) = copy_of_read(request.headers()) else {
            let description = format!("must have fields of at most {VALUE_LENGTH_MAX} bytes");
            return Either::Right(ready(Ok(reject_head(&description))));
        };
        *request.headers_mut() = headers;
        *request.uri_mut() = copy_of_path(request.uri());
        Either::Left(self.inner.call(request))
    }
}

/// A copy of the headers that are read. `None`: a value is too long.
fn copy_of_read(headers: &HeaderMap) -> Option<HeaderMap> {
    let mut copy = HeaderMap::new();
    for name in READ {
        let Some(value) = headers.get(&name).map(HeaderValue::as_bytes) else { continue };
        if value.len() > VALUE_LENGTH_MAX && name != header::AUTHORIZATION {
            return None;
        }
        copy.insert(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(copy)
}

/// A copy of the path. A path that is too long becomes `/`, which is no method either.
fn copy_of_path(uri: &Uri) -> Uri {
    let path = Some(uri.path()).filter(|path| path.len() <= PATH_LENGTH_MAX);
    path.and_then(|path| path.parse().ok()).unwrap_or_else(|| Uri::from_static("/"))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// The head that the next layer receives.
    fn head(request: Request<()>) -> Option<(Uri, HeaderMap)> {
        let mut received = None;
        let next = service_fn(|request: Request<()>| {
            received = Some((request.uri().clone(), request.headers().clone()));
            ready(Ok(Response::default()))
        });
        Trim { inner: next }.oneshot(request).now_or_never().unwrap().unwrap();
        received
    }

    #[test]
    fn only_the_headers_that_are_read_are_kept() {
        let request = Request::builder()
            .uri("https://host/service/Method")
            .header("grpc-timeout", "7S")
            .header("cookie", "a")
            .header("te", "trailers")
            .header("te", "again");
        let (uri, headers) = head(request.body(()).unwrap()).unwrap();
        assert_eq!(uri, "/service/Method");
        let fields: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(fields.len(), 2, "{fields:?}");
        assert_eq!(headers["grpc-timeout"], "7S");
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn a_request_with_too_many_fields_is_rejected() {
        let with = |fields| {
            let request = Request::builder().uri("/service/Method");
            (0..fields).fold(request, |request, _| request.header("a", "")).body(()).unwrap()
        };
        assert!(head(with(FIELDS_MAX)).is_some());
        assert!(head(with(FIELDS_MAX + 1)).is_none());
    }

    #[test]
    fn only_credentials_may_be_long() {
        let with = |name, length| {
            let request = Request::builder().uri("/service/Method");
            request.header(name, "a".repeat(length)).body(()).unwrap()
        };
        for (name, is_accepted) in [("authorization", true), ("te", false), ("cookie", true)] {
            assert!(head(with(name, VALUE_LENGTH_MAX)).is_some());
            assert_eq!(head(with(name, VALUE_LENGTH_MAX + 1)).is_some(), is_accepted, "{name}");
        }
    }

    #[test]
    fn a_long_path_is_no_method() {
        let request = Request::builder().uri(format!("/{}", "a".repeat(PATH_LENGTH_MAX)));
        assert_eq!(head(request.body(()).unwrap()).unwrap().0, "/");
    }
}
