//! The protocol of check nodes, simulated: the real drivers of `node` and `work`, in a world where everything fails.
//!
//! One seed makes one history, in virtual time, always the same. [`judge`] sees all of it, and accuses whoever breaks the
//! promise: a check that is allowed after somebody was told that it cannot be, or at the end of a grant or later; an event that is lost or
//! counted twice; a revocation that takes too long; a node that goes on denying when everything is well.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Builder, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    node::mutants::{Rule, break_rule},
    simulation::{
        judge::Counts,
        random::Random,
        storms::Storms,
        users::Users,
        world::{Plan, World},
    },
};

mod change;
mod clocks;
mod database;
mod history;
mod host;
mod judge;
mod line;
mod logs;
mod network;
mod random;
mod storms;
mod store;
mod users;
mod wellness;
mod world;

/// How a simulation went.
#[derive(Debug)]
struct Outcome {
    /// Who has broken the promise first, and how.
    accusation: Option<String>,
    lines: Vec<String>,
    counts: Counts,
}

/// Simulates the history of one seed, with a rule broken or not.
fn simulate(seed: u64, rule: Option<Rule>) -> Outcome {
    run(rule, async move {
        let random = Arc::new(Random::new(seed));
        let plan = Plan::random(&random);
        let world = World::new(plan, random).await;
        (Arc::clone(&world), story(world))
    })
}

/// Runs a story in a world of its own, in virtual time.
fn run<S: Future<Output = ()>>(
    rule: Option<Rule>,
    begin: impl Future<Output = (Arc<World>, S)>,
) -> Outcome {
    break_rule(rule);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing");
    let (accusation, lines, counts) = runtime.block_on(async {
        let (world, story) = begin.await;
        let _logs = std::env::var_os("LOGS").map(|_| tracing::subscriber::set_default(logs::Logs(Arc::clone(&world.judge))));
        tokio::select! {
            biased;
            () = world.judge.accused() => {}
            () = story => {}
        }
        world.judge.verdict()
    });
    drop(runtime);
    break_rule(None);
    Outcome { accusation, lines, counts }
}

/// Everything goes wrong for a while, and then nothing any more.
async fn story(world: Arc<World>) {
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
    wellness::expect(&world, &users, &storms).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories() {
        let first = std::env::var("SUPPORT_ACCESS_FIRST_SEED").ok().map_or(1, |it| it.parse().unwrap());
        let count = std::env::var("SUPPORT_ACCESS_SEEDS").ok().map_or(20, |it| it.parse().unwrap());
        for seed in first..first + count {
            let began = std::time::Instant::now();
            let outcome = simulate(seed, None);
            let took = began.elapsed();
            println!("{seed}: {took:?} {} lines, {:?}", outcome.lines.len(), outcome.counts);
            if let Some(accusation) = outcome.accusation {
                let from = outcome.lines.len().saturating_sub(std::env::var("LINES").ok().map_or(100, |it| it.parse().unwrap()));
                for line in &outcome.lines[from..] {
                    println!("{line}");
                }
                panic!("seed {seed}: {accusation}");
            }
        }
    }
}
