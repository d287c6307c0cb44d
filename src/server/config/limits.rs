//! Limits on the resources of callers.

use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use crate::domain::Span;

const KEEPALIVE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(5);
/// Upper bound for `connections`: more than a process has file descriptors.
const CONNECTIONS_MAX: usize = 1_000_000;

/// The table `[limits]` of the configuration file. Numbers are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallLimits {
    /// Memory of the process, in MiB. The node derives limits of connections, calls, followers and
    /// bytes from it. The limits below apply, too. Zero: the limit of the cgroup, else 4096.
    pub memory_mib: u32,
    /// Concurrent gRPC connections on all listeners together. Further connections wait.
    pub connections: usize,
    /// Concurrent connections from one IPv4 address, one IPv6 network (/64) or one user of this
    /// host. Further connections are closed.
    pub connections_per_address: usize,
    /// Concurrent calls on one connection. Further calls wait at the client.
    pub calls_per_connection: u32,
    /// Concurrent calls of one caller, counted until the response is read. Changes count until they
    /// are done, even if the caller disconnects. Further calls fail with `RESOURCE_EXHAUSTED`.
    pub calls_per_caller: usize,
    /// Checks of one caller per second. Bursts may be twice as large. Further checks fail with
    /// `RESOURCE_EXHAUSTED`.
    pub checks_per_second: u32,
    /// All other requests of one caller per second, with the same bursts and the same error.
    pub requests_per_second: u32,
    /// Concurrent followers with the credentials of one caller. Further followers fail with
    /// `RESOURCE_EXHAUSTED`.
    pub followers_per_caller: usize,
    /// Interval of HTTP/2 pings on idle connections, 100ms to 5m.
    pub keepalive_interval: Span,
    /// Timeout for the response to a ping, 100ms to 5m. Then the connection is closed.
    pub keepalive_timeout: Span,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            memory_mib: 0,
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
    /// The invalid fields, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let Self {
            memory_mib: _,
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
        let numbers = [
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
        let zero = numbers.into_iter().filter(|(_, is_zero)| *is_zero);
        let mut problems: Vec<String> =
            zero.map(|(name, _)| format!("{name} must be at least 1, but is 0")).collect();
        if connections > CONNECTIONS_MAX {
            problems.push(format!(
                "connections must be at most {CONNECTIONS_MAX}, but is {connections}"
            ));
        }
        let invalid = spans.into_iter().filter(|(_, span)| !KEEPALIVE.contains(&span.0));
        problems.extend(invalid.map(|(name, span)| {
            format!("{name} must be a duration from 100ms to 5m, but is {span}")
        }));
        problems
    }
}
