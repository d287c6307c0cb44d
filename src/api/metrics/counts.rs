//! Counts of checks and RPCs.
//!
//! Each thread adds to counts of its own, so that threads do not contend. A scrape adds them up.

use std::{
    array::from_fn,
    fmt, iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use tonic::Code;

use super::{CODES, Methods};
use crate::{api::threads, domain::Reason};

/// Upper bounds of histogram buckets.
const BUCKETS: [Duration; 17] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// Codes that are exported with the count 0, because Prometheus sees no increase when a series
/// appears with 1.
const EXPORTED_AT_ZERO: [Code; 9] = [
    Code::Ok,
    Code::Unknown,
    Code::DeadlineExceeded,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// The counts of a process.
#[derive(Debug)]
pub(super) struct Counts(Vec<ThreadCounts>);

/// The counts of one thread, or of a few. The alignment keeps them in cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct ThreadCounts {
    /// Indexed by [`Reason`].
    checks: [AtomicU64; Reason::ALL.len()],
    /// Indexed by method.
    rpcs: Vec<RpcCounts>,
}

/// The counts of one method.
#[derive(Debug)]
#[repr(align(128))]
struct RpcCounts {
    started: AtomicU64,
    /// Indexed by code number.
    by_code: [AtomicU64; CODES.len()],
    /// Indexed as [`BUCKETS`], and then the calls above.
    durations: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
}

/// Encodes the counts for each scrape.
#[derive(Debug)]
pub(super) struct CountsCollector {
    pub(super) methods: Arc<Methods>,
    pub(super) counts: Arc<Counts>,
}

// === impl Counts ===

impl Counts {
    /// Counts for this number of methods.
    pub(super) fn new(methods: usize) -> Self {
        let of_thread = || ThreadCounts {
            checks: from_fn(|_| AtomicU64::new(0)),
            rpcs: iter::repeat_with(RpcCounts::default).take(methods).collect(),
        };
        Self(threads::each(of_thread))
    }

    pub(super) fn check(&self, reason: Reason) {
        if let Some(count) = self.of_thread().checks.get(reason as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn rpc_started(&self, method: usize) {
        self.of_thread().rpcs[method].started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rpc_ended(&self, method: usize, code: Code, took: Duration) {
        let rpc = &self.of_thread().rpcs[method];
        if let Some(count) = rpc.by_code.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let bucket = BUCKETS.partition_point(|bound| *bound < took);
        rpc.durations[bucket].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        rpc.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    fn of_thread(&self) -> &ThreadCounts {
        threads::own(&self.0)
    }

    /// A count over all threads.
    fn sum(&self, count: impl Fn(&ThreadCounts) -> &AtomicU64) -> u64 {
        self.0.iter().map(|of_thread| count(of_thread).load(Ordering::Relaxed)).sum()
    }
}

impl Default for RpcCounts {
    fn default() -> Self {
        Self {
            started: AtomicU64::new(0),
            by_code: from_fn(|_| AtomicU64::new(0)),
            durations: from_fn(|_| AtomicU64::new(0)),
            microseconds: AtomicU64::new(0),
        }
    }
}

// === impl CountsCollector ===

impl Collector for CountsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.write_checks(&mut encoder)?;
        self.write_codes(&mut encoder)?;
        self.write_durations(&mut encoder)?;
        self.write_in_flight(&mut encoder)
    }
}

impl CountsCollector {
    fn write_checks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Checks answered, by decision and reason.";
        let mut family = encoder.encode_descriptor("checks", help, None, MetricType::Counter)?;
        for reason in Reason::ALL {
            let decision = if reason == Reason::GrantActive { "ALLOWED" } else { "DENIED" };
            let labels = [("decision", decision), ("reason", reason.as_str())];
            let count = self.counts.sum(|of_thread| &of_thread.checks[reason as usize]);
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn write_codes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Completed RPCs, by method and code.";
        let mut family = encoder.encode_descriptor("rpcs", help, None, MetricType::Counter)?;
        for (index, method) in self.methods.methods.iter().enumerate() {
            for (number, code) in CODES.into_iter().enumerate() {
                let count = self.counts.sum(|of_thread| &of_thread.rpcs[index].by_code[number]);
                if count == 0 && !EXPORTED_AT_ZERO.iter().any(|code| *code as usize == number) {
                    continue;
                }
                let labels =
                    [("service", &*method.service), ("method", &*method.rpc), ("code", code)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn write_durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Duration of RPCs, from the request headers to the trailers.";
        let unit = Some(&Unit::Seconds);
        let kind = MetricType::Histogram;
        let mut family = encoder.encode_descriptor("rpc_duration", help, unit, kind)?;
        for (index, method) in self.methods.methods.iter().enumerate() {
            let bounds = BUCKETS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
            let counts = (0..=BUCKETS.len()).map(|bucket| {
                self.counts.sum(|of_thread| &of_thread.rpcs[index].durations[bucket])
            });
            let buckets: Vec<_> = bounds.zip(counts).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = self.counts.sum(|of_thread| &of_thread.rpcs[index].microseconds);
            let sum = Duration::from_micros(sum).as_secs_f64();
            let labels = [("service", &*method.service), ("method", &*method.rpc)];
            let mut of_method = family.encode_family(&labels)?;
            of_method.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn write_in_flight(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = MetricType::Gauge;
        let mut family =
            encoder.encode_descriptor("rpcs_in_flight", "RPCs in progress.", None, kind)?;
        for (index, method) in self.methods.methods.iter().enumerate() {
            // The ends are read first. So an RPC that starts or ends meanwhile is not counted
            // below zero.
            let ended: u64 = (0..CODES.len())
                .map(|code| self.counts.sum(|of_thread| &of_thread.rpcs[index].by_code[code]))
                .sum();
            let started = self.counts.sum(|of_thread| &of_thread.rpcs[index].started);
            let labels = [("service", &*method.service), ("method", &*method.rpc)];
            ConstGauge::new(started - ended).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
