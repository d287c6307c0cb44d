//! OpenTelemetry traces: a span for each call, in the trace of the caller (W3C Trace Context).
//!
//! The span of a call also contains its audit lines. Spans of single steps have the target
//! [`TARGET`]: they are created only if traces are collected, and never appear in logs. Names and
//! attributes follow OpenTelemetry's semantic conventions for RPC. Spans contain nothing from the
//! message of a call.

use std::{
    fmt::Display,
    num::NonZeroU32,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, Status, TraceContextExt, TraceState},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::Code;
use tracing::{Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::api::metrics::code_name;

/// The target of spans that appear only in traces.
pub const TARGET: &str = "support_access::trace";
/// The target of the span of a call, which is logged with its audit lines.
pub const CALL_TARGET: &str = "support_access::audit";

/// Maximum number of calls per second that are traced at the request of callers.
const SAMPLED_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);
/// Maximum length of a `tracestate` that is passed on, in bytes.
const STATE_LENGTH_MAX: usize = 512;

static SAMPLED_BY_CALLERS: LazyLock<DefaultDirectRateLimiter> =
    LazyLock::new(|| RateLimiter::direct(Quota::per_second(SAMPLED_MAX)));

/// Whether traces are collected. Global, because the subscriber that collects them is global.
static IS_COLLECTED: AtomicBool = AtomicBool::new(false);

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Enables traces.
pub fn enable() {
    IS_COLLECTED.store(true, Ordering::Relaxed);
}

/// Whether traces are collected.
pub(super) fn is_collected() -> bool {
    IS_COLLECTED.load(Ordering::Relaxed)
}

/// Starts the span of a call to `method`, such as `grpc.health.v1.Health/Check`.
pub(super) fn start(method: &str, call_id: &dyn Display, headers: &HeaderMap) -> Span {
    if !IS_COLLECTED.load(Ordering::Relaxed) {
        return info_span!(target: CALL_TARGET, "rpc", %call_id);
    }
    let span = info_span!(
        target: CALL_TARGET, "rpc", otel.name = method, otel.kind = "server", %call_id,
        trace_id = Empty
    );
    // Fails if the subscriber has no layer for traces.
    let _ = span.set_parent(parent(headers));
    span.set_attribute("rpc.system.name", "grpc");
    span.set_attribute("rpc.method", method.to_owned());
    if let Some(trace_id) = trace_id(&span) {
        span.record("trace_id", trace_id);
    }
    span
}

/// The trace of the caller. Any caller can request sampling, so at most [`SAMPLED_MAX`] calls per
/// second are sampled at request. A `tracestate` longer than [`STATE_LENGTH_MAX`] is dropped,
/// because no participant must support more (W3C Trace Context, section 3.3.1.5).
fn parent(headers: &HeaderMap) -> Context {
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    let received = parent.span().span_context().clone();
    let is_sampled = received.is_sampled() && SAMPLED_BY_CALLERS.check().is_ok();
    let is_short = received.trace_state().header().len() <= STATE_LENGTH_MAX;
    if is_sampled == received.is_sampled() && is_short {
        return parent;
    }
    let state = if is_short { received.trace_state().clone() } else { TraceState::NONE };
    let flags = received.trace_flags().with_sampled(is_sampled);
    let accepted = SpanContext::new(received.trace_id(), received.span_id(), flags, true, state);
    Context::new().with_remote_span_context(accepted)
}

/// Records the code of a call. Only faults of the server are errors.
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

/// The id of the trace in hex. `None`: the call is not traced.
pub(super) fn trace_id(span: &Span) -> Option<String> {
    if !IS_COLLECTED.load(Ordering::Relaxed) {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let span_context = span.span_context();
    span_context.is_sampled().then(|| span_context.trace_id().to_string())
}
