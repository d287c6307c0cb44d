//! The duration of a revocation with three replicas and a hundred sidecars on this machine, under
//! checks at all nodes. Arguments set other numbers of replicas, sidecars and revocations. For
//! comparison, the benchmark also measures the commit of one row in the same PostgreSQL server.
//!
//! The benchmark needs a fleet of processes, so it does not use criterion.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark panics on failure, prints results and shares code with the tests"
)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/e2e/nodes"]
mod nodes {
    mod fleet;
    mod history;
    mod load;
    pub mod measure;

    use crate::common::{postgres, requests, server};
}

use std::env;

use nodes::measure::{Plan, measure};
use tokio::runtime::Runtime;

/// The numbers of replicas, sidecars and revocations, unless given as arguments.
const PLAN: [usize; 3] = [3, 100, 300];

fn main() {
    // Cargo passes `--bench`.
    let given: Vec<usize> = env::args().filter_map(|argument| argument.parse().ok()).collect();
    let [replicas, sidecars, revocations] = given.try_into().unwrap_or(PLAN);
    let plan = Plan { replicas, sidecars, revocations, checks_per_second: 1_000 };
    Runtime::new().unwrap().block_on(measure(plan)).print();
}
