//! Duration of the enforcement of a revocation at three replicas and a hundred sidecars on this
//! machine, while all nodes answer checks. For comparison, a row is changed and committed in the
//! same PostgreSQL in between. criterion does not drive this benchmark, because each run needs a
//! fleet of processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark fails by panicking, prints what it finds, and needs a part of what tests share"
)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/e2e/nodes"]
mod nodes {
    mod fleet;
    mod history;
    mod load;
    pub mod measure;

    use crate::common::{postgres, server};
}

use nodes::measure::{Plan, measure};
use tokio::runtime::Runtime;

const PLAN: Plan = Plan { replicas: 3, sidecars: 100, revocations: 300, checks_per_second: 1_000 };

fn main() {
    Runtime::new().unwrap().block_on(measure(PLAN)).print();
}
