//! A layer of the gRPC door: how much one caller may ask for.

use std::{
    convert::Infallible,
    fmt,
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{Either, Ready, ready};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use http::{HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{
    api::{
        grpc::refuse_excess,
        observe::GRPC_TIMEOUT,
        slots::{Slot, Slots},
    },
    domain::{Action, Caller},
};

/// More callers than there ever are at a time: from then on, those that have not called lately are forgotten.
const CALLERS_MAX: usize = 10_000;
/// The deadline of a call whose caller gives none: so no call goes on for ever. For what waits until a change is in force, long
/// enough for that; for a stream that is to go on, none.
const DEADLINE: HeaderValue = HeaderValue::from_static("10S");
const ENFORCEMENT_DEADLINE: HeaderValue = HeaderValue::from_static("6M");

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

/// Refuses what is more than its caller may ask for, with `RESOURCE_EXHAUSTED` and when to try again; gives calls without a
/// deadline one.
#[derive(Clone)]
pub struct Limit<S> {
    inner: S,
    shared: Arc<Shared>,
}

struct Shared {
    /// By the caller's name.
    calls: Arc<Slots<Arc<str>>>,
    checks: Rate,
    requests: Rate,
}

struct Rate {
    limiter: DefaultKeyedRateLimiter<Arc<str>>,
    clock: DefaultClock,
}

pin_project! {
    /// The answer to come, in one of its caller's places.
    pub struct LimitedFuture<F> {
        #[pin]
        inner: F,
        place: Slot<Arc<str>>,
    }
}

// === impl LimitLayer ===

impl LimitLayer {
    /// Each caller may ask for so much.
    pub fn new(limits: CallerLimits) -> Self {
        let CallerLimits { calls, checks_per_second, requests_per_second } = limits;
        let shared = Shared {
            calls: Arc::new(Slots::new(calls)),
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

impl<S, Q> Service<Request<Q>> for Limit<S>
where
    S: Service<Request<Q>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        Either<LimitedFuture<S::Future>, S::Future>,
        Ready<Result<Response<Body>, Infallible>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let action = action(request.uri().path());
        let deadline = deadline(action).filter(|_| !request.headers().contains_key(GRPC_TIMEOUT));
        if let Some(deadline) = deadline {
            request.headers_mut().insert(GRPC_TIMEOUT, deadline);
        }
        // Nobody is known who asks only whether the server serves.
        let Some(caller) = request.extensions().get::<Arc<Caller>>() else {
            return Either::Left(Either::Right(self.inner.call(request)));
        };
        let name: Arc<str> = caller.author.actor.as_str().into();
        let rate = match action {
            Some(Action::CheckAccess | Action::BatchCheckAccess | Action::ExplainAccess) => {
                &self.shared.checks
            }
            _ => &self.shared.requests,
        };
        if let Err(wait) = rate.check(&name) {
            return Either::Right(ready(Ok(refuse_excess("TOO_MANY_REQUESTS", wait))));
        }
        match self.shared.calls.take(&name) {
            Some(place) => {
                let inner = self.inner.call(request);
                Either::Left(Either::Left(LimitedFuture { inner, place }))
            }
            None => Either::Right(ready(Ok(refuse_excess("TOO_MANY_CALLS", RETRY_DELAY)))),
        }
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
    let method = path.strip_prefix("/supportaccess.v1.")?.split_once('/')?.1;
    Action::ALL.iter().find(|action| action.name() == method).copied()
}

fn deadline(action: Option<Action>) -> Option<HeaderValue> {
    match action? {
        Action::Follow => None,
        Action::ExtendAccess
        | Action::RevokeAccess
        | Action::RevokeAllAccess
        | Action::UpdateSupportPolicy
        | Action::LockAccess
        | Action::WaitEnforced => Some(ENFORCEMENT_DEADLINE),
        _ => Some(DEADLINE),
    }
}

// === impl Rate ===

impl Rate {
    fn new(per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(per_second.saturating_mul(TWICE));
        Self { limiter: RateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    /// Counts one more; or says when there is room for it.
    fn check(&self, name: &Arc<str>) -> Result<(), Duration> {
        if self.limiter.len() > CALLERS_MAX {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(name).map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

const TWICE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

// === impl LimitedFuture ===

impl<F: Future> Future for LimitedFuture<F> {
    type Output = F::Output;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<F> fmt::Debug for LimitedFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedFuture").field("place", &self.place).finish_non_exhaustive()
    }
}
