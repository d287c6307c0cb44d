//! A snapshot that is being sent to a follower.

use std::{fmt, time::Duration};

use crate::{
    domain::{BootTime, GrantTerms, LockTerms, TenantId},
    node::{
        message::ToFollower,
        snapshot::{Snapshot, weight},
    },
    store::Retained,
};

/// Maximum size of one message, in bytes, estimated.
const MESSAGE_WEIGHT_MAX: u64 = 16 * 1_024;
/// Maximum time that a follower may take to read one message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The rest of a snapshot. A transfer keeps the memory of the whole snapshot, so stalled transfers
/// must be dropped.
pub struct SnapshotTransfer {
    locks: Box<dyn Iterator<Item = LockTerms> + Send>,
    grants: Box<dyn Iterator<Item = (TenantId, Retained, GrantTerms)> + Send>,
    last_message_at: BootTime,
}

impl SnapshotTransfer {
    /// Starts the transfer of a snapshot.
    pub fn start(snapshot: Snapshot, now: BootTime) -> Self {
        let (locks, grants) = snapshot.into_items();
        Self { locks: Box::new(locks), grants: Box::new(grants), last_message_at: now }
    }

    /// The next message with locks or grants; `None` at the end.
    pub fn next_message(&mut self, now: BootTime) -> Option<ToFollower> {
        self.last_message_at = now;
        let locks = batch(&mut self.locks, |lock| lock.weight() as u64);
        if !locks.is_empty() {
            return Some(ToFollower::SnapshotLocks(locks));
        }
        let grants = batch(&mut self.grants, |(_, _, terms)| weight(terms));
        (!grants.is_empty()).then_some(ToFollower::SnapshotGrants(grants))
    }

    /// Whether the follower reads too slowly.
    pub(super) fn is_stalled(&self, now: BootTime) -> bool {
        now.since(self.last_message_at) >= MESSAGE_TIMEOUT
    }
}

/// The next items, until the total weight reaches the maximum.
fn batch<T>(items: &mut impl Iterator<Item = T>, weight: impl Fn(&T) -> u64) -> Vec<T> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < MESSAGE_WEIGHT_MAX
        && let Some(item) = items.next()
    {
        bytes += weight(&item);
        batch.push(item);
    }
    batch
}

impl fmt::Debug for SnapshotTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotTransfer").finish_non_exhaustive()
    }
}
