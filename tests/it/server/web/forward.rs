//! Forward-auth, as nginx, Caddy, Traefik and Gateway API ask.

use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;
use support_access::server::{
    Running,
    config::{CallLimits, Common},
};
use tokio_util::bytes::Bytes;

use super::{GRANT, Reply, grant, post_json, send, serving_with};
use crate::server::{
    harness::{common, stop, wait_for_metric},
    slow_store::SlowStore,
};

/// The sources of a proxy that sets the headers of the agent.
const EDGE: &str = r#"
    [edge]
    callers = ["anonymous"]
    tenant = { path = "tenant" }
    agent = { header = "x-agent" }
    groups = { header = "x-groups" }
    kind = { value = "HUMAN" }
    level = { method = { GET = "READ_ONLY", default = "READ_WRITE" } }
    [[edge.routes]]
    path = "/t/{tenant}/**"
"#;
const AGENT: [(&str, &str); 2] = [("x-agent", "ada"), ("x-groups", "support")];
const PATH: &str = "/check/v1/forward";

async fn serving(limits: CallLimits) -> (Running, SlowStore) {
    let integrations = toml::from_str(EDGE).unwrap();
    serving_with(Common { integrations, limits, ..common() }).await
}

/// A question with the headers of the agent.
fn question(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
    let headers = AGENT.iter().chain(headers);
    let request = headers.fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::default()).unwrap()
}

async fn ask(running: &Running, path: &str, headers: &[(&str, &str)]) -> Reply {
    send(running, question(Method::GET, path, headers)).await
}

/// The status and the reason of a denial.
fn denied(reply: &Reply) -> (u16, String) {
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(reply.headers.contains_key("retry-after"), reply.status == 503, "{reply:?}");
    let json: Value = reply.json();
    assert!(json["message"].is_string() && json["remedy"].is_string(), "{json}");
    (reply.status, json["reason"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_forwarded_request_is_decided_by_its_path_and_method() {
    let (running, _store) = serving(CallLimits::default()).await;
    assert_eq!(send(&running, post_json(GRANT, &grant())).await.status, 200);
    let caddy = |method, path| [("x-forwarded-method", method), ("x-forwarded-uri", path)];
    let nginx = |method, path| [("x-original-method", method), ("x-original-uri", path)];
    for (path, headers) in [
        (PATH, &caddy("GET", "/t/acme/users?id=1")[..]),
        (PATH, &nginx("GET", "/t/acme/users")),
        ("/check/v1/forward?a=1", &nginx("GET", "/t/acme/users")),
        ("/check/v1/forward/t/acme/users?id=1", &[]),
        (PATH, &[&caddy("GET", "/t/acme/a")[..], &[("authorization", "Bearer of-ada")]].concat()),
    ] {
        let reply = ask(&running, path, headers).await;
        assert_eq!(reply.status, 200, "{path} {headers:?}: {reply:?}");
        assert!(reply.body.is_empty());
        assert_eq!(reply.headers["x-support-level"], "READ_ONLY");
        assert!(reply.headers.contains_key("x-support-grant-id"));
        assert!(reply.headers.contains_key("x-support-until"));
    }
    for (path, headers) in
        [(PATH, &caddy("DELETE", "/t/acme/users")[..]), (PATH, &nginx("POST", "/t/acme/users"))]
    {
        let reply = ask(&running, path, headers).await;
        assert_eq!(denied(&reply), (403, "LEVEL_EXCEEDED".into()));
    }
    let path = "/check/v1/forward/t/acme/users";
    let reply = send(&running, question(Method::DELETE, path, &[])).await;
    assert_eq!(denied(&reply), (403, "LEVEL_EXCEEDED".into()));
    let reply = ask(&running, PATH, &caddy("GET", "/t/other/users")).await;
    assert_eq!(denied(&reply), (403, "NO_GRANT".into()));
    wait_for_metric(
        &running,
        "support_access_checks_total{decision=\"DENIED\",reason=\"LEVEL_EXCEEDED\"} 3",
    )
    .await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_question_without_one_path_and_method_is_denied() {
    let (running, _store) = serving(CallLimits::default()).await;
    let uri = ("x-forwarded-uri", "/t/acme/a");
    let (get, original) = (("x-forwarded-method", "GET"), ("x-original-uri", "/t/acme/a"));
    let below = "/check/v1/forward/t/acme/a";
    for (path, headers, reason) in [
        (PATH, &[][..], "INPUT_MISSING"),
        (PATH, &[uri], "INPUT_MISSING"),
        (PATH, &[uri, ("x-original-method", "GET")], "INPUT_MISSING"),
        (PATH, &[get], "INPUT_MISSING"),
        (PATH, &[uri, uri, get], "INPUT_AMBIGUOUS"),
        (PATH, &[uri, original, get], "INPUT_AMBIGUOUS"),
        (PATH, &[uri, get, get], "INPUT_AMBIGUOUS"),
        (below, &[uri, get], "INPUT_AMBIGUOUS"),
        (below, &[original], "INPUT_AMBIGUOUS"),
        ("/check/v1/forward//t/acme/a", &[], "INPUT_AMBIGUOUS"),
        (below, &[("x-agent", "eve")], "INPUT_AMBIGUOUS"),
        ("/check/v1/forward/elsewhere", &[], "INPUT_MISSING"),
    ] {
        let reply = ask(&running, path, headers).await;
        assert_eq!(denied(&reply), (403, reason.into()), "{path} {headers:?}");
    }
    let many = vec![("x-a", "b"); 101];
    assert_eq!(ask(&running, below, &many).await.status, 431);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_a_denial_without_a_decision() {
    let limits = CallLimits { checks_per_second: 1, ..CallLimits::default() };
    let (running, _store) = serving(limits).await;
    let below = "/check/v1/forward/t/acme/a";
    let mut replies = Vec::new();
    for _ in 0..20 {
        replies.push(denied(&ask(&running, below, &[]).await));
    }
    assert!(replies.contains(&(503, "TOO_MANY_REQUESTS".into())), "{replies:?}");
    stop(running).await.unwrap();
}
