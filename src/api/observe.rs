//! The outermost layer of the gRPC door: what becomes of each RPC, counted and logged once.

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
use tracing::{Instrument, Span, error, info, instrument::Instrumented, warn};
use uuid::Uuid;

use crate::api::{
    grpc::parse_timeout,
    metrics::{Metrics, code_name},
    trace,
};

/// Where a caller may name its call, and where it learns the name.
pub const CALL_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest call id that is taken from a caller.
const CALL_ID_LENGTH_MAX: usize = 128;
/// How much of an unknown path is logged.
const PATH_LENGTH_MAX: usize = 200;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The longest that a call is thought to have been on its way.
const WAY_HERE_MAX: Duration = Duration::from_millis(50);
const TARGET: &str = "support_access::rpc";

/// What a call is known by in logs: the caller's own `x-request-id`, else a new one. An extension of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallId(HeaderValue);

/// Makes [`Observe`]s.
#[derive(Debug, Clone)]
pub struct ObserveLayer {
    metrics: Arc<Metrics>,
}

/// Names, times, counts and logs each RPC. A call that is dropped before its end counts as `CANCELLED` (or
/// `DEADLINE_EXCEEDED`, if it had a deadline that has passed), never as `OK`. One that panics is answered `INTERNAL`.
#[derive(Debug, Clone)]
pub struct Observe<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

pin_project! {
    /// The answer to come.
    #[derive(Debug)]
    pub struct ObserveFuture<F> {
        #[pin]
        inner: Instrumented<F>,
        call: Option<Call>,
    }
}

pin_project! {
    /// A body that is watched for its trailers.
    #[derive(Debug)]
    pub struct ObservedBody<B> {
        #[pin]
        inner: B,
        call: Option<Call>,
    }
}

/// One RPC under way. Its end is when it is dropped.
#[derive(Debug)]
struct Call {
    metrics: Arc<Metrics>,
    method: usize,
    id: CallId,
    begun: Instant,
    timeout: Option<Duration>,
    /// Only of methods that are not known.
    path: Option<String>,
    /// Known once it has been answered whole.
    code: Option<Code>,
    /// Of its audit lines, and of its trace.
    span: Span,
}

// === impl CallId ===

impl CallId {
    fn of<B>(request: &Request<B>) -> Self {
        let is_sane = |id: &&HeaderValue| {
            (1..=CALL_ID_LENGTH_MAX).contains(&id.len())
                && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        let given = request.headers().get(CALL_ID).filter(is_sane).cloned();
        Self(given.unwrap_or_else(|| {
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
    /// Counts in `metrics`.
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
        let call = Call::begin(Arc::clone(&self.metrics), &request);
        request.extensions_mut().insert(call.id.clone());
        let span = call.span.clone();
        let answer = span.in_scope(|| self.inner.call(request));
        ObserveFuture { inner: answer.instrument(span), call: Some(call) }
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
        let mut call = this.call.take();
        let (mut parts, inner) = response.into_parts();
        if let Some(open) = &mut call {
            parts.headers.insert(CALL_ID, open.id.0.clone());
            if let Some(code) = code_in(&parts.headers) {
                // There are no trailers to come, and nobody need ever look at the body.
                open.code = Some(code);
                call = None;
            }
        }
        Poll::Ready(Ok(Response::from_parts(parts, ObservedBody { inner, call })))
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
            Some(Ok(frame)) => frame.trailers_ref().map(|it| code_in(it).unwrap_or(Code::Unknown)),
            Some(Err(_)) => Some(Code::Internal),
            // An answer without a status is none.
            None => Some(Code::Unknown),
        };
        if code.is_some()
            && let Some(mut call) = this.call.take()
        {
            call.code = code;
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

// === impl Call ===

impl Call {
    fn begin<B>(metrics: Arc<Metrics>, request: &Request<B>) -> Self {
        let path = request.uri().path();
        let method = metrics.begin(path);
        let id = CallId::of(request);
        let span = trace::begin(&metrics.rpc(method).name, &id, request.headers());
        Self {
            metrics,
            method,
            id,
            begun: Instant::now(),
            timeout: request
                .headers()
                .get(GRPC_TIMEOUT)
                .and_then(|it| parse_timeout(it.to_str().ok()?)),
            path: (method == 0).then(|| path.chars().take(PATH_LENGTH_MAX).collect()),
            code: None,
            span,
        }
    }

    /// What a call that was dropped has come to.
    fn dropped(&self, took: Duration) -> Code {
        if thread::panicking() {
            Code::Internal
        } else if self.timeout.is_some_and(|timeout| took + way_here(timeout) >= timeout) {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let code = self.code.unwrap_or_else(|| self.dropped(took));
        self.metrics.end(self.method, code, took);

        let method = self.metrics.rpc(self.method).name.as_str();
        let path = self.path.as_deref();
        let request_id = &self.id;
        let trace_id = trace::trace_id(&self.span);
        trace::end(&self.span, code);
        let duration_ms = took.as_secs_f64() * 1_000.0;
        // The level of an event is part of its call site.
        macro_rules! log {
            ($level:ident) => {
                $level!(
                    target: TARGET, method, path, code = code_name(code), duration_ms, %request_id, trace_id,
                    "RPC ended"
                )
            };
        }
        match code {
            Code::Internal | Code::DataLoss => log!(error),
            Code::Unknown => log!(warn),
            _ => log!(info),
        }
    }
}

/// What a caller's clock may be ahead of ours: it has run since the call was sent.
fn way_here(timeout: Duration) -> Duration {
    (timeout / 10).min(WAY_HERE_MAX)
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|status| Code::from_bytes(status.as_bytes()))
}

/// What a caller whose call panicked is told.
fn internal_error<B: Default>() -> Response<B> {
    let mut response = Response::new(B::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(Code::Internal as i32));
    response
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use tonic::body::Body as TonicBody;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::api::metrics::Readings;

    const PATH: &str = "/supportaccess.v1.SupportAccess/CheckAccess";

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new(Readings::default))
    }

    fn request() -> Request<()> {
        Request::builder().uri(PATH).body(()).unwrap()
    }

    /// Whether a line counts RPCs, and any at all.
    fn is_counted(line: &str) -> bool {
        line.contains("rpcs_total{") && !line.ends_with(" 0")
    }

    #[track_caller]
    fn assert_counted(metrics: &Metrics, code: &str) {
        let text = metrics.encode().unwrap();
        let ended: Vec<_> = text.lines().filter(|it| is_counted(it)).collect();
        let labels = r#"service="supportaccess.v1.SupportAccess",method="CheckAccess""#;
        let expected = format!("support_access_rpcs_total{{{labels},code=\"{code}\"}} 1");
        assert_eq!(ended, [expected]);
        let in_flight = format!("support_access_rpcs_in_flight{{{labels}}} 0");
        assert!(text.lines().any(|it| it == in_flight), "{text}");
    }

    #[tokio::test]
    async fn a_panic_is_answered_as_internal() {
        let metrics = metrics();
        let panics =
            service_fn(async |_: Request<()>| -> Result<Response<TonicBody>, Infallible> {
                panic!("in the handler")
            });
        let service = ObserveLayer::new(Arc::clone(&metrics)).layer(panics);
        let response = service.oneshot(request()).await.unwrap();
        assert_eq!(response.headers()[GRPC_STATUS], "13");
        assert!(response.headers().contains_key(CALL_ID));
        assert_counted(&metrics, "INTERNAL");
    }

    #[tokio::test]
    async fn a_call_dropped_before_its_answer_is_cancelled() {
        let metrics = metrics();
        let hangs = service_fn(async |_: Request<()>| -> Result<Response<TonicBody>, Infallible> {
            pending().await
        });
        let service = ObserveLayer::new(Arc::clone(&metrics)).layer(hangs);
        drop(service.oneshot(request()));
        assert_eq!(
            metrics.encode().unwrap().lines().filter(|it| is_counted(it)).count(),
            0,
            "never begun"
        );
        let service = ObserveLayer::new(Arc::clone(&metrics)).layer(hangs);
        let _ = tokio::time::timeout(Duration::from_millis(1), service.oneshot(request())).await;
        assert_counted(&metrics, "CANCELLED");
    }

    #[tokio::test]
    async fn an_answer_whose_trailers_nobody_read_is_cancelled() {
        let metrics = metrics();
        let answers = service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(TonicBody::empty()))
        });
        let service = ObserveLayer::new(Arc::clone(&metrics)).layer(answers);
        drop(service.oneshot(request()).await);
        assert_counted(&metrics, "CANCELLED");
    }
}
