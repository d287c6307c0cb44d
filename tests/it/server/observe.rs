//! How the outermost layer counts calls.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use http::{Request, Response};
use support_access::api::{
    metrics::{Metrics, Readings},
    observe::{CALL_ID, ObserveLayer},
};
use tonic::body::Body as TonicBody;
use tower::{Layer, ServiceExt, service_fn};

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
    let panics = service_fn(async |_: Request<()>| -> Result<Response<TonicBody>, Infallible> {
        panic!("in the handler")
    });
    let service = ObserveLayer::new(Arc::clone(&metrics)).layer(panics);
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "13");
    assert!(response.headers().contains_key(CALL_ID));
    assert_counted(&metrics, "INTERNAL");
}

#[tokio::test]
async fn a_call_dropped_before_its_response_counts_as_cancelled() {
    let metrics = metrics();
    let hangs = service_fn(async |_: Request<()>| -> Result<Response<TonicBody>, Infallible> {
        pending().await
    });
    let service = ObserveLayer::new(Arc::clone(&metrics)).layer(hangs);
    drop(service.oneshot(request()));
    assert_eq!(
        metrics.encode().unwrap().lines().filter(|line| is_counted(line)).count(),
        0,
        "a call that was never polled does not count"
    );
    let service = ObserveLayer::new(Arc::clone(&metrics)).layer(hangs);
    let _ = tokio::time::timeout(Duration::from_millis(1), service.oneshot(request())).await;
    assert_counted(&metrics, "CANCELLED");
}

#[tokio::test]
async fn a_response_with_unread_trailers_counts_as_cancelled() {
    let metrics = metrics();
    let responds =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(TonicBody::empty())));
    let service = ObserveLayer::new(Arc::clone(&metrics)).layer(responds);
    drop(service.oneshot(request()).await);
    assert_counted(&metrics, "CANCELLED");
}
