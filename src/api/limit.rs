//! Limits of the rate, the concurrency and the message bytes of each caller, and of all callers
//! together.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use parking_lot::Mutex;

use crate::{api::proto::v1::ErrorReason, domain::Action};

mod permit;

pub(super) use permit::UNCOUNTED_BYTES;
pub use permit::{BytesPermit, CallPermit};
use permit::{Counter, Places};

/// Number of tracked callers above which idle callers are evicted.
const CALLERS_MAX: usize = 10_000;
/// Retry delay sent to callers that exceed the concurrency limit.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Minimum retry delay sent to callers that exceed the rate limit.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(1);
/// Size of a burst, in seconds of the rate.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
/// How long an unused caller is tracked: until the buckets are full again.
const IDLE_MIN: Duration = Duration::from_secs(1 + BURST.get() as u64);

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

/// The limits, and the use of each caller.
#[derive(Debug)]
pub struct Limits {
    of_each: CallerLimits,
    of_all: Arc<Totals>,
    /// Keys are [`Caller::identity`](crate::domain::Caller::identity).
    callers: Mutex<Callers>,
}

#[derive(Debug)]
struct Totals {
    calls: Places,
    bytes: Counter,
}

#[derive(Debug, Default)]
struct Callers {
    tracked: HashMap<Arc<str>, (Arc<CallerUsage>, Instant), RandomState>,
    /// Number of tracked callers above which the next eviction runs.
    eviction_threshold: usize,
}

/// The calls and bytes of one caller, over all connections.
#[derive(Debug)]
pub struct CallerUsage {
    calls: Counter,
    bytes: Counter,
    of_all: Arc<Totals>,
    checks: RateLimit,
    requests: RateLimit,
}

/// A token bucket.
#[derive(Debug)]
struct RateLimit {
    burst: NonZeroU32,
    bucket: DefaultDirectRateLimiter,
}

/// The limit that a call exceeds, and the delay after which the caller may retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// The reason of the error.
    pub reason: ErrorReason,
    /// The delay.
    pub delay: Duration,
}

/// The permit of the only caller, whose quota is `bytes`.
#[cfg(test)]
pub(super) fn permit_of(bytes: usize) -> CallPermit {
    let one = NonZeroU32::MIN;
    let limits = CallerLimits {
        calls: 1,
        calls_in_all: 1,
        bytes,
        bytes_in_all: bytes,
        checks_per_second: one,
        requests_per_second: one,
    };
    Limits::new(limits).usage_of(&"ann".into()).admit(None).unwrap()
}

// === impl Limits ===

impl Limits {
    /// Applies `limits` to each caller.
    pub fn new(limits: CallerLimits) -> Self {
        Self {
            of_each: limits,
            of_all: Arc::new(Totals {
                calls: Places::new(limits.calls_in_all),
                bytes: Counter::new(limits.bytes_in_all),
            }),
            callers: Mutex::default(),
        }
    }

    /// The usage of the caller with this identity. May be kept for a second.
    pub fn usage_of(&self, identity: &Arc<str>) -> Arc<CallerUsage> {
        let now = Instant::now();
        let mut callers = self.callers.lock();
        callers.evict_idle(now);
        let new = || (Arc::new(CallerUsage::new(&self.of_each, &self.of_all)), now);
        let (usage, used_at) = callers.tracked.entry(Arc::clone(identity)).or_insert_with(new);
        *used_at = now;
        Arc::clone(usage)
    }
}

// === impl Callers ===

impl Callers {
    fn evict_idle(&mut self, now: Instant) {
        if self.tracked.len() <= self.eviction_threshold.max(CALLERS_MAX) {
            return;
        }
        let is_used = |(usage, used_at): &(Arc<CallerUsage>, Instant)| {
            Arc::strong_count(usage) > 1 || now.duration_since(*used_at) < IDLE_MIN
        };
        self.tracked.retain(|_, caller| is_used(caller));
        // An eviction visits every caller. So the next one waits for twice as many callers.
        self.eviction_threshold = 2 * self.tracked.len();
        if self.tracked.len() < CALLERS_MAX {
            self.tracked.shrink_to(CALLERS_MAX);
        }
    }
}

// === impl CallerUsage ===

impl CallerUsage {
    fn new(limits: &CallerLimits, of_all: &Arc<Totals>) -> Self {
        Self {
            calls: Counter::new(limits.calls),
            bytes: Counter::new(limits.bytes),
            of_all: Arc::clone(of_all),
            checks: RateLimit::new(limits.checks_per_second),
            requests: RateLimit::new(limits.requests_per_second),
        }
    }

    /// Admits a call. A batch takes its tokens later, when the number of checks is known.
    pub fn admit(self: &Arc<Self>, action: Option<Action>) -> Result<CallPermit, Excess> {
        match action {
            Some(Action::BatchCheckAccess) => {}
            Some(Action::CheckAccess | Action::ExplainAccess) => self.take_checks(1)?,
            _ => self.requests.take(NonZeroU32::MIN)?,
        }
        let excess = Excess { reason: ErrorReason::TooManyCalls, delay: RETRY_DELAY };
        CallPermit::acquire(self).ok_or(excess)
    }

    /// The counted bytes of the caller's messages.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.count()
    }

    /// Takes the tokens of `count` checks, at least one and at most a burst.
    pub fn take_checks(&self, count: usize) -> Result<(), Excess> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.checks.take(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN))
    }
}

// === impl RateLimit ===

impl RateLimit {
    fn new(per_second: NonZeroU32) -> Self {
        let burst = per_second.saturating_mul(BURST);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { burst, bucket: RateLimiter::direct(quota) }
    }

    /// Takes `count` tokens, but at most a burst.
    fn take(&self, count: NonZeroU32) -> Result<(), Excess> {
        // Fails only for more than a burst.
        let taken = self.bucket.check_n(count.min(self.burst)).unwrap_or(Ok(()));
        taken.map_err(|until| {
            // The delay may have passed by now, but a rejected caller must wait.
            let delay = until.wait_time_from(DefaultClock::default().now()).max(RETRY_DELAY_MIN);
            Excess { reason: ErrorReason::TooManyRequests, delay }
        })
    }
}
