//! The duration of a revocation with three replicas and a hundred sidecars on this machine, under
//! checks at all nodes. For comparison, the benchmark also measures the commit of one row in the
//! same PostgreSQL server.
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

use nodes::measure::{Plan, measure};
use tokio::runtime::Runtime;

const PLAN: Plan = Plan { replicas: 3, sidecars: 100, revocations: 300, checks_per_second: 1_000 };

fn main() {
    Runtime::new().unwrap().block_on(measure(PLAN)).print();
}
