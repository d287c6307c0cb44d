//! Health of the process, served by `grpc.health.v1` and `/readyz`.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tracing::info;

use crate::{
    api::proto::v1::{support_access_admin_server, support_access_server},
    node::CheckNode,
};

/// The names of `grpc.health.v1`: the server as a whole, and each service.
const SERVICES: [&str; 3] =
    ["", support_access_server::SERVICE_NAME, support_access_admin_server::SERVICE_NAME];

/// Maximum size of a request, in bytes. Health checks need no authentication, so they must be
/// cheap.
const REQUEST_LENGTH_MAX: usize = 1_024;

/// The phase of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The grants are not loaded yet.
    Starting,
    /// Checks are answered.
    Serving,
    /// The node has no valid lease, and denies every check.
    Stale,
    /// Calls in progress are completed. Clients should send new calls to another server.
    Stopping,
}

/// The current phase, shared by all clones.
#[derive(Debug, Clone)]
pub struct Health {
    phase: Arc<RwLock<Phase>>,
    reporter: HealthReporter,
}

// === impl Phase ===

impl Phase {
    /// The phase as shown by `/readyz` and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting: the grants are not loaded yet",
            Self::Serving => "serving",
            Self::Stale => "stale: no valid lease, so every check is denied",
            Self::Stopping => "stopping: use another server",
        }
    }
}

// === impl Health ===

impl Health {
    /// Starts in [`Phase::Starting`].
    pub async fn new() -> Self {
        let phase = Arc::new(RwLock::new(Phase::Starting));
        let health = Self { phase, reporter: HealthReporter::new() };
        // A reporter initially reports the server as serving.
        health.enter(Phase::Starting).await;
        health
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.phase.read()
    }

    /// Enters a phase. Does nothing after [`Phase::Stopping`].
    pub async fn enter(&self, phase: Phase) {
        {
            let mut current = self.phase.write();
            if *current == Phase::Stopping {
                return;
            }
            *current = phase;
        }
        let status = match phase {
            Phase::Serving => ServingStatus::Serving,
            Phase::Starting | Phase::Stale | Phase::Stopping => ServingStatus::NotServing,
        };
        for name in SERVICES {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// Follows the lease of `node` until `stop`. A node without a first lease stays in
    /// [`Phase::Starting`].
    pub async fn follow(self, node: Arc<CheckNode>, stop: CancellationToken) {
        let mut watch = node.watch();
        loop {
            watch.mark_unchanged();
            let valid_for = node.read_view().valid_for;
            let now = self.phase();
            let next = match (now, valid_for.is_zero()) {
                (Phase::Stopping, _) => now,
                (_, false) => Phase::Serving,
                (Phase::Serving, true) => Phase::Stale,
                (_, true) => now,
            };
            if next != now {
                info!(phase = next.as_str(), "health changed");
                self.enter(next).await;
            }
            // Without a lease there is no expiry to wait for.
            let expiry = if valid_for.is_zero() { Duration::MAX } else { valid_for };
            let changed = timeout(expiry, watch.changed());
            if stop.run_until_cancelled(changed).await.is_none() {
                return;
            }
        }
    }

    /// The service `grpc.health.v1.Health`.
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
            .max_decoding_message_size(REQUEST_LENGTH_MAX)
    }
}
