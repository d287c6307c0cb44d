//! Check nodes as real processes: replicas on one PostgreSQL, and sidecars that they feed. What is paused, killed, cut off or put
//! back to an older state here is real, too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and prints what it finds"
)]
#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

#[allow(dead_code, reason = "not every test needs all of it")]
#[path = "../common/later.rs"]
mod later;
#[allow(dead_code, reason = "not every test needs all of it")]
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "not every test needs all of it")]
#[path = "../common/server.rs"]
mod server;

mod administrator;
mod fleet;
mod history;
mod load;
mod measure;

mod chaos;
mod clocks;
mod database;
mod enforcement;
mod failover;
mod locks;
mod recovery;
mod refusals;
mod sidecars;
mod silence;
mod upgrade;
