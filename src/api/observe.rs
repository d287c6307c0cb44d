//! Counts, times and traces each RPC, and logs each error.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Code;
use tracing::{Instrument, Span, debug, error, field::display, info, warn};

use crate::{
    api::{
        call_id::{CALL_ID, CallId},
        grpc::{parse_timeout, state_call_id},
        head::GRPC_TIMEOUT,
        metrics::{ConnectionMetrics, code_name},
        trace,
    },
    domain::Action,
};

/// Maximum length of an unknown path in the log, in characters.
const PATH_LENGTH_MAX: usize = 200;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Maximum of the assumed time that a call takes from the client to this server.
const TRANSIT_MAX: Duration = Duration::from_millis(50);
const TARGET: &str = "support_access::rpc";

pin_project! {
    /// A response body, observed for the trailers.
    #[derive(Debug)]
    pub struct ObservedBody<B> {
        #[pin]
        inner: B,
        observer: Option<RpcObserver>,
    }
}

/// One RPC in progress. The RPC ends when the observer is dropped. Without a complete response, the
/// RPC counts as `CANCELLED`, or as `DEADLINE_EXCEEDED` after the deadline.
#[derive(Debug)]
pub struct RpcObserver {
    metrics: Arc<ConnectionMetrics>,
    method: usize,
    /// `None`: a check whose caller sent no id.
    id: Option<CallId>,
    started: Instant,
    timeout: Option<Duration>,
    /// Set only for unknown methods.
    path: Option<String>,
    /// Set once the response is complete.
    code: Option<Code>,
    /// Contains the audit lines; exported as a trace.
    span: Span,
}

// === impl ObservedBody ===

impl<B> ObservedBody<B> {
    /// A body after the end of its call.
    pub(super) fn unobserved(inner: B) -> Self {
        Self { inner, observer: None }
    }
}

impl<B: Body> Body for ObservedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        let code = match &frame {
            Some(Ok(frame)) => {
                frame.trailers_ref().map(|trailers| code_in(trailers).unwrap_or(Code::Unknown))
            }
            Some(Err(_)) => Some(Code::Internal),
            // A response without trailers has no status.
            None => Some(Code::Unknown),
        };
        if code.is_some()
            && let Some(mut observer) = this.observer.take()
        {
            observer.code = code;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl RpcObserver ===

impl RpcObserver {
    /// Starts to observe a call.
    pub fn start<B>(metrics: &Arc<ConnectionMetrics>, request: &Request<B>) -> Self {
        let (path, headers) = (request.uri().path(), request.headers());
        let method = metrics.rpc_started(path);
        let known = metrics.method(method);
        let received = CallId::received(headers);
        // A check changes nothing, so most checks are never looked up by an id.
        let is_check = matches!(known.action, Some(Action::CheckAccess | Action::BatchCheckAccess));
        let (id, span) = if is_check && !trace::is_collected() {
            (received, Span::none())
        } else {
            let id = received.unwrap_or_else(CallId::generate);
            let span = trace::start(&known.name, &id, headers);
            (Some(id), span)
        };
        let timeout = headers.get(GRPC_TIMEOUT);
        Self {
            metrics: Arc::clone(metrics),
            method,
            id,
            started: Instant::now(),
            timeout: timeout.and_then(|value| parse_timeout(value.to_str().ok()?)),
            path: (method == 0).then(|| path.chars().take(PATH_LENGTH_MAX).collect()),
            code: None,
            span,
        }
    }

    /// The action of the call. `None`: the method belongs to another API, or does not exist.
    pub(super) fn action(&self) -> Option<Action> {
        self.metrics.method(self.method).action
    }

    /// Whether Envoy calls the method.
    pub(super) fn is_envoy(&self) -> bool {
        self.metrics.method(self.method).is_envoy
    }

    /// The id for log lines. `None`: the span adds it, or there is none.
    pub(super) fn id_without_span(&self) -> Option<CallId> {
        self.id.clone().filter(|_| self.span.is_disabled())
    }

    /// When the call arrived.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The deadline of the caller.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The response of `call`, observed until its trailers. The response to a call that panics is
    /// `INTERNAL`.
    pub async fn observe<B: Default>(
        mut self,
        call: Pin<&mut impl Future<Output = Response<B>>>,
    ) -> Response<ObservedBody<B>> {
        let call = AssertUnwindSafe(call).catch_unwind().instrument(self.span.clone());
        let response = call.await.unwrap_or_else(|_| internal_error());
        let (mut parts, inner) = response.into_parts();
        let code = code_in(&parts.headers);
        if code == Some(Code::Internal) {
            // The operator finds the details in the log.
            let id = self.id.get_or_insert_with(CallId::generate);
            state_call_id(&mut parts.headers, &id.to_string());
        }
        if let Some(id) = &self.id {
            parts.headers.insert(CALL_ID, id.as_header());
        }
        // A response with a status in the headers has no trailers, and the body may never be
        // polled.
        let observer = if code.is_some() {
            self.code = code;
            drop(self);
            None
        } else {
            Some(self)
        };
        Response::from_parts(parts, ObservedBody { inner, observer })
    }

    /// The code of a call that was dropped before the end.
    fn code_when_dropped(&self, took: Duration) -> Code {
        if thread::panicking() {
            Code::Internal
        } else if self.timeout.is_some_and(|timeout| took + transit(timeout) >= timeout) {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        }
    }
}

impl Drop for RpcObserver {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let code = self.code.unwrap_or_else(|| self.code_when_dropped(took));
        self.metrics.rpc_ended(self.method, code, took);

        let method = self.metrics.method(self.method).name.as_str();
        let path = self.path.as_deref();
        let call_id = self.id.as_ref().map(display);
        let trace_id = trace::trace_id(&self.span);
        trace::end(&self.span, code);
        let duration_ms = took.as_secs_f64() * 1_000.0;
        // Each call site has a fixed level.
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    target: TARGET, method, path, code = code_name(code), duration_ms,
                    call_id, trace_id, "RPC ended"
                )
            };
        }
        match code {
            Code::Internal | Code::DataLoss => log!(error),
            Code::Unknown => log!(warn),
            // Changes and denials have lines of their own.
            Code::Ok | Code::Cancelled => log!(debug),
            _ => log!(info),
        }
    }
}

/// The assumed time from the start of the client's deadline to the arrival of the call.
fn transit(timeout: Duration) -> Duration {
    (timeout / 10).min(TRANSIT_MAX)
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|status| Code::from_bytes(status.as_bytes()))
}

/// The response to a call that panicked.
fn internal_error<B: Default>() -> Response<B> {
    let mut response = Response::new(B::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(Code::Internal as i32));
    response
}
