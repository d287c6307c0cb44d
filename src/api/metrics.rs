//! What the server counts, and how Prometheus reads it.
//!
//! What a check counts is resolved beforehand: counting is one atomic addition. What can be looked up is not counted at
//! all but read when somebody asks, so that it cannot drift.

use std::{collections::HashMap, fmt, sync::OnceLock, time::Duration};

use foldhash::fast::RandomState;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::{api::proto, domain::Reason};

mod readings;

use readings::ReadingsCollector;
pub use readings::{Readings, ReplicaReadings};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What RPCs of no known method are counted under, so that nobody can make up label values.
const UNKNOWN: &str = "unknown";

/// Every reason, in the order they are declared in.
const REASONS: [Reason; 10] = [
    Reason::GrantActive,
    Reason::NoGrant,
    Reason::NotStarted,
    Reason::Expired,
    Reason::Revoked,
    Reason::GroupMismatch,
    Reason::AgentNotNamed,
    Reason::LevelExceeded,
    Reason::Stale,
    Reason::Locked,
];

/// From 50 microseconds to 10 seconds.
const BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

/// Code names, in the order of their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What is there before it happens, so that the first can be told from none: Prometheus sees no growth in what was not there.
const COUNTED_FROM_0: [Code; 9] = [
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

type MethodLabels = [(&'static str, String); 2];
type CodeLabels = [(&'static str, String); 3];

/// Everything that is counted. Made once per server, passed to whoever counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By [`Reason`].
    checks: [Counter; REASONS.len()],
    rpcs: Vec<Rpc>,
    /// `/service/method` to the index in `rpcs`.
    paths: HashMap<String, usize, RandomState>,
    by_code: Family<CodeLabels, Counter>,
}

/// The counts of one method.
#[derive(Debug)]
pub(super) struct Rpc {
    /// `service/method`.
    pub(super) name: String,
    labels: MethodLabels,
    duration: Histogram,
    in_flight: Gauge,
    /// By code number. Made when first needed, for most never are.
    by_code: [OnceLock<Counter>; CODES.len()],
}

// === impl Metrics ===

impl Metrics {
    /// All counters at 0. `readings` is called whenever metrics are read.
    pub fn new(readings: impl Fn() -> Readings + Send + Sync + 'static) -> Self {
        let mut registry = Registry::with_prefix("support_access");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this server", version);

        let checks = Family::<[(&'static str, &'static str); 2], Counter>::default();
        registry.register("checks", "Checks answered, by decision and reason", checks.clone());
        let checks = REASONS.map(|reason| {
            let decision = if reason == Reason::GrantActive { "ALLOWED" } else { "DENIED" };
            checks.get_or_create_owned(&[("decision", decision), ("reason", reason.as_str())])
        });

        let by_code = Family::<CodeLabels, Counter>::default();
        let help = "RPCs that have ended, by method and code";
        registry.register("rpcs", help, by_code.clone());
        let duration: Family<MethodLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let help = "How long RPCs took, from their first header to their last";
        registry.register_with_unit("rpc_duration", help, Unit::Seconds, duration.clone());
        let in_flight = Family::<MethodLabels, Gauge>::default();
        registry.register("rpcs_in_flight", "RPCs that have not ended yet", in_flight.clone());
        registry.register_collector(Box::new(ReadingsCollector(readings)));

        let mut methods = known_methods();
        methods.insert(0, (UNKNOWN.to_owned(), UNKNOWN.to_owned()));
        let paths = methods.iter().enumerate();
        let paths = paths.map(|(index, (service, method))| (format!("/{service}/{method}"), index));
        let rpc = |(service, method): &(String, String)| {
            let labels = [("service", service.clone()), ("method", method.clone())];
            Rpc {
                name: format!("{service}/{method}"),
                duration: duration.get_or_create_owned(&labels),
                in_flight: in_flight.get_or_create_owned(&labels),
                labels,
                by_code: Default::default(),
            }
        };
        let rpcs: Vec<Rpc> = methods.iter().map(rpc).collect();
        for rpc in &rpcs {
            for code in COUNTED_FROM_0 {
                drop(by_code.get_or_create(&rpc.labels_with(code)));
            }
        }
        Self { registry, checks, rpcs, paths: paths.collect(), by_code }
    }

    /// Counts a check.
    pub fn check(&self, reason: Reason) {
        if let Some(counter) = self.checks.get(reason as usize) {
            counter.inc();
        }
    }

    /// All of it, as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1_024);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts that an RPC has begun. The number returned stands for its method.
    pub(super) fn begin(&self, path: &str) -> usize {
        let index = self.paths.get(path).copied().unwrap_or(0);
        self.rpc(index).in_flight.inc();
        index
    }

    /// Counts that an RPC has ended.
    pub(super) fn end(&self, index: usize, code: Code, took: Duration) {
        let rpc = self.rpc(index);
        rpc.in_flight.dec();
        rpc.duration.observe(took.as_secs_f64());
        let number = code as usize;
        if let Some(counter) = rpc.by_code.get(number) {
            counter.get_or_init(|| self.by_code.get_or_create_owned(&rpc.labels_with(code))).inc();
        }
    }

    pub(super) fn rpc(&self, index: usize) -> &Rpc {
        &self.rpcs[index]
    }
}

// === impl Rpc ===

impl Rpc {
    fn labels_with(&self, code: Code) -> CodeLabels {
        let [service, method] = self.labels.clone();
        [service, method, ("code", code_name(code).to_owned())]
    }
}

/// A code as gRPC spells it.
pub(super) fn code_name(code: Code) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("UNKNOWN")
}

/// Service and method of everything that is served.
fn known_methods() -> Vec<(String, String)> {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    // They were written by the compiler. A test holds that they can be read.
    let sets = sets.iter().filter_map(|set| FileDescriptorSet::decode(*set).ok());
    let mut methods = Vec::new();
    for file in sets.flat_map(|set| set.file) {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            methods.extend(service.method.iter().map(|m| (name.clone(), m.name().to_owned())));
        }
    }
    methods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Time, node::Gauges};

    fn metrics() -> Metrics {
        let replica = ReplicaReadings {
            sweep_lag: Duration::from_millis(1_500),
            ..ReplicaReadings::default()
        };
        let node = Gauges {
            live_grants: 3,
            locks: 1,
            revision: 7,
            snapshot_bytes: 4_096,
            tenants: 2,
            lease_age: Some(Duration::from_millis(250)),
            followers: 3,
        };
        let readings = move || Readings {
            node,
            certificates: vec![("tls_certificate", Time::UNIX_EPOCH + Duration::from_secs(9))],
            replica: Some(replica),
            ..Readings::default()
        };
        Metrics::new(readings)
    }

    #[track_caller]
    fn assert_has(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in:\n{text}");
    }

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        for (index, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        let metrics = metrics();
        for reason in REASONS {
            metrics.check(reason);
        }
        metrics.check(Reason::Revoked);
        let text = metrics.encode().unwrap();
        assert_has(
            &text,
            r#"support_access_checks_total{decision="ALLOWED",reason="GRANT_ACTIVE"} 1"#,
        );
        assert_has(&text, r#"support_access_checks_total{decision="DENIED",reason="REVOKED"} 2"#);
        assert_has(&text, r#"support_access_checks_total{decision="DENIED",reason="STALE"} 1"#);
    }

    #[test]
    fn what_can_be_looked_up_is_read_when_asked_for() {
        let text = metrics().encode().unwrap();
        assert_has(&text, "support_access_live_grants 3");
        assert_has(&text, "support_access_revision 7");
        assert_has(&text, "support_access_snapshot_bytes 4096");
        assert_has(&text, "support_access_tenants 2");
        assert_has(&text, "support_access_sweep_lag_seconds 1.5");
        let end = r#"support_access_certificate_expiration_timestamp_seconds{certificate="tls_certificate"} 9.0"#;
        assert_has(&text, end);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn rpcs_are_counted_by_method_and_code() {
        let metrics = metrics();
        let check = metrics.begin("/supportaccess.v1.SupportAccess/CheckAccess");
        metrics.end(check, Code::Ok, Duration::from_micros(70));
        let watch = metrics.begin("/grpc.health.v1.Health/Watch");
        let reflection = metrics.begin("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
        metrics.end(reflection, Code::Cancelled, Duration::from_mins(1));
        let text = metrics.encode().unwrap();
        let labels = r#"service="supportaccess.v1.SupportAccess",method="CheckAccess""#;
        assert_has(&text, &format!("support_access_rpcs_total{{{labels},code=\"OK\"}} 1"));
        let bucket = |le: &str| {
            format!("support_access_rpc_duration_seconds_bucket{{le=\"{le}\",{labels}}}")
        };
        assert_has(&text, &format!("{} 0", bucket("0.00005")));
        assert_has(&text, &format!("{} 1", bucket("0.0001")));
        assert_eq!(metrics.rpc(watch).in_flight.get(), 1);
        assert_eq!(metrics.rpc(check).in_flight.get(), 0);
        assert_ne!(reflection, 0);
    }

    #[test]
    fn unknown_paths_share_one_label() {
        let metrics = metrics();
        for path in
            ["/made.ToUpstream/Method", "/", "", "/supportaccess.v1.SupportAccess/checkaccess"]
        {
            let index = metrics.begin(path);
            metrics.end(index, Code::Unimplemented, Duration::ZERO);
        }
        let text = metrics.encode().unwrap();
        assert_has(
            &text,
            r#"support_access_rpcs_total{service="unknown",method="unknown",code="UNIMPLEMENTED"} 4"#,
        );
    }

    #[test]
    fn codes_are_named_by_their_number() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(number).unwrap());
            assert_eq!(format!("{code:?}").to_uppercase(), name.replace('_', ""));
        }
    }
}
