//! Tests in one process: the library, every store, and servers over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and prints its seed and its measurements"
)]
#![allow(clippy::disallowed_methods, reason = "the tasks of a test end with its runtime")]

mod auth;
#[path = "../common/mod.rs"]
mod common;
mod domain;
mod node;
mod properties;
mod server;
mod store;
