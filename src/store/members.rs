//! The rows of the membership table.

use std::time::Duration;

use crate::domain::{Ack, NodeId, Position, Time};

/// A check node that registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The node.
    pub node_id: NodeId,
    /// The version of the program.
    pub version: String,
    /// The lifetime of the leases.
    pub max_staleness: Duration,
    /// The initial `heartbeat_seq` of a new row. Must be greater than in any earlier row of the
    /// node: a watcher of the earlier row must be able to distinguish both.
    pub first_heartbeat: i64,
}

/// The response to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// The end of the log.
    pub head: Position,
    /// Whether the position of the node's snapshot is in this log. False without a position.
    pub is_in_log: bool,
    /// The clock of the database, or of the process if the database is embedded, read in the same
    /// statement.
    pub now: Time,
}

/// All registered nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberList {
    /// The longest lifetime of a lease among the nodes.
    pub max_staleness: Duration,
    /// The end of the log.
    pub head: Position,
    /// The nodes, in no particular order.
    pub members: Vec<Member>,
}

/// The row of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node_id: NodeId,
    /// The version of the program.
    pub version: String,
    /// Advances with every heartbeat.
    pub heartbeat_seq: i64,
    /// The acknowledgement of the node for itself and its followers.
    pub ack: Ack,
    /// The time since the last heartbeat, by the database's clock.
    pub heartbeat_age: Duration,
}
