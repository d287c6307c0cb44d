//! A layer that limits the rate, the concurrency and the message bytes of each caller.

use std::{
    convert::Infallible,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{Either, Ready, ready};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{
    api::{
        grpc::{ENFORCEMENT_TIMEOUT, TIMEOUT, reject_excess},
        observe::GRPC_TIMEOUT,
        proto::v1::ErrorReason,
    },
    domain::{Action, Caller},
    service::keyed_semaphore::KeyedSemaphore,
};

mod permit;

use permit::CountedBody;
pub use permit::{CallPermit, LimitedFuture};

/// Number of tracked callers above which idle callers are evicted.
const CALLERS_MAX: usize = 10_000;
/// [`TIMEOUT`] as a gRPC header.
const DEADLINE: HeaderValue = HeaderValue::from_static("10S");
/// [`ENFORCEMENT_TIMEOUT`] as a gRPC header.
const ENFORCEMENT_DEADLINE: HeaderValue = HeaderValue::from_static("6M");
/// Maximum number of message bytes that one caller has in flight, without the uncounted bytes of
/// each message.
const BYTES_MAX: usize = 32 * 1_024 * 1_024;
/// Retry delay sent to callers that exceed the concurrency limit.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Minimum retry delay sent to callers that exceed the rate limit.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(1);
/// Size of a burst, in seconds of the rate.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// Limits of each caller.
#[derive(Debug, Clone, Copy)]
pub struct CallerLimits {
    /// Concurrent calls.
    pub calls: usize,
    /// Checks per second.
    pub checks_per_second: NonZeroU32,
    /// Other requests per second.
    pub requests_per_second: NonZeroU32,
}

/// Creates [`Limit`] services with shared counters.
#[derive(Debug, Clone)]
pub struct LimitLayer {
    limits: Arc<Limits>,
}

/// Rejects calls above the limits of their caller with `RESOURCE_EXHAUSTED` and a retry delay. Adds
/// a deadline to calls that have none, and ends calls that exceed the timeout.
#[derive(Debug, Clone)]
pub struct Limit<S> {
    inner: S,
    limits: Arc<Limits>,
}

/// Keys are [`Caller::identity`].
#[derive(Debug)]
struct Limits {
    calls: Arc<KeyedSemaphore<Arc<str>>>,
    bytes: Arc<KeyedSemaphore<Arc<str>>>,
    checks: RateLimit,
    requests: RateLimit,
}

/// A token bucket for each caller.
#[derive(Debug)]
struct RateLimit {
    buckets: DefaultKeyedRateLimiter<Arc<str>>,
    clock: DefaultClock,
    /// Number of tracked callers above which the next eviction runs.
    eviction_threshold: AtomicUsize,
}

// === impl LimitLayer ===

impl LimitLayer {
    /// Applies `limits` to each caller.
    pub fn new(limits: CallerLimits) -> Self {
        let CallerLimits { calls, checks_per_second, requests_per_second } = limits;
        let limits = Limits {
            calls: Arc::new(KeyedSemaphore::new(calls)),
            bytes: Arc::new(KeyedSemaphore::new(BYTES_MAX)),
            checks: RateLimit::new(checks_per_second),
            requests: RateLimit::new(requests_per_second),
        };
        Self { limits: Arc::new(limits) }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit { inner, limits: Arc::clone(&self.limits) }
    }
}

// === impl Limit ===

impl<S> Service<Request<Body>> for Limit<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<LimitedFuture<S::Future>, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let action = action_of(request.uri().path());
        let (timeout, deadline) = timeout_of(action);
        if let Some(deadline) = deadline
            && !request.headers().contains_key(GRPC_TIMEOUT)
        {
            request.headers_mut().insert(GRPC_TIMEOUT, deadline);
        }
        // Health checks are not authenticated, so there is no caller to limit.
        let Some(caller) = request.extensions().get::<Arc<Caller>>() else {
            let request = request.map(|body| Body::new(CountedBody::new(body, None)));
            let inner = self.inner.call(request);
            return Either::Left(LimitedFuture::new(inner, timeout, None, false));
        };
        let identity = Arc::clone(&caller.identity);
        let Limits { calls, bytes, checks, requests } = &*self.limits;
        let rate_limit = match action {
            Some(Action::CheckAccess | Action::BatchCheckAccess | Action::ExplainAccess) => checks,
            _ => requests,
        };
        if let Err(delay) = rate_limit.check(&identity) {
            return Either::Right(ready(Ok(reject_excess(ErrorReason::TooManyRequests, delay))));
        }
        let Some(call) = calls.try_acquire(&identity) else {
            return Either::Right(ready(Ok(reject_excess(ErrorReason::TooManyCalls, RETRY_DELAY))));
        };
        let permit = Arc::new(CallPermit::new(call, Arc::clone(bytes), identity));
        // Streams of followers do not end. `ReplicationService` limits their number.
        let is_held_to_the_end = action != Some(Action::Follow);
        if is_held_to_the_end {
            request.extensions_mut().insert(Arc::clone(&permit));
        }
        let held = is_held_to_the_end.then(|| Arc::clone(&permit));
        let request = request.map(|body| Body::new(CountedBody::new(body, held)));
        let inner = self.inner.call(request);
        Either::Left(LimitedFuture::new(inner, timeout, Some(permit), is_held_to_the_end))
    }
}

/// The action of an RPC of this project.
fn action_of(path: &str) -> Option<Action> {
    let (service, method) = path.strip_prefix("/supportaccess.")?.split_once('/')?;
    let action = Action::ALL.iter().find(|action| action.name() == method).copied()?;
    // A method of this name in another service does not exist, and must not be treated as a stream.
    let is_replication = service == "replication.v1.Replication";
    (is_replication == (action == Action::Follow)).then_some(action)
}

/// The timeout until a response starts, and the default deadline. `Follow` has no deadline.
fn timeout_of(action: Option<Action>) -> (Duration, Option<HeaderValue>) {
    match action {
        None | Some(Action::Follow) => (TIMEOUT, None),
        Some(action) if action.waits_for_enforcement() => {
            (ENFORCEMENT_TIMEOUT, Some(ENFORCEMENT_DEADLINE))
        }
        Some(_) => (TIMEOUT, Some(DEADLINE)),
    }
}

// === impl RateLimit ===

impl RateLimit {
    fn new(per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(per_second.saturating_mul(BURST));
        Self {
            buckets: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            eviction_threshold: AtomicUsize::new(CALLERS_MAX),
        }
    }

    /// Takes a token from the caller's bucket. The error is the delay until there is one.
    fn check(&self, identity: &Arc<str>) -> Result<(), Duration> {
        if self.buckets.len() > self.eviction_threshold.load(Ordering::Relaxed) {
            self.evict_idle();
        }
        let checked = self.buckets.check_key(identity);
        // The delay may have passed by now, but a rejected caller must wait.
        checked.map_err(|until| until.wait_time_from(self.clock.now()).max(RETRY_DELAY_MIN))
    }

    fn evict_idle(&self) {
        self.buckets.retain_recent();
        let left = self.buckets.len();
        // An eviction visits every caller. So the next eviction waits for twice as many callers.
        self.eviction_threshold.store(CALLERS_MAX.max(2 * left), Ordering::Relaxed);
        if left < CALLERS_MAX {
            self.buckets.shrink_to_fit();
        }
    }
}
