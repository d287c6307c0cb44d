//! What check nodes say to each other on a `Follow` stream. Both directions are ordered; that is all that is asked of them.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{
        Ack, Event, GrantTerms, LockTerms, NodeId, NodeInfo, Now, Position, Revision, TenantId,
        Time, TokenKey,
    },
    node::snapshot::SnapshotPart,
    store::Retained,
};

/// The version of the protocol that this program speaks. Nodes that speak different versions do not
/// follow each other.
pub const PROTOCOL: u32 = 1;
/// The most nodes that a node tells of at a time.
pub const REPORT_MAX: usize = 1_000;

/// From a follower to the node that feeds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToUpstream {
    /// First of all, and once.
    Hello(Hello),
    /// Asks for a lease of freshness.
    Ping {
        /// Comes back in the [`Pong`]. Greater than in every ping before.
        seq: i64,
    },
    /// Checks are answered from this revision by the follower and all that it feeds.
    Ack(Ack),
    /// Whom the follower feeds, for people.
    Report(Vec<NodeInfo>),
    /// The follower answers no more checks, and feeds nobody who does.
    Leave,
}

/// Who follows, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version of the protocol it speaks.
    pub protocol: u32,
    /// Its name.
    pub node_id: NodeId,
    /// The version of its program.
    pub version: String,
    /// What it holds, if it holds anything.
    pub held: Option<Position>,
    /// How long ago it was given its lease, if that is valid.
    pub lease_age: Option<Duration>,
}

/// From a node to a follower that it feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToFollower {
    /// The answer to [`Hello`], before anything else.
    Welcome(Welcome),
    /// A snapshot begins: what the follower holds is of no use. Its locks and grants follow, then [`ToFollower::SnapshotEnd`].
    SnapshotBegin,
    /// Some of the snapshot.
    SnapshotPart(SnapshotPart),
    /// The snapshot is complete.
    SnapshotEnd {
        /// The position of the snapshot.
        position: Position,
        /// The key of consistency tokens in the epoch of the position.
        token_key: TokenKey,
    },
    /// What happened next, without a gap.
    Changes(Vec<Arc<Change>>),
    /// The answer to a ping.
    Pong(Pong),
}

/// Who feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version of the protocol it speaks.
    pub protocol: u32,
    /// Its name.
    pub node_id: NodeId,
    /// The version of its program.
    pub version: String,
}

/// The answer to a ping. It stands in the stream behind every change that the node had applied when it sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pong {
    /// Of the ping.
    pub seq: i64,
    /// The node that answers, the one that feeds it, and so on up to the replica.
    pub path: Vec<NodeId>,
    /// What it can grant_lease for; `None` while it has no valid lease itself.
    pub lease: Option<LeaseGrant>,
}

/// A lease of freshness, as one node hands it to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Everything that was committed before the lease's time is at or below this revision.
    pub revision: Revision,
    /// How old the lease is, by the clock of the node that sends it.
    pub age: Duration,
    /// For how long from its time a lease may be answered from.
    pub max_staleness: Duration,
    /// What the database's clock shows.
    pub now: Now,
}

/// An event as check nodes need it: what it does to the snapshot. The history's texts stay where the history is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The event's place in the log.
    pub revision: Revision,
    /// When it was committed.
    pub time: Time,
    /// The grant as the event left it; `None` if it was not about a grant.
    pub grant: Option<(TenantId, Retained, GrantTerms)>,
    /// The lock as the event left it; `None` if it was not about a lock.
    pub lock: Option<LockChange>,
}

/// What an event did to a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockChange {
    /// The lock.
    pub terms: LockTerms,
    /// Whether the event has ended it.
    pub is_ended: bool,
}

impl Change {
    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 200;
        let agents = self.grant.iter().flat_map(|(_, _, terms)| &terms.agent_ids);
        let lock = self.lock.as_ref().map_or(0, |lock| lock.terms.weight());
        FIXED + lock + agents.map(|agent| agent.as_str().len() + 16).sum::<usize>()
    }
}

impl From<&Event> for Change {
    fn from(event: &Event) -> Self {
        let held = if event.kind.is_end() { Retained::LastEnded } else { Retained::Live };
        let grant = event.kind.grant();
        let grant = grant.map(|grant| (grant.tenant_id.clone(), held, grant.terms.clone()));
        let is_ended = event.kind.is_end();
        let lock = event.kind.lock().map(|lock| LockChange { terms: lock.terms.clone(), is_ended });
        Self { revision: event.revision, time: event.time, grant, lock }
    }
}
