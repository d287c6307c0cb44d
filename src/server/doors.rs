//! The doors, opened: which services are behind them, within which limits.

use std::{io, num::NonZeroU32, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tower::util::MapResponseLayer;
use tracing::{debug, error};

use crate::{
    api::{
        authenticate::AuthenticateLayer,
        grpc::{
            MESSAGE_LENGTH_MAX,
            access::Access,
            admin::Admin,
            explain_refusal,
            nodes::Nodes,
            replication::{REQUEST_LENGTH_MAX, ReplicationService},
            server_info::Info,
        },
        health::Health,
        limit::{CallerLimits, LimitLayer},
        metrics::Metrics,
        observe::ObserveLayer,
        proto::{
            self,
            replication::v1::replication_server::ReplicationServer,
            v1::{
                check_nodes_server::CheckNodesServer, server_info_server::ServerInfoServer,
                support_access_admin_server::SupportAccessAdminServer,
                support_access_server::SupportAccessServer,
            },
        },
        shutdown::ShutdownLayer,
    },
    auth::Authenticator,
    node::CheckNode,
    server::{
        config::CallLimits,
        connections::{Admitting, Connection, ConnectionLimiter},
        detached::Detached,
        listeners::Listener,
        tasks::Tasks,
        tls::Tls,
    },
    service::{Service, check::Checks},
};

/// The most HTTP connections at a time.
pub(super) const HTTP_CONNECTIONS_MAX: usize = 256;
/// Of these, from one address: nobody keeps others from asking how the server is.
pub(super) const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// The most bytes of a call's metadata.
const HEADERS_LENGTH_MAX: u32 = 16 * 1_024;
/// The most bytes of an HTTP request's head, and the longest it may take to send them.
const HTTP_HEAD_LENGTH_MAX: usize = 16 * 1_024;
const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What calls are answered with.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) node: Arc<CheckNode>,
    pub(super) checks: Arc<Checks>,
    /// A sidecar has none, and takes no changes.
    pub(super) work: Option<Arc<Service>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: CallLimits,
    /// Whether callers may ask which services there are.
    pub(super) reflection: bool,
    pub(super) identity: Identity,
}

/// How callers prove who they are.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) authenticator: Arc<Authenticator>,
    /// On listeners on the network.
    pub(super) tls: Option<Arc<Tls>>,
}

/// What every gRPC listener serves.
#[derive(Debug, Clone)]
pub(super) struct GrpcServer {
    routes: Routes,
    observe: ObserveLayer,
    limit: LimitLayer,
    calls_per_connection: u32,
    keepalive: (Duration, Duration),
    identity: Identity,
    gate: ConnectionLimiter,
    /// Handshakes run as these.
    calls: Tasks,
}

// === impl GrpcServer ===

impl GrpcServer {
    /// All services. Changes run as `calls`.
    pub(super) fn new(
        services: &Services,
        health: &Health,
        calls: &Tasks,
        gate: ConnectionLimiter,
    ) -> Self {
        let Services { node, checks, work, metrics, limits, reflection, identity } = services;
        let access = Access::new(Arc::clone(checks), Arc::clone(metrics));
        let access = SupportAccessServer::new(access).max_decoding_message_size(MESSAGE_LENGTH_MAX);
        let nodes = CheckNodesServer::new(Nodes::new(work.clone()))
            .max_decoding_message_size(REQUEST_LENGTH_MAX);
        let info = ServerInfoServer::new(Info::new(node.kind()))
            .max_decoding_message_size(REQUEST_LENGTH_MAX);
        let replication = ReplicationService::new(Arc::clone(node), limits.followers_per_caller);
        let replication =
            ReplicationServer::new(replication).max_decoding_message_size(REQUEST_LENGTH_MAX);
        let mut routes = Routes::new(access)
            .add_service(nodes)
            .add_service(info)
            .add_service(replication)
            .add_service(health.service());
        if let Some(work) = work {
            let admin = SupportAccessAdminServer::new(Admin::new(Arc::clone(work)))
                .max_decoding_message_size(MESSAGE_LENGTH_MAX);
            routes = routes.add_service(Detached::new(admin, calls.clone()));
        }
        if *reflection {
            routes = with_reflection(routes);
        }
        Self {
            // Prepared once, not per listener and call.
            routes: routes.prepare(),
            observe: ObserveLayer::new(Arc::clone(metrics)),
            limit: LimitLayer::new(CallerLimits {
                calls: limits.calls_per_caller,
                checks_per_second: at_least_one(limits.checks_per_second),
                requests_per_second: at_least_one(limits.requests_per_second),
            }),
            calls_per_connection: limits.calls_per_connection,
            keepalive: (limits.keepalive_interval.0, limits.keepalive_timeout.0),
            identity: identity.clone(),
            gate,
            calls: calls.clone(),
        }
    }

    /// Serves what `listener` accepts until stopped, and then until every connection has ended.
    pub(super) async fn serve(self, listener: Listener, stop: CancellationToken) {
        let gate = self.gate.clone();
        match (listener, &self.identity.tls) {
            (Listener::Tcp(listener), Some(tls)) => {
                let incoming = gate.secured(listener, Arc::clone(tls), self.calls.clone());
                self.serve_from(incoming, stop).await;
            }
            (Listener::Tcp(listener), None) => {
                self.serve_from(gate.connections(listener), stop).await;
            }
            (Listener::Unix(socket), _) => {
                let admitting = Admitting(socket, Arc::clone(&self.identity.authenticator));
                self.serve_from(gate.connections(admitting), stop).await;
            }
        }
    }

    async fn serve_from<IO>(
        self,
        incoming: impl Stream<Item = io::Result<Connection<IO>>>,
        stop: CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (keepalive_interval, keepalive_timeout) = self.keepalive;
        let server = Server::builder()
            .max_concurrent_streams(self.calls_per_connection)
            .http2_max_header_list_size(HEADERS_LENGTH_MAX)
            .http2_keepalive_interval(Some(keepalive_interval))
            .http2_keepalive_timeout(Some(keepalive_timeout))
            .layer(self.observe)
            .layer(ShutdownLayer::new(stop.clone()))
            .layer(MapResponseLayer::new(explain_refusal))
            .layer(AuthenticateLayer::new(self.identity.authenticator))
            .layer(self.limit);
        let stopped = stop.cancelled_owned();
        if let Err(error) =
            server.serve_with_incoming_shutdown(self.routes, incoming, stopped).await
        {
            error!(%error, "cannot serve");
        }
    }
}

fn with_reflection(routes: Routes) -> Routes {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The details of errors: clients such as grpcurl decode them by reflection.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    match reflection {
        Ok(reflection) => {
            routes.add_service(reflection.max_decoding_message_size(REQUEST_LENGTH_MAX))
        }
        Err(error) => {
            error!(%error, "cannot serve reflection");
            routes
        }
    }
}

/// The configuration has been checked.
fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// Serves HTTP/1 until stopped. Connections run as `tasks`.
pub(super) async fn serve_http(
    router: axum::Router,
    listener: TcpListener,
    gate: ConnectionLimiter,
    tasks: Tasks,
) {
    let stop = tasks.stop_token();
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEAD_TIMEOUT)
        .max_buf_size(HTTP_HEAD_LENGTH_MAX);
    let incoming = gate.connections(listener).take_until(stop.clone().cancelled_owned());
    let mut incoming = pin!(incoming);
    while let Some(connection) = incoming.next().await {
        let Ok(connection) = connection else { continue };
        let service = TowerToHyperService::new(router.clone());
        let (builder, stop) = (builder.clone(), stop.clone());
        let serving = async move {
            let connection = builder.serve_connection(TokioIo::new(connection), service);
            let mut connection = pin!(connection);
            let mut ended = stop.run_until_cancelled(connection.as_mut()).await;
            if ended.is_none() {
                connection.as_mut().graceful_shutdown();
                ended = Some(connection.await);
            }
            if let Some(Err(error)) = ended {
                debug!(error, "an HTTP connection has failed");
            }
        };
        drop(tasks.detached("HTTP connection", serving));
    }
}
