//! Check nodes, and the enforcement of a change at the nodes.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::revision::Revision;

/// Identifies one run of a process: a random UUID, chosen at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Uuid);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The kind of a check node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A server with a connection to the database.
    Replica,
    /// Follows another check node.
    Sidecar,
}

/// The acknowledgement of a node: the node and all its followers answer checks from `revision` or a
/// later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The revision.
    pub revision: Revision,
    /// The number of those nodes, including the node itself.
    pub nodes: u32,
    /// The number of further nodes that did not acknowledge and whose leases have expired.
    pub nodes_lapsed: u32,
}

/// A check node, as shown to operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node's id.
    pub node_id: NodeId,
    /// The kind.
    pub kind: NodeKind,
    /// The version of the program.
    pub version: String,
    /// The upstream. `None`: a replica.
    pub upstream: Option<NodeId>,
    /// The last acknowledged revision.
    pub revision: Revision,
    /// The age of the node's lease in its last message. `None`: no lease.
    pub lease_age: Option<Duration>,
    /// The time since the last message from the node.
    pub silent_for: Duration,
}

/// The enforcement of a change at every check node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// The time from the commit until the enforcement was known.
    pub elapsed: Duration,
    /// Nodes that acknowledged the change.
    pub nodes_acknowledged: u32,
    /// Nodes that did not acknowledge the change, and whose leases have expired.
    pub nodes_lapsed: u32,
}
