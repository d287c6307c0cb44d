//! Bounds on what callers may use of a server, so that none of them can take it from the others.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;

use crate::domain::Span;

/// The table `[limits]` of the configuration file. Each has a default; a number is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallLimits {
    /// gRPC connections at a time, on all listeners together. More wait.
    pub connections: usize,
    /// Of these, from one IP address, or one network of IPv6 (/64). More are closed at once.
    pub connections_per_address: usize,
    /// Calls at a time on one connection. More wait at their caller.
    pub calls_per_connection: u32,
    /// Calls of one caller at a time, until their answers were taken, and changes until they are done. More are answered
    /// `RESOURCE_EXHAUSTED`.
    pub calls_per_caller: usize,
    /// Checks of one caller in a second; twice as many at once. More are answered `RESOURCE_EXHAUSTED`.
    pub checks_per_second: u32,
    /// All other requests of one caller in a second; twice as many at once. As above.
    pub requests_per_second: u32,
    /// Nodes at a time that follow with one caller's credentials. As above.
    pub followers_per_caller: usize,
    /// How often a silent connection is asked whether it is still there.
    pub keepalive_interval: Span,
    /// How long it may take to say so. Else it is closed.
    pub keepalive_timeout: Span,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_address: 2_048,
            calls_per_connection: 1_024,
            calls_per_caller: 512,
            checks_per_second: 100_000,
            requests_per_second: 2_000,
            followers_per_caller: 4_096,
            keepalive_interval: Span(Duration::from_secs(20)),
            keepalive_timeout: Span(Duration::from_secs(10)),
        }
    }
}

impl CallLimits {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            connections,
            connections_per_address,
            calls_per_connection,
            calls_per_caller,
            checks_per_second,
            requests_per_second,
            followers_per_caller,
            keepalive_interval,
            keepalive_timeout,
        } = *self;
        let zero = [
            ("connections", connections == 0),
            ("connections_per_address", connections_per_address == 0),
            ("calls_per_connection", calls_per_connection == 0),
            ("calls_per_caller", calls_per_caller == 0),
            ("checks_per_second", checks_per_second == 0),
            ("requests_per_second", requests_per_second == 0),
            ("followers_per_caller", followers_per_caller == 0),
        ];
        let spans =
            [("keepalive_interval", keepalive_interval), ("keepalive_timeout", keepalive_timeout)];
        if let Some((name, span)) = spans.into_iter().find(|(_, it)| !KEEPALIVE.contains(&it.0)) {
            return Err(format!("{name} must be from 100ms to 5m, but is {span}"));
        }
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(format!("{name} must be at least 1, but is 0")),
            None if connections > MAX => {
                Err(format!("connections must be at most {MAX}, but is {connections}"))
            }
            None => Ok(()),
        }
    }
}

const KEEPALIVE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(5);
/// More connections than a process has file descriptors for.
const MAX: usize = 1_000_000;
