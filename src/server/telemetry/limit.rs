//! Bounds the lines that callers can cause.
//!
//! Each call site in the code may write [`BURST`] lines at once, and one line per second
//! afterwards. Lines that name an actor are counted for each actor, so that one caller hides no
//! other. All unauthenticated peers share one allowance. Every second, one line for each call site
//! states how many lines were left out. Lines below the level `INFO` are not limited.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::{self, Debug, Write as _},
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroU32,
    time::Instant,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
    warn,
};
use tracing_subscriber::{
    fmt::{
        FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    registry::LookupSpan,
};

use crate::{api::threads, service::CHANGE};

/// The fields by which lines of one call site are counted. The values are authenticated names and
/// codes of gRPC: an unauthenticated peer cannot choose them freely.
const KEY_FIELDS: [&str; 2] = ["actor", "code"];
/// The name of the line about lines that were left out.
const SUMMARY: &str = "lines left out";
/// Lines that are never left out. A change adds more bytes to the database than to the log.
const UNLIMITED: [&str; 2] = [CHANGE, SUMMARY];
/// Number of lines that a call site may write at once.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// Number of keys above which unused keys are evicted.
const KEYS_MAX: usize = 10_000;

/// Call site, and hash of the values of [`KEY_FIELDS`].
type Key = (Identifier, u64);

/// Decides which lines are written.
pub(super) struct LineLimit {
    buckets: DefaultKeyedRateLimiter<Key>,
    threads: Vec<Mutex<ThreadLines>>,
}

/// Lines of one thread that were left out. Under a flood of lines, a thread takes no lock of
/// `buckets`, which all threads share. The alignment keeps threads out of each other's cache lines.
#[derive(Default)]
#[repr(align(128))]
struct ThreadLines {
    /// The times before which the shared buckets admit no line.
    exhausted: HashMap<Key, Instant>,
    /// Since the last report.
    left_out: HashMap<Identifier, LeftOut>,
    left_out_total: u64,
}

/// Formats the lines that the limit admits, and nothing for the others. Not a filter: those of
/// tracing-subscriber 0.3 keep wrong state if `event_enabled` returns false.
pub(super) struct LimitedFormat<F> {
    format: F,
    limit: &'static LineLimit,
}

/// Lines of one call site that were left out since the last report.
struct LeftOut {
    count: u64,
    /// The message of the first line.
    message: String,
}

impl LineLimit {
    pub(super) fn new() -> Self {
        Self {
            buckets: RateLimiter::keyed(Quota::per_second(NonZeroU32::MIN).allow_burst(BURST)),
            threads: threads::each(Mutex::default),
        }
    }

    /// The number of lines that were left out.
    pub(super) fn left_out(&self) -> u64 {
        self.threads.iter().map(|thread| thread.lock().left_out_total).sum()
    }

    /// Logs how many lines were left out since the last report. Call at most once a second.
    pub(super) fn report(&self) {
        if self.buckets.len() > KEYS_MAX {
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
        let mut left_out: HashMap<Identifier, LeftOut> = HashMap::new();
        let now = Instant::now();
        for thread in &self.threads {
            let mut thread = thread.lock();
            thread.exhausted.retain(|_, until| *until > now);
            for (site, lines) in thread.left_out.drain() {
                match left_out.entry(site) {
                    Entry::Occupied(mut entry) => entry.get_mut().count += lines.count,
                    Entry::Vacant(entry) => drop(entry.insert(lines)),
                }
            }
        }
        for LeftOut { count, message } in left_out.into_values() {
            warn!(name: SUMMARY, lines = count, like = message, "similar lines were left out");
        }
    }

    fn admits(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || UNLIMITED.contains(&metadata.name()) {
            return true;
        }
        let mut hasher = KeyHasher(DefaultHasher::new());
        event.record(&mut hasher);
        let key = (metadata.callsite(), hasher.0.finish());
        let mut thread = threads::own(&self.threads).lock();
        let until = thread.exhausted.get(&key);
        if until.is_none_or(|until| *until <= Instant::now()) {
            match self.buckets.check_key(&key) {
                Ok(()) => return true,
                Err(rejected) => thread.exhausted.insert(key, rejected.earliest_possible()),
            };
        }
        thread.leave_out(event);
        false
    }
}

impl ThreadLines {
    fn leave_out(&mut self, event: &Event<'_>) {
        self.left_out_total += 1;
        match self.left_out.entry(event.metadata().callsite()) {
            Entry::Occupied(mut entry) => entry.get_mut().count += 1,
            Entry::Vacant(entry) => {
                let mut message = Message(String::new());
                event.record(&mut message);
                entry.insert(LeftOut { count: 1, message: message.0 });
            }
        }
    }
}

impl<F> LimitedFormat<F> {
    /// Formats lines with `format`.
    pub(super) fn new(format: F, limit: &'static LineLimit) -> Self {
        Self { format, limit }
    }
}

impl<S, N, F> FormatEvent<S, N> for LimitedFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.limit.admits(event) {
            self.format.format_event(context, writer, event)
        } else {
            Ok(())
        }
    }
}

/// Hashes the values of [`KEY_FIELDS`].
struct KeyHasher(DefaultHasher);

impl Visit for KeyHasher {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if KEY_FIELDS.contains(&field.name()) {
            field.name().hash(&mut self.0);
            // Hashing cannot fail.
            let _ = write!(Hashed(&mut self.0), "{value:?}");
        }
    }
}

struct Hashed<'a>(&'a mut DefaultHasher);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// The message of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{debug, info, subscriber::with_default};
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::*;
    use crate::server::telemetry::written::Written;

    /// The lines that `act` logs.
    fn logged(act: impl FnOnce(&'static LineLimit)) -> Vec<String> {
        let limit: &'static LineLimit = Box::leak(Box::new(LineLimit::new()));
        let written = Arc::new(Written::default());
        let layer = tracing_subscriber::fmt::layer().with_ansi(false);
        let layer = layer.with_writer(Arc::clone(&written));
        let layer = layer.map_event_format(|format| LimitedFormat::new(format, limit));
        with_default(Registry::default().with(layer), || act(limit));
        written.text().lines().map(str::to_owned).collect()
    }

    fn count(lines: &[String], text: &str) -> usize {
        lines.iter().filter(|line| line.contains(text)).count()
    }

    fn reject(actor: &str) {
        info!(%actor, "rejected");
    }

    #[test]
    fn a_flood_of_one_caller_is_bounded_and_hides_no_other_caller() {
        let lines = logged(|limit| {
            (0..1_000).for_each(|_| reject("mallory"));
            reject("alice");
            limit.report();
            limit.report();
            assert!(limit.left_out() >= 1_000 - 20, "{}", limit.left_out());
        });
        let shown = count(&lines, "mallory");
        assert!((10..20).contains(&shown), "{shown}");
        assert_eq!(count(&lines, "alice"), 1);
        let summary = format!("similar lines were left out lines={}", 1_000 - shown);
        assert_eq!(count(&lines, &summary), 1, "{lines:?}");
        assert_eq!(count(&lines, "like=\"rejected\""), 1, "reported once: {lines:?}");
    }

    #[test]
    fn changes_and_debug_lines_are_not_limited() {
        let lines = logged(|limit| {
            for _ in 0..1_000 {
                info!(name: CHANGE, actor = "alice", "changed");
                debug!("details");
            }
            assert_eq!(limit.left_out(), 0);
        });
        assert_eq!((count(&lines, "changed"), count(&lines, "details")), (1_000, 1_000));
    }
}
