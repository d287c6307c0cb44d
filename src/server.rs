//! The assembly: what a server is made of, in which order it is opened, and in which order it is closed.

use std::{io, pin::pin, sync::Arc};

use tracing::{info, warn};

use crate::{
    api::{
        self,
        health::{Health, Phase},
        metrics::{Gauges, Metrics},
    },
    domain::{Clock, clock::SystemClock},
    node::{self, CheckNode},
    server::{
        config::Config,
        connections::Gate,
        doors::{GRPC_CONNECTIONS_MAX, GrpcDoor, HTTP_CONNECTIONS_MAX},
        listeners::BindError,
        signals::Signals,
        tasks::{Failure, Tasks},
        telemetry::TelemetryError,
    },
    store::{self, OpenError, Store, StoreError},
    work::{self, Limits, Work},
};

pub mod config;
mod connections;
mod detached;
pub mod doors;
pub mod listeners;
pub mod running;
mod signals;
pub mod tasks;
pub mod telemetry;

pub use listeners::Listeners;
pub use running::{Running, Stopper};

/// Why a server could not be started, or had to end. Displayed, it is one plain sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It cannot log as it should.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// It cannot listen where it should.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It cannot say where it listens, or be told by signals to stop.
    #[error("the operating system refuses what every server needs: {0}")]
    System(#[from] io::Error),
    /// It cannot open the database.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot read the grants.
    #[error("cannot load the grants: {0}")]
    Load(#[from] StoreError),
    /// One of its tasks failed.
    #[error("{0}")]
    Task(Failure),
}

/// Serves until told to stop by SIGTERM or SIGINT: the first drains, a second cuts.
pub async fn run(config: Config) -> Result<(), ServeError> {
    telemetry::init(&config.log, config.log_format)?;
    let mut signals = Signals::new()?;
    let running = tokio::select! {
        running = open(config) => running?,
        signal = signals.next() => {
            info!(signal, "stopped before it was started");
            return Ok(());
        }
    };
    let stopper = running.stopper();
    let mut ended = pin!(running.wait());
    loop {
        tokio::select! {
            ended = &mut ended => return ended,
            signal = signals.next() => {
                info!(signal, "told to stop");
                stopper.stop_or_cut();
            }
        }
    }
}

/// Binds before anything else: who cannot listen should not migrate a database.
async fn open(config: Config) -> Result<Running, ServeError> {
    let listeners = Listeners::bind(&config).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = store::open(&config.database_url, Arc::clone(&clock)).await?;
    start(config, listeners, store, clock).await
}

/// Starts a server on sockets that are bound and a store that is open. When it returns, checks are answered.
pub async fn start(
    config: Config,
    listeners: Listeners,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
) -> Result<Running, ServeError> {
    let limits = Limits {
        live_grants_per_tenant: config.max_live_grants_per_tenant,
        max_staleness: config.max_staleness,
    };
    let node = CheckNode::new();
    let work = Work::new(Arc::clone(&store), Arc::clone(&node), clock, config.catalogue, limits);
    let work = Arc::new(work);
    let metrics = Arc::new(Metrics::new(gauges(Arc::clone(&node), Arc::clone(&work))));
    let stopper = Stopper::default();
    let running = Running {
        grpc: listeners.grpc.iter().map(listeners::Listener::address).collect::<Result<_, _>>()?,
        http: listeners.http.local_addr()?,
        doors: Tasks::new(),
        calls: Tasks::new(),
        inner: Tasks::new(),
        gate: Gate::new(GRPC_CONNECTIONS_MAX, stopper.cut_token()),
        stopper,
        health: Health::new().await,
        store: Arc::clone(&store),
        drain_timeout: config.drain_timeout,
    };
    let Running { health, inner, .. } = &running;

    // First, so that it can be asked why it is not ready.
    let router = api::http::router(Arc::clone(&metrics), health.clone());
    let gate = Gate::new(HTTP_CONNECTIONS_MAX, running.stopper.cut_token());
    inner.spawn("HTTP", doors::serve_http(router, listeners.http, gate, inner.clone()));

    if let Err(error) = node.load(store.as_ref()).await {
        running.close().await;
        return Err(error.into());
    }
    let follower = node::follower::run(node, store, inner.stop_token());
    inner.spawn("follower", follower);
    inner.spawn("expiry sweep", work::expiry::run(Arc::clone(&work), inner.stop_token()));

    let door = GrpcDoor::new(&work, &metrics, health, &running.calls, running.gate.clone());
    for (listener, address) in listeners.grpc.into_iter().zip(&running.grpc) {
        let serving = door.clone().serve(listener, running.doors.stop_token());
        running.doors.spawn(format!("gRPC on {address}"), serving);
    }
    health.enter(Phase::Serving).await;
    for address in &running.grpc {
        info!(grpc = %address, "listening");
    }
    info!(http = %running.http, "listening");
    if config.insecure {
        warn!(
            "insecure: whoever can reach this server can do everything, since callers are not authenticated"
        );
    }
    Ok(running)
}

fn gauges(node: Arc<CheckNode>, work: Arc<Work>) -> impl Fn() -> Gauges + Send + Sync + 'static {
    move || {
        let node = node.gauges();
        Gauges {
            live_grants: node.live_grants,
            revision: node.revision,
            snapshot_bytes: node.snapshot_bytes,
            tenants: node.tenants,
            sweep_lag: work.sweep_lag(),
        }
    }
}
