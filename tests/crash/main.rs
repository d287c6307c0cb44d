//! What was acknowledged survives: the server is killed again and again, and its database taken away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and prints its seed"
)]
#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

#[path = "../common/backend.rs"]
mod backend;
#[allow(dead_code, reason = "not every test needs all of it")]
#[path = "../common/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "not every test needs all of it")]
#[path = "../common/server.rs"]
mod server;

mod administrators;
mod expected_state;
mod kill;
mod outage;
