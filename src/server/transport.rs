//! Serving: gRPC, and the HTTP endpoint for metrics and health.

use std::{num::NonZeroU32, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tonic::service::Routes;
use tracing::{debug, error};

use crate::{
    api::{
        calls::{Calls, ConnectionCalls},
        detached::Detached,
        grpc::{
            MESSAGE_LENGTH_MAX,
            access::Access,
            admin::{Admin, AdminAtSidecar},
            nodes::Nodes,
            replication::{REQUEST_LENGTH_MAX, ReplicationService},
            server_info::Info,
        },
        health::Health,
        limit::{CallerLimits, Limits},
        metrics::Metrics,
        proto::{
            self,
            replication::v1::replication_server::ReplicationServer,
            v1::{
                check_nodes_server::CheckNodesServer, server_info_server::ServerInfoServer,
                support_access_admin_server::SupportAccessAdminServer,
            },
        },
    },
    node::CheckNode,
    server::{
        accept::{Accept, LocalListener, TlsListener},
        connection::Connection,
        connections::ConnectionLimiter,
        identity::Identity,
        listeners::Listener,
        memory::{Budget, WINDOW_MIN},
        tasks::Tasks,
        workers::Workers,
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

/// The gRPC server. Its listeners share the limits.
#[derive(Debug)]
pub(super) struct GrpcServer {
    http2: http2::Builder<TokioExecutor>,
    calls: Arc<Calls<Tasks>>,
    identity: Identity,
    connections: ConnectionLimiter,
    workers: Arc<Workers>,
    /// The connections.
    tasks: Tasks,
}

// === impl GrpcServer ===

impl GrpcServer {
    /// A server of all services, whose connections are `tasks` of the workers. Changes run as
    /// `calls`.
    pub(super) fn new(
        services: &Services,
        health: &Health,
        calls: &Tasks,
        tasks: &Tasks,
        connections: ConnectionLimiter,
        workers: Arc<Workers>,
    ) -> Self {
        let Services { node, checks, service, metrics, budget, reflection, identity } = services;
        let limits = &budget.limits;
        let access = Access::new(
            Arc::clone(checks),
            Arc::clone(metrics),
            Arc::clone(&identity.integrations),
            Arc::clone(&identity.authenticator),
        );
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
        let mut routes = Routes::new(Detached::new(nodes, calls.clone()))
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
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.calls_per_connection)
            .initial_stream_window_size(WINDOW_MIN)
            .initial_connection_window_size(budget.window)
            .max_header_list_size(METADATA_LENGTH_MAX)
            .keep_alive_interval(Some(limits.keepalive_interval.0))
            .keep_alive_timeout(limits.keepalive_timeout.0);
        let limits = Limits::new(CallerLimits {
            calls: limits.calls_per_caller,
            calls_in_all: budget.calls,
            bytes: budget.bytes_per_caller,
            bytes_in_all: budget.bytes,
            checks_per_second: at_least_one(limits.checks_per_second),
            requests_per_second: at_least_one(limits.requests_per_second),
        });
        let calls = Calls {
            metrics: Arc::clone(metrics),
            authenticator: Arc::clone(&identity.authenticator),
            limits,
            access,
            // Prepared once, instead of for each call.
            routes: routes.prepare(),
            spawner: calls.clone(),
            stop: tasks.stop_token(),
        };
        Self {
            http2,
            calls: Arc::new(calls),
            identity: identity.clone(),
            connections,
            workers,
            tasks: tasks.clone(),
        }
    }

    /// Accepts connections until the tasks are stopped.
    pub(super) async fn serve(self: Arc<Self>, listener: Listener) {
        match (listener, &self.identity.tls) {
            (Listener::Tcp(tcp), Some(tls)) => {
                let listener = TlsListener { tcp, tls: Arc::clone(tls) };
                self.accept(listener).await;
            }
            (Listener::Tcp(listener), None) => self.accept(listener).await,
            (Listener::Unix(socket), _) => {
                let authenticator = Arc::clone(&self.identity.authenticator);
                self.accept(LocalListener { socket, authenticator }).await;
            }
        }
    }

    /// Gives each connection to a worker.
    async fn accept<A: Accept>(self: Arc<Self>, acceptor: A) {
        let stop = self.tasks.stop_token();
        loop {
            let next = stop.run_until_cancelled(self.connections.next(&acceptor));
            let Some(Some((socket, admission))) = next.await else { return };
            let (server, placement) = (Arc::clone(&self), self.workers.place());
            let runtime = placement.runtime().clone();
            self.tasks.spawn_on(&runtime, "gRPC connection", async move {
                let _placement = placement;
                if let Some(connection) = server.connections.open(socket, admission).await {
                    server.serve_connection(connection).await;
                }
            });
        }
    }

    /// Serves until the connection has ended. Once the tasks are stopped, calls in progress are
    /// completed.
    async fn serve_connection<IO>(&self, connection: Connection<IO>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stop = self.tasks.stop_token();
        let calls = ConnectionCalls::new(Arc::clone(&self.calls), connection.info());
        let calls = Arc::new(calls);
        // Boxed once. Otherwise hyper and the runtime copy the future about ten times.
        let service = service_fn(move |request: Request<Incoming>| {
            Box::pin(Arc::clone(&calls).serve(request))
        });
        let mut serving = pin!(self.http2.serve_connection(TokioIo::new(connection), service));
        let mut ended = stop.run_until_cancelled(serving.as_mut()).await;
        if ended.is_none() {
            serving.as_mut().graceful_shutdown();
            ended = Some(serving.await);
        }
        if let Some(Err(error)) = ended {
            debug!(%error, "a connection has failed");
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
    loop {
        let next = stop.run_until_cancelled(connections.next(&listener));
        let Some(Some((socket, admission))) = next.await else { return };
        let Some(connection) = connections.open(socket, admission).await else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Copies of large futures took 60 % of the instructions of a check.
    #[test]
    fn the_future_of_a_call_is_small() {
        let size = size_of_future(ConnectionCalls::<Tasks>::serve::<Incoming>);
        assert!(size < 4_096, "{size} B");
    }
}
