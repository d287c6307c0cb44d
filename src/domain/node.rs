//! Check nodes: who answers checks, and how far a change has reached them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::revision::Revision;

/// Names one process for as long as it runs: a random UUID, made at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Uuid);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a check node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A server that talks to the database.
    Replica,
    /// Fed by another check node.
    Sidecar,
}

/// A node's word that checks are answered from `revision` or later by itself and by every node that
/// it feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The revision.
    pub revision: Revision,
    /// How many nodes that is, itself included.
    pub nodes: u32,
    /// How many more were not heard from, and can no longer allow anything.
    pub nodes_lapsed: u32,
}

/// What is known of a check node, for whoever looks after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub node_id: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// The version of its program.
    pub version: String,
    /// The node that feeds it; `None` for a replica.
    pub upstream: Option<NodeId>,
    /// What it has confirmed to answer checks from.
    pub revision: Revision,
    /// How old its proof of freshness was when it was last heard from; `None` if it had none.
    pub lease_age: Option<Duration>,
    /// For how long it has not been heard from.
    pub silent_for: Duration,
}

/// That a change was proven to be in force at every check node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// From the commit until that was known.
    pub elapsed: Duration,
    /// Nodes that confirmed it.
    pub nodes_acknowledged: u32,
    /// Nodes that were not heard from, and could no longer allow anything.
    pub nodes_lapsed: u32,
}
