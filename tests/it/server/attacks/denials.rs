//! Random messages of Envoy. Envoy may allow a request after an error of the call, so each message
//! gets a denial.

use http_body_util::BodyExt;
use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config as RunnerConfig, TestRunner},
};
use prost::Message;
use support_access::api::proto::envoy::{CheckResponse, check_response::HttpResponse};
use tonic::{body::Body, codegen::http::Request, transport::Channel};
use tower::{Service, ServiceExt};

use super::{assert_healthy, connect, fuzz::mutated, raw, tcp};
use crate::server::{
    envoy::{EDGE, asked, configured, request, with_headers},
    harness::start,
};

/// Number of messages.
const CASES: usize = 5_000;
/// Number of concurrent messages.
const CONCURRENT: usize = 40;
const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Values of headers that change how a call is handled.
const HEADERS: [(&str, &str); 6] = [
    ("authorization", "Bearer a.b.c"),
    ("grpc-encoding", "gzip"),
    ("grpc-timeout", "1S"),
    ("grpc-timeout", "never"),
    ("support-access-actor", "a\tb"),
    ("x-request-id", "7"),
];

/// Valid messages.
fn valid() -> Vec<Vec<u8>> {
    let headers = [("x-tenant", "acme"), ("x-agent", "ada")];
    let questions =
        [asked("GET", "/t/acme/users"), asked("GET", "/"), with_headers("/headers", &headers)];
    questions.map(|attributes| request(attributes).encode_to_vec()).to_vec()
}

/// A message with its prefix, and a header.
fn cases() -> impl Strategy<Value = (Vec<u8>, Option<(&'static str, &'static str)>)> {
    let message = prop_oneof![1 => vec(any::<u8>(), 0..300), 3 => mutated(valid())];
    let framed = prop_oneof![
        9 => message.prop_map(|message| raw::framed(&message)),
        1 => mutated(valid().iter().map(|message| raw::framed(message)).collect()),
    ];
    (framed, prop::option::weighted(0.3, prop::sample::select(HEADERS.to_vec())))
}

fn call(body: &[u8], header: Option<(&'static str, &'static str)>) -> Request<Body> {
    let mut request = Request::builder()
        .method("POST")
        .uri(format!("http://localhost{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    request.body(raw::whole(body.to_vec())).unwrap()
}

async fn assert_denied(
    channel: &Channel,
    body: Vec<u8>,
    header: Option<(&'static str, &'static str)>,
) {
    let mut channel = channel.clone();
    let response = channel.ready().await.unwrap().call(call(&body, header)).await.unwrap();
    let shown = format!("{body:?} with {header:?}");
    assert!(!response.headers().contains_key("grpc-status"), "{shown}: {response:?}");
    let response = response.into_body().collect().await.unwrap();
    assert_eq!(response.trailers().unwrap()["grpc-status"], "0", "{shown}");
    let answer = CheckResponse::decode(&response.to_bytes()[5..]).unwrap();
    let is_denied = matches!(answer.http_response, Some(HttpResponse::DeniedResponse(_)));
    assert!(is_denied && answer.status.unwrap().code != 0, "{shown}: {:?}", answer.http_response);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_of_envoy_gets_a_denial() {
    let (running, _store) = start(configured(EDGE)).await;
    let channel = connect(tcp(&running)).await;
    let mut runner = TestRunner::new(RunnerConfig::default());
    println!("the seed: {:?}", runner.rng());
    let cases = cases();
    for _ in 0..CASES / CONCURRENT {
        let batch: Vec<_> =
            (0..CONCURRENT).map(|_| cases.new_tree(&mut runner).unwrap().current()).collect();
        let calls = batch.into_iter().map(|(body, header)| assert_denied(&channel, body, header));
        futures::future::join_all(calls).await;
    }
    assert_healthy(&running, channel).await;
}
