//! The memory that callers may use, derived from the memory limit of the process.

use std::fs;

use tracing::info;

use crate::{
    node::{FollowerLimits, NodeLimits, message::FOLLOWERS_MAX},
    server::config::CallLimits,
};

const MEBIBYTE: usize = 1_024 * 1_024;
/// The memory limit if neither the configuration nor a cgroup states one.
const DEFAULT: usize = 4_096 * MEBIBYTE;
/// Files with the limit of the cgroup, version 2 and version 1, as a container sees them.
const CGROUP_LIMITS: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// Maximum memory of a connection beyond the window and unread rejections: the buffers of TLS, and
/// the tables of HTTP/2.
const CONNECTION: usize = 64 * 1_024;
/// Memory for each concurrent call on one connection, shared by all connections.
const CALLS_PER_CONNECTION: usize = 8 * MEBIBYTE;
/// Minimum HTTP/2 window of a connection, and the window of a stream, in bytes.
pub(super) const WINDOW_MIN: u32 = 65_535;
/// Maximum window of HTTP/2 (RFC 9113, section 6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// Minimum window of a connection for each call, in bytes. `h2` closes a connection whose short
/// messages, at 256 bytes each, fill half of the window before they are read.
const WINDOW_PER_CALL: u32 = 512;
/// Maximum memory of a rejected call whose error the client does not read. All calls on a
/// connection may be rejected.
const REJECTION: usize = 2 * 1_024;
/// Maximum uncounted memory of a call: the copied head, a short message as received and as decoded,
/// or a short response, and the stream with its future. `attacks/resident.rs` measures it.
const CALL: usize = 48 * 1_024;
/// Maximum memory of a follower: messages of a snapshot that are queued, that wait, and that are
/// sent.
const FOLLOWER: usize = 128 * 1_024;
/// Maximum number of long-message bytes that one caller has in flight.
const BYTES_PER_CALLER_MAX: usize = 32 * MEBIBYTE;

/// Limits within the memory limit. Together, callers may use half of the memory. The other half is
/// for the snapshot, the program and the fragmentation of the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// The configured limits, lowered where the memory requires it.
    pub(super) limits: CallLimits,
    /// The HTTP/2 window of a connection, in bytes: what a client may send before the server reads.
    pub(super) window: u32,
    /// Calls of all callers.
    pub(super) calls: usize,
    /// Bytes of long messages of all callers.
    pub(super) bytes: usize,
    /// Bytes of long messages of one caller.
    pub(super) bytes_per_caller: usize,
    /// Streams to followers of all callers.
    pub(super) followers: usize,
    /// Limits for followers and upstreams.
    pub(super) node: NodeLimits,
}

impl Budget {
    /// The budget of this process: within the configured memory, else the limit of the cgroup.
    pub(super) fn of_process(configured: CallLimits) -> Self {
        let memory = match configured.memory_mib {
            0 => cgroup_limit().unwrap_or(DEFAULT),
            mebibytes => mebibytes as usize * MEBIBYTE,
        };
        let budget = Self::within(memory, configured);
        let CallLimits { connections, calls_per_caller, .. } = budget.limits;
        info!(
            memory_mib = memory / MEBIBYTE,
            connections,
            calls = budget.calls,
            calls_per_caller,
            followers = budget.followers,
            "limited callers to half of the memory"
        );
        budget
    }

    fn within(memory: usize, configured: CallLimits) -> Self {
        let calls = (memory / 16 / CALL).max(1);
        let followers = (memory / 8 / FOLLOWER).clamp(1, FOLLOWERS_MAX);
        let calls_per_connection = u32::try_from(memory / CALLS_PER_CONNECTION)
            .unwrap_or(u32::MAX)
            .clamp(1, configured.calls_per_connection);
        let window =
            calls_per_connection.saturating_mul(WINDOW_PER_CALL).clamp(WINDOW_MIN, WINDOW_MAX);
        let rejections = calls_per_connection as usize * REJECTION;
        let connection = CONNECTION + window as usize + rejections;
        let connections = (memory / 16 * 3 / connection).max(1);
        // One address takes at most half, if the memory is the limit.
        let per_address = connections.div_ceil(2);
        // The rest is for other callers.
        let followers_per_caller = configured.followers_per_caller.min(three_quarters(followers));
        let bytes_per_caller = (memory / 16).min(BYTES_PER_CALLER_MAX);
        Self {
            limits: CallLimits {
                connections: configured.connections.min(connections),
                connections_per_address: configured.connections_per_address.min(per_address),
                calls_per_connection,
                calls_per_caller: configured.calls_per_caller.min(calls.div_ceil(2)),
                followers_per_caller,
                ..configured
            },
            node: NodeLimits {
                // The other streams are for followers that return.
                followers: FollowerLimits {
                    in_all: three_quarters(followers),
                    per_credential: three_quarters(followers_per_caller),
                },
                snapshot_bytes: memory as u64 / 4,
            },
            window,
            calls,
            bytes: memory / 8,
            bytes_per_caller,
            followers,
        }
    }
}

/// Three quarters, rounded up.
fn three_quarters(number: usize) -> usize {
    number - number / 4
}

/// The limit of the cgroup, in bytes. `None`: there is no limit.
fn cgroup_limit() -> Option<usize> {
    let limit = |path| fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    // Version 1 states a huge number if there is no limit.
    CGROUP_LIMITS.into_iter().find_map(limit).filter(|limit| *limit < usize::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_use_at_most_half_of_the_memory() {
        for mebibytes in [64, 256, 512, 1_024, 16_384] {
            let memory = mebibytes * MEBIBYTE;
            let budget = Budget::within(memory, CallLimits::default());
            let Budget { limits, calls, bytes, bytes_per_caller, followers, .. } = budget;
            let rejections = limits.calls_per_connection as usize * REJECTION;
            let all = limits.connections * (CONNECTION + budget.window as usize + rejections)
                + calls * CALL
                + bytes
                + followers * FOLLOWER;
            assert!(all <= memory / 2, "{all} of {memory}");
            assert!(bytes_per_caller * 2 <= bytes && limits.calls_per_caller * 2 <= calls + 1);
        }
    }

    #[test]
    fn configured_limits_are_only_lowered() {
        let configured = CallLimits { connections: 7, calls_per_caller: 3, ..Default::default() };
        let limits = Budget::within(512 * MEBIBYTE, configured).limits;
        assert_eq!((limits.connections, limits.calls_per_caller), (7, 3));
        let lowered = Budget::within(256 * MEBIBYTE, CallLimits::default()).limits;
        assert_eq!((lowered.connections, lowered.connections_per_address), (256, 128));
        assert_eq!(lowered.calls_per_connection, 32);
    }
}
