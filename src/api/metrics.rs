//! Metrics for Prometheus.
//!
//! The counters of checks and RPCs are created in advance, so that counting is one atomic addition.
//! State such as the number of grants is read at each scrape, because a counter could drift.

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

use crate::{
    api::proto,
    domain::{Action, Reason},
};

mod readings;

use readings::ReadingsCollector;
pub use readings::{Readings, ReplicaReadings};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The label value of unknown methods. Callers cannot create label values.
const UNKNOWN: &str = "unknown";

/// Upper bounds of histogram buckets, in seconds.
const BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

/// Names of codes, in the order of the numbers.
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

type MethodLabels = [(&'static str, String); 2];
type CodeLabels = [(&'static str, String); 3];

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Indexed by [`Reason`].
    checks: [Counter; Reason::ALL.len()],
    rpcs: Vec<Rpc>,
    /// From `/service/method` to the index in `rpcs`.
    paths: HashMap<String, usize, RandomState>,
    by_code: Family<CodeLabels, Counter>,
}

/// The metrics of one method.
#[derive(Debug)]
pub(super) struct Rpc {
    /// `service/method`.
    pub(super) name: String,
    /// The action of the method. `None`: the method belongs to another API.
    pub(super) action: Option<Action>,
    labels: MethodLabels,
    duration: Histogram,
    in_flight: Gauge,
    /// Indexed by code number. Created on first use, because most codes never occur.
    by_code: [OnceLock<Counter>; CODES.len()],
}

// === impl Metrics ===

impl Metrics {
    /// Calls `readings` for each scrape.
    pub fn new(readings: impl Fn() -> Readings + Send + Sync + 'static) -> Self {
        let mut registry = Registry::with_prefix("support_access");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this server", version);

        let checks = Family::<[(&'static str, &'static str); 2], Counter>::default();
        registry.register("checks", "Checks answered, by decision and reason", checks.clone());
        let checks = Reason::ALL.map(|reason| {
            let decision = if reason == Reason::GrantActive { "ALLOWED" } else { "DENIED" };
            checks.get_or_create_owned(&[("decision", decision), ("reason", reason.as_str())])
        });

        let by_code = Family::<CodeLabels, Counter>::default();
        let help = "Completed RPCs, by method and code";
        registry.register("rpcs", help, by_code.clone());
        let duration: Family<MethodLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let help = "Duration of RPCs, from the request headers to the trailers";
        registry.register_with_unit("rpc_duration", help, Unit::Seconds, duration.clone());
        let in_flight = Family::<MethodLabels, Gauge>::default();
        registry.register("rpcs_in_flight", "RPCs in progress", in_flight.clone());
        registry.register_collector(Box::new(ReadingsCollector(readings)));

        let mut methods = known_methods();
        methods.insert(0, (UNKNOWN.to_owned(), UNKNOWN.to_owned()));
        let paths = methods.iter().enumerate();
        let paths = paths.map(|(index, (service, method))| (format!("/{service}/{method}"), index));
        let rpc = |(service, method): &(String, String)| {
            let labels = [("service", service.clone()), ("method", method.clone())];
            Rpc {
                name: format!("{service}/{method}"),
                action: action_of(service, method),
                duration: duration.get_or_create_owned(&labels),
                in_flight: in_flight.get_or_create_owned(&labels),
                labels,
                by_code: Default::default(),
            }
        };
        let rpcs: Vec<Rpc> = methods.iter().map(rpc).collect();
        for rpc in &rpcs {
            for code in EXPORTED_AT_ZERO {
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

    /// The metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1_024);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts the start of an RPC. Returns the index of the method.
    pub fn rpc_started(&self, path: &str) -> usize {
        let index = self.paths.get(path).copied().unwrap_or(0);
        self.rpc(index).in_flight.inc();
        index
    }

    /// Counts the end of an RPC.
    pub fn rpc_ended(&self, index: usize, code: Code, took: Duration) {
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

/// The name of a code in the gRPC specification.
pub fn code_name(code: Code) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("UNKNOWN")
}

fn action_of(service: &str, method: &str) -> Option<Action> {
    let is_ours = service.starts_with("supportaccess.");
    Action::ALL.iter().copied().find(|action| is_ours && action.name() == method)
}

/// Service and method of every known RPC.
fn known_methods() -> Vec<(String, String)> {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    // Written by the compiler. A test decodes them.
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
