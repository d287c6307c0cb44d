//! A running server, and its shutdown.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::health::{Health, Phase},
    server::{
        config::ListenAddress, connections::ConnectionLimiter, error::ServeError, tasks::Tasks,
        workers::Workers,
    },
    store::Store,
};

/// Timeout of each step of a shutdown that does not wait for callers.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// A running server. [`Running::wait`] shuts it down gracefully; dropping it aborts everything.
#[derive(Debug)]
pub struct Running {
    /// The gRPC addresses, in the order of the configuration, with real ports.
    pub grpc: Vec<ListenAddress>,
    /// The address of JSON over HTTP, with the real port. `None`: not served.
    pub web: Option<ListenAddress>,
    /// The address of metrics and health, with the real port.
    pub metrics: SocketAddr,
    pub(super) shutdown: ShutdownHandle,
    /// The threads of the connections of callers.
    pub(super) workers: Arc<Workers>,
    /// The listeners of callers with their connections and calls. They end first.
    pub(super) listeners: Tasks,
    /// Calls that continue after their callers have disconnected.
    pub(super) calls: Tasks,
    /// Tasks that calls depend on, and the metrics endpoint, which reports until the end. They end
    /// last.
    pub(super) background: Tasks,
    /// The connections of callers.
    pub(super) connections: ConnectionLimiter,
    pub(super) health: Health,
    /// `None`: a sidecar.
    pub(super) store: Option<Arc<Store>>,
    /// The reason why no upstream can be followed without a change of the configuration.
    pub(super) upstream_error: watch::Sender<Option<String>>,
    pub(super) drain_timeout: Duration,
}

/// Shuts down a server.
#[derive(Debug, Clone, Default)]
pub struct ShutdownHandle {
    drain: CancellationToken,
    abort: CancellationToken,
}

// === impl Running ===

impl Running {
    /// A handle that shuts this server down.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// Waits for a shutdown request or the failure of a task, then shuts the server down: calls in
    /// progress may continue until the drain timeout. Fails if a task has failed.
    pub async fn wait(self) -> Result<(), ServeError> {
        let mut upstream_error = self.upstream_error.subscribe();
        let failure = tokio::select! {
            () = self.shutdown.drain.cancelled() => None,
            failure = self.listeners.failure() => Some(failure),
            failure = self.background.failure() => Some(failure),
            _ = upstream_error.wait_for(Option::is_some) => None,
        };
        if let Some(failure) = &failure {
            error!(%failure, "a task has failed");
        }
        self.shut_down().await;
        if let Some(error) = self.upstream_error.borrow().clone() {
            return Err(ServeError::Upstream(error));
        }
        // A panic during the shutdown is a failure, too.
        let late_failure = || {
            let groups = [&self.listeners, &self.background];
            groups.iter().find_map(|tasks| tasks.failure().now_or_never())
        };
        failure.or_else(late_failure).map_or(Ok(()), |failure| Err(ServeError::Task(failure)))
    }

    pub(super) async fn shut_down(&self) {
        self.health.enter(Phase::Stopping).await;
        let deadline = Instant::now() + self.drain_timeout;
        info!(connections = self.connections.connections_open(), "stopping");

        self.listeners.stop();
        self.drain(&self.listeners, deadline).await;
        let connections = self.connections.connections_open();
        if connections > 0 {
            warn!(connections, "closing connections that did not end within the drain timeout");
        }
        self.connections.abort();
        let grace = Instant::now() + STEP_TIMEOUT;
        let mut late = self.listeners.join_or_abort(grace).await;

        // Calls end before the background tasks, because calls may wait for these tasks.
        self.drain(&self.calls, deadline.max(grace)).await;
        late.extend(self.calls.join_or_abort(Instant::now()).await);

        self.background.stop();
        self.drain(&self.background, deadline.max(Instant::now() + STEP_TIMEOUT)).await;
        late.extend(self.background.join_or_abort(Instant::now()).await);

        if let Some(store) = &self.store
            && timeout(STEP_TIMEOUT, store.close()).await.is_err()
        {
            late.push("store".into());
        }
        if late.is_empty() {
            info!("stopped");
        } else {
            warn!(tasks = late.join(", "), "stopped after aborting tasks");
        }
    }

    /// Waits until `tasks` have ended, `deadline` has passed, or the server is aborted.
    async fn drain(&self, tasks: &Tasks, deadline: Instant) {
        tokio::select! {
            () = tasks.join() => {}
            () = sleep_until(deadline) => {}
            () = self.shutdown.abort.cancelled() => {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.abort();
        for tasks in [&self.listeners, &self.calls, &self.background] {
            tasks.stop();
            tasks.abort();
        }
    }
}

// === impl ShutdownHandle ===

impl ShutdownHandle {
    /// Requests a graceful shutdown: calls in progress may continue until the drain timeout.
    pub fn shut_down(&self) {
        self.drain.cancel();
    }

    /// Requests a shutdown that does not wait for calls.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Requests a graceful shutdown. The second request aborts.
    pub(super) fn escalate(&self) {
        if self.drain.is_cancelled() { self.abort() } else { self.shut_down() }
    }

    /// Cancelled when the server is aborted.
    pub(super) fn abort_token(&self) -> CancellationToken {
        self.abort.child_token()
    }
}
