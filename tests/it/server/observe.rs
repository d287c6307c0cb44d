//! How calls are counted.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use support_access::api::{
    call_id::CALL_ID,
    metrics::{ConnectionMetrics, Metrics, Readings},
    observe::RpcObserver,
};
use tonic::body::Body as TonicBody;

const PATH: &str = "/supportaccess.v1.SupportAccess/CheckAccess";

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(Readings::default))
}

fn request() -> Request<()> {
    Request::builder().uri(PATH).body(()).unwrap()
}

/// Whether a line of the metrics is a non-zero count of RPCs.
fn is_counted(line: &str) -> bool {
    line.contains("rpcs_total{") && !line.ends_with(" 0")
}

#[track_caller]
fn assert_counted(metrics: &Metrics, code: &str) {
    let text = metrics.encode().unwrap();
    let ended: Vec<_> = text.lines().filter(|line| is_counted(line)).collect();
    let labels = r#"service="supportaccess.v1.SupportAccess",method="CheckAccess""#;
    let expected = format!("support_access_rpcs_total{{{labels},code=\"{code}\"}} 1");
    assert_eq!(ended, [expected]);
    let in_flight = format!("support_access_rpcs_in_flight{{{labels}}} 0");
    assert!(text.lines().any(|line| line == in_flight), "{text}");
}

#[tokio::test]
async fn a_panic_ends_the_call_with_internal() {
    let metrics = metrics();
    let observer = RpcObserver::start(&ConnectionMetrics::new(&metrics), &request());
    let panics = async { panic!("in the handler") };
    let response = observer.observe::<TonicBody>(pin!(panics)).await;
    assert_eq!(response.headers()["grpc-status"], "13");
    assert!(response.headers().contains_key(CALL_ID));
    assert_counted(&metrics, "INTERNAL");
}

#[tokio::test]
async fn a_call_dropped_before_its_response_counts_as_cancelled() {
    let metrics = metrics();
    let observer = RpcObserver::start(&ConnectionMetrics::new(&metrics), &request());
    let hangs = async { observer.observe::<TonicBody>(pin!(pending())).await };
    let _ = tokio::time::timeout(Duration::from_millis(1), hangs).await;
    assert_counted(&metrics, "CANCELLED");
}

#[tokio::test]
async fn a_response_with_unread_trailers_counts_as_cancelled() {
    let metrics = metrics();
    let observer = RpcObserver::start(&ConnectionMetrics::new(&metrics), &request());
    drop(observer.observe(pin!(async { Response::new(TonicBody::empty()) })).await);
    assert_counted(&metrics, "CANCELLED");
}
