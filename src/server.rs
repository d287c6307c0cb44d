//! Assembly of replicas and sidecars: components, tasks, start and shutdown.

use std::{future::Future, pin::pin, sync::Arc};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use uuid::Uuid;

use crate::{
    api::{
        self,
        grpc::upstream::GrpcUpstream,
        health::{Health, Phase},
        metrics::Metrics,
    },
    domain::{Clock, NodeId, NodeKind},
    node::{self, CheckNode, replica::Replica, upstreams::UpstreamName},
    service::{self, Limits, Service, check::Checks},
    store::{self, Store},
};

mod accept;
mod authority;
mod clock;
pub mod config;
mod connection;
mod connections;
mod error;
mod identity;
mod listeners;
mod memory;
mod preflight;
mod readings;
mod running;
mod serving;
mod signals;
pub mod tasks;
mod telemetry;
mod tls;
mod transport;
mod unauthenticated;
mod workers;

pub use clock::SystemClock;
pub use error::ServeError;
pub use listeners::{BindError, Listener, Listeners, UnixSocket};
pub use preflight::{check_files, check_sidecar_files};
pub use running::{Running, ShutdownHandle};
pub use telemetry::{Telemetry, TelemetryError};
pub use tls::TlsError;

use config::{CallLimits, Common, Config, SidecarConfig};
use connections::ConnectionLimiter;
use identity::Identity;
use listeners::Protocol;
use memory::Budget;
use readings::ReadingsSource;
use serving::{METRICS_CONNECTIONS_MAX, METRICS_CONNECTIONS_PER_NETWORK_MAX, serve_metrics};
use signals::Signals;
use tasks::Tasks;
use transport::{CallServer, Services};
use workers::Workers;

/// Runs a replica until SIGTERM or SIGINT. The first signal drains, the second aborts.
pub async fn run(config: Config) -> Result<(), ServeError> {
    let telemetry = telemetry::init(&config.common)?;
    let result = until_signalled(Box::pin(open(config))).await;
    telemetry.shut_down();
    result
}

/// Runs a sidecar until SIGTERM or SIGINT. The first signal drains, the second aborts.
pub async fn run_sidecar(config: SidecarConfig) -> Result<(), ServeError> {
    let telemetry = telemetry::init(&config.common)?;
    let result = until_signalled(async {
        let listeners = Listeners::bind(&config.common, config.web_listen.as_ref())?;
        start_sidecar(config, listeners, Arc::new(SystemClock)).await
    })
    .await;
    telemetry.shut_down();
    result
}

async fn until_signalled(
    starting: impl Future<Output = Result<Running, ServeError>>,
) -> Result<(), ServeError> {
    let mut signals = Signals::new()?;
    let running = tokio::select! {
        running = starting => running?,
        signal = signals.next() => {
            info!(signal, "stopped before the start was complete");
            return Ok(());
        }
    };
    let shutdown = running.shutdown_handle();
    let mut ended = pin!(running.wait());
    loop {
        tokio::select! {
            ended = &mut ended => return ended,
            signal = signals.next() => {
                info!(signal, "received a signal to stop");
                shutdown.escalate();
            }
        }
    }
}

/// Binds the listeners first: a process that cannot listen must not migrate the database.
async fn open(config: Config) -> Result<Running, ServeError> {
    let listeners = Listeners::bind(&config.common, config.web_listen.as_ref())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (url, event_key_file) = (config.database_url.as_str(), config.event_key_file.as_deref());
    let store = store::open(url, Arc::clone(&clock), event_key_file).await?;
    let url = url.to_owned();
    let running = start(config, listeners, store, clock).await?;
    let stop = running.background.stop_token();
    running.background.spawn("integrity of the database", check_integrity(url, stop));
    Ok(running)
}

/// Returns early if the database is damaged, which ends the process.
async fn check_integrity(url: String, stop: CancellationToken) {
    if let Some(Err(error)) = stop.run_until_cancelled(store::check_integrity(&url)).await {
        error!("{error}");
        return;
    }
    stop.cancelled().await;
}

/// Starts a replica on bound listeners and an open store. Once this returns, the replica answers
/// checks.
pub async fn start(
    config: Config,
    listeners: Listeners,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
) -> Result<Running, ServeError> {
    let limits = Limits {
        live_grants_per_tenant: config.max_live_grants_per_tenant,
        live_grants_per_group: config.max_live_grants_per_group,
        max_staleness: config.max_staleness,
    };
    let (identity, refresh) = Identity::load(&config.common, &clock)?;
    let budget = Budget::of_process(config.common.limits);
    let node = CheckNode::limited(new_node_id(), NodeKind::Replica, clock, budget.node);
    let replica = Replica::new(Arc::clone(&node), Arc::clone(&store), config.max_staleness);
    let service = Service::new(Arc::clone(&replica), config.policy, limits);
    let service = Arc::new(service.with_checkpoint_key(config.checkpoint_key));
    let mut running = Running::new(&listeners, &config.common, &budget).await?;
    running.store = Some(Arc::clone(&store));
    let source = ReadingsSource::new(&node, &running, &identity);
    let source = source.with_service(&service);
    let metrics = Arc::new(Metrics::new(move || source.read()));
    // Before anything that may fail or wait, so that `/readyz` states the reason.
    running.serve_metrics(listeners.metrics, &metrics);

    if let Err(error) = replica.join().await {
        running.shut_down().await;
        return Err(error.into());
    }
    let tasks = &running.background;
    let enforcer = Arc::clone(replica.enforcer());
    tasks.spawn("replica", replica.run(tasks.stop_token()));
    tasks.spawn("enforcer", enforcer.run(tasks.stop_token()));
    tasks.spawn("expiry sweep", service::expiry::run(Arc::clone(&service), tasks.stop_token()));
    let verification = service::verification::run(
        Arc::clone(&service),
        config.verify_interval,
        tasks.stop_token(),
    );
    tasks.spawn("verification of the history", verification);
    refresh.spawn(tasks);

    let checks = Arc::new(Checks::new(Arc::clone(&node), Some(store)));
    let services = Services {
        node,
        checks,
        service: Some(service),
        metrics,
        budget,
        reflection: config.common.reflection,
        identity,
        authzen: config.common.authzen,
    };
    running.serve_callers(&services, listeners.grpc, listeners.web).await;
    Ok(running)
}

/// Starts a sidecar on bound listeners. Until it follows an upstream, it denies every check with
/// `STALE`.
pub async fn start_sidecar(
    config: SidecarConfig,
    listeners: Listeners,
    clock: Arc<dyn Clock>,
) -> Result<Running, ServeError> {
    let credentials = config.credentials();
    let upstreams = config.upstream.iter().map(|url| {
        let upstream = GrpcUpstream::new(url, &credentials).map_err(ServeError::Upstream)?;
        Ok(Arc::new(upstream) as Arc<dyn UpstreamName>)
    });
    let upstreams = upstreams.collect::<Result<Vec<_>, ServeError>>()?;
    let (identity, refresh) = Identity::load(&config.common, &clock)?;
    let budget = Budget::of_process(config.common.limits);
    let node = CheckNode::limited(new_node_id(), NodeKind::Sidecar, clock, budget.node);
    let running = Running::new(&listeners, &config.common, &budget).await?;
    let source = ReadingsSource::new(&node, &running, &identity);
    let source = source.with_credentials(credentials);
    let metrics = Arc::new(Metrics::new(move || source.read()));
    running.serve_metrics(listeners.metrics, &metrics);

    let stop = running.background.stop_token();
    let following = node::upstreams::run(Arc::clone(&node), upstreams, stop.clone());
    let upstream_error = running.upstream_error.clone();
    running.background.spawn("follower", async move {
        if let Err(error) = following.await {
            upstream_error.send_replace(Some(error.to_string()));
            // `Running::wait` notices the error and shuts down.
            stop.cancelled().await;
        }
    });
    refresh.spawn(&running.background);
    let checks = Arc::new(Checks::new(Arc::clone(&node), None));
    let services = Services {
        node,
        checks,
        service: None,
        metrics,
        budget,
        reflection: config.common.reflection,
        identity,
        authzen: config.common.authzen,
    };
    running.serve_callers(&services, listeners.grpc, listeners.web).await;
    Ok(running)
}

impl Running {
    async fn new(
        listeners: &Listeners,
        config: &Common,
        budget: &Budget,
    ) -> Result<Self, ServeError> {
        let CallLimits { connections, connections_per_address, .. } = budget.limits;
        let shutdown = ShutdownHandle::default();
        let addresses = listeners.grpc.iter().map(Listener::address);
        Ok(Self {
            grpc: addresses.collect::<Result<_, _>>()?,
            web: listeners.web.as_ref().map(Listener::address).transpose()?,
            metrics: listeners.metrics.local_addr()?,
            workers: Arc::new(Workers::start()?),
            listeners: Tasks::new(),
            calls: Tasks::new(),
            background: Tasks::new(),
            connections: ConnectionLimiter::new(
                connections,
                connections_per_address,
                shutdown.abort_token(),
            )
            .with_unauthenticated_timeout(),
            shutdown,
            health: Health::new().await,
            store: None,
            upstream_error: watch::Sender::new(None),
            drain_timeout: config.drain_timeout,
        })
    }

    fn serve_metrics(&self, listener: TcpListener, metrics: &Arc<Metrics>) {
        let router = api::operations::router(Arc::clone(metrics), self.health.clone());
        let connections = ConnectionLimiter::new(
            METRICS_CONNECTIONS_MAX,
            METRICS_CONNECTIONS_PER_NETWORK_MAX,
            self.shutdown.abort_token(),
        );
        let tasks = self.background.clone();
        let serving = serve_metrics(router, listener, connections, tasks);
        self.background.spawn("metrics endpoint", serving);
    }

    async fn serve_callers(&self, services: &Services, grpc: Vec<Listener>, web: Option<Listener>) {
        let connections = self.connections.clone();
        let (calls, tasks, workers) = (&self.calls, &self.listeners, Arc::clone(&self.workers));
        let server = CallServer::new(services, &self.health, calls, tasks, connections, workers);
        let server = Arc::new(server);
        for (listener, address) in grpc.into_iter().zip(&self.grpc) {
            let serving = Arc::clone(&server).serve(listener, Protocol::Grpc);
            self.listeners.spawn(format!("gRPC on {address}"), serving);
        }
        for (listener, address) in web.into_iter().zip(&self.web) {
            let serving = Arc::clone(&server).serve(listener, Protocol::Web);
            self.listeners.spawn(format!("web on {address}"), serving);
        }
        let node = Arc::clone(&services.node);
        if node.read_view().is_fresh() {
            self.health.enter(Phase::Serving).await;
        }
        let health = self.health.clone().follow(node, self.background.stop_token());
        self.background.spawn("health", health);
        for address in &self.grpc {
            info!(grpc = %address, "listening");
        }
        if let Some(address) = &self.web {
            info!(web = %address, "listening");
        }
        info!(metrics = %self.metrics, "listening");
    }
}

fn new_node_id() -> NodeId {
    NodeId(Uuid::new_v4())
}
