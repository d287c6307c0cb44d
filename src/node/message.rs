//! The messages of the replication protocol. The protocol requires only that each direction of a
//! stream is ordered.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{
        AcceptedClock, Event, EventKind, GrantTerms, LockTerms, NodeId, Now, Position, Revision,
        TenantId, Time, TokenKey,
    },
    store::Retained,
};

/// The version of the protocol. Two nodes of different versions reject each other: a follower that
/// ignores unknown messages could allow checks that such a message denies.
pub const PROTOCOL: u32 = 1;
/// Maximum number of nodes between a sidecar and the database. Each hop makes leases older.
pub const PATH_MAX: usize = 4;
/// Maximum number of followers of one node.
pub const FOLLOWERS_MAX: usize = 4_096;
/// Maximum number of followers with one credential: three quarters of all. The other quarter is for
/// other credentials.
pub const FOLLOWERS_PER_CREDENTIAL_MAX: usize = FOLLOWERS_MAX / 4 * 3;
/// Maximum rate of a follower's messages, and the size of a burst.
pub const MESSAGES_PER_SECOND: u32 = 1_000;

/// From a follower to the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToUpstream {
    /// The first message, exactly once.
    Hello(Hello),
    /// Requests a lease.
    Ping {
        /// Returned in the [`Pong`]. Greater than in every earlier ping.
        seq: i64,
    },
    /// The follower, and all nodes that follow it, answer checks from this revision or a later one.
    Ack(Revision),
    /// The follower has stopped answering checks, and no node that follows it holds a lease.
    Leave,
}

/// The identity of a follower, and the position to resume from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version of the follower.
    pub protocol: u32,
    /// The follower.
    pub node_id: NodeId,
    /// The program version of the follower.
    pub version: String,
    /// The position of the follower's snapshot; `None` without a valid snapshot.
    pub position: Option<Position>,
    /// Time since the follower received the current lease; `None` without a valid lease.
    pub lease_age: Option<Duration>,
}

/// From a node to a follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToFollower {
    /// The response to [`Hello`], before all other messages.
    Welcome(Welcome),
    /// A snapshot starts, and replaces the state of the follower. Locks and grants follow, then
    /// [`ToFollower::SnapshotEnd`].
    SnapshotBegin,
    /// Some locks of the snapshot.
    SnapshotLocks(Vec<LockTerms>),
    /// Some grants of the snapshot.
    SnapshotGrants(Vec<(TenantId, Retained, GrantTerms)>),
    /// The snapshot is complete.
    SnapshotEnd(SnapshotEnd),
    /// The next changes, without gaps.
    Changes(Vec<Arc<Change>>),
    /// The response to a ping.
    Pong(Pong),
}

/// The identity of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version of the upstream.
    pub protocol: u32,
    /// The upstream.
    pub node_id: NodeId,
    /// The program version of the upstream.
    pub version: String,
}

/// The end of a snapshot, after all locks and grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// The position of the snapshot.
    pub position: Position,
    /// The key of consistency tokens in the epoch of the position.
    pub token_key: TokenKey,
    /// Every clock that an operator has accepted, in the order of the log.
    pub accepted_clocks: Arc<[AcceptedClock]>,
    /// Whether the rows that the replica loaded were not authentic.
    pub has_forged_rows: bool,
}

/// The response to a ping. In the stream, the pong follows every change that the upstream had
/// applied before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pong {
    /// From the ping.
    pub seq: i64,
    /// The path from the upstream to the replica, both included.
    pub path: Vec<NodeId>,
    /// `None` while the upstream has no valid lease.
    pub lease: Option<LeaseGrant>,
}

/// A lease that one node grants to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Every change that was committed before the lease starts has at most this revision.
    pub revision: Revision,
    /// Time since the lease started, by the clock of the grantor.
    pub age: Duration,
    /// Lifetime of the lease, from start to end.
    pub max_staleness: Duration,
    /// The database clock, as known to the grantor.
    pub now: Now,
    /// Whether the replica trusts its reading of the database clock.
    pub is_clock_trusted: bool,
}

/// The effect of an event on a snapshot, without the texts for the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The event's position in the log.
    pub revision: Revision,
    /// The time of the event, by the database clock.
    pub time: Time,
    /// The grant after the event; `None` if the event does not concern a grant.
    pub grant: Option<(TenantId, Retained, GrantTerms)>,
    /// The lock after the event; `None` if the event does not concern a lock.
    pub lock: Option<LockChange>,
}

/// The effect of an event on a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockChange {
    /// The lock.
    pub terms: LockTerms,
    /// Whether the event has ended the lock.
    pub is_ended: bool,
}

impl Change {
    /// Estimated size, in bytes.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 200;
        let grant = self.grant.as_ref().map_or(0, |(tenant_id, _, terms)| {
            let ids = tenant_id.as_str().len() + terms.group_id.as_str().len();
            ids + terms.agents_memory()
        });
        let lock = self.lock.as_ref().map_or(0, |lock| lock.terms.weight());
        FIXED + grant + lock
    }
}

impl From<&Event> for Change {
    fn from(event: &Event) -> Self {
        let retained = if event.kind.is_end() { Retained::LastEnded } else { Retained::Live };
        let grant = event.kind.grant();
        let grant = grant.map(|grant| (grant.tenant_id.clone(), retained, grant.terms.clone()));
        let is_ended = event.kind.is_end();
        let lock = match &event.kind {
            EventKind::Forged => Some(LockTerms::quarantine(event.tenant_id.clone())),
            kind => kind.lock().map(|lock| lock.terms.clone()),
        };
        let lock = lock.map(|terms| LockChange { terms, is_ended });
        Self { revision: event.revision, time: event.time, grant, lock }
    }
}
