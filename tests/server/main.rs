//! A whole server in this process, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "in tests a panic is an answer, and what is found is printed"
)]

#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared; not every test needs all of it"
)]
#[path = "../common/postgres.rs"]
mod postgres;
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::print_stderr,
    reason = "shared; not every test needs all of it"
)]
#[path = "../common/server.rs"]
mod process;
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::disallowed_methods,
    reason = "shared; not every test needs all of it"
)]
#[path = "../common/proxy.rs"]
mod proxy;

#[allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
mod attacks;
mod errors;
mod follow;
mod follower;
mod harness;
mod health;
mod identity;
mod isolation;
mod lifecycle;
mod rpcs;
mod sidecars;
mod slow_store;
mod sockets;
mod tokens;
mod upstreams;
