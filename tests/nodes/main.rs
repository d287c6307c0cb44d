//! Check nodes as real processes: replicas on one PostgreSQL database, and sidecars that follow the
//! replicas.
//!
//! The faults are real: processes are paused and killed, connections are cut, and databases are
//! restored to earlier states.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking and prints its measurements"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with the runtime")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
#[path = "../common/later.rs"]
mod later;
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
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
