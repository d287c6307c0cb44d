//! Serving callers: gRPC and the web listener.

use std::{
    num::NonZeroU32,
    sync::{Arc, LazyLock},
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioExecutor, server::conn::auto::Builder};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::service::Routes;
use tracing::error;

use crate::{
    api::{
        calls::{Calls, ConnectionCalls},
        detached::Detached,
        format::Format,
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
        web::{Web, authzen::config::AuthZenConfig},
    },
    node::CheckNode,
    server::{
        accept::{Accept, LocalListener, TlsListener},
        connection::Connection,
        connections::ConnectionLimiter,
        identity::Identity,
        listeners::{Listener, Protocol},
        memory::Budget,
        serving::{self, serve_abortable, serve_connection},
        tasks::Tasks,
        workers::Workers,
    },
    service::{Service, check::Checks},
};

/// The components behind the calls.
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
    pub(super) authzen: AuthZenConfig,
}

/// The server of all callers. Its listeners share the limits.
#[derive(Debug)]
pub(super) struct CallServer {
    http2: Builder<TokioExecutor>,
    /// HTTP/1.1 and HTTP/2.
    http: Builder<TokioExecutor>,
    /// Prepared for the first connection.
    web: LazyLock<Web, Box<dyn FnOnce() -> Web + Send>>,
    calls: Arc<Calls<Tasks>>,
    identity: Identity,
    connections: ConnectionLimiter,
    workers: Arc<Workers>,
    /// The connections.
    tasks: Tasks,
}

// === impl CallServer ===

impl CallServer {
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
        let Services { node, checks, service, metrics, budget, reflection, identity, authzen } =
            services;
        let authzen = authzen.clone();
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
        let http = serving::builder(budget);
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
            http2: http.clone().http2_only(),
            http,
            web: LazyLock::new(Box::new(move || Web::new(authzen))),
            calls: Arc::new(calls),
            identity: identity.clone(),
            connections,
            workers,
            tasks: tasks.clone(),
        }
    }

    /// Accepts connections until the tasks are stopped.
    pub(super) async fn serve(self: Arc<Self>, listener: Listener, protocol: Protocol) {
        match (listener, &self.identity.tls) {
            (Listener::Tcp(tcp), Some(tls)) => {
                let listener = TlsListener { tcp, tls: Arc::clone(tls), protocol };
                self.accept(listener, protocol).await;
            }
            (Listener::Tcp(listener), None) => self.accept(listener, protocol).await,
            (Listener::Unix(socket), _) => {
                let authenticator = Arc::clone(&self.identity.authenticator);
                self.accept(LocalListener { socket, authenticator, protocol }, protocol).await;
            }
        }
    }

    /// Gives each connection to a worker.
    async fn accept<A: Accept>(self: Arc<Self>, acceptor: A, protocol: Protocol) {
        let stop = self.tasks.stop_token();
        loop {
            let next = stop.run_until_cancelled(self.connections.next(&acceptor));
            let Some(Some((socket, admission))) = next.await else { return };
            let (server, placement) = (Arc::clone(&self), self.workers.place());
            let runtime = placement.runtime().clone();
            self.tasks.spawn_on(&runtime, "connection", async move {
                let _placement = placement;
                let Some(connection) = server.connections.open(socket, admission).await else {
                    return;
                };
                match protocol {
                    Protocol::Grpc => server.serve_grpc(connection).await,
                    Protocol::Web => server.serve_web(connection).await,
                }
            });
        }
    }

    /// Serves until the connection has ended. Once the tasks are stopped, calls in progress are
    /// completed.
    async fn serve_grpc<IO>(&self, connection: Connection<IO>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stop = self.tasks.stop_token();
        let calls = ConnectionCalls::new(Arc::clone(&self.calls), connection.info());
        let calls = Arc::new(calls);
        // Boxed once. Otherwise hyper and the runtime copy the future about ten times.
        let service = service_fn(move |request: Request<Incoming>| {
            Box::pin(Arc::clone(&calls).serve(request, Format::Grpc))
        });
        serve_connection(&self.http2, connection, service, &stop).await;
    }

    /// As [`Self::serve_grpc`], for HTTP/1.1 and HTTP/2.
    async fn serve_web<IO>(self: Arc<Self>, connection: Connection<IO>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let calls = ConnectionCalls::new(Arc::clone(&self.calls), connection.info());
        let (calls, server) = (Arc::new(calls), Arc::clone(&self));
        let service = service_fn(move |request: Request<Incoming>| {
            let (calls, server) = (Arc::clone(&calls), Arc::clone(&server));
            Box::pin(async move { server.web.serve(calls, request).await })
        });
        serve_abortable(&self.http, connection, service, &self.tasks.stop_token()).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Copies of large futures took 60 % of the instructions of a check.
    #[test]
    fn the_future_of_a_call_is_small() {
        let size = size_of_future(ConnectionCalls::<Tasks>::serve::<Incoming>);
        assert!(size < 4_096, "{size} B");
    }
}
