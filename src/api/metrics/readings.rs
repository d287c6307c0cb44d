//! State that is read for each scrape.

use std::{fmt, time::Duration};

use chrono::TimeDelta;
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
    service::verification::VerificationStatus,
};

/// The state of a process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// State of the check node.
    pub node: Gauges,
    /// Open gRPC connections.
    pub connections: u64,
    /// Maximum of `connections`.
    pub connections_limit: u64,
    /// Threads that serve gRPC connections.
    pub workers: u64,
    /// Busy time of all these threads together.
    pub worker_busy: Duration,
    /// Earliest expiry of the certificates in a file, by the setting that names the file.
    pub certificates: Vec<(&'static str, Time)>,
    /// TLS handshakes that the server or the client rejected.
    pub handshakes_failed: u64,
    /// Log lines that were not written, by reason.
    pub log_lines_dropped: Vec<(&'static str, u64)>,
    /// State of a replica. `None`: a sidecar.
    pub replica: Option<ReplicaReadings>,
}

/// State that only replicas have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplicaReadings {
    /// The changes that this replica has made.
    pub enforcement: EnforcementTotals,
    /// Age of the oldest expiry that is not recorded yet.
    pub sweep_lag: Duration,
    /// Distance of the database clock from the expected time; positive if the clock is ahead.
    pub clock_distance: TimeDelta,
    /// Verification of the histories. `None`: another replica verifies.
    pub verification: Option<VerificationStatus>,
}

/// Encodes the readings for each scrape.
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
        let mut samples = Samples(encoder);
        samples.write_node(&readings.node)?;
        samples.write_process(&readings)?;
        readings.replica.map_or(Ok(()), |replica| samples.write_replica(&replica))
    }
}

struct Samples<'a>(DescriptorEncoder<'a>);

impl Samples<'_> {
    fn write_node(&mut self, node: &Gauges) -> fmt::Result {
        self.number("live_grants", "Scheduled and active grants.", node.live_grants)?;
        self.number("locks", "Live locks.", node.locks)?;
        let help = "Forgeries that this node knows of: the number of histories in which everything \
                    is denied, plus 1 if the last loaded rows did not match the sum in head.";
        self.number("forgeries", help, node.forgeries)?;
        let revision = node.revision.unsigned_abs();
        self.number("revision", "Revision from which checks are answered.", revision)?;
        let help = "Estimated size of the snapshot from which checks are answered.";
        self.write("snapshot", help, Some(&Unit::Bytes), &ConstGauge::new(node.snapshot_bytes))?;
        self.number("tenants", "Tenants with at least one grant, live or ended.", node.tenants)?;
        self.number("followers", "Check nodes that follow this node.", node.followers as u64)?;
        let help = "Age of the lease by which checks are answered; infinite without a lease.";
        let age = node.lease_age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        self.write("lease_age", help, Some(&Unit::Seconds), &ConstGauge::new(age))
    }

    fn write_process(&mut self, readings: &Readings) -> fmt::Result {
        self.number("connections", "Open gRPC connections.", readings.connections)?;
        let help = "Maximum number of gRPC connections. Further connections wait.";
        self.number("connections_limit", help, readings.connections_limit)?;
        self.number(
            "workers",
            "Threads that serve gRPC connections, one for each processor.",
            readings.workers,
        )?;
        let help = "Busy time of all threads that serve gRPC connections.";
        let busy = ConstCounter::new(readings.worker_busy.as_secs_f64());
        self.write("worker_busy", help, Some(&Unit::Seconds), &busy)?;
        let help = "TLS handshakes that the server or the client rejected.";
        let failed = ConstCounter::new(readings.handshakes_failed);
        self.write("handshakes_failed", help, None, &failed)?;
        let help = "Log lines that were not written, by reason.";
        self.counters("log_lines_dropped", help, "reason", &readings.log_lines_dropped)?;
        if readings.certificates.is_empty() {
            return Ok(());
        }
        let help = "Earliest expiry of the certificates in a file, in seconds since 1970, by the \
                    setting that names the file.";
        let ends = readings.certificates.iter().map(|(name, end)| ([("certificate", *name)], end));
        self.family("certificate_expiration_timestamp", help, ends)
    }

    fn write_replica(&mut self, replica: &ReplicaReadings) -> fmt::Result {
        let help = "Age of the oldest expiry that is not recorded yet. Checks do not depend on it.";
        let lag = ConstGauge::new(replica.sweep_lag.as_secs_f64());
        self.write("sweep_lag", help, Some(&Unit::Seconds), &lag)?;
        let help = "Distance of the database clock from the time that is expected from the elapsed \
                    time; positive if the clock is ahead. Beyond 5, the clock is not trusted.";
        let distance = ConstGauge::new(replica.clock_distance.as_seconds_f64());
        self.write("clock_distance", help, Some(&Unit::Seconds), &distance)?;
        self.write_enforcement(&replica.enforcement)?;
        replica.verification.map_or(Ok(()), |status| self.write_verification(&status))
    }

    fn write_verification(&mut self, status: &VerificationStatus) -> fmt::Result {
        if let Some(breaks) = status.breaks {
            let help = "Broken hash chains. Only at the replica that verifies the histories, once \
                        a pass has ended or found a break.";
            self.number("history_breaks", help, breaks)?;
        }
        if let Some(differences) = status.differences {
            let help = "Grants and locks that differ from the history. Only at the replica that \
                        verifies the histories, once a pass has ended or found a difference.";
            self.number("history_differences", help, differences)?;
        }
        let help = "End of the last pass over all hash chains, in seconds since 1970; 0: none yet. \
                    Only at the replica that verifies the histories.";
        let at = ConstGauge::new(status.completed_at.map_or(0.0, |at| seconds(&at)));
        self.write("history_verified_timestamp", help, Some(&Unit::Seconds), &at)?;
        let help = "Events verified in their hash chains, counted in each pass. Only at the \
                    replica that verifies the histories.";
        self.write("history_verified_events", help, None, &ConstCounter::new(status.events))
    }

    fn write_enforcement(&mut self, totals: &EnforcementTotals) -> fmt::Result {
        let help = "Time from the commit of a change that ends or shortens access until no check \
                    node can allow access by the state before the change.";
        let bounds = DURATION_BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(totals.durations).collect();
        let (sum, count) = (totals.duration_sum.as_secs_f64(), totals.durations.iter().sum());
        let kind = MetricType::Histogram;
        self.0
            .encode_descriptor("enforcement_duration", help, Some(&Unit::Seconds), kind)?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        let help = "Changes that end or shorten access, by the enforcement state in the response.";
        let by_state = [("COMPLETE", totals.complete), ("PENDING", totals.pending)];
        self.counters("enforcements", help, "state", &by_state)?;
        let help = "Check nodes that had not acknowledged a change and whose leases had to expire.";
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

    /// Writes one counter for each value of a label.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        counts: &[(&'static str, u64)],
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in counts {
            ConstCounter::new(*count).encode(encoder.encode_family(&[(label, *value)])?)?;
        }
        Ok(())
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

#[expect(clippy::cast_precision_loss, reason = "all numbers of Prometheus are floating-point")]
fn seconds(time: &Time) -> f64 {
    time.timestamp() as f64
}
