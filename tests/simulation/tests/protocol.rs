//! The protocol keeps the guarantees in random and targeted histories, and violates a guarantee
//! when any rule is broken.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a failed history is printed")]
#![allow(clippy::cast_precision_loss, reason = "the numbers are small")]

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use simulation::{Counts, Outcome, Rule, SCENARIOS, Settings, Statements, costs, simulate};

/// Random histories of an ordinary run.
const SEEDS: u64 = 200;
/// Seeds that once found a fault. After a change of the simulation, these seeds may give other
/// histories.
const REGRESSIONS: [u64; 14] =
    [4, 5, 32, 40, 86, 148, 235, 357, 609, 4547, 4658, 6206, 6428, 10357];
/// Random histories in which a broken rule must be detected, unless a targeted scenario detects it.
const SEEDS_PER_RULE: u64 = 25;
/// How often each targeted scenario runs.
const REPETITIONS: u64 = 10;
/// The number of lines that are printed of a failed history, unless there is only one history.
const LINES: usize = 150;

const LOGGED: Settings = Settings { broken: None, with_logs: true };

/// Runs all jobs, on as many threads as there are processors. The results are in the order of the
/// jobs.
fn in_parallel<J: Copy + Send + Sync, T: Send>(
    jobs: &[J],
    work: impl Fn(J) -> T + Sync,
) -> Vec<(J, T)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&job) = jobs.get(index) else { return };
                    let result = work(job);
                    done.lock().insert(index, (job, result));
                }
            });
        }
    });
    done.into_inner().into_values().collect()
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Prints the last lines of a history.
fn print(outcome: &Outcome, lines: usize) {
    let skipped = outcome.lines.len().saturating_sub(lines);
    println!("{}", outcome.lines[skipped..].join("\n"));
}

#[test]
fn random_histories_keep_the_guarantees() {
    let first = number("SUPPORT_ACCESS_FIRST_SEED", 1);
    let mut seeds: Vec<_> = (first..first + number("SUPPORT_ACCESS_SEEDS", SEEDS)).collect();
    if std::env::var_os("SUPPORT_ACCESS_SEEDS").is_none() {
        seeds.extend(REGRESSIONS.iter().filter(|seed| !(first..first + SEEDS).contains(seed)));
    }
    let outcomes = in_parallel(&seeds, |seed| {
        let outcome = simulate(seed, Settings::default());
        (outcome.violation, outcome.counts)
    });
    let counts = outcomes.iter().fold(Counts::default(), |sum, (_, (_, counts))| sum + *counts);
    println!("{} histories: {counts:?}", outcomes.len());
    let failed: Vec<_> = outcomes
        .iter()
        .filter_map(|(seed, (violation, _))| Some((seed, violation.as_ref()?)))
        .collect();
    if let Some((seed, _)) = failed.first() {
        print(&simulate(**seed, LOGGED), if seeds.len() == 1 { usize::MAX } else { LINES });
    }
    for (seed, violation) in &failed {
        println!("{violation}; to repeat this history, run: scripts/simulate 1 {seed}");
    }
    assert!(
        failed.is_empty(),
        "{} of {} histories violate a guarantee",
        failed.len(),
        outcomes.len()
    );
    let is_allowed = counts.allowed > counts.allowed_ai && counts.allowed_ai > 0;
    let has_checks = is_allowed && counts.stale > 0 && counts.locked > 0;
    assert!(has_checks, "the checks must include all decisions: {counts:?}");
    let has_changes = counts.complete > counts.acknowledged && counts.acknowledged > 0;
    assert!(has_changes, "changes must be enforced with and without expired leases: {counts:?}");
}

#[test]
fn targeted_scenarios_keep_the_guarantees() {
    for scenario in &SCENARIOS {
        for seed in 1..=REPETITIONS {
            let outcome = scenario.run(seed, LOGGED);
            if let Some(violation) = &outcome.violation {
                print(&outcome, LINES);
                panic!("{}, with seed {seed}: {violation}", scenario.name);
            }
        }
    }
}

#[test]
fn every_broken_rule_is_detected() {
    println!("{:<25} {:>7} {:>8}", "rule", "random", "targeted");
    let found = in_parallel(&Rule::ALL, |rule| {
        let settings = Settings { broken: Some(rule), with_logs: false };
        let detects = |outcome: Outcome| outcome.violation.is_some();
        let random = (1..=SEEDS_PER_RULE).find(|seed| detects(simulate(*seed, settings)));
        let targeted: Vec<_> = SCENARIOS
            .iter()
            .filter(|scenario| scenario.rules.contains(&rule))
            .map(|scenario| (1..=REPETITIONS).find(|seed| detects(scenario.run(*seed, settings))))
            .collect();
        (random, targeted)
    });
    let seed = |seed: Option<u64>| seed.map_or("never".into(), |seed| seed.to_string());
    let mut missed = Vec::new();
    for (rule, (random, targeted)) in found {
        let by_scenario: Vec<_> = targeted.iter().copied().map(seed).collect();
        println!("{:<25} {:>7} {:>8}", format!("{rule:?}"), seed(random), by_scenario.join(" "));
        let is_detected = random.is_some() || !targeted.is_empty();
        if !is_detected || targeted.contains(&None) {
            missed.push(rule);
        }
    }
    assert!(missed.is_empty(), "these rules can be broken without a violation: {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 1..=5 {
        let (first, second) = (simulate(seed, LOGGED), simulate(seed, LOGGED));
        for (line, same) in first.lines.iter().zip(&second.lines) {
            assert_eq!(line, same, "seed {seed}");
        }
        assert_eq!((first.lines.len(), first.counts), (second.lines.len(), second.counts));
    }
}

#[test]
fn membership_reads_and_acknowledgements_stay_linear() {
    const SECONDS: u32 = 10;
    for (replicas, sidecars_per_replica) in [(3, 2), (8, 1)] {
        let costs = costs(replicas, sidecars_per_replica, SECONDS);
        println!("{replicas} replicas: {costs:?}");
        assert_eq!(costs.violation, None);
        let nodes = replicas * (1 + sidecars_per_replica);
        assert_eq!(costs.enforcements.len(), SECONDS as usize);
        for enforcement in &costs.enforcements {
            let acknowledged = (enforcement.nodes_acknowledged as usize, enforcement.nodes_lapsed);
            assert_eq!(acknowledged, (nodes, 0), "{enforcement:?}");
        }
        let (replicas, seconds) = (replicas as f64, f64::from(SECONDS));
        let revokes = f64::from(SECONDS);
        let Statements { heartbeats, acknowledgements, membership_reads, evictions } =
            costs.statements;
        assert_eq!(evictions, 0);
        // A replica reads the membership twice a second. While a revocation is pending, one replica
        // reads at the start, at each acknowledgement, and twenty times a second.
        let idle = 1.05 * 2.0 * seconds * replicas;
        let elapsed = costs.enforcements.iter().map(|enforcement| enforcement.elapsed);
        let waiting = 20.0 * elapsed.map(|elapsed| elapsed.as_secs_f64()).sum::<f64>();
        let most = idle + waiting + revokes * (replicas + 1.0);
        assert!(membership_reads as f64 <= most, "{membership_reads} reads, at most {most}");
        // Each second has a grant and a revocation.
        let most = 2.0 * revokes * 1.2 * replicas;
        assert!(acknowledgements as f64 <= most, "{acknowledgements} writes, at most {most}");
        let most = replicas * seconds * 4.2;
        assert!(heartbeats as f64 <= most, "{heartbeats} heartbeats, at most {most}");
    }
}

#[test]
fn architecture_lists_all_rules() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("the document exists");
    let section = text.split("\n### ").find(|section| section.starts_with("The rules"));
    let mut listed: Vec<_> = section
        .expect("the section exists")
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("`: "))
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, Rule::ALL.map(|rule| (rule.name(), rule.text())));
}
