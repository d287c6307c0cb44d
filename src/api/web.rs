//! The web listener: HTTP/1.1 and HTTP/2. The path of a request selects the protocol.
//!
//! Each protocol converts its requests to calls of gRPC. So [`ConnectionCalls`] identifies, limits
//! and observes all callers.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Response, StatusCode, Uri,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS},
    uri::Authority,
};
use http_body_util::{Either, Full};
use prost_reflect::DescriptorPool;
use tokio_util::bytes::Bytes;
use tracing::error;

use crate::api::{
    calls::ConnectionCalls,
    detached::Spawn,
    grpc::{reject_head, reject_unknown_method},
    json::{self, Method},
    message::BoxError,
    proto::DESCRIPTORS,
};

pub mod authzen;
mod connect;
mod forward;
mod openapi;

use authzen::{AuthZen, Endpoint, METADATA, config::AuthZenConfig};
use connect::{ErrorForm, Lines};

/// The package whose services have a JSON form.
const PACKAGE: &str = "supportaccess.v1";
/// The path of the `OpenAPI` document.
const OPENAPI: &str = "/openapi.json";
const POST: HeaderValue = HeaderValue::from_static("POST");
const GET: HeaderValue = HeaderValue::from_static("GET");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The body of a response.
pub type WebBody = Either<Full<Bytes>, Lines>;

/// The state that all connections share.
#[derive(Debug)]
pub struct Web {
    /// By path.
    methods: HashMap<String, Arc<Method>>,
    errors: ErrorForm,
    authzen: AuthZen,
    pool: DescriptorPool,
    /// The `OpenAPI` document. Set once it was read.
    openapi: OnceLock<Bytes>,
}

// === impl Web ===

impl Web {
    /// Prepares every method.
    pub fn new(authzen: AuthZenConfig) -> Self {
        let pool = pool_of(DESCRIPTORS);
        let methods = json::methods(&pool, PACKAGE);
        let methods = methods.map(|(path, method)| (path, Arc::new(method))).collect();
        Self {
            methods,
            errors: ErrorForm::new(pool_of(tonic_types::pb::FILE_DESCRIPTOR_SET)),
            authzen: AuthZen::new(authzen),
            pool,
            openapi: OnceLock::new(),
        }
    }

    /// Handles a request on the connection of `calls`.
    pub async fn serve<T, B>(
        &self,
        calls: Arc<ConnectionCalls<T>>,
        request: Request<B>,
    ) -> Result<Response<WebBody>, Infallible>
    where
        T: Spawn,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut response = self.route(calls, request).await;
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(response)
    }

    async fn route<T, B>(
        &self,
        calls: Arc<ConnectionCalls<T>>,
        request: Request<B>,
    ) -> Response<WebBody>
    where
        T: Spawn,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if calls.accepts_every_program() && !is_local(request.uri(), request.headers()) {
            let description = "must name localhost or a loopback address as the host, because the \
                               server has no authentication";
            let rejection = reject_head(description);
            return self.errors.reject(rejection.headers(), Some(StatusCode::MISDIRECTED_REQUEST));
        }
        match request.uri().path() {
            OPENAPI => return self.describe(&calls, request).await,
            METADATA if request.method() != Verb::GET => return self.reject_verb(GET),
            METADATA => return self.authzen.describe(&self.errors, request.headers()),
            _ => {}
        }
        if let Some(endpoint) = Endpoint::of(request.uri().path()) {
            if request.method() != Verb::POST {
                return self.reject_verb(POST);
            }
            return self.authzen.serve(calls, endpoint, &self.errors, request).await;
        }
        if forward::rest_of(request.uri()).is_some() {
            return forward::serve(calls, request).await;
        }
        let Some(method) = self.methods.get(request.uri().path()) else {
            let rejection = reject_unknown_method();
            return self.errors.reject(rejection.headers(), Some(StatusCode::NOT_FOUND));
        };
        if request.method() != Verb::POST {
            return self.reject_verb(POST);
        }
        connect::serve(calls, method, &self.errors, request).await
    }

    /// The `OpenAPI` document.
    async fn describe<T: Spawn, B>(
        &self,
        calls: &ConnectionCalls<T>,
        request: Request<B>,
    ) -> Response<WebBody> {
        if request.method() != Verb::GET {
            return self.reject_verb(GET);
        }
        let headers = request.into_parts().0.headers;
        let permit = match calls.admit(headers).await {
            Ok(permit) => permit,
            Err(rejection) => return self.errors.reject(rejection.headers(), None),
        };
        let document = || openapi::document(&self.pool, PACKAGE).to_string().into();
        let document = self.openapi.get_or_init(document).clone();
        whole(StatusCode::OK, JSON, calls.hold(document, permit))
    }

    fn reject_verb(&self, allowed: HeaderValue) -> Response<WebBody> {
        let verb = allowed.to_str().unwrap_or_default();
        let rejection = reject_head(&format!("must have the method {verb}"));
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut response = self.errors.reject(rejection.headers(), Some(status));
        response.headers_mut().insert(ALLOW, allowed);
        response
    }
}

fn pool_of(descriptors: &'static [u8]) -> DescriptorPool {
    DescriptorPool::decode(descriptors).unwrap_or_else(|error| {
        error!(%error, "cannot read the descriptors of messages");
        DescriptorPool::new()
    })
}

/// Whether the request names this machine as its host. Otherwise, a page of another site may have
/// sent the request: its domain can resolve to a loopback address (DNS rebinding).
fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let of_header = || headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok();
    let Some(authority) = uri.authority().cloned().or_else(of_header) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The only value of a header. `None`: the header is absent, repeated, or not ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// A response with the whole `body`.
fn whole(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<WebBody> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_public_api_has_a_json_form() {
        let web = Web::new(AuthZenConfig::default());
        let streams: Vec<_> =
            web.methods.iter().filter(|(_, method)| method.is_streaming).collect();
        assert_eq!(streams.len(), 1, "{streams:?}");
        assert_eq!(streams[0].0, "/supportaccess.v1.SupportAccessAdmin/ExportHistory");
        let in_all = ["SupportAccess", "SupportAccessAdmin", "CheckNodes", "ServerInfo"];
        for service in in_all {
            let path = format!("/supportaccess.v1.{service}/");
            assert!(web.methods.keys().any(|method| method.starts_with(&path)), "{service}");
        }
        assert!(web.methods.keys().all(|path| path.starts_with("/supportaccess.v1.")));
    }

    #[test]
    fn only_loopback_hosts_are_local() {
        let is_local = |host: &str| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
            is_local(&Uri::from_static("/"), &headers)
        };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "localhost.example", "example:8080", "192.0.2.1", "[2001:db8::1]:80"] {
            assert!(!is_local(host), "{host}");
        }
        let absolute = Uri::from_static("http://example/");
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        assert!(!super::is_local(&absolute, &headers));
    }
}
