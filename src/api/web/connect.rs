//! The Connect protocol: a call is one request and one response of HTTP, in JSON or protobuf
//! (<https://connectrpc.com/docs/protocol>). The messages of a stream are lines of JSON.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TE, WWW_AUTHENTICATE},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize;
use tokio_util::bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::pb;

use super::{JSON, WebBody, single, whole};
use crate::api::{
    body::CallBody,
    call_id::CALL_ID,
    calls::ConnectionCalls,
    detached::Spawn,
    format::{Codec, Format},
    grpc::{Unread, failure_trailers, reject, reject_head, status_of, unwritten},
    head::GRPC_TIMEOUT,
    json::Method,
    message::BoxError,
    observe::{GRPC_STATUS, ObservedBody},
};

const PROTO: HeaderValue = HeaderValue::from_static("application/proto");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("accept-encoding");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// The longest timeout has this number of digits.
const TIMEOUT_DIGITS_MAX: usize = 10;
/// The longest timeout of gRPC in milliseconds.
const GRPC_TIMEOUT_MAX: u64 = 99_999_999;

/// The form of errors.
#[derive(Debug, Clone)]
pub(super) struct ErrorForm {
    /// The messages of `google.rpc`.
    details: DescriptorPool,
}

/// The lines of a stream. An error is the last line.
#[derive(Debug)]
pub struct Lines {
    inner: ObservedBody<CallBody>,
    errors: ErrorForm,
    has_ended: bool,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct Detail {
    #[serde(rename = "type")]
    name: String,
    /// In base64 without padding.
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<DynamicMessage>,
}

/// The bytes of a response to a rejected call, which the transport owns. Holds the header with the
/// details, and with it the permit of the call.
struct HeldError {
    bytes: Vec<u8>,
    _details: Option<HeaderValue>,
}

/// Handles a call of `method`.
pub(super) async fn serve<T, B>(
    calls: Arc<ConnectionCalls<T>>,
    method: &Arc<Method>,
    errors: &ErrorForm,
    mut request: Request<B>,
) -> Response<WebBody>
where
    T: Spawn,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let headers = request.headers_mut();
    let Some((codec, content_type)) = codec_of(headers, method) else {
        return errors.reject_content_type(method);
    };
    let is_compressed = match convert_head(headers) {
        Ok(is_compressed) => is_compressed,
        Err(rejection) => {
            let mut response = errors.reject(&rejection, None);
            response.headers_mut().insert(ACCEPT_ENCODING, GZIP);
            return response;
        }
    };
    let format = Format::Http { codec, is_compressed };
    let Ok(response) = calls.serve(request, format).await;
    let (head, body) = response.into_parts();
    let id = head.headers.get(CALL_ID).cloned();
    let mut response = if head.headers.contains_key(GRPC_STATUS) {
        errors.reject(&head.headers, None)
    } else if method.is_streaming {
        let mut response = Response::new(Either::Right(Lines::new(body, errors)));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    } else {
        match collect(body).await {
            Ok(message) => whole(StatusCode::OK, content_type, message),
            Err(trailers) => errors.reject(&trailers, None),
        }
    };
    if let Some(id) = id {
        response.headers_mut().insert(CALL_ID, id);
    }
    response
}

/// The encoding of the messages, and the content type of the response. `None`: the content type of
/// the request is not supported.
fn codec_of(headers: &HeaderMap, method: &Arc<Method>) -> Option<(Codec, HeaderValue)> {
    let media_type = media_type(headers)?;
    let is = |expected: &HeaderValue| {
        expected.to_str().is_ok_and(|expected| media_type.eq_ignore_ascii_case(expected))
    };
    let json = || Codec::Json(Arc::clone(method));
    if method.is_streaming {
        (is(&JSON) || is(&LINES)).then(|| (json(), LINES))
    } else if is(&JSON) {
        Some((json(), JSON))
    } else {
        is(&PROTO).then_some((Codec::Proto, PROTO))
    }
}

/// The media type of a message in UTF-8.
fn media_type(headers: &HeaderMap) -> Option<&str> {
    let content_type = single(headers, &CONTENT_TYPE)?;
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let parameters = parameters.trim();
    let is_utf8 = parameters.is_empty() || parameters.eq_ignore_ascii_case("charset=utf-8");
    is_utf8.then_some(media_type.trim())
}

/// Whether the message is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers)
        .is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json"))
}

/// Replaces the headers of Connect by those of gRPC, and returns whether the message is compressed.
/// The error has the headers of a status.
pub(super) fn convert_head(headers: &mut HeaderMap) -> Result<bool, HeaderMap> {
    let headers_of = |rejection: Response<tonic::body::Body>| rejection.into_parts().0.headers;
    let rejected = |description: &str| Err(headers_of(reject_head(description)));
    let is_compressed = match single(headers, &CONTENT_ENCODING) {
        Some("gzip") => true,
        Some("identity") => false,
        None if !headers.contains_key(CONTENT_ENCODING) => false,
        _ => return Err(headers_of(reject(Unread::Compressed.into()))),
    };
    if headers.contains_key(VERSION) && single(headers, &VERSION) != Some("1") {
        return rejected("must have the Connect-Protocol-Version 1");
    }
    let timeout = if headers.contains_key(TIMEOUT) {
        let Some(timeout) = single(headers, &TIMEOUT).and_then(grpc_timeout) else {
            return rejected("must have a Connect-Timeout-Ms of 1 to 10 digits");
        };
        Some(timeout)
    } else {
        None
    };
    for name in [CONTENT_ENCODING, CONTENT_LENGTH, GRPC_ENCODING, GRPC_TIMEOUT] {
        headers.remove(name);
    }
    if let Some(timeout) = timeout {
        headers.insert(GRPC_TIMEOUT, timeout);
    }
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(TE, HeaderValue::from_static("trailers"));
    Ok(is_compressed)
}

fn grpc_timeout(text: &str) -> Option<HeaderValue> {
    let is_number =
        text.len() <= TIMEOUT_DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    let millis: u64 = text.parse().ok().filter(|_| is_number)?;
    let timeout = if millis <= GRPC_TIMEOUT_MAX {
        format!("{millis}m")
    } else {
        format!("{}S", millis / 1_000)
    };
    timeout.try_into().ok()
}

/// The only message of a response. The error has the headers of a status.
pub(super) async fn collect(body: ObservedBody<CallBody>) -> Result<Bytes, HeaderMap> {
    let mut body = pin!(body);
    let mut message = None;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) if message.is_none() => message = Some(bytes),
            Ok(Err(trailers)) => {
                let trailers = trailers.into_trailers().unwrap_or_default();
                let is_ok = trailers.get(GRPC_STATUS).is_some_and(|status| status == "0");
                return if is_ok { message.ok_or(trailers) } else { Err(trailers) };
            }
            _ => break,
        }
    }
    Err(failure_trailers(unwritten(&"a cut response")))
}

/// The name of a code, and its HTTP status.
fn describe(code: Code) -> (&'static str, StatusCode) {
    match code {
        Code::Cancelled => ("canceled", client_closed()),
        Code::Ok | Code::Unknown => ("unknown", StatusCode::INTERNAL_SERVER_ERROR),
        Code::InvalidArgument => ("invalid_argument", StatusCode::BAD_REQUEST),
        Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
        Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("already_exists", StatusCode::CONFLICT),
        Code::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
        Code::FailedPrecondition => ("failed_precondition", StatusCode::BAD_REQUEST),
        Code::Aborted => ("aborted", StatusCode::CONFLICT),
        Code::OutOfRange => ("out_of_range", StatusCode::BAD_REQUEST),
        Code::Unimplemented => ("unimplemented", StatusCode::NOT_IMPLEMENTED),
        Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        Code::DataLoss => ("data_loss", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
    }
}

/// Status 499, which RFC 9110 does not name.
fn client_closed() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// Bytes that hold the permit of the rejected call with these headers.
pub(super) fn held(bytes: Vec<u8>, headers: &HeaderMap) -> Bytes {
    let details = headers.get(Status::GRPC_STATUS_DETAILS).cloned();
    Bytes::from_owner(HeldError { bytes, _details: details })
}

// === impl ErrorForm ===

impl ErrorForm {
    pub(super) fn new(details: DescriptorPool) -> Self {
        Self { details }
    }

    /// The response for the status of gRPC in `headers`. `status`: instead of the one of the code.
    pub(super) fn reject(
        &self,
        headers: &HeaderMap,
        status: Option<StatusCode>,
    ) -> Response<WebBody> {
        let error = status_of(headers);
        let bytes = serde_json::to_vec(&self.body(&error)).unwrap_or_default();
        let body = held(bytes, headers);
        let status = status.unwrap_or_else(|| describe(error.code()).1);
        let mut response = whole(status, JSON, body);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, BEARER);
        }
        response
    }

    fn reject_content_type(&self, method: &Method) -> Response<WebBody> {
        let supported = if method.is_streaming {
            "application/json, application/x-ndjson"
        } else {
            "application/json, application/proto"
        };
        let rejection = reject_head(&format!("must have one of the Content-Types {supported}"));
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let mut response = self.reject(rejection.headers(), Some(status));
        response.headers_mut().insert(ACCEPT_POST, HeaderValue::from_static(supported));
        response
    }

    /// The last line of a stream that has failed.
    fn line(&self, headers: &HeaderMap) -> Vec<u8> {
        let error = status_of(headers);
        let line = ErrorLine { error: self.body(&error) };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    fn body<'a>(&self, error: &'a Status) -> ErrorBody<'a> {
        let status = pb::Status::decode(error.details()).unwrap_or_default();
        let details =
            status.details.into_iter().map(|detail| self.detail(&detail.type_url, &detail.value));
        ErrorBody {
            code: describe(error.code()).0,
            message: error.message(),
            details: details.collect(),
        }
    }

    fn detail(&self, type_url: &str, value: &[u8]) -> Detail {
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let message = self.details.get_message_by_name(name);
        let debug = message.and_then(|message| DynamicMessage::decode(message, value).ok());
        Detail { name: name.to_owned(), value: STANDARD_NO_PAD.encode(value), debug }
    }
}

impl AsRef<[u8]> for HeldError {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

// === impl Lines ===

impl Lines {
    fn new(inner: ObservedBody<CallBody>, errors: &ErrorForm) -> Self {
        Self { inner, errors: errors.clone(), has_ended: false }
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let end = match frame {
            Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
            Some(Ok(frame)) => frame.into_trailers().unwrap_or_default(),
            // Without a last line, the client would take the part for the whole.
            Some(Err(_)) | None => HeaderMap::new(),
        };
        self.has_ended = true;
        if end.get(GRPC_STATUS).is_some_and(|status| status == "0") {
            return Poll::Ready(None);
        }
        let line = self.errors.line(&end).into();
        Poll::Ready(Some(Ok(Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_at_most_eight_digits_in_grpc() {
        let timeout = |text| grpc_timeout(text).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(timeout("0").as_deref(), Some("0m"));
        assert_eq!(timeout("99999999").as_deref(), Some("99999999m"));
        assert_eq!(timeout("9999999999").as_deref(), Some("9999999S"));
        for text in ["", "-1", "+1", "1.5", "10000000000", "1m"] {
            assert_eq!(timeout(text), None, "{text:?}");
        }
    }

    /// The table of the specification, in the order of the codes of gRPC.
    #[test]
    fn each_code_has_the_name_and_the_status_of_connect() {
        let expected = [
            ("unknown", 500),
            ("canceled", 499),
            ("unknown", 500),
            ("invalid_argument", 400),
            ("deadline_exceeded", 504),
            ("not_found", 404),
            ("already_exists", 409),
            ("permission_denied", 403),
            ("resource_exhausted", 429),
            ("failed_precondition", 400),
            ("aborted", 409),
            ("out_of_range", 400),
            ("unimplemented", 501),
            ("internal", 500),
            ("unavailable", 503),
            ("data_loss", 500),
            ("unauthenticated", 401),
        ];
        for (code, expected) in (0..).zip(expected) {
            let (name, status) = describe(Code::from_i32(code));
            assert_eq!((name, status.as_u16()), expected);
        }
    }

    #[test]
    fn an_error_without_known_details_is_complete() {
        let errors = ErrorForm::new(DescriptorPool::new());
        let line = |headers: &HeaderMap| {
            let line = errors.line(headers);
            assert_eq!(line.last(), Some(&b'\n'));
            serde_json::from_slice::<serde_json::Value>(&line).unwrap()["error"].take()
        };
        let error = line(reject_head("must not be \"so\"").headers());
        assert_eq!(error["code"], "invalid_argument");
        assert_eq!(error["message"], "metadata: must not be \"so\"");
        let detail = &error["details"][0];
        assert!(detail["type"].is_string() && detail["value"].is_string(), "{error}");
        assert!(detail.get("debug").is_none(), "{error}");
        // A stream that breaks off is no success.
        assert_eq!(line(&HeaderMap::new())["code"], "internal");
    }
}
