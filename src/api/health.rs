//! Whether this server can be asked, as `grpc.health.v1` and `/readyz` tell it.

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

/// What health is told of: the server as a whole, and each service.
const NAMES: [&str; 3] =
    ["", support_access_server::SERVICE_NAME, support_access_admin_server::SERVICE_NAME];

/// The most bytes of a question: the name of a service. Anybody may ask, so there must not be much to keep.
const REQUEST_LENGTH_MAX: usize = 1_024;

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is loading what checks are answered from.
    Starting,
    /// It answers.
    Serving,
    /// It cannot prove that what it knows is recent enough, and denies every check.
    Stale,
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
            Self::Stale => "stale: what is known here may be too old, so every check is denied",
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

    /// Begins a phase. Nothing comes after [`Phase::Stopping`].
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
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// Tells, until stopped, whether `node` can answer. What has never been able to is starting.
    pub async fn follow(self, node: Arc<CheckNode>, stop: CancellationToken) {
        let mut news = node.watch();
        loop {
            news.mark_unchanged();
            let valid_for = node.read_view().valid_for;
            let now = self.phase();
            let next = match (now, valid_for.is_zero()) {
                (_, false) => Phase::Serving,
                (Phase::Serving, true) => Phase::Stale,
                (_, true) => now,
            };
            if next != now {
                info!(phase = next.as_str(), "health has changed");
                self.enter(next).await;
            }
            // With nothing to lapse, there is only news to wait for.
            let patience = if valid_for.is_zero() { Duration::MAX } else { valid_for };
            let changed = timeout(patience, news.changed());
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
