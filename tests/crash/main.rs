//! Acknowledged changes survive crashes of the server and outages of the database.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking and prints the seed"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with the runtime")]

#[path = "../common/backend.rs"]
mod backend;
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
#[path = "../common/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
#[path = "../common/server.rs"]
mod server;

mod administrators;
mod expected_state;
mod kill;
mod outage;
