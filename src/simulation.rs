//! The protocol of check nodes, simulated: the real drivers of `node` and `work`, in a world where everything fails.
//!
//! One seed makes one history, in virtual time, always the same. [`judge`] sees all of it, and accuses whoever breaks the
//! promise: a check that is allowed after somebody was told that it cannot be, or at the end of a grant or later; an event that is lost or
//! counted twice; a revocation that takes too long; a node that goes on denying when everything is well.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Builder, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    node::mutants::{Rule, break_rule},
    simulation::{
        random::Random,
        storms::Storms,
        users::Users,
        world::{Plan, World},
    },
};

mod aimed;
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
mod stage;
mod store;
mod storms;
mod users;
mod wellness;
mod world;

/// How a simulation went.
#[derive(Debug)]
struct Outcome {
    /// Who has broken the promise first, and how.
    accusation: Option<String>,
    lines: Vec<String>,
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
    let (accusation, lines, _) = runtime.block_on(async {
        let (world, story) = begin.await;
        let _logs = std::env::var_os("LOGS")
            .map(|_| tracing::subscriber::set_default(logs::Logs(Arc::clone(&world.judge))));
        tokio::select! {
            biased;
            () = world.judge.accused() => {}
            () = story => {}
        }
        world.judge.verdict()
    });
    drop(runtime);
    break_rule(None);
    Outcome { accusation, lines }
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

/// The first seed, of so many, whose history shows that a rule is broken.
fn first_seed_that_shows(rule: Rule, seeds: u64) -> Option<(u64, String)> {
    (1..=seeds).find_map(|seed| Some((seed, simulate(seed, Some(rule)).accusation?)))
}

/// Does all jobs, on as many threads as there are processors.
fn in_parallel<J: Copy + Send + Sync, T: Send>(
    jobs: &[J],
    work: impl Fn(J) -> T + Sync,
) -> Vec<(J, T)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(job);
                    done.lock().push((job, result));
                }
            });
        }
    });
    done.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str, default: u64) -> u64 {
        std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
    }

    #[test]
    fn histories() {
        let first = number("SUPPORT_ACCESS_FIRST_SEED", 1);
        let seeds: Vec<_> = (first..first + number("SUPPORT_ACCESS_SEEDS", 20)).collect();
        let began = std::time::Instant::now();
        let mut outcomes = in_parallel(&seeds, |seed| simulate(seed, None));
        println!("took {:?}", began.elapsed());
        outcomes.sort_by_key(|(seed, _)| *seed);
        let failed = outcomes
            .iter()
            .filter_map(|(seed, outcome)| Some((seed, outcome, outcome.accusation.as_ref()?)));
        let mut failures = 0;
        for (seed, outcome, accusation) in failed {
            failures += 1;
            let from =
                outcome.lines.len().saturating_sub(usize::try_from(number("LINES", 100)).unwrap());
            if failures == 1 {
                for line in &outcome.lines[from..] {
                    println!("{line}");
                }
            }
            println!("seed {seed}: {accusation}");
        }
        assert_eq!(failures, 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        for seed in 1..6 {
            let (one, other) = (simulate(seed, None), simulate(seed, None));
            for (line, other) in one.lines.iter().zip(&other.lines) {
                assert_eq!(line, other, "seed {seed}");
            }
        }
    }

    #[test]
    fn aimed_scenarios() {
        for scenario in aimed::ALL {
            for seed in 1..=number("SEEDS", 3) {
                let outcome = scenario.play(seed, None);
                if std::env::var("PLAY").is_ok_and(|name| scenario.name.contains(&name)) {
                    println!("{}", outcome.lines.join("\n"));
                }
                if let Some(accusation) = outcome.accusation {
                    println!("{}", outcome.lines.join("\n"));
                    panic!("{}: {accusation}", scenario.name);
                }
            }
            for rule in scenario.at {
                let found = (1..=10)
                    .find_map(|seed| Some((seed, scenario.play(seed, Some(*rule)).accusation?)));
                println!("{rule:?}: {found:?} {}", scenario.name);
                if found.is_none() && std::env::var_os("SHOW").is_some() {
                    println!("{}", scenario.play(1, Some(*rule)).lines.join("\n"));
                }
            }
        }
    }

    #[test]
    fn every_broken_rule_is_noticed() {
        let only = std::env::var("RULE").ok();
        let rules: Vec<_> = Rule::ALL
            .into_iter()
            .filter(|rule| only.as_ref().is_none_or(|only| format!("{rule:?}") == *only))
            .collect();
        let seeds = number("SUPPORT_ACCESS_SEEDS", 40);
        let shown = in_parallel(&rules, |rule| {
            let began = std::time::Instant::now();
            let found = first_seed_that_shows(rule, seeds);
            println!("{rule:?}: {found:?} {:?}", began.elapsed());
            found
        });
        drop(shown);
    }
}
