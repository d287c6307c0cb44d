//! Checks by Envoy's filter `ext_authz`, as a gateway sends them.

use std::collections::{BTreeMap, HashMap};

use prost_types::{Struct, Value as ProtoValue, value::Kind};
use serde_json::{Value, json};
use support_access::{
    api::proto::{
        envoy::{
            AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderMap,
            HeaderValue, HeaderValueOption,
            attribute_context::{HttpRequest, Metadata, Request},
            authorization_client::AuthorizationClient,
            check_response::HttpResponse,
        },
        v1::RevokeAccessRequest,
    },
    server::{
        Running,
        config::{CallLimits, Config},
    },
};
use tonic::{Code, transport::Channel};
use tonic_prost::ProstCodec;

use crate::server::{
    follower::grant,
    harness::{
        a_grant, admin, channel, config, eventually, has_metric, rpcs, start, wait_for_metric,
    },
    identity::{GATEWAY, OPERATOR, World, issuer, issuer::Issuer},
    sidecars::sidecar_with,
};

const SERVICE: &str = "envoy.service.auth.v3.Authorization";

/// The sources of the gateway of a server without authentication.
pub(crate) const EDGE: &str = r#"
    [edge]
    callers = ["anonymous"]
    claims = { metadata = { key = "staff" } }
    tenant = { path = "tenant" }
    agent = { claim = "email" }
    groups = { claim = "groups" }
    kind = { value = "HUMAN" }
    level = { method = { GET = "READ_ONLY", default = "READ_WRITE" } }
    [[edge.routes]]
    path = "/t/{tenant}/**"
    [[edge.routes]]
    path = "/headers"
    tenant = { header = "x-tenant" }
    agent = { header = "x-agent" }
    [[edge.routes]]
    path = "/extensions"
    tenant = { extension = "tenant" }
    [edge.mapping]
    groups = { "/support" = "support" }
"#;

pub(crate) fn configured(integrations: &str) -> Config {
    let mut config = config();
    config.common.integrations = toml::from_str(integrations).unwrap();
    assert_eq!(config.common.integrations.problems(), [""; 0]);
    config
}

async fn envoy(running: &Running) -> AuthorizationClient<Channel> {
    AuthorizationClient::new(channel(running).await)
}

fn proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.iter().map(proto).collect() })
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), proto(value)));
            Kind::StructValue(Struct { fields: fields.collect() })
        }
    };
    ProtoValue { kind: Some(kind) }
}

/// A request of agent `ada`, a member of `/support`.
pub(crate) fn asked(method: &str, path: &str) -> AttributeContext {
    let claims = json!({ "email": "ada", "groups": ["/support", "/others"] });
    let fields = BTreeMap::from([("staff".to_owned(), proto(&claims))]);
    let namespace = "envoy.filters.http.jwt_authn".to_owned();
    let metadata = HashMap::from([(namespace, Struct { fields })]);
    let http = HttpRequest { method: method.into(), path: path.into(), ..HttpRequest::default() };
    AttributeContext {
        request: Some(Request { http: Some(http) }),
        context_extensions: HashMap::from([("tenant".to_owned(), "acme".to_owned())]),
        metadata_context: Some(Metadata { filter_metadata: metadata }),
    }
}

pub(crate) fn with_headers(path: &str, headers: &[(&str, &str)]) -> AttributeContext {
    let mut context = asked("GET", path);
    let http = context.request.as_mut().unwrap().http.as_mut().unwrap();
    http.headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    context
}

pub(crate) fn request(attributes: AttributeContext) -> CheckRequest {
    CheckRequest { attributes: Some(attributes) }
}

/// The answer to a request. The call itself succeeds.
async fn answer(
    client: &mut AuthorizationClient<Channel>,
    attributes: AttributeContext,
) -> CheckResponse {
    client.check(request(attributes)).await.unwrap().into_inner()
}

fn named(headers: &[HeaderValueOption]) -> BTreeMap<String, String> {
    let headers = headers.iter().map(|option| option.header.clone().unwrap());
    headers.map(|header| (header.key, header.value)).collect()
}

/// The headers of an answer that allows.
fn allowed(answer: CheckResponse) -> BTreeMap<String, String> {
    assert_eq!(answer.status.unwrap().code, Code::Ok as i32, "{:?}", answer.http_response);
    let Some(HttpResponse::OkResponse(response)) = answer.http_response else {
        panic!("not allowed: {:?}", answer.http_response)
    };
    named(&response.headers)
}

/// The status, the headers and the reason of an answer that denies.
fn denied(answer: CheckResponse) -> (i32, BTreeMap<String, String>, String) {
    assert_ne!(answer.status.unwrap().code, Code::Ok as i32);
    let Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status, headers, body })) =
        answer.http_response
    else {
        panic!("not denied: {:?}", answer.http_response)
    };
    let body: Value = serde_json::from_str(&body).unwrap();
    assert!(body["message"].is_string() && body["remedy"].is_string(), "{body}");
    let headers = named(&headers);
    assert_eq!(headers["content-type"], "application/json");
    let status = status.unwrap().code;
    assert_eq!(headers.contains_key("retry-after"), status == 503, "{headers:?}");
    (status, headers, body["reason"].as_str().unwrap().to_owned())
}

fn denied_as(answer: CheckResponse) -> (i32, String) {
    let (status, _, reason) = denied(answer);
    (status, reason)
}

#[tokio::test]
async fn a_grant_allows_until_the_revocation() {
    let (running, _store) = start(configured(EDGE)).await;
    let mut envoy = envoy(&running).await;
    let denial = answer(&mut envoy, asked("GET", "/t/acme/users")).await;
    assert_eq!(denied_as(denial), (403, "NO_GRANT".into()));
    let (grant_id, _) = grant(&running, a_grant()).await;
    let headers = allowed(answer(&mut envoy, asked("GET", "/t/acme/users")).await);
    let expected = [
        ("x-support-grant-id", grant_id.as_str()),
        ("x-support-level", "READ_ONLY"),
        ("x-support-until", "revoked"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(headers, BTreeMap::from(expected));
    let denial = answer(&mut envoy, asked("POST", "/t/acme/users")).await;
    assert_eq!(denied_as(denial), (403, "LEVEL_EXCEEDED".into()));

    let tenant_id = "acme".to_owned();
    let request = RevokeAccessRequest { tenant_id, grant_id, ..Default::default() };
    admin(&running).await.revoke_access(request).await.unwrap();
    let denial = answer(&mut envoy, asked("GET", "/t/acme/users")).await;
    assert_eq!(denied_as(denial), (403, "REVOKED".into()));
    let line = r#"support_access_checks_total{decision="DENIED",reason="REVOKED"} 1"#;
    assert!(has_metric(&running, line).await);
    wait_for_metric(&running, &rpcs(SERVICE, "Check", "OK", 4)).await;
}

#[tokio::test]
async fn a_grant_with_an_end_states_the_end() {
    let (running, _store) = start(configured(EDGE)).await;
    let duration = prost_types::Duration { seconds: 3_600, nanos: 0 };
    let mut request = a_grant();
    (request.until_revoked, request.duration) = (false, Some(duration));
    grant(&running, request).await;
    let headers = allowed(answer(&mut envoy(&running).await, asked("GET", "/t/acme")).await);
    let until = &headers["x-support-until"];
    assert!(until.starts_with("20") && until.ends_with('Z'), "{until}");
}

#[tokio::test]
async fn inputs_that_are_missing_or_duplicated_deny_and_are_counted() {
    let (running, _store) = start(configured(EDGE)).await;
    grant(&running, a_grant()).await;
    let mut envoy = envoy(&running).await;
    let (tenant, agent) = (("x-tenant", "acme"), ("x-agent", "ada"));
    allowed(answer(&mut envoy, with_headers("/headers", &[tenant, agent])).await);
    allowed(answer(&mut envoy, asked("GET", "/extensions")).await);

    let mut left_out = asked("GET", "/t/acme");
    left_out.metadata_context = None;
    let mut overflow = asked("GET", "/t/acme");
    let claims = json!({ "email": "ada", "_claim_names": { "groups": "src1" } });
    let metadata = overflow.metadata_context.as_mut().unwrap();
    let staff = metadata.filter_metadata.get_mut("envoy.filters.http.jwt_authn").unwrap();
    staff.fields.insert("staff".into(), proto(&claims));
    let joined = with_headers("/headers", &[("x-tenant", "acme,acme"), agent]);
    let mut raw = asked("GET", "/headers");
    let header = |key: &str, value: &str| HeaderValue {
        key: key.into(),
        value: String::new(),
        raw_value: value.into(),
    };
    let map = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(key, value)| header(key, value)).collect();
        Some(HeaderMap { headers })
    };
    let set = |raw: &mut AttributeContext, headers: Option<HeaderMap>| {
        raw.request.as_mut().unwrap().http.as_mut().unwrap().header_map = headers;
    };
    set(&mut raw, map(&[tenant, agent]));
    allowed(answer(&mut envoy, raw.clone()).await);
    set(&mut raw, map(&[tenant, tenant, agent]));
    let mut not_text = asked("GET", "/headers");
    set(&mut not_text, map(&[tenant, agent]));
    let http = not_text.request.as_mut().unwrap().http.as_mut().unwrap();
    http.header_map.as_mut().unwrap().headers[0].raw_value = vec![b'a', 0xff];

    for (question, reason, count) in [
        (with_headers("/headers", &[agent]), "INPUT_MISSING", 1),
        (left_out, "INPUT_MISSING", 2),
        (AttributeContext::default(), "INPUT_INVALID", 1),
        (not_text, "INPUT_INVALID", 2),
        (joined, "INPUT_AMBIGUOUS", 1),
        (raw, "INPUT_AMBIGUOUS", 2),
        (asked("GET", "/t/acme/../globex"), "INPUT_AMBIGUOUS", 3),
        (overflow, "CLAIM_OVERFLOW", 1),
    ] {
        let denial = answer(&mut envoy, question).await;
        assert_eq!(denied_as(denial), (403, reason.into()));
        let line = format!(
            "support_access_checks_total{{decision=\"DENIED\",reason=\"{reason}\"}} {count}"
        );
        assert!(has_metric(&running, &line).await, "{line}");
    }
}

#[tokio::test]
async fn a_gateway_without_an_integration_is_denied() {
    let (running, _store) = start(configured(&EDGE.replace("anonymous", "another"))).await;
    let denial = answer(&mut envoy(&running).await, asked("GET", "/t/acme")).await;
    assert_eq!(denied_as(denial), (403, "INPUT_MISSING".into()));
}

#[tokio::test]
async fn a_stale_node_answers_503() {
    let (replica, _store) = start(config()).await;
    let sidecar = sidecar_with(&replica, configured(EDGE).common).await;
    drop(replica);
    let mut envoy = envoy(&sidecar).await;
    eventually(async || {
        let (status, headers, reason) = denied(answer(&mut envoy, asked("GET", "/t/acme")).await);
        reason == "STALE" && status == 503 && headers["retry-after"] == "1"
    })
    .await;
}

#[tokio::test]
async fn every_refusal_is_a_denial() {
    let world = World::new().await;
    let without_certificate = world.channel(None).await;
    for (channel, reason) in [
        (without_certificate.clone(), "CREDENTIALS_MISSING"),
        (world.channel(Some(OPERATOR)).await, "ROLE_MISSING"),
    ] {
        let denial = answer(&mut AuthorizationClient::new(channel), asked("GET", "/t/acme")).await;
        assert_eq!(denied_as(denial), (503, reason.into()));
    }
    let mut with_token = tonic::Request::new(request(asked("GET", "/t/acme")));
    with_token.metadata_mut().insert("authorization", "Bearer forged".parse().unwrap());
    let denial = AuthorizationClient::new(without_certificate).check(with_token).await;
    assert_eq!(denied_as(denial.unwrap().into_inner()), (503, "TOKEN_REJECTED".into()));

    let gateway = world.channel(Some(GATEWAY)).await;
    let large = "x".repeat(400 * 1_024);
    let mut envoy = AuthorizationClient::new(gateway.clone());
    let denial = answer(&mut envoy, with_headers("/", &[("x-large", &large)])).await;
    assert_eq!(denied_as(denial), (503, "INVALID_FIELD".into()));
    let path = format!("/{SERVICE}/Check").parse().unwrap();
    let mut raw = tonic::client::Grpc::new(gateway);
    raw.ready().await.unwrap();
    // The field of the attributes contains a text.
    let codec = ProstCodec::<String, CheckResponse>::default();
    let denial = raw.unary(tonic::Request::new("no attributes".to_owned()), path, codec).await;
    assert_eq!(denied_as(denial.unwrap().into_inner()), (503, "INVALID_FIELD".into()));
    let mut many = tonic::Request::new(request(asked("GET", "/t/acme")));
    for index in 0..150 {
        let name: tonic::metadata::AsciiMetadataKey = format!("x-{index}").parse().unwrap();
        many.metadata_mut().insert(name, "1".parse().unwrap());
    }
    let denial = envoy.check(many).await.unwrap().into_inner();
    assert_eq!(denied_as(denial), (503, "INVALID_FIELD".into()));
    for (code, count) in [("UNAUTHENTICATED", 2), ("PERMISSION_DENIED", 1), ("INVALID_ARGUMENT", 3)]
    {
        wait_for_metric(&world.running, &rpcs(SERVICE, "Check", code, count)).await;
    }
}

#[tokio::test]
async fn a_gateway_beyond_its_limits_is_denied() {
    let mut config = configured(EDGE);
    config.common.limits = CallLimits { checks_per_second: 1, ..CallLimits::default() };
    let (running, _store) = start(config).await;
    let mut envoy = envoy(&running).await;
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let (status, _, reason) = denied(answer(&mut envoy, asked("GET", "/t/acme")).await);
        reasons.push((status, reason));
    }
    assert!(reasons.contains(&(503, "TOO_MANY_REQUESTS".into())), "{reasons:?}");
    assert_eq!(reasons[0], (403, "NO_GRANT".into()));
}

#[tokio::test]
async fn the_service_verifies_the_token_of_a_request() {
    let dir = tempfile::TempDir::new().unwrap();
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let path = dir.path().join("keys.json");
    std::fs::write(&path, issuer.jwks()).unwrap();
    let integration = |keys: &str| {
        format!(
            "[edge]\ncallers = ['anonymous']\nclaims.token = {{ issuer = '{}', audience = 'app', \
             keys = '{keys}' }}\ntenant = {{ path = 'tenant' }}\nagent = {{ claim = 'sub' }}\n\
             groups = {{ claim = 'roles' }}\nkind = {{ value = 'HUMAN' }}\n\
             level = {{ value = 'READ_ONLY' }}\nroutes = [{{ path = '/{{tenant}}' }}]",
            issuer::NAME
        )
    };
    let (running, _store) = start(configured(&integration(path.to_str().unwrap()))).await;
    grant(&running, a_grant()).await;
    let mut envoy = envoy(&running).await;
    let mut claims = issuer::claims("ada", "support", &[]);
    claims["aud"] = json!(["account", "app"]);
    let valid = format!("Bearer {}", issuer.signer.sign(&claims));
    let forged = format!("Bearer {}", other.signer.sign(&claims));
    let (mut expired, mut of_callers) = (claims.clone(), claims.clone());
    expired["exp"] = json!(1_000_000);
    of_callers["aud"] = json!(issuer::AUDIENCE);
    let expired = format!("Bearer {}", issuer.signer.sign(&expired));
    let of_callers = format!("Bearer {}", issuer.signer.sign(&of_callers));
    allowed(answer(&mut envoy, with_headers("/acme", &[("authorization", &valid)])).await);
    let twice = format!("{valid},{valid}");
    for (header, reason) in [
        (&*forged, "INPUT_INVALID"),
        (&*expired, "INPUT_INVALID"),
        (&*of_callers, "INPUT_INVALID"),
        ("Basic YTpi", "INPUT_INVALID"),
        (&*twice, "INPUT_AMBIGUOUS"),
    ] {
        let question = with_headers("/acme", &[("authorization", header)]);
        let denial = answer(&mut envoy, question).await;
        assert_eq!(denied_as(denial), (403, reason.into()), "{header}");
    }
    let denial = answer(&mut envoy, with_headers("/acme", &[])).await;
    assert_eq!(denied_as(denial), (403, "INPUT_MISSING".into()));

    // Nothing listens at the URL of the keys.
    let (running, _store) = start(configured(&integration("http://127.0.0.1:1/keys"))).await;
    let question = with_headers("/acme", &[("authorization", &valid)]);
    let denial = answer(&mut self::envoy(&running).await, question).await;
    assert_eq!(denied_as(denial), (503, "KEYS_UNAVAILABLE".into()));
}
