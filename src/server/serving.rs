//! Serving the connections of HTTP, and the HTTP endpoint for metrics and health.

use std::{pin::pin, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
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
use tracing::debug;

use crate::{
    api::message::BoxError,
    server::{
        connection::Connection,
        connections::ConnectionLimiter,
        memory::{Budget, WINDOW_MIN},
        tasks::Tasks,
    },
};

/// Maximum number of connections to the metrics endpoint.
pub(super) const METRICS_CONNECTIONS_MAX: usize = 256;
/// Maximum number of these connections from one network, so that no client can deny the endpoint to
/// others.
pub(super) const METRICS_CONNECTIONS_PER_NETWORK_MAX: usize = 64;
/// Maximum size of the metadata of a call, in bytes.
const METADATA_LENGTH_MAX: u32 = 16 * 1_024;
/// Maximum size of the head of an HTTP/1 request, in bytes.
const HEAD_LENGTH_MAX: usize = 16 * 1_024;
/// Timeout of the head of an HTTP/1 request of a caller. A connection may wait for the next request
/// as long.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// The same at the metrics endpoint.
const METRICS_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The protocol of the connections of callers, within the limits.
pub(super) fn builder(budget: &Budget) -> Builder<TokioExecutor> {
    let limits = &budget.limits;
    let mut builder = http1(IDLE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.calls_per_connection)
        .initial_stream_window_size(WINDOW_MIN)
        .initial_connection_window_size(budget.window)
        .max_header_list_size(METADATA_LENGTH_MAX)
        .keep_alive_interval(Some(limits.keepalive_interval.0))
        .keep_alive_timeout(limits.keepalive_timeout.0);
    builder
}

fn http1(idle_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_buf_size(HEAD_LENGTH_MAX);
    builder
}

/// Serves until the connection has ended. Once `stop` is cancelled, requests in progress are
/// completed.
pub(super) async fn serve_connection<IO, S, B>(
    builder: &Builder<TokioExecutor>,
    connection: Connection<IO>,
    service: S,
    stop: &CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), service));
    let mut ended = stop.run_until_cancelled(serving.as_mut()).await;
    if ended.is_none() {
        serving.as_mut().graceful_shutdown();
        ended = Some(serving.await);
    }
    if let Some(Err(error)) = ended {
        debug!(error, "a connection has failed");
    }
}

/// As [`serve_connection`], for HTTP/1. While a request waits, such a connection performs no I/O,
/// and would not notice an abort.
pub(super) async fn serve_abortable<IO, S, B>(
    builder: &Builder<TokioExecutor>,
    connection: Connection<IO>,
    service: S,
    stop: &CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let abort = connection.abort_token();
    let serving = Box::pin(serve_connection(builder, connection, service, stop));
    abort.run_until_cancelled(serving).await;
}

/// Serves metrics and health over HTTP/1 until `tasks` are stopped. Connections run as `tasks`.
pub(super) async fn serve_metrics(
    router: axum::Router,
    listener: TcpListener,
    connections: ConnectionLimiter,
    tasks: Tasks,
) {
    let stop = tasks.stop_token();
    let builder = http1(METRICS_IDLE_TIMEOUT).http1_only();
    loop {
        let next = stop.run_until_cancelled(connections.next(&listener));
        let Some(Some((socket, admission))) = next.await else { return };
        let Some(connection) = connections.open(socket, admission).await else { continue };
        let service = TowerToHyperService::new(router.clone());
        let (builder, stop) = (builder.clone(), stop.clone());
        let serving = async move { serve_abortable(&builder, connection, service, &stop).await };
        drop(tasks.spawn_detached("HTTP connection", serving));
    }
}
