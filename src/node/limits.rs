//! Limits of a node.

use crate::node::message::{FOLLOWERS_MAX, FOLLOWERS_PER_CREDENTIAL_MAX};

/// Limits of the memory that followers and upstreams can make a node hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLimits {
    /// Numbers of followers.
    pub followers: FollowerLimits,
    /// Estimated memory of a snapshot from an upstream, in bytes.
    pub snapshot_bytes: u64,
}

/// Maximum numbers of followers, including followers that have disconnected recently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerLimits {
    /// Followers of all callers.
    pub in_all: usize,
    /// Followers with one credential.
    pub per_credential: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self { followers: FollowerLimits::default(), snapshot_bytes: u64::MAX }
    }
}

impl Default for FollowerLimits {
    fn default() -> Self {
        Self { in_all: FOLLOWERS_MAX, per_credential: FOLLOWERS_PER_CREDENTIAL_MAX }
    }
}
