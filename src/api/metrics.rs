//! Metrics for Prometheus.
//!
//! Checks and RPCs are counted as they end. State such as the number of grants is read at each
//! scrape, because a counter could drift.

use std::{collections::HashMap, fmt, ops::Deref, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use prometheus_client::{encoding::text, metrics::info::Info, registry::Registry};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::{
    api::proto,
    domain::{Action, Reason},
};

mod counts;
mod readings;

use counts::{Counts, CountsCollector};
use readings::ReadingsCollector;
pub use readings::{Readings, ReplicaReadings};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The service of checks by Envoy.
const ENVOY: &str = "envoy.service.auth.v3.Authorization";
/// The label value of unknown methods. Callers cannot create label values.
const UNKNOWN: &str = "unknown";

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

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    methods: Arc<Methods>,
    counts: Arc<Counts>,
}

/// The metrics, as the calls of one connection use them. The calls count their references here, and
/// not in a cache line that all threads share.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics(Arc<Metrics>);

/// Every known method, after an entry for all unknown methods.
#[derive(Debug)]
struct Methods {
    methods: Vec<Method>,
    /// From `/service/method` to the index in `methods`.
    by_path: HashMap<String, usize, RandomState>,
}

/// A method.
#[derive(Debug)]
pub(super) struct Method {
    /// `service/method`.
    pub(super) name: String,
    /// The action of the method. `None`: the method belongs to another API.
    pub(super) action: Option<Action>,
    /// Whether Envoy calls the method, which must never fail.
    pub(super) is_envoy: bool,
    service: String,
    rpc: String,
}

// === impl Metrics ===

impl Metrics {
    /// Calls `readings` for each scrape.
    pub fn new(readings: impl Fn() -> Readings + Send + Sync + 'static) -> Self {
        let mut registry = Registry::with_prefix("support_access");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this server", version);
        let methods = Arc::new(Methods::known());
        let counts = Arc::new(Counts::new(methods.methods.len()));
        let collector =
            CountsCollector { methods: Arc::clone(&methods), counts: Arc::clone(&counts) };
        registry.register_collector(Box::new(collector));
        registry.register_collector(Box::new(ReadingsCollector(readings)));
        Self { registry, methods, counts }
    }

    /// Counts a check.
    pub fn check(&self, reason: Reason) {
        self.counts.check(reason);
    }

    /// The metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1_024);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts the start of an RPC. Returns the index of the method.
    pub fn rpc_started(&self, path: &str) -> usize {
        let index = self.methods.by_path.get(path).copied().unwrap_or(0);
        self.counts.rpc_started(index);
        index
    }

    /// Counts the end of an RPC.
    pub fn rpc_ended(&self, index: usize, code: Code, took: Duration) {
        self.counts.rpc_ended(index, code, took);
    }

    pub(super) fn method(&self, index: usize) -> &Method {
        &self.methods.methods[index]
    }
}

/// The name of a code in the gRPC specification.
pub fn code_name(code: Code) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("UNKNOWN")
}

// === impl ConnectionMetrics ===

impl ConnectionMetrics {
    /// The metrics for one connection.
    pub fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(metrics)))
    }
}

impl Deref for ConnectionMetrics {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.0
    }
}

// === impl Methods ===

impl Methods {
    fn known() -> Self {
        let sets = [
            proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        // Written by the compiler. A test decodes them.
        let sets = sets.iter().filter_map(|set| FileDescriptorSet::decode(*set).ok());
        let mut methods = vec![Method::new(UNKNOWN, UNKNOWN)];
        for file in sets.flat_map(|set| set.file) {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                methods.extend(service.method.iter().map(|m| Method::new(&name, m.name())));
            }
        }
        let paths = methods.iter().enumerate();
        let by_path = paths.map(|(index, method)| (format!("/{}", method.name), index)).collect();
        Self { methods, by_path }
    }
}

// === impl Method ===

impl Method {
    fn new(service: &str, method: &str) -> Self {
        let is_envoy = service == ENVOY;
        let is_ours = service.starts_with("supportaccess.");
        let action = Action::ALL.iter().copied().find(|action| is_ours && action.name() == method);
        Self {
            name: format!("{service}/{method}"),
            action: action.or(is_envoy.then_some(Action::CheckAccess)),
            is_envoy,
            service: service.to_owned(),
            rpc: method.to_owned(),
        }
    }
}
