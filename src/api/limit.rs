//! A layer that limits the rate, the concurrency and the message bytes of each caller, and of all
//! callers together.

use std::{
    convert::Infallible,
    mem,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{BoxFuture, Either, Ready, ready};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{
    api::{
        grpc::{ENFORCEMENT_TIMEOUT, TIMEOUT, reject_excess, reject_unread},
        message::{count_fields, read_message, whole},
        observe::GRPC_TIMEOUT,
        proto::v1::ErrorReason,
    },
    auth::{ConnectionInfo, UnauthenticatedCall},
    domain::{Action, Caller},
    service::keyed_semaphore::KeyedSemaphore,
};

mod permit;
mod response;

pub use permit::CallPermit;
use permit::{CountedBody, Holder};
pub use response::LimitedFuture;

/// Number of tracked callers above which idle callers are evicted.
const CALLERS_MAX: usize = 10_000;
/// [`TIMEOUT`] as a gRPC header.
const DEADLINE: HeaderValue = HeaderValue::from_static("10S");
/// [`ENFORCEMENT_TIMEOUT`] as a gRPC header.
const ENFORCEMENT_DEADLINE: HeaderValue = HeaderValue::from_static("6M");
/// Maximum length of the message of a single check, in bytes. The longest has 500 ids of 128
/// characters.
const CHECK_LENGTH_MAX: usize = 320 * 1_024;
/// The tag of the checks in a batch.
const CHECKS_TAG: u32 = 1;
/// Timeout of calls without a caller. Their messages are tiny.
const UNAUTHENTICATED_TIMEOUT: Duration = Duration::from_secs(1);
/// Retry delay sent to callers that exceed the concurrency limit.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Minimum retry delay sent to callers that exceed the rate limit.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(1);
/// Size of a burst, in seconds of the rate.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// Limits of each caller, and of all callers together.
#[derive(Debug, Clone, Copy)]
pub struct CallerLimits {
    /// Concurrent calls of a caller.
    pub calls: usize,
    /// Concurrent calls of all callers.
    pub calls_in_all: usize,
    /// Bytes of long requests and unread responses of a caller.
    pub bytes: usize,
    /// Bytes of long requests and unread responses of all callers.
    pub bytes_in_all: usize,
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

type CallResult = Result<Response<Body>, Infallible>;

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
    burst: NonZeroU32,
    buckets: DefaultKeyedRateLimiter<Arc<str>>,
    clock: DefaultClock,
    /// Number of tracked callers above which the next eviction runs.
    eviction_threshold: AtomicUsize,
}

// === impl LimitLayer ===

impl LimitLayer {
    /// Applies `limits` to each caller.
    pub fn new(limits: CallerLimits) -> Self {
        let CallerLimits { calls, calls_in_all, bytes, bytes_in_all, .. } = limits;
        let CallerLimits { checks_per_second, requests_per_second, .. } = limits;
        let limits = Limits {
            calls: Arc::new(KeyedSemaphore::new(calls).with_total(calls_in_all)),
            bytes: Arc::new(KeyedSemaphore::new(bytes).with_total(bytes_in_all)),
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
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        Either<LimitedFuture<Either<S::Future, BoxFuture<'static, CallResult>>>, Ready<CallResult>>;

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
        let connection = request.extensions().get::<Arc<ConnectionInfo>>();
        let unsent = connection.map(|info| Arc::clone(&info.unsent)).unwrap_or_default();
        let Some(caller) = request.extensions().get::<Arc<Caller>>() else {
            // A health check has no caller to limit.
            let call = request.extensions_mut().remove::<Arc<UnauthenticatedCall>>();
            let holder = call.map(Holder::Unauthenticated);
            let body = |body| Body::new(CountedBody::new(body, usize::MAX, None));
            let inner = Either::Left(self.inner.call(request.map(body)));
            return Either::Left(LimitedFuture::new(
                inner,
                UNAUTHENTICATED_TIMEOUT,
                holder,
                true,
                unsent,
            ));
        };
        let identity = Arc::clone(&caller.identity);
        let Limits { calls, bytes, checks, requests } = &*self.limits;
        let rate_limit = match action {
            Some(Action::CheckAccess | Action::BatchCheckAccess | Action::ExplainAccess) => checks,
            _ => requests,
        };
        // A batch takes all tokens at once, when the number of checks is known.
        let is_batch = action == Some(Action::BatchCheckAccess);
        if !is_batch && let Err(delay) = rate_limit.check(&identity) {
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
        let length_max = match action {
            Some(Action::CheckAccess | Action::ExplainAccess) => CHECK_LENGTH_MAX,
            _ => usize::MAX,
        };
        let request = request.map(|body| Body::new(CountedBody::new(body, length_max, held)));
        let inner = if is_batch {
            Either::Right(self.call_batch(request, Arc::clone(&permit)))
        } else {
            Either::Left(self.inner.call(request))
        };
        let holder = Some(Holder::Caller(permit));
        Either::Left(LimitedFuture::new(inner, timeout, holder, is_held_to_the_end, unsent))
    }
}

impl<S> Limit<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    /// Reads the whole batch before it is decoded, because each of its checks counts.
    fn call_batch(
        &mut self,
        request: Request<Body>,
        permit: Arc<CallPermit>,
    ) -> BoxFuture<'static, CallResult> {
        // `self.inner` was polled ready; the clone was not.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let limits = Arc::clone(&self.limits);
        Box::pin(async move {
            let (parts, body) = match read_message(request, |size| permit.try_count(size)).await {
                Ok(read) => read,
                Err(cause) => return Ok(reject_unread(cause)),
            };
            let count = u32::try_from(count_fields(&body, CHECKS_TAG)).unwrap_or(u32::MAX);
            let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
            match limits.checks.check_many(permit.caller(), count) {
                Ok(()) => inner.call(Request::from_parts(parts, whole(body))).await,
                Err(delay) => Ok(reject_excess(ErrorReason::TooManyRequests, delay)),
            }
        })
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
        let burst = per_second.saturating_mul(BURST);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            burst,
            buckets: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            eviction_threshold: AtomicUsize::new(CALLERS_MAX),
        }
    }

    /// Takes a token from the caller's bucket. The error is the delay until there is one.
    fn check(&self, identity: &Arc<str>) -> Result<(), Duration> {
        self.check_many(identity, NonZeroU32::MIN)
    }

    /// Takes `count` tokens from the caller's bucket, but at most a burst. The error is the delay
    /// until there are enough.
    fn check_many(&self, identity: &Arc<str>, count: NonZeroU32) -> Result<(), Duration> {
        if self.buckets.len() > self.eviction_threshold.load(Ordering::Relaxed) {
            self.evict_idle();
        }
        // Fails only for more than a burst.
        let count = count.min(self.burst);
        let checked = self.buckets.check_key_n(identity, count).unwrap_or(Ok(()));
        // The delay may have passed by now, but a rejected caller must wait.
        checked.map_err(|until| until.wait_time_from(self.clock.now()).max(RETRY_DELAY_MIN))
    }

    fn evict_idle(&self) {
        self.buckets.retain_recent();
        let left = self.buckets.len();
        // An eviction looks at every caller. So the next eviction waits for twice as many callers.
        self.eviction_threshold.store(CALLERS_MAX.max(2 * left), Ordering::Relaxed);
        if left < CALLERS_MAX {
            self.buckets.shrink_to_fit();
        }
    }
}
