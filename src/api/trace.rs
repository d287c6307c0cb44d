//! Traces, as OpenTelemetry has them: a span for each call, in the trace that its caller has begun (W3C Trace Context).
//!
//! The span of a call is also the one of its audit lines. Steps of the work have spans whose target is [`TARGET`]: they are made
//! only if somebody collects traces, and never show in logs. Names and attributes are those of OpenTelemetry's semantic conventions
//! for RPC. Of what a call is about, nothing is told.

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

/// How many calls in a second may be traced because their callers want it.
const SAMPLED_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);
/// How many bytes of a `tracestate` are taken.
const STATE_LENGTH_MAX: usize = 512;

static SAMPLED_BY_CALLERS: LazyLock<DefaultDirectRateLimiter> =
    LazyLock::new(|| RateLimiter::direct(Quota::per_second(SAMPLED_MAX)));

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
    let _ = span.set_parent(parent(headers));
    span.set_attribute("rpc.system.name", "grpc");
    span.set_attribute("rpc.method", method.to_owned());
    if let Some(trace_id) = trace_id(&span) {
        span.record("trace_id", trace_id);
    }
    span
}

/// The trace that the caller has begun. Anybody can say so, and that it is sampled: so that is believed so many times a second, and
/// of what else comes with it, as much is passed on as everybody must (W3C Trace Context, 3.3.1.5).
fn parent(headers: &HeaderMap) -> Context {
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    let given = parent.span().span_context().clone();
    let is_sampled = given.is_sampled() && SAMPLED_BY_CALLERS.check().is_ok();
    let is_short = given.trace_state().header().len() <= STATE_LENGTH_MAX;
    if is_sampled == given.is_sampled() && is_short {
        return parent;
    }
    let state = if is_short { given.trace_state().clone() } else { TraceState::NONE };
    let flags = given.trace_flags().with_sampled(is_sampled);
    let taken = SpanContext::new(given.trace_id(), given.span_id(), flags, true, state);
    Context::new().with_remote_span_context(taken)
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
