//! Bounds on what callers may use of a server, so that none of them can take it from the others.

use serde::Deserialize;

/// The table `[limits]` of the configuration file. Each has a default, and is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallLimits {
    /// gRPC connections at a time, on all listeners together. More wait.
    pub connections: usize,
    /// Of these, from one IP address. More are closed at once.
    pub connections_per_address: usize,
    /// Calls at a time on one connection. More wait at their caller.
    pub calls_per_connection: u32,
    /// Calls of one caller at a time. More are answered `RESOURCE_EXHAUSTED`.
    pub calls_per_caller: usize,
    /// Checks of one caller in a second; twice as many at once. More are answered `RESOURCE_EXHAUSTED`.
    pub checks_per_second: u32,
    /// All other requests of one caller in a second; twice as many at once. As above.
    pub requests_per_second: u32,
    /// Nodes at a time that follow with one caller's credentials. As above.
    pub followers_per_caller: usize,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_address: 2_048,
            calls_per_connection: 1_024,
            calls_per_caller: 2_048,
            checks_per_second: 100_000,
            requests_per_second: 2_000,
            followers_per_caller: 4_096,
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
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(format!("{name} must be at least 1, but is 0")),
            None if connections > MAX => {
                Err(format!("connections must be at most {MAX}, but is {connections}"))
            }
            None => Ok(()),
        }
    }
}

/// More connections than a process has file descriptors for.
const MAX: usize = 1_000_000;
