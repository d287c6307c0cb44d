//! Servers in this process, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests fail by panicking, and print measurements"
)]

#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared with other tests, which use the rest"
)]
#[path = "../common/postgres.rs"]
mod postgres;
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::print_stderr,
    reason = "shared with other tests, which use the rest"
)]
#[path = "../common/server.rs"]
mod process;
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::disallowed_methods,
    reason = "shared with other tests, which use the rest"
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
