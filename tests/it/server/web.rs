//! The web listener: JSON and protobuf over HTTP/1.1 and HTTP/2.

mod authzen;
mod bodies;
pub(crate) mod callers;
mod forward;
mod lines;

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use support_access::{
    api::proto::v1::{CheckAccessResponse, Decision},
    server::{
        Running,
        config::{CallLimits, Common, Config, ListenAddress},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::bytes::Bytes;

use crate::server::{
    harness::{a_check, common, config, loopback, start, stop, wait_for_metric, with_timeout},
    slow_store::SlowStore,
};

const CHECK: &str = "/supportaccess.v1.SupportAccess/CheckAccess";
const BATCH: &str = "/supportaccess.v1.SupportAccess/BatchCheckAccess";
const GRANT: &str = "/supportaccess.v1.SupportAccessAdmin/GrantAccess";
pub(crate) const LIST: &str = "/supportaccess.v1.SupportAccessAdmin/ListGrants";
const EXPORT: &str = "/supportaccess.v1.SupportAccessAdmin/ExportHistory";
const CALLER: &str = "/supportaccess.v1.ServerInfo/GetCaller";

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The HTTP status, the code and the reason of an error.
    pub(crate) fn error(&self) -> (u16, String, String) {
        let json = self.json();
        let details = json["details"].as_array().unwrap();
        let info = details.iter().find(|detail| detail["type"] == "google.rpc.ErrorInfo").unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (self.status, text(&json["code"]), text(&info["debug"]["reason"]))
    }

    /// The first field at fault, and its description.
    fn violation(&self) -> (String, String) {
        let json = self.json();
        let details = json["details"].as_array().unwrap();
        let request = details.iter().find(|detail| detail["type"] == "google.rpc.BadRequest");
        let violation = &request.unwrap_or_else(|| panic!("{json}"))["debug"]["fieldViolations"][0];
        let text = |name: &str| violation[name].as_str().unwrap().to_owned();
        (text("field"), text("description"))
    }
}

/// A server with a web listener on a free port.
async fn serving() -> (Running, SlowStore) {
    limited(CallLimits::default()).await
}

async fn limited(limits: CallLimits) -> (Running, SlowStore) {
    serving_with(Common { limits, ..common() }).await
}

async fn serving_with(common: Common) -> (Running, SlowStore) {
    let web_listen = Some(ListenAddress::Tcp(loopback()));
    start(Config { common, web_listen, ..config() }).await
}

fn web(running: &Running) -> SocketAddr {
    let Some(ListenAddress::Tcp(address)) = &running.web else { panic!("not a TCP address") };
    *address
}

fn post(path: &str, content_type: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "localhost")
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .unwrap()
}

fn post_json(path: &str, body: &Value) -> Request<Full<Bytes>> {
    post(path, "application/json", body.to_string())
}

/// Sends a request on a new connection of HTTP/1.1.
async fn send(running: &Running, request: Request<Full<Bytes>>) -> Reply {
    exchange(TcpStream::connect(web(running)).await.unwrap(), request).await
}

/// Sends a request over HTTP/1.1.
async fn exchange<IO>(stream: IO, request: Request<Full<Bytes>>) -> Reply
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let serving = tokio::spawn(connection);
    let response = with_timeout(sender.send_request(request)).await.unwrap();
    let (head, body) = response.into_parts();
    let body = with_timeout(body.collect()).await.unwrap().to_bytes();
    serving.abort();
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

/// Connections of a caller that send the first half of a message of 2 MB.
async fn send_megabytes(running: &Running, count: usize) -> Vec<TcpStream> {
    let head = format!(
        "POST {BATCH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 2000000\r\n\r\n"
    );
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(web(running)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 1_000_000]).await.unwrap();
        connections.push(stream);
    }
    connections
}

fn grant() -> Value {
    json!({
        "tenantId": "acme",
        "groupId": "support",
        "accessLevel": "ACCESS_LEVEL_READ_ONLY",
        "duration": "3600s",
        "reason": "a broken report",
    })
}

fn check() -> Value {
    json!({"check": {
        "tenant_id": "acme",
        "agent_id": "ada",
        "group_ids": ["support"],
        "required_level": "ACCESS_LEVEL_READ_ONLY",
        "agent_kind": "AGENT_KIND_HUMAN",
    }})
}

#[tokio::test]
async fn calls_succeed_in_json_and_protobuf() {
    let (running, _store) = serving().await;
    let granted = send(&running, post_json(GRANT, &grant())).await;
    assert_eq!(granted.status, 200, "{granted:?}");
    assert_eq!(granted.headers["content-type"], "application/json");
    assert_eq!(granted.headers["cache-control"], "no-store");
    assert!(granted.headers.contains_key("x-request-id"));
    assert_eq!(granted.headers["content-length"], granted.body.len().to_string());
    let granted = granted.json();
    assert_eq!(granted["grant"]["state"], "GRANT_STATE_ACTIVE");
    let grant_id = granted["grant"]["grantId"].as_str().unwrap();

    let mut request = check();
    request["consistency_token"] = granted["consistencyToken"].clone();
    let checked = send(&running, post_json(CHECK, &request)).await.json();
    assert_eq!(
        (&checked["decision"], &checked["grantId"]),
        (&"DECISION_ALLOWED".into(), &grant_id.into())
    );
    assert!(checked["validFor"].as_str().unwrap().ends_with('s'), "{checked}");

    let encoded = a_check().encode_to_vec();
    let checked = send(&running, post(CHECK, "application/proto", encoded)).await;
    assert_eq!(checked.headers["content-type"], "application/proto");
    let checked = CheckAccessResponse::decode(checked.body).unwrap();
    assert_eq!((checked.decision(), &*checked.grant_id), (Decision::Allowed, grant_id));

    let batch = json!({"checks": [check()["check"], check()["check"]]});
    let checked = send(&running, post_json(BATCH, &batch)).await.json();
    assert_eq!(checked["results"].as_array().map(Vec::len), Some(2), "{checked}");
    let info = send(&running, post(CALLER, "APPLICATION/JSON; charset=UTF-8", "{}")).await.json();
    assert!(info["name"].is_string(), "{info}");
    let line = "support_access_rpcs_total{service=\"supportaccess.v1.SupportAccess\",\
                method=\"CheckAccess\",code=\"OK\"} 2";
    wait_for_metric(&running, line).await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn http_2_is_served_on_the_same_port() {
    let (running, _store) = serving().await;
    let stream = TcpStream::connect(web(&running)).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let serving = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{CHECK}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(check().to_string())))
        .unwrap();
    let response = with_timeout(sender.send_request(request)).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (Version::HTTP_2, 200));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let checked: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(checked["reason"], "DECISION_REASON_NO_GRANT");
    serving.abort();
    stop(running).await.unwrap();
}

#[tokio::test]
async fn errors_have_the_form_of_connect() {
    let (running, store) = serving().await;
    let missing = json!({"tenantId": "acme", "grantId": "01890000-0000-7000-8000-000000000000"});
    let get = "/supportaccess.v1.SupportAccessAdmin/GetGrant";
    let reply = send(&running, post_json(get, &missing)).await;
    assert_eq!(reply.error(), (404, "not_found".into(), "GRANT_NOT_FOUND".into()));
    assert_eq!(reply.headers["content-type"], "application/json");
    let reply = send(&running, post_json(CHECK, &json!({}))).await;
    assert_eq!(reply.error(), (400, "invalid_argument".into(), "INVALID_FIELD".into()));
    assert_eq!(reply.violation().0, "check");

    let mut request = grant();
    request["requestId"] = "018f0000-0000-7000-8000-000000000001".into();
    assert_eq!(send(&running, post_json(GRANT, &request)).await.status, 200);
    request["groupId"] = "other".into();
    let reply = send(&running, post_json(GRANT, &request)).await;
    assert_eq!(reply.error(), (409, "already_exists".into(), "REQUEST_ID_REUSED".into()));

    store.are_changes_held.send_replace(true);
    let mut request = post_json(GRANT, &grant());
    request.headers_mut().insert("connect-timeout-ms", "200".parse().unwrap());
    let reply = send(&running, request).await;
    assert_eq!(reply.error(), (504, "deadline_exceeded".into(), "DEADLINE_EXCEEDED".into()));
    store.are_changes_held.send_replace(false);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn requests_outside_the_protocol_are_rejected() {
    let (running, _store) = serving().await;
    for path in ["/", "/supportaccess.v1.SupportAccess/NoSuchMethod", "/favicon.ico"] {
        let reply = send(&running, post_json(path, &json!({}))).await;
        assert_eq!(reply.error(), (404, "unimplemented".into(), "METHOD_NOT_FOUND".into()));
    }
    let not_served =
        ["/grpc.health.v1.Health/Check", "/supportaccess.replication.v1.Replication/Follow"];
    for path in not_served {
        assert_eq!(send(&running, post_json(path, &json!({}))).await.status, 404);
    }
    for verb in [Method::GET, Method::PUT, Method::OPTIONS, Method::HEAD] {
        let mut request = post_json(CHECK, &check());
        *request.method_mut() = verb;
        let reply = send(&running, request).await;
        assert_eq!((reply.status, &reply.headers["allow"]), (405, &"POST".parse().unwrap()));
    }
    let types = [
        "text/plain",
        "application/grpc",
        "application/connect+json",
        "application/json; charset=latin1",
    ];
    for content_type in types {
        let reply = send(&running, post(CHECK, content_type, check().to_string())).await;
        assert_eq!(reply.status, 415, "{content_type}");
        assert_eq!(reply.headers["accept-post"], "application/json, application/proto");
    }
    for (name, value) in [
        ("connect-protocol-version", "2"),
        ("connect-timeout-ms", "1s"),
        ("connect-timeout-ms", "12345678901"),
    ] {
        let mut request = post_json(CHECK, &check());
        request.headers_mut().insert(name, value.parse().unwrap());
        let reply = send(&running, request).await;
        assert_eq!(
            reply.error(),
            (400, "invalid_argument".into(), "INVALID_FIELD".into()),
            "{name}"
        );
        assert_eq!(reply.violation().0, "metadata");
    }
    let mut request = post_json(CHECK, &check());
    request.headers_mut().insert("content-encoding", "br".parse().unwrap());
    let reply = send(&running, request).await;
    assert_eq!((reply.status, &reply.json()["code"]), (501, &"unimplemented".into()));
    assert_eq!(reply.headers["accept-encoding"], "gzip");
    let mut request = post_json(CHECK, &check());
    request.headers_mut().insert("host", "rebound.example:8080".parse().unwrap());
    assert_eq!(send(&running, request).await.status, 421);
    stop(running).await.unwrap();
}
