//! A server that runs, and how it ends.

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
    server::{ServeError, config::ListenAddress, connections::ConnectionLimiter, tasks::Tasks},
    store::Store,
};

/// How long each step of the end may take that is no longer a matter of callers.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// A server that runs. Dropped, it is cut off at once; [`Running::wait`] ends it in good order.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC is served: the real addresses, in the order of the configuration.
    pub grpc: Vec<ListenAddress>,
    /// Where HTTP is served: the real address.
    pub http: SocketAddr,
    pub(super) stopper: Stopper,
    /// The gRPC listeners. They end first, and with them the calls.
    pub(super) doors: Tasks,
    /// Calls that go on though their callers have gone.
    pub(super) calls: Tasks,
    /// Whatever calls need while they last: the follower, the sweep; and HTTP, which tells until the end how things stand.
    pub(super) inner: Tasks,
    /// The gRPC connections.
    pub(super) gate: ConnectionLimiter,
    pub(super) health: Health,
    /// A sidecar has none.
    pub(super) store: Option<Arc<dyn Store>>,
    /// What is to be corrected before this process can be of use.
    pub(super) refusal: watch::Sender<Option<String>>,
    pub(super) drain_timeout: Duration,
}

/// Ends a server from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Stopper {
    stop: CancellationToken,
    cut: CancellationToken,
}

// === impl Running ===

impl Running {
    /// What ends this server.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until the server is told to stop, or one of its tasks fails; then ends it: calls that were begun may go on
    /// until the drain timeout. Fails if it had to end because of a task.
    pub async fn wait(self) -> Result<(), ServeError> {
        let mut refusals = self.refusal.subscribe();
        let failure = tokio::select! {
            () = self.stopper.stop.cancelled() => None,
            failure = self.doors.failure() => Some(failure),
            failure = self.inner.failure() => Some(failure),
            _ = refusals.wait_for(Option::is_some) => None,
        };
        if let Some(failure) = &failure {
            error!(%failure, "cannot go on");
        }
        self.close().await;
        if let Some(refusal) = self.refusal.borrow().clone() {
            return Err(ServeError::Upstream(refusal));
        }
        // A panic on the way out is a failure too.
        let later = || [&self.doors, &self.inner].iter().find_map(|it| it.failure().now_or_never());
        failure.or_else(later).map_or(Ok(()), |failure| Err(ServeError::Task(failure)))
    }

    pub(super) async fn close(&self) {
        self.health.enter(Phase::Stopping).await;
        let deadline = Instant::now() + self.drain_timeout;
        info!(connections = self.gate.connections_open(), "stopping");

        self.doors.stop();
        self.until_ended(&self.doors, deadline).await;
        let connections = self.gate.connections_open();
        if connections > 0 {
            warn!(connections, "cutting connections that have not ended in time");
        }
        self.gate.cut();
        let grace = Instant::now() + CUT_GRACE;
        let mut late = self.doors.wait(grace).await;

        // Before the follower: they may be waiting for it.
        self.until_ended(&self.calls, deadline.max(grace)).await;
        late.extend(self.calls.wait(Instant::now()).await);

        self.inner.stop();
        self.until_ended(&self.inner, deadline.max(Instant::now() + CUT_GRACE)).await;
        late.extend(self.inner.wait(Instant::now()).await);

        if let Some(store) = &self.store
            && timeout(CUT_GRACE, store.close()).await.is_err()
        {
            late.push("store".into());
        }
        if late.is_empty() {
            info!("stopped");
        } else {
            warn!(tasks = late.join(", "), "stopped, but some tasks did not end by themselves");
        }
    }

    /// Waits until `tasks` have ended, but not beyond `deadline`, nor when the server is to be cut.
    async fn until_ended(&self, tasks: &Tasks, deadline: Instant) {
        tokio::select! {
            () = tasks.ended() => {}
            () = sleep_until(deadline) => {}
            () = self.stopper.cut.cancelled() => {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.cut();
        for tasks in [&self.doors, &self.calls, &self.inner] {
            tasks.stop();
            tasks.abort();
        }
    }
}

// === impl Stopper ===

impl Stopper {
    /// Ends the server: calls that were begun may go on until the drain timeout.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends the server, and does not wait for calls.
    pub fn cut(&self) {
        self.stop.cancel();
        self.cut.cancel();
    }

    /// Stops, or cuts if it was to stop already.
    pub(super) fn stop_or_cut(&self) {
        if self.stop.is_cancelled() { self.cut() } else { self.stop() }
    }

    /// Is cancelled when the server is cut.
    pub(super) fn cut_token(&self) -> CancellationToken {
        self.cut.child_token()
    }
}
