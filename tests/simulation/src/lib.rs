//! A deterministic simulation of the protocol between check nodes.
//!
//! The drivers of `node` and `service` run in virtual time, with clocks, a network and a database that fail. One seed
//! determines one history, so every failure can be repeated. The checker sees everything, and ends the history at the first
//! violation of a guarantee: a check that is allowed after its grant was revoked everywhere or has expired, or despite a lock; an
//! event that is lost or applied twice; a revocation that takes too long; a node that still denies once everything is repaired.
//!
//! [`node`] and [`service`] are copies of the modules of the service. `build.rs` has compiled the mutants of `mutants/` into
//! them: each breaks one rule of the protocol, and the tests require that the simulation detects it.

#![allow(clippy::expect_used, reason = "a simulation fails by panicking")]

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Builder, time::sleep};
use tokio_util::sync::CancellationToken;

pub(crate) use support_access::{domain, store};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

mod checker;
mod clocks;
mod cluster;
mod counts;
mod database;
mod faults;
mod faulty_store;
mod faulty_transaction;
mod fixture;
mod link;
mod liveness;
mod logs;
mod model;
mod mutants;
mod network;
mod process;
mod random;
mod targeted;
mod workload;

pub use counts::Counts;
pub use mutants::Rule;
pub use targeted::{SCENARIOS, Scenario};

use cluster::{Plan, World};
use faults::Storms;
use logs::Logs;
use mutants::break_rule;
use random::Random;
use workload::Users;

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
    /// The history: one line for each event, with its virtual time in milliseconds.
    pub lines: Vec<String>,
    /// How much the history has covered.
    pub counts: Counts,
}

/// Simulates the history of one seed.
pub fn simulate(seed: u64, settings: Settings) -> Outcome {
    run(settings, async move {
        let random = Arc::new(Random::new(seed));
        let plan = Plan::random(&random);
        let world = World::new(plan, random).await;
        (Arc::clone(&world), history(world))
    })
}

/// Runs one story in virtual time, until it ends or violates a guarantee.
fn run<S: Future<Output = ()>>(
    settings: Settings,
    begin: impl Future<Output = (Arc<World>, S)>,
) -> Outcome {
    break_rule(settings.broken);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs no resources");
    let (violation, lines, counts) = runtime.block_on(async {
        let (world, story) = begin.await;
        let logs = settings.with_logs.then(|| Logs(Arc::clone(&world.judge)));
        let _logging = logs.map(tracing::subscriber::set_default);
        tokio::select! {
            biased;
            () = world.judge.accused() => {}
            () = story => {}
        }
        world.judge.verdict()
    });
    drop(runtime);
    break_rule(None);
    Outcome { violation, lines, counts }
}

/// Random faults under a random workload; then everything is repaired, and must work.
async fn history(world: Arc<World>) {
    let calm = CancellationToken::new();
    let users = Users::new(Arc::clone(&world));
    let storms = Storms::new(Arc::clone(&world), Arc::clone(&users), calm.clone());
    for number in 0..world.machines.len() {
        if !world.random.chance(10) {
            world.start(number);
        }
    }
    for _ in 0..2 {
        world.tasks.spawn(Arc::clone(&users).work(calm.clone()));
    }
    sleep(Duration::from_millis(300)).await;
    world.tasks.spawn(Arc::clone(&storms).rage());
    sleep(world.lease * 4 + Duration::from_secs(4)).await;
    calm.cancel();
    liveness::expect(&world, &users, &storms).await;
}
