//! How long a revocation takes to be in force at three replicas and a hundred sidecars on this machine, while checks are made at all
//! of them: beside one row changed and committed on the same PostgreSQL, in between. Not a loop of criterion's: it wants many runs of
//! the same, and this one a fleet of processes.

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

#[path = "../tests/nodes/fleet.rs"]
mod fleet;
#[path = "../tests/nodes/history.rs"]
mod history;
#[path = "../tests/nodes/load.rs"]
mod load;
#[path = "../tests/nodes/measure.rs"]
mod measure;
#[path = "../tests/common/postgres.rs"]
mod postgres;
#[path = "../tests/common/server.rs"]
mod server;

use measure::{Plan, measure};
use tokio::runtime::Runtime;

const PLAN: Plan = Plan { replicas: 3, sidecars: 100, revocations: 300, checks_per_second: 1_000 };

fn main() {
    Runtime::new().unwrap().block_on(measure(PLAN)).print();
}
