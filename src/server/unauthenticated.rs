//! Connections without an authenticated call. Above a limit, the oldest are closed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::server::accept::Origin;

/// Limits the number of unauthenticated connections. Clones share the limit.
#[derive(Debug, Clone)]
pub(super) struct UnauthenticatedConnections {
    connections_max: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    /// By id, so the oldest is first.
    connections: BTreeMap<u64, (Origin, CancellationToken)>,
}

/// A connection without an authenticated call, until this value is dropped.
#[derive(Debug)]
pub(super) struct UnauthenticatedPermit {
    id: u64,
    open: Arc<Mutex<Open>>,
}

// === impl UnauthenticatedConnections ===

impl UnauthenticatedConnections {
    pub(super) fn new(connections_max: usize) -> Self {
        Self { connections_max, open: Arc::default() }
    }

    /// Counts a connection that `abort` closes. Above the limit, closes the oldest connection of
    /// the origin with most unauthenticated connections. So a flood from few origins closes
    /// connections of the flood.
    pub(super) fn admit(&self, origin: Origin, abort: CancellationToken) -> UnauthenticatedPermit {
        let mut open = self.open.lock();
        if open.connections.len() >= self.connections_max {
            open.close_one();
        }
        open.last_id += 1;
        let id = open.last_id;
        open.connections.insert(id, (origin, abort));
        UnauthenticatedPermit { id, open: Arc::clone(&self.open) }
    }
}

// === impl Open ===

impl Open {
    fn close_one(&mut self) {
        let mut counts: HashMap<Origin, usize> = HashMap::new();
        for (origin, _) in self.connections.values() {
            *counts.entry(*origin).or_default() += 1;
        }
        let of_origin = |id: &u64| counts.get(&self.connections[id].0).copied();
        // `max_by_key` returns the last of several maxima: in reverse order, the oldest.
        let id = self.connections.keys().rev().max_by_key(|id| of_origin(id)).copied();
        if let Some((_, abort)) = id.and_then(|id| self.connections.remove(&id)) {
            abort.cancel();
        }
    }
}

// === impl UnauthenticatedPermit ===

impl Drop for UnauthenticatedPermit {
    fn drop(&mut self) {
        self.open.lock().connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_closes_its_own_oldest_connections() {
        let limit = UnauthenticatedConnections::new(4);
        let admit = |user: u32| {
            let abort = CancellationToken::new();
            (limit.admit(Origin::User(user), abort.clone()), abort)
        };
        let honest = admit(1);
        let flood: Vec<_> = (0..10).map(|_| admit(2)).collect();
        assert!(!honest.1.is_cancelled());
        let open: Vec<_> = flood.iter().map(|(_, abort)| !abort.is_cancelled()).collect();
        assert_eq!(open, [[false; 7].as_slice(), &[true; 3]].concat());
        drop(flood);
        let later: Vec<_> = (0..3).map(|_| admit(3)).collect();
        assert!(later.iter().all(|(_, abort)| !abort.is_cancelled()), "closed ones do not count");
        assert!(!honest.1.is_cancelled());
    }
}
