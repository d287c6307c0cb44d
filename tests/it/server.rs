//! Servers in this process, over real sockets, and their parts.

#[allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
mod attacks;
mod clock;
mod config;
mod credentials;
mod envoy;
mod errors;
mod expiry;
mod follow;
mod follower;
mod grant_limits;
mod harness;
mod health;
mod identity;
mod isolation;
mod kinds;
mod lifecycle;
mod messages;
mod metrics;
mod observe;
mod rpcs;
mod sidecars;
mod slow_store;
mod sockets;
mod tasks;
mod timeouts;
mod tokens;
mod upstreams;
mod web;

use crate::common::{postgres, proxy, server as process};
