//! Metrics, log lines, ids and rejections of RPCs.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use support_access::{
    api::proto::v1::{
        AccessCheck, CheckAccessRequest, GetCallerRequest, GetGrantRequest, GetGrantResponse,
        RevokeAllAccessRequest, server_info_client::ServerInfoClient,
        support_access_client::SupportAccessClient,
    },
    server::config::{CallLimits, Common, Config},
};
use tokio::time::timeout;
use tonic::{Code, Request, Response, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use tonic_types::StatusExt;

use crate::server::{
    follower::reason,
    harness::{
        TIMEOUT, a_check, a_grant, access, admin, an_access_check, channel, common, config,
        eventually, get, has_metric, rpcs, start, stop, wait_for_metric, with_timeout,
    },
};

const ACCESS: &str = "supportaccess.v1.SupportAccess";
const ADMIN: &str = "supportaccess.v1.SupportAccessAdmin";
const HEALTH: &str = "grpc.health.v1.Health";

#[tokio::test]
async fn each_rpc_is_counted_by_method_and_code() {
    let (running, _store) = start(config()).await;
    for _ in 0..3 {
        access(&running).await.check_access(a_check()).await.unwrap();
    }
    let mut health = HealthClient::new(channel(&running).await);
    let unknown = HealthCheckRequest { service: "made.up.Service".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);

    wait_for_metric(&running, &rpcs(ACCESS, "CheckAccess", "OK", 3)).await;
    wait_for_metric(&running, &rpcs(HEALTH, "Check", "NOT_FOUND", 1)).await;
    let labels = format!("service=\"{ACCESS}\",method=\"CheckAccess\"");
    let count = format!("support_access_rpc_duration_seconds_count{{{labels}}} 3");
    assert!(has_metric(&running, &count).await);
    let in_flight = format!("support_access_rpcs_in_flight{{{labels}}} 0");
    assert!(has_metric(&running, &in_flight).await);
    let check = r#"support_access_checks_total{decision="DENIED",reason="NO_GRANT"} 3"#;
    assert!(has_metric(&running, check).await);

    let (status, head, body) = get(running.metrics, "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.to_lowercase().contains("content-type: application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn unknown_methods_are_explained_and_share_one_label() {
    let (running, _store) = start(config()).await;
    for path in ["/made.up.Service/Method", "/supportaccess.v1.SupportAccess/MadeUp", "/x"] {
        let mut grpc = Grpc::new(channel(&running).await);
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<CheckAccessRequest, CheckAccessRequest>::default();
        let path = PathAndQuery::from_static(path);
        let response = grpc.unary(Request::new(a_check()), path, codec).await;
        let error = response.unwrap_err();
        let found = (error.code(), reason(&error));
        assert_eq!(found, (Code::Unimplemented, "METHOD_NOT_FOUND".to_owned()));
    }
    wait_for_metric(&running, &rpcs("unknown", "unknown", "UNIMPLEMENTED", 3)).await;
    let (.., metrics) = get(running.metrics, "/metrics").await;
    assert!(!metrics.contains("made.up.Service"));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_change_counts_as_cancelled_and_is_committed() {
    let (running, store) = start(config()).await;
    let mut admin = admin(&running).await;
    store.are_changes_held.send_replace(true);
    {
        let call = admin.grant_access(a_grant());
        tokio::pin!(call);
        eventually(async || {
            let _ = timeout(Duration::from_millis(5), &mut call).await;
            store.waiting() == 1
        })
        .await;
    }
    wait_for_metric(&running, &rpcs(ADMIN, "GrantAccess", "CANCELLED", 1)).await;
    assert!(!has_metric(&running, &rpcs(ADMIN, "GrantAccess", "OK", 1)).await);
    let labels = format!("service=\"{ADMIN}\",method=\"GrantAccess\"");
    assert!(has_metric(&running, &format!("support_access_rpcs_in_flight{{{labels}}} 0")).await);

    assert_eq!(store.commits(), 0);
    store.are_changes_held.send_replace(false);
    eventually(async || store.commits() == 1).await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_call_past_its_deadline_counts_as_deadline_exceeded() {
    let (running, store) = start(config()).await;
    store.are_changes_held.send_replace(true);
    let mut request = Request::new(a_grant());
    request.set_timeout(Duration::from_millis(100));
    with_timeout(admin(&running).await.grant_access(request)).await.unwrap_err();
    wait_for_metric(&running, &rpcs(ADMIN, "GrantAccess", "DEADLINE_EXCEEDED", 1)).await;
    store.are_changes_held.send_replace(false);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_dropped_stream_counts_as_cancelled() {
    let (running, _store) = start(config()).await;
    let mut health = HealthClient::new(channel(&running).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let in_flight =
        format!("support_access_rpcs_in_flight{{service=\"{HEALTH}\",method=\"Watch\"}}");
    assert!(has_metric(&running, &format!("{in_flight} 1")).await);
    drop(watch);
    wait_for_metric(&running, &rpcs(HEALTH, "Watch", "CANCELLED", 1)).await;
    assert!(has_metric(&running, &format!("{in_flight} 0")).await);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_call_has_the_id_of_its_caller_or_a_new_one() {
    fn call<M>(message: M, given: Option<&str>) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(given) = given {
            request.metadata_mut().insert("x-request-id", given.parse().unwrap());
        }
        request
    }
    fn id_in<M>(response: &Response<M>) -> Option<&str> {
        response.metadata().get("x-request-id").map(|id| id.to_str().unwrap())
    }
    let (running, _store) = start(config()).await;
    let mut access = access(&running).await;
    let mut info = ServerInfoClient::new(channel(&running).await);
    let longest = "x".repeat(128);
    for valid in ["portal-17/a", &longest] {
        let response = access.check_access(call(a_check(), Some(valid))).await.unwrap();
        assert_eq!(id_in(&response), Some(valid));
    }
    for invalid in [None, Some(""), Some("two words"), Some("x".repeat(129).as_str())] {
        let response = info.get_caller(call(GetCallerRequest {}, invalid)).await.unwrap();
        let id = id_in(&response).unwrap();
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
        // A check gets no id that its caller did not ask for.
        let response = access.check_access(call(a_check(), invalid)).await.unwrap();
        assert_eq!(id_in(&response), None);
    }
    // Rejections have an id, too.
    let mut health = HealthClient::new(channel(&running).await);
    let mut request = Request::new(HealthCheckRequest { service: "made.up.Service".to_owned() });
    request.metadata_mut().insert("x-request-id", "why".parse().unwrap());
    let error = health.check(request).await.unwrap_err();
    assert_eq!(error.metadata().get("x-request-id").unwrap(), "why");
    stop(running).await.unwrap();
}

#[tokio::test]
async fn an_oversized_message_is_rejected() {
    /// The longest check has 500 ids of 128 characters.
    const LENGTH_MAX: usize = 320 * 1_024;
    let (running, _store) = start(config()).await;
    let mut access = access(&running).await;
    let large = |length| {
        let group_ids = vec!["g".repeat(1_024); length / 1_024];
        let check = AccessCheck { group_ids, ..an_access_check() };
        CheckAccessRequest { check: Some(check), ..a_check() }
    };
    let error = access.check_access(large(LENGTH_MAX + 1_024)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let details = error.get_details_bad_request().unwrap();
    assert_eq!(details.field_violations[0].field, "message");
    assert!(error.message().contains(&LENGTH_MAX.to_string()), "{error}");
    wait_for_metric(&running, &rpcs(ACCESS, "CheckAccess", "INVALID_ARGUMENT", 1)).await;
    access.check_access(a_check()).await.expect("the connection can still be used");
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_malformed_message_is_rejected() {
    let (running, _store) = start(config()).await;
    for method in ["SupportAccess/CheckAccess", "SupportAccessAdmin/GetGrant"] {
        let mut grpc = Grpc::new(channel(&running).await);
        grpc.ready().await.unwrap();
        // A message whose first field is a number, where the request has a string.
        let codec = ProstCodec::<prost_types::Timestamp, ()>::default();
        let path = format!("/supportaccess.v1.{method}").parse().unwrap();
        let garbage = prost_types::Timestamp { seconds: 7, nanos: 7 };
        let error = grpc.unary(Request::new(garbage), path, codec).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        let details = error.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, "message");
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn calls_without_their_message_delay_no_other_call() {
    const CONNECTIONS: usize = 4;
    const CALLS: usize = 1_100;
    let limits = CallLimits { calls_per_caller: 2 * CALLS, ..CallLimits::default() };
    let (running, _store) =
        start(Config { common: Common { limits, ..common() }, ..config() }).await;
    let mut calls = FuturesUnordered::new();
    for _ in 0..CONNECTIONS {
        let channel = channel(&running).await;
        for _ in 0..CALLS / CONNECTIONS {
            let mut grpc = Grpc::new(channel.clone());
            calls.push(async move {
                grpc.ready().await.unwrap();
                let codec = ProstCodec::<GetGrantRequest, GetGrantResponse>::default();
                let path =
                    PathAndQuery::from_static("/supportaccess.v1.SupportAccessAdmin/GetGrant");
                let no_message = Request::new(futures::stream::pending());
                grpc.client_streaming(no_message, path, codec).await
            });
        }
    }
    let revoking = async {
        let labels = format!("service=\"{ADMIN}\",method=\"GetGrant\"");
        let all = format!("support_access_rpcs_in_flight{{{labels}}} {CALLS}");
        wait_for_metric(&running, &all).await;
        let request = RevokeAllAccessRequest { tenant_id: "acme".to_owned(), ..Default::default() };
        with_timeout(admin(&running).await.revoke_all_access(request)).await.unwrap();
    };
    tokio::select! {
        () = revoking => {}
        response = calls.next() => panic!("a call ended before the revocation: {response:?}"),
    }
    drop(calls);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn oversized_metadata_is_rejected() {
    let (running, _store) = start(config()).await;
    let mut access = access(&running).await;
    let mut request = Request::new(a_check());
    request.metadata_mut().insert("x-large", "x".repeat(17 * 1_024).parse().unwrap());
    with_timeout(access.check_access(request)).await.unwrap_err();
    SupportAccessClient::new(channel(&running).await).check_access(a_check()).await.unwrap();
    stop(running).await.unwrap();
}

#[tokio::test]
async fn reflection_lists_and_describes_the_services() {
    let (running, _store) = start(config()).await;
    let mut reflection = ServerReflectionClient::new(channel(&running).await);
    let request =
        |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = [
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol(format!("{ACCESS}.CheckAccess"))),
    ];
    let responses = reflection.server_reflection_info(futures::stream::iter(requests)).await;
    let mut responses = responses.unwrap().into_inner();
    let listed = responses.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else {
        panic!("not a list: {listed:?}")
    };
    let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for name in [ACCESS, ADMIN, HEALTH, "grpc.reflection.v1.ServerReflection"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let described = responses.message().await.unwrap().unwrap().message_response;
    assert!(matches!(described, Some(MessageResponse::FileDescriptorResponse(_))));
    drop(responses);
    stop(running).await.unwrap();
}

#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn containing(&self, text: &str) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().clone();
        let lines = String::from_utf8(bytes).unwrap();
        let lines = lines.lines().filter(|line| line.contains(text));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The runtime has one thread, so that the subscriber of this thread receives every event.
#[tokio::test(flavor = "current_thread")]
async fn each_rpc_is_one_log_line() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    // For the whole process, because the threads of connections log, too.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let (running, _store) = start(config()).await;
    let mut request = Request::new(a_check());
    request.metadata_mut().insert("x-request-id", "the-call".parse().unwrap());
    access(&running).await.check_access(request).await.unwrap();
    timeout(TIMEOUT, async {
        while lines.containing("the-call").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();

    let [line] = &lines.containing("support_access::rpc")[..] else { panic!("not one line") };
    assert_eq!(line["level"], "DEBUG");
    assert_eq!(line["method"], "supportaccess.v1.SupportAccess/CheckAccess");
    assert_eq!(line["code"], "OK");
    assert_eq!(line["call_id"], "the-call");
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0);

    let mut request = Request::new(a_grant());
    request.metadata_mut().insert("x-request-id", "the-change".parse().unwrap());
    admin(&running).await.grant_access(request).await.unwrap();
    let changes = lines.containing("a history has a new event");
    let [line] = &changes[..] else { panic!("not one line") };
    assert_eq!(line["event"], "granted");
    assert_eq!(line["span"]["call_id"], "the-change");

    let listening = lines.containing("\"listening\"");
    assert_eq!(listening.len(), 2);
    assert_eq!(listening[0]["grpc"], running.grpc[0].to_string());
    assert_eq!(listening[1]["metrics"], running.metrics.to_string());
    stop(running).await.unwrap();
}
