//! The HTTP door: metrics, and whether the server lives and can be asked.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::time::timeout;
use tracing::error;

use crate::api::{
    health::{Health, Phase},
    metrics::{self, Metrics},
};

/// The longest a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a request's body.
const BODY_LENGTH_MAX: usize = 64 * 1_024;

#[derive(Debug, Clone)]
struct Door {
    metrics: Arc<Metrics>,
    health: Health,
}

/// What is served on the HTTP port.
pub fn router(metrics: Arc<Metrics>, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(read_metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(is_ready))
        .fallback(async || (StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n"))
        .layer(DefaultBodyLimit::max(BODY_LENGTH_MAX))
        .layer(middleware::from_fn(limit_time))
        .with_state(Door { metrics, health })
}

async fn read_metrics(State(door): State<Door>) -> Response {
    match door.metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            error!(%error, "cannot write metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn is_ready(State(door): State<Door>) -> (StatusCode, String) {
    let phase = door.health.phase();
    let status = match phase {
        Phase::Serving => StatusCode::OK,
        Phase::Starting | Phase::Stale | Phase::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{}\n", phase.as_str()))
}

async fn limit_time(request: Request, next: Next) -> Response {
    let answer = timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| StatusCode::GATEWAY_TIMEOUT.into_response())
}
