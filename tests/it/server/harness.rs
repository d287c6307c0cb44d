//! Starts and calls servers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use support_access::{
    api::proto::v1::{
        AccessCheck, CheckAccessRequest, GrantAccessRequest,
        support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    server::{
        self, Listeners, Running, ServeError, SystemClock,
        config::{CallLimits, Common, Config, ListenAddress, LogFormat},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    common::requests::{access_check, check_request, grant_request},
    server::slow_store::SlowStore,
};

/// Timeout of anything that should be quick, on a machine that is busy with other tests.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

/// A replica on free loopback ports, without a database.
pub(crate) fn config() -> Config {
    Config {
        common: common(),
        web_listen: None,
        database_url: "memory:".parse().unwrap(),
        max_staleness: Duration::from_secs(2),
        max_live_grants_per_tenant: 100,
        ..Config::default()
    }
}

pub(crate) fn common() -> Common {
    Common {
        listen: vec![ListenAddress::Tcp(loopback())],
        metrics_listen: loopback(),
        drain_timeout: TIMEOUT,
        limits: CallLimits::default(),
        log: "info".to_owned(),
        log_format: LogFormat::Auto,
        ..Common::default()
    }
}

/// [`config`] with other addresses.
pub(crate) fn listening_on(listen: Vec<ListenAddress>) -> Config {
    Config { common: Common { listen, ..common() }, ..config() }
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) async fn start(config: Config) -> (Running, SlowStore) {
    let store = SlowStore::new();
    (start_on(config, &store).await.unwrap(), store)
}

pub(crate) async fn start_on(config: Config, store: &SlowStore) -> Result<Running, ServeError> {
    let listeners = Listeners::bind(&config.common, config.web_listen.as_ref())?;
    server::start(config, listeners, store.store(), Arc::new(SystemClock)).await
}

/// Starts a server. Calls `observe` with the address of the metrics endpoint before the grants are
/// loaded.
pub(crate) async fn start_observed(
    store: &SlowStore,
    observe: impl AsyncFnOnce(SocketAddr),
) -> Running {
    store.is_loading_held.send_replace(true);
    let config = config();
    let listeners = Listeners::bind(&config.common, config.web_listen.as_ref()).unwrap();
    let metrics = listeners.metrics.local_addr().unwrap();
    let starting = server::start(config, listeners, store.store(), Arc::new(SystemClock));
    let observing = async {
        observe(metrics).await;
        store.is_loading_held.send_replace(false);
    };
    let (running, ()) = with_timeout(Box::pin(async { tokio::join!(starting, observing) })).await;
    running.unwrap()
}

/// Shuts the server down, and waits for the end.
pub(crate) async fn stop(running: Running) -> Result<(), ServeError> {
    running.shutdown_handle().shut_down();
    with_timeout(running.wait()).await
}

pub(crate) async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, future).await.expect("no result within the timeout")
}

/// Polls until `condition` is true.
pub(crate) async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    with_timeout(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await; // between two polls
        }
    })
    .await;
}

pub(crate) async fn channel(running: &Running) -> Channel {
    connect(&running.grpc[0]).await
}

pub(crate) async fn connect(address: &ListenAddress) -> Channel {
    let uri = match address {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    };
    Endpoint::try_from(uri).unwrap().connect().await.unwrap()
}

pub(crate) async fn access(running: &Running) -> SupportAccessClient<Channel> {
    SupportAccessClient::new(channel(running).await)
}

pub(crate) async fn admin(running: &Running) -> SupportAccessAdminClient<Channel> {
    SupportAccessAdminClient::new(channel(running).await)
}

pub(crate) fn a_check() -> CheckAccessRequest {
    check_request("acme", "")
}

pub(crate) fn an_access_check() -> AccessCheck {
    access_check("acme")
}

pub(crate) fn a_grant() -> GrantAccessRequest {
    GrantAccessRequest { reason: "a broken report".to_owned(), ..grant_request("acme") }
}

/// Status, head and body of the response to a GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    with_timeout(stream.read_to_string(&mut response)).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

/// Whether the metrics contain `line`.
pub(crate) async fn has_metric(running: &Running, line: &str) -> bool {
    get(running.metrics, "/metrics").await.2.lines().any(|metric| metric == line)
}

pub(crate) async fn wait_for_metric(running: &Running, line: &str) {
    eventually(async || has_metric(running, line).await).await;
}

/// The metric of calls to `method` of `service` that ended with `code`.
pub(crate) fn rpcs(service: &str, method: &str, code: &str, count: u32) -> String {
    format!(
        "support_access_rpcs_total{{service=\"{service}\",method=\"{method}\",code=\"{code}\"}} \
         {count}"
    )
}
