//! Serving: gRPC with its layers, and the HTTP endpoint for metrics and health.

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
        detached::Detached,
        grpc::{
            MESSAGE_LENGTH_MAX,
            access::Access,
            admin::{Admin, AdminAtSidecar},
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
        trim::TrimLayer,
    },
    node::CheckNode,
    server::{
        accept::LocalListener,
        connection::Connection,
        connections::ConnectionLimiter,
        identity::Identity,
        listeners::Listener,
        memory::{Budget, WINDOW_MIN},
        tasks::Tasks,
    },
    service::{Service, check::Checks},
};

/// Maximum number of connections to the metrics endpoint.
pub(super) const METRICS_CONNECTIONS_MAX: usize = 256;
/// Maximum number of these connections from one network, so that no client can deny the endpoint to
/// others.
pub(super) const METRICS_CONNECTIONS_PER_NETWORK_MAX: usize = 64;
/// Maximum size of the metadata of a call, in bytes.
const METADATA_LENGTH_MAX: u32 = 16 * 1_024;
/// Maximum size of the head of an HTTP/1 request, in bytes.
const HTTP_HEAD_LENGTH_MAX: usize = 16 * 1_024;
/// Timeout of the head of an HTTP/1 request.
const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The components behind gRPC.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) node: Arc<CheckNode>,
    pub(super) checks: Arc<Checks>,
    /// `None`: a sidecar, which accepts no changes.
    pub(super) service: Option<Arc<Service>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) budget: Budget,
    pub(super) reflection: bool,
    pub(super) identity: Identity,
}

/// The gRPC server. Clones share limits, and serve one listener each.
#[derive(Debug, Clone)]
pub(super) struct GrpcServer {
    routes: Routes,
    observe: ObserveLayer,
    limit: LimitLayer,
    calls_per_connection: u32,
    window: u32,
    keepalive_interval: Duration,
    keepalive_timeout: Duration,
    identity: Identity,
    connections: ConnectionLimiter,
    /// Runs TLS handshakes.
    calls: Tasks,
}

// === impl GrpcServer ===

impl GrpcServer {
    /// A server of all services. Changes and TLS handshakes run as `calls`.
    pub(super) fn new(
        services: &Services,
        health: &Health,
        calls: &Tasks,
        connections: ConnectionLimiter,
    ) -> Self {
        let Services { node, checks, service, metrics, budget, reflection, identity } = services;
        let limits = &budget.limits;
        let access = Access::new(Arc::clone(checks), Arc::clone(metrics));
        let access = SupportAccessServer::new(access).max_decoding_message_size(MESSAGE_LENGTH_MAX);
        let nodes = CheckNodesServer::new(Nodes::new(service.clone()))
            .max_decoding_message_size(REQUEST_LENGTH_MAX);
        let info = ServerInfoServer::new(Info::new(node.kind()))
            .max_decoding_message_size(REQUEST_LENGTH_MAX);
        let replication = ReplicationService::new(
            Arc::clone(node),
            limits.followers_per_caller,
            budget.followers,
        );
        let replication =
            ReplicationServer::new(replication).max_decoding_message_size(REQUEST_LENGTH_MAX);
        let mut routes = Routes::new(access)
            .add_service(nodes)
            .add_service(info)
            .add_service(replication)
            .add_service(health.service());
        if let Some(service) = service {
            let admin = SupportAccessAdminServer::new(Admin::new(Arc::clone(service)))
                .max_decoding_message_size(MESSAGE_LENGTH_MAX);
            routes = routes.add_service(Detached::new(admin, calls.clone()));
        } else {
            routes = routes.add_service(AdminAtSidecar);
        }
        if *reflection {
            routes = with_reflection(routes);
        }
        Self {
            // Prepared once, instead of for each listener and call.
            routes: routes.prepare(),
            observe: ObserveLayer::new(Arc::clone(metrics)),
            limit: LimitLayer::new(CallerLimits {
                calls: limits.calls_per_caller,
                calls_in_all: budget.calls,
                bytes: budget.bytes_per_caller,
                bytes_in_all: budget.bytes,
                checks_per_second: at_least_one(limits.checks_per_second),
                requests_per_second: at_least_one(limits.requests_per_second),
            }),
            calls_per_connection: limits.calls_per_connection,
            window: budget.window,
            keepalive_interval: limits.keepalive_interval.0,
            keepalive_timeout: limits.keepalive_timeout.0,
            identity: identity.clone(),
            connections,
            calls: calls.clone(),
        }
    }

    /// Serves the connections of `listener` until `stop`, and then until every connection has
    /// ended.
    pub(super) async fn serve(self, listener: Listener, stop: CancellationToken) {
        let connections = self.connections.clone();
        match (listener, &self.identity.tls) {
            (Listener::Tcp(listener), Some(tls)) => {
                let tls = Arc::clone(tls);
                let incoming = connections.tls_connections(listener, tls, self.calls.clone());
                self.serve_connections(incoming, stop).await;
            }
            (Listener::Tcp(listener), None) => {
                self.serve_connections(connections.connections(listener), stop).await;
            }
            (Listener::Unix(socket), _) => {
                let authenticator = Arc::clone(&self.identity.authenticator);
                let listener = LocalListener { socket, authenticator };
                self.serve_connections(connections.connections(listener), stop).await;
            }
        }
    }

    async fn serve_connections<IO>(
        self,
        incoming: impl Stream<Item = io::Result<Connection<IO>>>,
        stop: CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let server = Server::builder()
            .max_concurrent_streams(self.calls_per_connection)
            .initial_stream_window_size(WINDOW_MIN)
            .initial_connection_window_size(self.window)
            .http2_max_header_list_size(METADATA_LENGTH_MAX)
            .http2_keepalive_interval(Some(self.keepalive_interval))
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .layer(self.observe)
            .layer(ShutdownLayer::new(stop.clone()))
            .layer(TrimLayer)
            .layer(MapResponseLayer::new(explain_refusal))
            .layer(AuthenticateLayer::new(self.identity.authenticator))
            .layer(self.limit);
        let stopped = stop.cancelled_owned();
        if let Err(error) =
            server.serve_with_incoming_shutdown(self.routes, incoming, stopped).await
        {
            error!(%error, "cannot serve gRPC");
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

/// The configuration rejects zero.
fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// Serves HTTP/1 until `tasks` are stopped. Connections run as `tasks`.
pub(super) async fn serve_http(
    router: axum::Router,
    listener: TcpListener,
    connections: ConnectionLimiter,
    tasks: Tasks,
) {
    let stop = tasks.stop_token();
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEAD_TIMEOUT)
        .max_buf_size(HTTP_HEAD_LENGTH_MAX);
    let incoming = connections.connections(listener).take_until(stop.clone().cancelled_owned());
    let mut incoming = pin!(incoming);
    while let Some(connection) = incoming.next().await {
        let Ok(connection) = connection else { continue };
        let service = TowerToHyperService::new(router.clone());
        let (builder, stop) = (builder.clone(), stop.clone());
        // While a request waits, its connection performs no I/O, and would not notice the abort.
        let abort = connection.abort_token();
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
        let serving = async move { abort.run_until_cancelled(serving).await };
        drop(tasks.spawn_detached("HTTP connection", serving));
    }
}
