//! Tests of the program as processes: the command line, the documents, crashes, and check nodes.

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

#[path = "../common/mod.rs"]
mod common;

mod cli;
mod crash;
mod docs;
mod event_key;
mod files;
mod logs;
mod nodes;
