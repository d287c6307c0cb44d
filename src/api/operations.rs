//! The HTTP endpoint for operators: metrics, liveness and readiness. Has no authentication.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{sync::Mutex, time::timeout};
use tracing::error;

use crate::api::{
    health::{Health, Phase},
    metrics::{self, Metrics},
};

/// Timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a request body, in bytes.
const BODY_LENGTH_MAX: usize = 64 * 1_024;

#[derive(Debug, Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Health,
    /// The metrics are encoded for one request at a time, which uses at most one processor.
    encoding: Arc<Mutex<()>>,
}

/// The routes `/metrics`, `/healthz` and `/readyz`.
pub fn router(metrics: Arc<Metrics>, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(read_metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(is_ready))
        .fallback(async || (StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n"))
        .layer(DefaultBodyLimit::max(BODY_LENGTH_MAX))
        .layer(middleware::from_fn(limit_time))
        .with_state(Shared { metrics, health, encoding: Arc::default() })
}

async fn read_metrics(State(shared): State<Shared>) -> Response {
    let _encoding = shared.encoding.lock().await;
    match shared.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn is_ready(State(shared): State<Shared>) -> (StatusCode, String) {
    let phase = shared.health.phase();
    let status = match phase {
        Phase::Serving => StatusCode::OK,
        Phase::Starting | Phase::Stale | Phase::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{}\n", phase.as_str()))
}

async fn limit_time(request: Request, next: Next) -> Response {
    let response = timeout(REQUEST_TIMEOUT, next.run(request)).await;
    response.unwrap_or_else(|_| StatusCode::GATEWAY_TIMEOUT.into_response())
}
