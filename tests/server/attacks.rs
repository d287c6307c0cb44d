//! Attackers on raw sockets, beside a gateway that behaves: it must be answered all the time,
//! whatever they do.

mod callers;
mod connections;
mod floods;
mod frames;
mod fuzz;
mod garbage;
mod memory;
mod oversized;
mod parsers;
mod raw;
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
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{a_check, common, config, eventually, get, start};

/// How long the gateway waits for any one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A gateway that asks again and again, on one connection.
struct Bystander {
    answers: Arc<AtomicUsize>,
    stop: CancellationToken,
    asking: tokio::task::JoinHandle<()>,
}

impl Bystander {
    async fn at(running: &Running) -> Self {
        Self::on(connect(tcp(running)).await)
    }

    fn on(channel: Channel) -> Self {
        let answers = Arc::<AtomicUsize>::default();
        let stop = CancellationToken::new();
        let (counted, stopped) = (Arc::clone(&answers), stop.clone());
        let mut client = SupportAccessClient::new(channel);
        let asking = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                let answer = timeout(ANSWER_TIMEOUT, client.check_access(a_check())).await;
                answer.expect("an answer in time").expect("an answer");
                counted.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(2)).await; // between two questions
            }
        });
        Self { answers, stop, asking }
    }

    /// Every question was answered. How many there were.
    async fn end(self) -> usize {
        self.stop.cancel();
        self.asking.await.expect("every question was answered");
        let answers = self.answers.load(Ordering::SeqCst);
        assert!(answers > 0, "it has not asked anything");
        answers
    }
}

/// An open server with these limits.
async fn limited(limits: CallLimits) -> Running {
    start(Config { common: Common { limits, ..common() }, ..config() }).await.0
}

fn tcp(running: &Running) -> SocketAddr {
    let ListenAddress::Tcp(address) = &running.grpc[0] else { panic!("not on TCP") };
    *address
}

async fn connect(address: SocketAddr) -> Channel {
    Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Whether so many connections more are taken and answered at the same time.
async fn has_places(address: SocketAddr, count: usize) -> bool {
    let asked = (0..count).map(|_| async move {
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let mut client = SupportAccessClient::new(endpoint.connect().await.ok()?);
        let answer = timeout(ANSWER_TIMEOUT, client.check_access(a_check())).await.ok()?;
        answer.ok().map(|_| client)
    });
    join_all(asked).await.iter().all(Option::is_some)
}

/// Waits until all places are free again.
async fn places_return(address: SocketAddr, count: usize) {
    eventually(async || has_places(address, count).await).await;
}

/// Nothing has panicked, nothing went wrong inside, and the server serves.
async fn assert_well(running: &Running, channel: Channel) {
    let mut health = HealthClient::new(channel);
    let health = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let metrics = get(running.metrics, "/metrics").await.2;
    for code in ["INTERNAL", "UNKNOWN", "DATA_LOSS"] {
        let wrong = metrics
            .lines()
            .find(|line| line.contains(&format!("code=\"{code}\"")) && !line.ends_with(" 0"));
        assert_eq!(wrong, None);
    }
}

/// The memory of this process, server and attackers together, in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

const MEGABYTE: usize = 1_024 * 1_024;
