//! A layer of the gRPC door: how much one caller may ask for.

use std::{
    convert::Infallible,
    fmt,
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
        grpc::refuse_excess, keyed_semaphore::KeyedSemaphore, observe::GRPC_TIMEOUT,
        proto::v1::ErrorReason,
    },
    domain::{Action, Caller},
};

mod place;

use place::Received;
pub use place::{LimitedFuture, Place};

/// More callers than there ever are at a time: from then on, those that have not called lately are forgotten.
const CALLERS_MAX: usize = 10_000;
/// The longest until a call's answer begins, and the deadline of a call whose caller gives none: so no call goes on for ever,
/// be it that its message never comes. For what waits until a change is in force, long enough for that.
const TIMEOUT: Duration = Duration::from_secs(10);
const ENFORCEMENT_TIMEOUT: Duration = Duration::from_mins(6);
/// The same, as callers write it.
const DEADLINE: HeaderValue = HeaderValue::from_static("10S");
const ENFORCEMENT_DEADLINE: HeaderValue = HeaderValue::from_static("6M");
/// The most bytes of long messages that one caller's calls may hold at a time.
const BYTES_MAX: usize = 32 * 1_024 * 1_024;

/// How much one caller may ask for.
#[derive(Debug, Clone, Copy)]
pub struct CallerLimits {
    /// Calls at a time.
    pub calls: usize,
    /// Checks in a second.
    pub checks_per_second: NonZeroU32,
    /// Other requests in a second.
    pub requests_per_second: NonZeroU32,
}

/// Makes [`Limit`]s, which share what they count.
#[derive(Clone)]
pub struct LimitLayer {
    shared: Arc<Shared>,
}

/// Refuses what is more than its caller may ask for, with `RESOURCE_EXHAUSTED` and when to try again; ends calls that take too
/// long, and tells those that are without a deadline.
#[derive(Clone)]
pub struct Limit<S> {
    inner: S,
    shared: Arc<Shared>,
}

struct Shared {
    /// By the caller's name.
    calls: Arc<KeyedSemaphore<Arc<str>>>,
    bytes: Arc<KeyedSemaphore<Arc<str>>>,
    checks: Rate,
    requests: Rate,
}

struct Rate {
    limiter: DefaultKeyedRateLimiter<Arc<str>>,
    clock: DefaultClock,
    /// With how many callers those are forgotten that have not called lately.
    crowd: AtomicUsize,
}

// === impl LimitLayer ===

impl LimitLayer {
    /// Each caller may ask for so much.
    pub fn new(limits: CallerLimits) -> Self {
        let CallerLimits { calls, checks_per_second, requests_per_second } = limits;
        let shared = Shared {
            calls: Arc::new(KeyedSemaphore::new(calls)),
            bytes: Arc::new(KeyedSemaphore::new(BYTES_MAX)),
            checks: Rate::new(checks_per_second),
            requests: Rate::new(requests_per_second),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limit { inner, shared: Arc::clone(&self.shared) }
    }
}

impl fmt::Debug for LimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitLayer").finish_non_exhaustive()
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
        let action = action(request.uri().path());
        let (patience, deadline) = patience(action);
        if let Some(deadline) = deadline
            && !request.headers().contains_key(GRPC_TIMEOUT)
        {
            request.headers_mut().insert(GRPC_TIMEOUT, deadline);
        }
        // Nobody is known who asks only whether the server serves.
        let Some(caller) = request.extensions().get::<Arc<Caller>>() else {
            let inner = self.inner.call(request.map(|body| Body::new(Received::new(body, None))));
            return Either::Left(LimitedFuture::new(inner, patience, None, false));
        };
        let name = Arc::clone(&caller.identity);
        let Shared { calls, bytes, checks, requests } = &*self.shared;
        let rate = match action {
            Some(Action::CheckAccess | Action::BatchCheckAccess | Action::ExplainAccess) => checks,
            _ => requests,
        };
        if let Err(wait) = rate.check(&name) {
            return Either::Right(ready(Ok(refuse_excess(ErrorReason::TooManyRequests, wait))));
        }
        let Some(call) = calls.take(&name) else {
            return Either::Right(ready(Ok(refuse_excess(ErrorReason::TooManyCalls, RETRY_DELAY))));
        };
        let place = Arc::new(Place::new(call, Arc::clone(bytes), name));
        // What goes on for ever has limits of its own.
        let is_counted_to_its_end = action != Some(Action::Follow);
        if is_counted_to_its_end {
            request.extensions_mut().insert(Arc::clone(&place));
        }
        let counted = is_counted_to_its_end.then(|| Arc::clone(&place));
        let request = request.map(|body| Body::new(Received::new(body, counted)));
        let inner = self.inner.call(request);
        Either::Left(LimitedFuture::new(inner, patience, Some(place), is_counted_to_its_end))
    }
}

impl<S> fmt::Debug for Limit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").finish_non_exhaustive()
    }
}

/// When to try again whose calls at a time are too many: one of them may have ended by then.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What an RPC of ours asks for.
fn action(path: &str) -> Option<Action> {
    let (service, method) = path.strip_prefix("/supportaccess.")?.split_once('/')?;
    let action = Action::ALL.iter().find(|action| action.name() == method).copied()?;
    // The stream without an end is in a package of its own. No other service has that method.
    let is_replication = service == "replication.v1.Replication";
    (is_replication == (action == Action::Follow)).then_some(action)
}

/// Until when an answer must begin, and what its handler is told of that. A stream is told nothing: it goes on.
fn patience(action: Option<Action>) -> (Duration, Option<HeaderValue>) {
    match action {
        None | Some(Action::Follow) => (TIMEOUT, None),
        Some(
            Action::ExtendAccess
            | Action::RevokeAccess
            | Action::RevokeAllAccess
            | Action::UpdateSupportPolicy
            | Action::LockAccess
            | Action::WaitEnforced,
        ) => (ENFORCEMENT_TIMEOUT, Some(ENFORCEMENT_DEADLINE)),
        Some(_) => (TIMEOUT, Some(DEADLINE)),
    }
}

// === impl Rate ===

impl Rate {
    fn new(per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(per_second.saturating_mul(TWICE));
        let crowd = AtomicUsize::new(CALLERS_MAX);
        Self { limiter: RateLimiter::keyed(quota), clock: DefaultClock::default(), crowd }
    }

    /// Counts one more; or says when there is room for it.
    fn check(&self, name: &Arc<str>) -> Result<(), Duration> {
        let callers = self.limiter.len();
        if callers > self.crowd.load(Ordering::Relaxed) {
            self.limiter.retain_recent();
            // All of them are looked at: not again before there are twice as many.
            let left = self.limiter.len();
            self.crowd.store(CALLERS_MAX.max(2 * left), Ordering::Relaxed);
            if left < CALLERS_MAX {
                self.limiter.shrink_to_fit();
            }
        }
        let checked = self.limiter.check_key(name);
        // Time has gone on: but who is refused is to wait.
        checked.map_err(|until| until.wait_time_from(self.clock.now()).max(WAIT_MIN))
    }
}

const WAIT_MIN: Duration = Duration::from_millis(1);
const TWICE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
