//! Whether this server can be asked, as `grpc.health.v1` and `/readyz` tell it.

use std::sync::Arc;

use parking_lot::RwLock;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::api::proto::v1::{support_access_admin_server, support_access_server};

/// What health is told of: the server as a whole, and each service.
const NAMES: [&str; 3] =
    ["", support_access_server::SERVICE_NAME, support_access_admin_server::SERVICE_NAME];

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is loading what checks are answered from.
    Starting,
    /// It answers.
    Serving,
    /// It ends what was begun, and should not be asked anew.
    Stopping,
}

/// Knows the phase, and tells it. Its clones know the same.
#[derive(Debug, Clone)]
pub struct Health {
    phase: Arc<RwLock<Phase>>,
    reporter: HealthReporter,
}

// === impl Phase ===

impl Phase {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting: the grants are not loaded yet",
            Self::Serving => "serving",
            Self::Stopping => "stopping: ask another server",
        }
    }
}

// === impl Health ===

impl Health {
    /// A server that is starting.
    pub async fn new() -> Self {
        let phase = Arc::new(RwLock::new(Phase::Starting));
        let health = Self { phase, reporter: HealthReporter::new() };
        // A reporter begins by saying that all is well.
        health.enter(Phase::Starting).await;
        health
    }

    /// Where the server is in its life.
    pub fn phase(&self) -> Phase {
        *self.phase.read()
    }

    /// Begins a phase.
    pub async fn enter(&self, phase: Phase) {
        let status = match phase {
            Phase::Serving => ServingStatus::Serving,
            Phase::Starting | Phase::Stopping => ServingStatus::NotServing,
        };
        *self.phase.write() = phase;
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// The service `grpc.health.v1.Health`.
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }
}
