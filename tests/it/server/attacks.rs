//! Attackers on raw sockets, beside a well-behaved gateway whose checks must be answered in time.
//!
//! The HTTP/2 and TLS implementations have their own conformance tests. These tests cover the
//! limits and timeouts of this service, and the memory that attackers can make the service use.

mod callers;
mod connections;
mod denials;
mod floods;
mod frames;
mod fuzz;
mod garbage;
mod memory;
mod oversized;
mod parsers;
mod raw;
mod resident;
mod secrets;
mod slow;

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use support_access::{
    api::proto::v1::support_access_client::SupportAccessClient,
    server::{
        Running,
        config::{CallLimits, Common, Config, ListenAddress},
    },
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::server::harness::{a_check, common, config, get, loopback, start, wait_for_metric};

/// Timeout of each check of the gateway. Shorter than the server's timeouts of ten seconds, so that
/// a gateway that has to wait for the timeout of an attacker fails the test.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
const MEGABYTE: usize = 1_024 * 1_024;

/// A gateway that checks access continuously on one connection.
struct BackgroundClient {
    checks: Arc<AtomicUsize>,
    stop: CancellationToken,
    checking: tokio::task::JoinHandle<()>,
}

impl BackgroundClient {
    async fn connect(running: &Running) -> Self {
        Self::on(connect(tcp(running)).await)
    }

    fn on(channel: Channel) -> Self {
        let checks = Arc::<AtomicUsize>::default();
        let stop = CancellationToken::new();
        let (counter, stopped) = (Arc::clone(&checks), stop.clone());
        let mut client = SupportAccessClient::new(channel);
        let checking = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                let response = timeout(CHECK_TIMEOUT, client.check_access(a_check())).await;
                response.expect("a response within the timeout").expect("a successful check");
                counter.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(2)).await; // between two checks
            }
        });
        Self { checks, stop, checking }
    }

    /// Stops the gateway. Fails if a check was not answered. Returns the number of checks.
    async fn stop(self) -> usize {
        self.stop.cancel();
        self.checking.await.expect("every check was answered");
        let checks = self.checks.load(Ordering::SeqCst);
        assert!(checks > 0, "the gateway made no checks");
        checks
    }
}

/// A server without authentication and with these limits.
async fn limited(limits: CallLimits) -> Running {
    let web_listen = Some(ListenAddress::Tcp(loopback()));
    start(Config { common: Common { limits, ..common() }, web_listen, ..config() }).await.0
}

fn tcp(running: &Running) -> SocketAddr {
    let ListenAddress::Tcp(address) = &running.grpc[0] else { panic!("not a TCP address") };
    *address
}

/// The address of the web listener.
fn web(running: &Running) -> SocketAddr {
    let Some(ListenAddress::Tcp(address)) = &running.web else { panic!("not a TCP address") };
    *address
}

async fn connect(address: SocketAddr) -> Channel {
    Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A request of the caller `name`.
fn named<M>(message: M, name: &str) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("support-access-actor", name.parse().unwrap());
    request
}

/// Whether `count` further connections are accepted and answered at the same time.
async fn accepts(address: SocketAddr, count: usize) -> bool {
    let checks = (0..count).map(|_| async move {
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let mut client = SupportAccessClient::new(endpoint.connect().await.ok()?);
        let response = timeout(CHECK_TIMEOUT, client.check_access(a_check())).await.ok()?;
        response.ok().map(|_| client)
    });
    join_all(checks).await.iter().all(Option::is_some)
}

/// Waits until the server has `count` gRPC connections. The metrics endpoint has a separate limit,
/// so that observing uses none of these connections.
async fn wait_for_connections(running: &Running, count: usize) {
    wait_for_metric(running, &format!("support_access_connections {count}")).await;
}

/// Checks that the server serves, and that no call has failed because of the server.
async fn assert_healthy(running: &Running, channel: Channel) {
    let mut health = HealthClient::new(channel);
    let health = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let metrics = get(running.metrics, "/metrics").await.2;
    for code in ["INTERNAL", "UNKNOWN", "DATA_LOSS"] {
        let failed = metrics
            .lines()
            .find(|line| line.contains(&format!("code=\"{code}\"")) && !line.ends_with(" 0"));
        assert_eq!(failed, None);
    }
}

/// The resident memory of this process, which contains the server and the attackers, in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}
