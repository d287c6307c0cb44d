//! What the roll of check nodes is made of.

use std::time::Duration;

use crate::domain::{Ack, NodeId, Position, Time};

/// A check node that is to be in the roll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub node_id: NodeId,
    /// The version of its program.
    pub version: String,
    /// For how long it may answer from one lease.
    pub max_staleness: Duration,
    /// What `seq` begins with in a new row. Greater than in any row that this node had before: who has been watching that one
    /// must not take the new one for it.
    pub first_heartbeat: i64,
}

/// The answer to a node that renewed its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// The end of the log.
    pub head: Position,
    /// Whether what the node holds is in this log. False if it holds nothing.
    pub is_held: bool,
    /// The database's clock (the process's where it is embedded), read in the same statement.
    pub now: Time,
}

/// All nodes that talk to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberList {
    /// The longest that any node may answer from one lease.
    pub max_staleness: Duration,
    /// The end of the log.
    pub head: Position,
    /// The nodes, in no particular order.
    pub members: Vec<Member>,
}

/// A node's row in the roll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node_id: NodeId,
    /// The version of its program.
    pub version: String,
    /// How often it has renewed.
    pub seq: i64,
    /// What it has acknowledged, for itself and those it feeds.
    pub ack: Ack,
    /// How long ago it renewed, by the database's clock.
    pub renewed_ago: Duration,
}
