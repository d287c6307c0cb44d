//! Forward-auth: a proxy asks about each request with a request of its own, and passes the request
//! on if the status is 200. nginx (`auth_request`), Caddy, Traefik and Gateway API do.
//!
//! A question becomes a call of Envoy's API, so that both have the same sources and denials.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, TE},
    request::Parts,
};
use http_body_util::{Either, Full};
use tokio_util::bytes::Bytes;

use super::{WebBody, connect::collect};
use crate::api::{
    calls::ConnectionCalls,
    detached::Spawn,
    format::Format,
    grpc::{envoy, reject_head, status_of},
    head::FIELDS_MAX,
    integrations::{answer::Answer, request::FORWARDED},
    proto::envoy::{
        AttributeContext, CheckRequest, CheckResponse, HeaderMap as ProtoHeaderMap,
        HeaderValue as ProtoHeader, HeaderValueOption,
        attribute_context::{HttpRequest, Request as ProtoRequest},
        check_response::HttpResponse,
    },
    unary::{decode, encode},
};

/// The path. The path of the request at the proxy may follow.
const PATH: &str = "/check/v1/forward";
/// The method of Envoy's API.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The bytes of an answer, and the message with the permit of the call.
struct HeldBody {
    body: String,
    _message: Bytes,
}

/// The path and query that follow [`PATH`]. `None`: the request is for another path.
pub(super) fn rest_of(uri: &Uri) -> Option<&str> {
    let target = uri.path_and_query()?.as_str();
    let rest = target.strip_prefix(PATH)?;
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest)
}

/// Answers a question. The proxy is identified by the connection alone: the token, if there is one,
/// is that of the agent. The body is not read.
pub(super) async fn serve<T: Spawn, B>(
    calls: Arc<ConnectionCalls<T>>,
    request: Request<B>,
) -> Response<WebBody> {
    let (parts, _) = request.into_parts();
    if parts.headers.len() > FIELDS_MAX {
        let rejection = reject_head(&format!("must have at most {FIELDS_MAX} fields"));
        return respond_refusal(rejection.headers());
    }
    let message = encode(&question(&parts));
    // Freed before any wait.
    drop(parts);
    let mut call = Request::new(Full::new(Bytes::from(message)));
    *call.uri_mut() = Uri::from_static(CHECK);
    let headers = call.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let Ok(response) = calls.serve(call, Format::Grpc).await;
    match collect(response.into_body()).await {
        Ok(message) => match decode::<CheckResponse>(&message) {
            Ok(answer) => respond(answer, message),
            Err(_) => respond_refusal(&HeaderMap::new()),
        },
        Err(trailers) => respond_refusal(&trailers),
    }
}

fn question(parts: &Parts) -> CheckRequest {
    let headers = parts.headers.iter().map(|(name, value)| ProtoHeader {
        key: name.as_str().into(),
        value: String::new(),
        raw_value: value.as_bytes().into(),
    });
    let path = rest_of(&parts.uri).filter(|rest| rest.starts_with('/')).unwrap_or_default();
    let http = HttpRequest {
        method: parts.method.as_str().into(),
        path: path.into(),
        header_map: Some(ProtoHeaderMap { headers: headers.collect() }),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(ProtoRequest { http: Some(http) }),
            context_extensions: [(FORWARDED.to_owned(), String::new())].into(),
            metadata_context: None,
        }),
    }
}

/// The answer of a call. Without an answer, the request is denied.
fn respond(answer: CheckResponse, message: Bytes) -> Response<WebBody> {
    let (status, headers, body) = match answer.http_response {
        Some(HttpResponse::OkResponse(ok)) => (StatusCode::OK, ok.headers, String::new()),
        Some(HttpResponse::DeniedResponse(denied)) => {
            let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.filter(|status| !status.is_success());
            (status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), denied.headers, denied.body)
        }
        None => return respond_refusal(&HeaderMap::new()),
    };
    let body = Bytes::from_owner(HeldBody { body, _message: message });
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().extend(headers.into_iter().filter_map(header));
    response
}

/// The answer to a call that was refused. Without a status, the error is internal.
fn respond_refusal(headers: &HeaderMap) -> Response<WebBody> {
    respond(envoy::response(Answer::refusal(&status_of(headers))), Bytes::new())
}

fn header(option: HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let ProtoHeader { key, value, .. } = option.header?;
    Some((key.parse().ok()?, value.try_into().ok()?))
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        self.body.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::envoy::{DeniedHttpResponse, HttpStatus};

    #[test]
    fn only_paths_below_the_endpoint_are_questions() {
        let rest = |uri: &'static str| rest_of(&Uri::from_static(uri)).map(str::to_owned);
        assert_eq!(rest("/check/v1/forward").as_deref(), Some(""));
        assert_eq!(rest("/check/v1/forward/t/acme?a=1").as_deref(), Some("/t/acme?a=1"));
        assert_eq!(rest("http://a/check/v1/forward?a").as_deref(), Some("?a"));
        for other in ["/", "/check/v1/forwarded", "/a/check/v1/forward"] {
            assert_eq!(rest(other), None, "{other}");
        }
    }

    #[test]
    fn a_call_without_an_answer_is_denied() {
        let response = respond(CheckResponse::default(), Bytes::new());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let succeeded =
            DeniedHttpResponse { status: Some(HttpStatus { code: 200 }), ..Default::default() };
        let http_response = Some(HttpResponse::DeniedResponse(succeeded));
        let response = respond(CheckResponse { http_response, ..Default::default() }, Bytes::new());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
