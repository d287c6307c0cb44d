//! What is looked up whenever metrics are read.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet},
    metrics::{MetricType, TypedMetric, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use crate::{
    domain::Time,
    node::{
        Gauges,
        enforcer::{DURATION_BOUNDS, EnforcementTotals},
    },
};

/// What is read when metrics are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// Of the check node.
    pub node: Gauges,
    /// gRPC connections, and how many there may be.
    pub connections: u64,
    /// See `connections`.
    pub connections_limit: u64,
    /// Threads that do the work, and how long they were at it, all together.
    pub workers: u64,
    /// See `workers`.
    pub worker_busy: Duration,
    /// By the setting that names its file: when a certificate ends.
    pub certificates: Vec<(&'static str, Time)>,
    /// TLS handshakes that failed because either side would not have the other.
    pub handshakes_failed: u64,
    /// What only a replica has.
    pub replica: Option<ReplicaReadings>,
}

/// What is read of the work that only replicas do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaReadings {
    /// The changes that this replica has made.
    pub enforcement: EnforcementTotals,
    /// How far the recording of expiries is behind.
    pub sweep_lag: Duration,
    /// Chains of the history that do not verify; `None` while nobody knows.
    pub history_breaks: Option<u64>,
    /// When all chains had been verified last.
    pub history_verified_at: Option<Time>,
    /// Events verified.
    pub history_verified_events: u64,
}

/// Reads, whenever Prometheus does.
pub(super) struct ReadingsCollector<F>(pub(super) F);

// === impl ReadingsCollector ===

impl<F> fmt::Debug for ReadingsCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadingsCollector")
    }
}

impl<F: Fn() -> Readings + Send + Sync + 'static> Collector for ReadingsCollector<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let readings = (self.0)();
        let mut lines = Lines(encoder);
        lines.of_node(&readings.node)?;
        lines.of_process(&readings)?;
        readings.replica.map_or(Ok(()), |replica| lines.of_replica(&replica))
    }
}

struct Lines<'a>(DescriptorEncoder<'a>);

impl Lines<'_> {
    fn of_node(&mut self, node: &Gauges) -> fmt::Result {
        self.number("live_grants", "Grants that no event has ended.", node.live_grants)?;
        self.number("locks", "Locks that no event has ended.", node.locks)?;
        let revision = node.revision.unsigned_abs();
        self.number("revision", "The last event that checks are answered from.", revision)?;
        let help = "The memory of the snapshot that checks are answered from, estimated.";
        self.write("snapshot", help, Some(&Unit::Bytes), &ConstGauge::new(node.snapshot_bytes))?;
        self.number("tenants", "Tenants that have a grant, live or ended.", node.tenants)?;
        self.number("followers", "Check nodes that are fed by this one.", node.followers as u64)?;
        let help =
            "How old the lease is that checks are answered by; infinite while there is none.";
        let age = node.lease_age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        self.write("lease_age", help, Some(&Unit::Seconds), &ConstGauge::new(age))
    }

    fn of_process(&mut self, readings: &Readings) -> fmt::Result {
        self.number("connections", "gRPC connections.", readings.connections)?;
        let help = "How many gRPC connections there may be; beyond that, callers wait.";
        self.number("connections_limit", help, readings.connections_limit)?;
        self.number("workers", "Threads that do the work.", readings.workers)?;
        let help = "How long all threads that do the work were at it.";
        let busy = ConstCounter::new(readings.worker_busy.as_secs_f64());
        self.write("worker_busy", help, Some(&Unit::Seconds), &busy)?;
        let help =
            "TLS handshakes with callers that failed because either side would not have the other.";
        let failed = ConstCounter::new(readings.handshakes_failed);
        self.write("handshakes_failed", help, None, &failed)?;
        if readings.certificates.is_empty() {
            return Ok(());
        }
        let help = "When a certificate ends, in seconds since 1970, by the setting that names its file; of several in the file, \
                    the one that ends first.";
        let ends = readings.certificates.iter().map(|(name, end)| ([("certificate", *name)], end));
        self.family("certificate_expiration_timestamp", help, ends)
    }

    fn of_replica(&mut self, replica: &ReplicaReadings) -> fmt::Result {
        let help = "How far the recording of expiries is behind. Checks do not depend on it.";
        let lag = ConstGauge::new(replica.sweep_lag.as_secs_f64());
        self.write("sweep_lag", help, Some(&Unit::Seconds), &lag)?;
        if let Some(breaks) = replica.history_breaks {
            let help = "Chains of the history that do not verify; not there before this process has looked at all, or found one.";
            self.number("history_breaks", help, breaks)?;
        }
        let help = "When all chains of the history had been verified last, in seconds since 1970; 0: not yet.";
        let at = ConstGauge::new(replica.history_verified_at.map_or(0.0, |at| seconds(&at)));
        self.write("history_verified_timestamp", help, Some(&Unit::Seconds), &at)?;
        let help = "Events that were verified in their chains, each time that they were.";
        let events = ConstCounter::new(replica.history_verified_events);
        self.write("history_verified_events", help, None, &events)?;
        self.of_enforcement(&replica.enforcement)
    }

    fn of_enforcement(&mut self, totals: &EnforcementTotals) -> fmt::Result {
        let help = "Time from the commit of a change that ends or shortens access until no check node can allow access \
                    by the state before the change";
        let bounds = DURATION_BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(totals.durations).collect();
        let (sum, count) = (totals.duration_sum.as_secs_f64(), totals.durations.iter().sum());
        let kind = MetricType::Histogram;
        self.0
            .encode_descriptor("enforcement_duration", help, Some(&Unit::Seconds), kind)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        let help = "Changes that end or shorten access, by the enforcement state in the response to their caller";
        let mut encoder =
            self.0.encode_descriptor("enforcements", help, None, MetricType::Counter)?;
        for (state, count) in [("COMPLETE", totals.complete), ("PENDING", totals.pending)] {
            ConstCounter::new(count).encode(encoder.encode_family(&[("state", state)])?)?;
        }
        let help = "Check nodes that had not acknowledged a change, and whose leases had to expire";
        self.write("nodes_lapsed", help, None, &ConstCounter::new(totals.nodes_lapsed))
    }

    fn number(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.write(name, help, None, &ConstGauge::new(value))
    }

    fn write(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        metric: &(impl EncodeMetric + TypedMetric),
    ) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, help, unit, metric.metric_type())?)
    }

    fn family<'t>(
        &mut self,
        name: &str,
        help: &str,
        times: impl Iterator<Item = (impl EncodeLabelSet, &'t Time)>,
    ) -> fmt::Result {
        let kind = ConstGauge::<f64>::TYPE;
        let mut encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
        for (labels, time) in times {
            ConstGauge::new(seconds(time)).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn seconds(time: &Time) -> f64 {
    time.timestamp() as f64
}
