//! A deterministic simulation of the protocol between check nodes.
//!
//! The drivers of `node` and `service` run in virtual time, with clocks, a network and a database
//! that fail. One seed determines one history, so every failure can be repeated. The checker
//! observes every commit and every check. The first violation of a guarantee ends the history:
//!
//! - A check is allowed after the grant was revoked or has expired, or despite a lock.
//! - An event is lost or applied twice.
//! - A revocation takes too long.
//! - A node still denies after everything was repaired.
//!
//! [`node`] and [`service`] are copies of the modules of the service. `build.rs` has compiled the
//! mutants of `mutants/` into the copies. Each mutant breaks one rule of the protocol, and the
//! tests require that the simulation detects every broken rule.

#![allow(clippy::expect_used, reason = "a simulation fails by panicking")]

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Builder, time::sleep};
use tokio_util::sync::CancellationToken;

pub(crate) use support_access::{domain, store};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

mod check;
mod checker;
mod clocks;
mod cluster;
mod costs;
mod counts;
mod database;
mod faults;
mod faulty_store;
mod faulty_transaction;
mod fixture;
mod forgeries;
mod link;
mod liveness;
mod logs;
mod model;
mod mutants;
mod network;
mod observed;
mod plan;
mod process;
mod random;
mod targeted;
mod workload;

pub use costs::{Costs, costs};
pub use counts::Counts;
pub use database::Statements;
pub use mutants::Rule;
pub use targeted::{SCENARIOS, Scenario};

use cluster::Cluster;
use faults::FaultInjector;
use logs::LogRecorder;
use mutants::break_rule;
use plan::Plan;
use random::Random;
use workload::Workload;

/// How a simulation is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// The rule to break, if any.
    pub broken: Option<Rule>,
    /// Whether the history includes the log lines of the nodes.
    pub with_logs: bool,
}

/// The result of a simulation.
#[derive(Debug)]
pub struct Outcome {
    /// The first violation of a guarantee.
    pub violation: Option<String>,
    /// The history: one line for each event, with the virtual time in milliseconds.
    pub lines: Vec<String>,
    /// How much the history has covered.
    pub counts: Counts,
}

/// Simulates the history of one seed.
pub fn simulate(seed: u64, settings: Settings) -> Outcome {
    run(settings, async move {
        let random = Arc::new(Random::new(seed));
        let plan = Plan::random(&random);
        let cluster = Cluster::new(plan, random).await;
        (Arc::clone(&cluster), random_history(cluster))
    })
}

/// Runs one history in virtual time, until the end or the first violation.
fn run<H: Future<Output = ()>>(
    settings: Settings,
    start: impl Future<Output = (Arc<Cluster>, H)>,
) -> Outcome {
    break_rule(settings.broken);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs no resources");
    let outcome = runtime.block_on(async {
        let (cluster, history) = start.await;
        let checker = &cluster.checker;
        let recorder = settings.with_logs.then(|| LogRecorder(Arc::clone(checker)));
        let _recording = recorder.map(tracing::subscriber::set_default);
        tokio::select! {
            biased;
            () = checker.violated() => {}
            () = history => {}
        }
        let (violation, lines) = checker.history();
        Outcome { violation, lines, counts: checker.counts() }
    });
    drop(runtime);
    break_rule(None);
    outcome
}

/// Injects random faults under a random workload. At the end, everything is repaired, and must
/// work.
async fn random_history(cluster: Arc<Cluster>) {
    let quiesce = CancellationToken::new();
    let workload = Workload::new(Arc::clone(&cluster));
    let faults = FaultInjector::new(Arc::clone(&cluster), Arc::clone(&workload), quiesce.clone());
    for number in 0..cluster.machines.len() {
        if !cluster.random.chance(10) {
            cluster.start(number);
        }
    }
    for _ in 0..2 {
        cluster.tasks.spawn(Arc::clone(&workload).run(quiesce.clone()));
    }
    sleep(Duration::from_millis(300)).await;
    cluster.tasks.spawn(Arc::clone(&faults).run());
    sleep(cluster.max_staleness * 4 + Duration::from_secs(4)).await;
    quiesce.cancel();
    liveness::check(&cluster, &workload, &faults).await;
}
