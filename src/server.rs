//! The assembly: what a server is made of, in which order it is opened, and in which order it is closed.

use std::{future::Future, io, pin::pin, sync::Arc};

use tokio::{net::TcpListener, sync::watch};
use tracing::info;
use uuid::Uuid;

use crate::{
    api::{
        self,
        grpc::upstream::GrpcUpstream,
        health::{Health, Phase},
        metrics::Metrics,
    },
    domain::{Clock, NodeId, NodeKind, clock::SystemClock},
    node::{self, CheckNode, replica::Replica, upstream_session::Upstream},
    server::{
        config::{CallLimits, Common, Config, SidecarConfig},
        connections::ConnectionLimiter,
        doors::{GrpcServer, HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_PER_ADDRESS_MAX, Services},
        identity::Prepared,
        listeners::{BindError, Listener},
        readings::Sources,
        signals::Signals,
        tasks::{Failure, Tasks},
        telemetry::TelemetryError,
        tls::TlsError,
    },
    service::{self, Limits, Service, check::Checks},
    store::{self, OpenError, Store, StoreError},
};

pub mod config;
mod connections;
mod detached;
pub mod doors;
mod identity;
pub mod listeners;
mod readings;
pub mod running;
mod signals;
pub mod tasks;
pub mod telemetry;
mod tls;

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
    /// It cannot serve TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It cannot tell callers apart.
    #[error("callers cannot be told apart: {0}")]
    Auth(String),
    /// It cannot open the database.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot read the grants.
    #[error("cannot load the grants: {0}")]
    Load(#[from] StoreError),
    /// It cannot follow anybody.
    #[error("cannot follow an upstream: {0}")]
    Upstream(String),
    /// One of its tasks failed.
    #[error("{0}")]
    Task(Failure),
}

/// Serves until told to stop by SIGTERM or SIGINT: the first drains, a second cuts.
pub async fn run(config: Config) -> Result<(), ServeError> {
    let telemetry = telemetry::init(&config.common)?;
    let ended = until_signalled(Box::pin(open(config))).await;
    telemetry.end();
    ended
}

/// As [`run`], a sidecar.
pub async fn run_sidecar(config: SidecarConfig) -> Result<(), ServeError> {
    let telemetry = telemetry::init(&config.common)?;
    let ended = until_signalled(async {
        let listeners = Listeners::bind(&config.common).await?;
        start_sidecar(config, listeners, Arc::new(SystemClock)).await
    })
    .await;
    telemetry.end();
    ended
}

async fn until_signalled(
    opening: impl Future<Output = Result<Running, ServeError>>,
) -> Result<(), ServeError> {
    let mut signals = Signals::new()?;
    let running = tokio::select! {
        running = opening => running?,
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
    let listeners = Listeners::bind(&config.common).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = store::open(&config.database_url, Arc::clone(&clock)).await?;
    start(config, listeners, store, clock).await
}

/// Starts a replica on sockets that are bound and a store that is open. When it returns, checks are answered.
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
    let security = &config.common.security;
    let prepared = Prepared::new(security, &clock)?;
    let node = CheckNode::new(new_node_id(), NodeKind::Replica, clock);
    let replica = Replica::new(Arc::clone(&node), Arc::clone(&store), config.max_staleness);
    let work = Service::new(Arc::clone(&replica), config.catalogue, limits);
    let work = Arc::new(work.with_checkpoint_key(config.checkpoint_key));
    let mut running = Running::new(&listeners, &config.common).await?;
    running.store = Some(Arc::clone(&store));
    let sources = Sources::new(&node, &running.gate, &prepared).with_work(&work);
    let metrics = Arc::new(Metrics::new(move || sources.read()));
    // First, so that it can be asked why it is not ready.
    running.serve_http(listeners.http, &metrics);

    if let Err(error) = replica.join().await {
        running.close().await;
        return Err(error.into());
    }
    let inner = &running.inner;
    let enforcer = Arc::clone(replica.enforcer());
    inner.spawn("replica", replica.run(inner.stop_token()));
    inner.spawn("enforcer", enforcer.run(inner.stop_token()));
    inner.spawn("expiry sweep", service::expiry::run(Arc::clone(&work), inner.stop_token()));
    let verification =
        service::verification::run(Arc::clone(&work), config.verify_interval, inner.stop_token());
    inner.spawn("verification of the history", verification);

    let checks = Arc::new(Checks::new(Arc::clone(&node), Some(store)));
    let services = Services {
        node,
        checks,
        work: Some(work),
        metrics,
        limits: config.common.limits,
        reflection: security.reflection,
        identity: prepared.keep(inner),
    };
    running.open_doors(&services, listeners.grpc).await;
    Ok(running)
}

/// Starts a sidecar on sockets that are bound. When it returns, it answers, though at first only that it cannot tell.
pub async fn start_sidecar(
    config: SidecarConfig,
    listeners: Listeners,
    clock: Arc<dyn Clock>,
) -> Result<Running, ServeError> {
    let upstreams = config.upstreams.iter().map(|url| {
        let upstream =
            GrpcUpstream::new(url, &config.upstream_credentials).map_err(ServeError::Upstream)?;
        Ok(Arc::new(upstream) as Arc<dyn Upstream>)
    });
    let upstreams = upstreams.collect::<Result<Vec<_>, ServeError>>()?;
    let security = &config.common.security;
    let prepared = Prepared::new(security, &clock)?;
    let node = CheckNode::new(new_node_id(), NodeKind::Sidecar, clock);
    let running = Running::new(&listeners, &config.common).await?;
    let sources = Sources::new(&node, &running.gate, &prepared);
    let sources = sources.with_credentials(config.upstream_credentials);
    let metrics = Arc::new(Metrics::new(move || sources.read()));
    running.serve_http(listeners.http, &metrics);

    let stop = running.inner.stop_token();
    let following = node::upstream_session::run(Arc::clone(&node), upstreams, stop.clone());
    let refusal = running.refusal.clone();
    running.inner.spawn("follower", async move {
        if let Err(error) = following.await {
            refusal.send_replace(Some(error.to_string()));
            // That is noticed, and then everything is closed.
            stop.cancelled().await;
        }
    });
    let checks = Arc::new(Checks::new(Arc::clone(&node), None));
    let services = Services {
        node,
        checks,
        work: None,
        metrics,
        limits: config.common.limits,
        reflection: security.reflection,
        identity: prepared.keep(&running.inner),
    };
    running.open_doors(&services, listeners.grpc).await;
    Ok(running)
}

impl Running {
    async fn new(listeners: &Listeners, config: &Common) -> Result<Self, ServeError> {
        let CallLimits { connections, connections_per_address, .. } = config.limits;
        let stopper = Stopper::default();
        let addresses = listeners.grpc.iter().map(listeners::Listener::address);
        Ok(Self {
            grpc: addresses.collect::<Result<_, _>>()?,
            http: listeners.http.local_addr()?,
            doors: Tasks::new(),
            calls: Tasks::new(),
            inner: Tasks::new(),
            gate: ConnectionLimiter::new(connections, connections_per_address, stopper.cut_token())
                .without_strangers(),
            stopper,
            health: Health::new().await,
            store: None,
            refusal: watch::Sender::new(None),
            drain_timeout: config.drain_timeout,
        })
    }

    fn serve_http(&self, listener: TcpListener, metrics: &Arc<Metrics>) {
        let router = api::http::router(Arc::clone(metrics), self.health.clone());
        let cut = self.stopper.cut_token();
        let gate =
            ConnectionLimiter::new(HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_PER_ADDRESS_MAX, cut);
        let serving = doors::serve_http(router, listener, gate, self.inner.clone());
        self.inner.spawn("HTTP", serving);
    }

    async fn open_doors(&self, services: &Services, listeners: Vec<Listener>) {
        let door = GrpcServer::new(services, &self.health, &self.calls, self.gate.clone());
        for (listener, address) in listeners.into_iter().zip(&self.grpc) {
            let serving = door.clone().serve(listener, self.doors.stop_token());
            self.doors.spawn(format!("gRPC on {address}"), serving);
        }
        let node = Arc::clone(&services.node);
        if node.read_view().is_fresh() {
            self.health.enter(Phase::Serving).await;
        }
        let health = self.health.clone().follow(node, self.inner.stop_token());
        self.inner.spawn("health", health);
        for address in &self.grpc {
            info!(grpc = %address, "listening");
        }
        info!(http = %self.http, "listening");
    }
}

fn new_node_id() -> NodeId {
    NodeId(Uuid::new_v4())
}
