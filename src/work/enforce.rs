//! When a change is in force everywhere.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    domain::Revision,
    work::{Committed, Work},
};

/// Whether a change is in force at every check node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnforcementState {
    /// No check node can still answer from before it.
    Complete,
    /// That is not known yet, and the caller's deadline has come.
    Pending,
}

/// How far a change has reached the check nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforcement {
    /// Whether it is in force everywhere.
    pub state: EnforcementState,
    /// The revision that nodes have to have.
    pub revision: Revision,
    /// From the commit until this was known.
    pub elapsed: Duration,
    /// Nodes that have it.
    pub nodes_acknowledged: u32,
    /// Nodes that were not heard from, and can no longer allow anything.
    pub nodes_lapsed: u32,
}

impl Work {
    /// Waits until what was committed is in force: today that is at one check node, our own.
    pub(super) async fn enforce(&self, committed: Committed, deadline: Instant) -> Enforcement {
        let reached = self.node.wait_for(committed.revision, deadline).await;
        let state = if reached { EnforcementState::Complete } else { EnforcementState::Pending };
        Enforcement {
            state,
            revision: committed.revision,
            elapsed: committed.at.elapsed(),
            nodes_acknowledged: u32::from(reached),
            nodes_lapsed: 0,
        }
    }
}
