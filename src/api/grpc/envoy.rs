//! `envoy.service.auth.v3.Authorization`: checks of Envoy's filter `ext_authz`.

use std::borrow::Cow;

use http::StatusCode;
use prost_types::{Struct, Value as ProtoValue, value::Kind};
use serde_json::{Map, Number, Value};
use tonic::Code;

use crate::api::{
    integrations::{
        answer::Answer,
        config::MetadataConfig,
        request::{FORWARDED, HttpRequest, InputError},
    },
    proto::envoy::{
        AttributeContext, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption,
        HttpStatus, OkHttpResponse, RpcStatus, attribute_context::Metadata,
        check_response::HttpResponse,
    },
};

/// Upper bound of the memory of a decoded message of Envoy, in bytes for each byte. The smallest
/// claim in an object takes 8 bytes, and less than 300 when decoded and converted.
pub(in crate::api) const DECODED: usize = 40;

/// The request at the proxy. `metadata` is where the proxy passes verified claims on.
pub(super) fn http_request<'a>(
    attributes: &'a AttributeContext,
    metadata: Option<&MetadataConfig>,
) -> Result<HttpRequest<'a>, InputError> {
    let AttributeContext { request, context_extensions, metadata_context } = attributes;
    let http = request.as_ref().and_then(|request| request.http.as_ref());
    let named = metadata.and_then(|config| find(metadata_context.as_ref()?, config));
    let mut found = HttpRequest {
        extensions: context_extensions.clone(),
        verified_claims: named.map(json),
        ..HttpRequest::default()
    };
    if let Some(http) = http {
        (found.method, found.path) = (&http.method, &http.path);
        let joined = http.headers.iter();
        found.headers.extend(joined.map(|(name, value)| (name.into(), value.into())));
        let raw = http.header_map.iter().flat_map(|map| &map.headers);
        found.headers.extend(raw.map(|header| (Cow::from(&header.key), raw_value(header))));
    }
    if found.extensions.remove(FORWARDED).is_some() { found.forwarded() } else { Ok(found) }
}

/// A value that is not UTF-8 becomes a control character, which no id contains.
fn raw_value(header: &HeaderValue) -> Cow<'_, str> {
    if header.raw_value.is_empty() {
        return Cow::from(&header.value);
    }
    str::from_utf8(&header.raw_value).map_or(Cow::from("\0"), Cow::from)
}

fn find<'a>(metadata: &'a Metadata, config: &MetadataConfig) -> Option<&'a ProtoValue> {
    let Struct { fields } = metadata.filter_metadata.get(&config.namespace)?;
    fields.get(&config.key)
}

/// Prost limits the depth of a message.
fn json(value: &ProtoValue) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::Bool(*truth),
        Some(Kind::NumberValue(number)) => {
            Number::from_f64(*number).map_or(Value::Null, Value::Number)
        }
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(json).collect()),
        Some(Kind::StructValue(Struct { fields })) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), json(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// The answer as a message. Envoy denies requests after every `denied_response`, whatever the
/// status, but may allow them after an error.
pub(in crate::api) fn response(answer: Answer) -> CheckResponse {
    let Answer { status, headers, body } = answer;
    let headers = headers.into_iter().map(|(name, value)| {
        let header = HeaderValue { key: name.as_str().into(), value, raw_value: Vec::new() };
        HeaderValueOption { header: Some(header) }
    });
    let headers = headers.collect();
    let (code, response) = if status == StatusCode::OK {
        (Code::Ok, HttpResponse::OkResponse(OkHttpResponse { headers }))
    } else {
        let code = if status == StatusCode::FORBIDDEN {
            Code::PermissionDenied
        } else {
            Code::Unavailable
        };
        let status = Some(HttpStatus { code: status.as_u16().into() });
        (code, HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body }))
    };
    CheckResponse { status: Some(RpcStatus { code: code.into() }), http_response: Some(response) }
}
