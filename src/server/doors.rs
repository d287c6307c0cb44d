//! The doors, opened: which services are behind them, within which limits.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tower::util::MapResponseLayer;
use tracing::{debug, error};

use crate::{
    api::{
        endings::EndStreamsLayer,
        grpc::{
            MESSAGE_LENGTH_MAX,
            access::Access,
            admin::Admin,
            explain_refusal,
            nodes::{Nodes, REQUEST_LENGTH_MAX},
        },
        health::Health,
        metrics::Metrics,
        observe::ObserveLayer,
        proto::{
            self,
            v1::{
                check_nodes_server::CheckNodesServer,
                support_access_admin_server::SupportAccessAdminServer,
                support_access_server::SupportAccessServer,
            },
        },
    },
    node::CheckNode,
    server::{
        connections::{Accept, Gate},
        detached::Detached,
        listeners::Listener,
        tasks::Tasks,
    },
    work::{Work, check::Checks},
};

/// The most gRPC connections at a time, on all listeners together.
pub(super) const GRPC_CONNECTIONS_MAX: usize = 4_096;
/// The most HTTP connections at a time.
pub(super) const HTTP_CONNECTIONS_MAX: usize = 256;
/// The most calls at a time on one connection.
const STREAMS_MAX: u32 = 1_024;
/// The most bytes of a call's metadata.
const HEADERS_LENGTH_MAX: u32 = 16 * 1_024;
/// How often a silent connection is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long it may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of an HTTP request's head, and the longest it may take to send them.
const HTTP_HEAD_LENGTH_MAX: usize = 16 * 1_024;
const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What calls are answered with.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) node: Arc<CheckNode>,
    pub(super) checks: Arc<Checks>,
    /// A sidecar has none, and takes no changes.
    pub(super) work: Option<Arc<Work>>,
    pub(super) metrics: Arc<Metrics>,
}

/// What every gRPC listener serves.
#[derive(Debug, Clone)]
pub(super) struct GrpcDoor {
    routes: Routes,
    observe: ObserveLayer,
    gate: Gate,
}

// === impl GrpcDoor ===

impl GrpcDoor {
    /// All services. Changes run as `calls`.
    pub(super) fn new(services: &Services, health: &Health, calls: &Tasks, gate: Gate) -> Self {
        let Services { node, checks, work, metrics } = services;
        let access = Access::new(Arc::clone(checks), Arc::clone(metrics));
        let access = SupportAccessServer::new(access).max_decoding_message_size(MESSAGE_LENGTH_MAX);
        let nodes = Nodes::new(Arc::clone(node), work.clone());
        let nodes = CheckNodesServer::new(nodes).max_decoding_message_size(REQUEST_LENGTH_MAX);
        let mut routes = Routes::new(access).add_service(nodes).add_service(health.service());
        if let Some(work) = work {
            let admin = SupportAccessAdminServer::new(Admin::new(Arc::clone(work)))
                .max_decoding_message_size(MESSAGE_LENGTH_MAX);
            routes = routes.add_service(Detached::new(admin, calls.clone()));
        }
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1();
        let routes = match reflection {
            Ok(reflection) => routes.add_service(reflection),
            Err(error) => {
                error!(%error, "cannot serve reflection");
                routes
            }
        };
        let observe = ObserveLayer::new(Arc::clone(metrics));
        // Prepared once, not per listener and call.
        Self { routes: routes.prepare(), observe, gate }
    }

    /// Serves what `listener` accepts until stopped, and then until every connection has ended.
    pub(super) async fn serve(self, listener: Listener, stop: CancellationToken) {
        match listener {
            Listener::Tcp(listener) => self.serve_from(listener, stop).await,
            Listener::Unix(socket) => self.serve_from(socket, stop).await,
        }
    }

    async fn serve_from(self, acceptor: impl Accept, stop: CancellationToken) {
        let server = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_header_list_size(HEADERS_LENGTH_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(self.observe)
            .layer(EndStreamsLayer::new(stop.clone()))
            .layer(MapResponseLayer::new(explain_refusal));
        let incoming = self.gate.connections(acceptor);
        let stopped = stop.cancelled_owned();
        if let Err(error) =
            server.serve_with_incoming_shutdown(self.routes, incoming, stopped).await
        {
            error!(%error, "cannot serve");
        }
    }
}

/// Serves HTTP/1 until stopped. Connections run as `tasks`.
pub(super) async fn serve_http(
    router: axum::Router,
    listener: TcpListener,
    gate: Gate,
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
