//! The outermost layer: counts, times and traces each RPC, and logs each error.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Code;
use tower::{Layer, Service};
use tracing::{Instrument, Span, debug, error, info, instrument::Instrumented, warn};
use uuid::Uuid;

use crate::api::{
    grpc::{parse_timeout, state_call_id},
    metrics::{Metrics, code_name},
    trace,
};

/// The header with the id of a call, in requests and responses.
pub const CALL_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of a call id from a caller.
const CALL_ID_LENGTH_MAX: usize = 128;
/// Maximum length of an unknown path in the log, in characters.
const PATH_LENGTH_MAX: usize = 200;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Maximum of the assumed time that a call takes from the client to this server.
const TRANSIT_MAX: Duration = Duration::from_millis(50);
const TARGET: &str = "support_access::rpc";

/// The id of a call in logs: the caller's `x-request-id`, or a new one. An extension of every
/// request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallId(HeaderValue);

/// Creates [`Observe`] services.
#[derive(Debug, Clone)]
pub struct ObserveLayer {
    metrics: Arc<Metrics>,
}

/// Observes each RPC. A call that is dropped before its end counts as `CANCELLED`, or as
/// `DEADLINE_EXCEEDED` if the deadline has passed. The response to a call that panics is
/// `INTERNAL`.
#[derive(Debug, Clone)]
pub struct Observe<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

pin_project! {
    /// The future of a response.
    #[derive(Debug)]
    pub struct ObserveFuture<F> {
        #[pin]
        inner: Instrumented<F>,
        observer: Option<RpcObserver>,
    }
}

pin_project! {
    /// A response body, observed for the trailers.
    #[derive(Debug)]
    pub struct ObservedBody<B> {
        #[pin]
        inner: B,
        observer: Option<RpcObserver>,
    }
}

/// One RPC in progress. The RPC ends when the observer is dropped.
#[derive(Debug)]
struct RpcObserver {
    metrics: Arc<Metrics>,
    method: usize,
    id: CallId,
    started: Instant,
    timeout: Option<Duration>,
    /// Set only for unknown methods.
    path: Option<String>,
    /// Set once the response is complete.
    code: Option<Code>,
    /// Contains the audit lines; exported as a trace.
    span: Span,
}

// === impl CallId ===

impl CallId {
    fn from_request<B>(request: &Request<B>) -> Self {
        let is_valid = |id: &&HeaderValue| {
            (1..=CALL_ID_LENGTH_MAX).contains(&id.len())
                && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        let received = request.headers().get(CALL_ID).filter(is_valid);
        // A clone would keep all headers of the request in memory.
        let copy = received.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        Self(copy.unwrap_or_else(|| {
            let id = Uuid::now_v7().to_string();
            HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("unnamed"))
        }))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

// === impl ObserveLayer ===

impl ObserveLayer {
    /// Counts calls in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observe { inner, metrics: Arc::clone(&self.metrics) }
    }
}

// === impl Observe ===

impl<S, Q, R> Service<Request<Q>> for Observe<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<ObservedBody<R>>;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let observer = RpcObserver::start(Arc::clone(&self.metrics), &request);
        request.extensions_mut().insert(observer.id.clone());
        let span = observer.span.clone();
        let response = span.in_scope(|| self.inner.call(request));
        ObserveFuture { inner: response.instrument(span), observer: Some(observer) }
    }
}

// === impl ObserveFuture ===

impl<F, R, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = Result<Response<ObservedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let inner = this.inner;
        let response = match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(polled) => ready!(polled)?,
            Err(_) => internal_error(),
        };
        let mut observer = this.observer.take();
        let (mut parts, inner) = response.into_parts();
        if let Some(open) = &mut observer {
            state_call_id(&mut parts.headers, &open.id.to_string());
            parts.headers.insert(CALL_ID, open.id.0.clone());
            if let Some(code) = code_in(&parts.headers) {
                // A response with a status in the headers has no trailers, and the body may never
                // be polled.
                open.code = Some(code);
                observer = None;
            }
        }
        Poll::Ready(Ok(Response::from_parts(parts, ObservedBody { inner, observer })))
    }
}

// === impl ObservedBody ===

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
    fn start<B>(metrics: Arc<Metrics>, request: &Request<B>) -> Self {
        let path = request.uri().path();
        let method = metrics.rpc_started(path);
        let id = CallId::from_request(request);
        let span = trace::start(&metrics.rpc(method).name, &id, request.headers());
        Self {
            metrics,
            method,
            id,
            started: Instant::now(),
            timeout: request
                .headers()
                .get(GRPC_TIMEOUT)
                .and_then(|value| parse_timeout(value.to_str().ok()?)),
            path: (method == 0).then(|| path.chars().take(PATH_LENGTH_MAX).collect()),
            code: None,
            span,
        }
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

        let method = self.metrics.rpc(self.method).name.as_str();
        let path = self.path.as_deref();
        let call_id = &self.id;
        let trace_id = trace::trace_id(&self.span);
        trace::end(&self.span, code);
        let duration_ms = took.as_secs_f64() * 1_000.0;
        // Each call site has a fixed level.
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    target: TARGET, method, path, code = code_name(code), duration_ms,
                    %call_id, trace_id, "RPC ended"
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
