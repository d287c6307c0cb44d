//! Traces, as OpenTelemetry has them: a span for each call, in the trace that its caller has begun (W3C Trace Context).
//!
//! The span of a call is also the one of its audit lines. Steps of the work have spans whose target is [`TARGET`]: they are made
//! only if somebody collects traces, and never show in logs. Names and attributes are those of OpenTelemetry's semantic conventions
//! for RPC. Of what a call is about, nothing is told.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
};

use http::HeaderMap;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::{Status, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::Code;
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::api::metrics::code_name;

/// What spans of traces alone have as their target.
pub const TARGET: &str = "support_access::trace";
/// The span of a call is there for its audit lines, and so has their target: it is logged whenever they are.
pub const CALL_TARGET: &str = "support_access::audit";

/// Whether somebody collects traces: as global as the subscriber that does so.
static IS_COLLECTED: AtomicBool = AtomicBool::new(false);

/// From now on calls are told of in traces, too.
pub fn collect() {
    IS_COLLECTED.store(true, Ordering::Relaxed);
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Begins the span of a call to `method`, such as `grpc.health.v1.Health/Check`.
pub(super) fn begin(method: &str, request_id: &dyn Display, headers: &HeaderMap) -> Span {
    if !IS_COLLECTED.load(Ordering::Relaxed) {
        return info_span!(target: CALL_TARGET, "rpc", %request_id);
    }
    let span = info_span!(
        target: CALL_TARGET, "rpc", otel.name = method, otel.kind = "server", %request_id, trace_id = Empty
    );
    // Each of these fails where there is no layer for traces: then there is nothing to tell.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
    span.set_attribute("rpc.system.name", "grpc");
    span.set_attribute("rpc.method", method.to_owned());
    if let Some(trace_id) = trace_id(&span) {
        span.record("trace_id", trace_id);
    }
    span
}

/// What came of the call. Only what is a fault of the server's is an error.
pub(super) fn end(span: &Span, code: Code) {
    if !IS_COLLECTED.load(Ordering::Relaxed) {
        return;
    }
    span.set_attribute("rpc.response.status_code", code_name(code));
    let is_error = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if is_error {
        span.set_status(Status::error(code_name(code)));
    }
}

/// The trace that a call is in, as hex digits, if it is collected.
pub(super) fn trace_id(span: &Span) -> Option<String> {
    if !IS_COLLECTED.load(Ordering::Relaxed) {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let told = span.span_context();
    told.is_sampled().then(|| told.trace_id().to_string())
}
