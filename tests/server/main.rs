//! A whole server in this process, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a panic is an answer")]

mod follow;
mod follower;
mod harness;
mod held;
mod identity;
mod lifecycle;
mod rpcs;
mod sidecars;
mod sockets;
mod upstreams;
