//! A check node: answers checks from memory, follows the log, and holds a lease for recent data.
//!
//! Checks never touch the database. A [`CheckNode`] publishes immutable [`View`]s behind one atomic
//! pointer. A view holds a [`Snapshot`] of the grants and locks at one revision, and the lease for
//! that revision. A [`replica`] reads the log from the database. A sidecar follows another node
//! ([`upstreams`]). Both replicate to their own followers ([`follower_session`]).
//!
//! The protocol consists of state machines without I/O that take the time as an argument:
//! [`lease`], [`followers`], [`enforcement`], [`follower_session`] and [`upstream_session`].
//! ARCHITECTURE.md lists the rules of the protocol, and `tests/simulation` tests all rules in
//! virtual time.

mod applied_times;
mod change_buffer;
mod check_node;
pub mod database_clock;
mod delays;
pub mod enforcement;
pub mod enforcer;
pub mod failure_log;
pub mod follower_session;
pub mod followers;
mod gauges;
mod known_clocks;
pub mod lease;
mod limits;
mod locks;
pub mod message;
pub mod replica;
pub mod snapshot;
pub mod snapshot_transfer;
mod state;
pub mod tenant_grants;
pub mod upstream_session;
pub mod upstreams;
mod view;
pub mod watch;

pub use check_node::{CheckNode, Gap};
pub use gauges::Gauges;
pub use limits::{FollowerLimits, NodeLimits};
pub use snapshot::Snapshot;
pub use view::{ReadView, View};
pub use watch::NodeProgress;
