//! The Authorization API of `AuthZEN` 1.0
//! (<https://openid.net/specs/authorization-api-1_0.html>). A request becomes a call of
//! `SupportAccess`, so the role `gateway` is required.
//!
//! The search for resources is not served: no RPC lists the tenants that an agent may enter.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header::HeaderValue};
use http_body_util::Full;
use prost::Message;
use serde_json::json;
use tokio_util::bytes::Bytes;
use tonic::Code;

use super::{
    JSON, WebBody,
    connect::{ErrorForm, collect, convert_head, held, is_json},
    whole,
};
use crate::api::{
    call_id::{CALL_ID, CallId},
    calls::ConnectionCalls,
    detached::Spawn,
    format::{Codec, Format, Translator},
    grpc::{failure_trailers, reject_head, reject_unknown_method, unwritten},
    message::BoxError,
    observe::GRPC_STATUS,
    proto::v1 as pb,
};

mod answer;
pub mod config;
mod exchange;
mod question;
mod subjects;
mod text;

use config::AuthZenConfig;
pub(super) use exchange::Endpoint;
use exchange::Exchange;
use subjects::Candidates;

/// The path of the metadata.
pub(super) const METADATA: &str = "/.well-known/authzen-configuration";
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("accept-encoding");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// The endpoints of all connections.
#[derive(Debug)]
pub(super) struct AuthZen {
    config: Arc<AuthZenConfig>,
    /// `None`: the URL of the service is not configured.
    metadata: Option<Bytes>,
}

// === impl AuthZen ===

impl AuthZen {
    pub(super) fn new(config: AuthZenConfig) -> Self {
        let metadata = config.url.as_deref().map(metadata);
        Self { config: Arc::new(config), metadata }
    }

    /// The metadata. They are public.
    pub(super) fn describe(&self, errors: &ErrorForm, headers: &HeaderMap) -> Response<WebBody> {
        let response = if let Some(metadata) = &self.metadata {
            whole(StatusCode::OK, JSON, metadata.clone())
        } else {
            let rejection = reject_unknown_method();
            errors.reject(rejection.headers(), Some(StatusCode::NOT_FOUND))
        };
        with_id(response, CallId::received(headers))
    }

    /// Answers a request to `endpoint`.
    pub(super) async fn serve<T, B>(
        &self,
        calls: Arc<ConnectionCalls<T>>,
        endpoint: Endpoint,
        errors: &ErrorForm,
        request: Request<B>,
    ) -> Response<WebBody>
    where
        T: Spawn,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let id = CallId::received(request.headers());
        let answered = self.answer(calls, endpoint, errors, request).await;
        let response = match answered {
            Ok(body) => whole(StatusCode::OK, JSON, body),
            Err(rejection) => rejection,
        };
        with_id(response, id)
    }

    async fn answer<T, B>(
        &self,
        calls: Arc<ConnectionCalls<T>>,
        endpoint: Endpoint,
        errors: &ErrorForm,
        mut request: Request<B>,
    ) -> Result<Bytes, Response<WebBody>>
    where
        T: Spawn,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let headers = request.headers_mut();
        if !is_json(headers) {
            let rejection = reject_head("must have the Content-Type application/json");
            return Err(errors.reject(rejection.headers(), None));
        }
        let is_compressed = convert_head(headers).map_err(|rejection| {
            let mut response = errors.reject(&rejection, None);
            response.headers_mut().insert(ACCEPT_ENCODING, GZIP);
            response
        })?;
        *request.uri_mut() = Uri::from_static(endpoint.rpc());
        let further = (endpoint == Endpoint::Subjects).then(|| request.headers().clone());
        let exchange = Arc::new(Exchange::new(endpoint, &self.config));
        let codec = Codec::Translated(Arc::clone(&exchange) as Arc<dyn Translator>);
        let answer = call(&calls, request, Format::Http { codec, is_compressed }).await;
        let answer = answer.or_else(|rejection| {
            let is_invalid = code(&rejection) == Code::InvalidArgument;
            match exchange.answer_without_checks().filter(|_| is_invalid) {
                Some(text) => Ok(held(text, &rejection)),
                None => Err(rejection),
            }
        });
        let reject = |rejection: HeaderMap| errors.reject(&rejection, None);
        let answer = answer.map_err(reject)?;
        match (further, exchange.subjects()) {
            (Some(headers), Some((name, any, page))) => {
                let explanation = pb::ExplainAccessResponse::decode(answer);
                let explanation =
                    explanation.map_err(|error| reject(failure_trailers(unwritten(&error))))?;
                let candidates = Candidates::of(explanation);
                let questions = candidates.questions(any, page);
                let results = check_all(&calls, headers, questions.checks.clone());
                let results = results.await.map_err(reject)?;
                let text = candidates.answer(name, &questions, &results);
                let text = text.map_err(|error| reject(failure_trailers(unwritten(&error))))?;
                Ok(text.into())
            }
            _ => Ok(answer),
        }
    }
}

/// The results of checks, by a further call of the same caller.
async fn check_all<T: Spawn>(
    calls: &Arc<ConnectionCalls<T>>,
    headers: HeaderMap,
    checks: Vec<pb::AccessCheck>,
) -> Result<Vec<pb::CheckAccessResponse>, HeaderMap> {
    if checks.is_empty() {
        return Ok(Vec::new());
    }
    let batch = pb::BatchCheckAccessRequest { checks, consistency_token: String::new() };
    let mut request = Request::new(Full::new(Bytes::from(batch.encode_to_vec())));
    *request.uri_mut() = Uri::from_static(Endpoint::Evaluations.rpc());
    *request.headers_mut() = headers;
    let format = Format::Http { codec: Codec::Proto, is_compressed: false };
    let message = call(calls, request, format).await?;
    let response = pb::BatchCheckAccessResponse::decode(message);
    Ok(response.map_err(|error| failure_trailers(unwritten(&error)))?.results)
}

/// The body of the response to a call. The error has the headers of a status.
async fn call<T, B>(
    calls: &Arc<ConnectionCalls<T>>,
    request: Request<B>,
    format: Format,
) -> Result<Bytes, HeaderMap>
where
    T: Spawn,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let Ok(response) = Arc::clone(calls).serve(request, format).await;
    let (head, body) = response.into_parts();
    if head.headers.contains_key(GRPC_STATUS) { Err(head.headers) } else { collect(body).await }
}

fn code(rejection: &HeaderMap) -> Code {
    rejection.get(GRPC_STATUS).map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}

fn with_id(mut response: Response<WebBody>, id: Option<CallId>) -> Response<WebBody> {
    if let Some(id) = id {
        response.headers_mut().insert(CALL_ID, id.as_header());
    }
    response
}

fn metadata(url: &str) -> Bytes {
    let mut metadata = json!({ "policy_decision_point": url });
    for endpoint in Endpoint::ALL {
        metadata[endpoint.key()] = format!("{url}{}", endpoint.path()).into();
    }
    metadata.to_string().into()
}
