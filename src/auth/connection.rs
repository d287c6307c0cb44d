//! Connections, as calls see them.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{auth::certificate::Certificate, service::unsent::Unsent};

/// Maximum number of [`Visit`]s on a connection without an authenticated call.
const FIRST_VISITS_MAX: usize = 8;
/// Maximum number of [`Visit`]s on any other connection.
const VISITS_MAX: usize = 16;

/// The identity of a client, as proven by the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The connection proves no identity.
    Unknown,
    /// A verified client certificate.
    Certificate(Certificate),
    /// A user id of this host, as reported by the kernel.
    User(u32),
}

/// A connection as calls see it.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The identity that the connection proves.
    pub peer: Peer,
    /// The client's address. `None`: a Unix socket.
    pub address: Option<IpAddr>,
    /// The response bytes that the client has not read.
    pub unsent: Arc<Unsent>,
    /// Whether a call on this connection was authenticated.
    is_authenticated: AtomicBool,
    /// The number of [`Visit`]s.
    visits: AtomicUsize,
}

/// A call in progress without an authenticated caller.
#[derive(Debug)]
pub struct Visit(Arc<ConnectionInfo>);

// === impl ConnectionInfo ===

impl ConnectionInfo {
    /// A connection without an authenticated call.
    pub fn new(peer: Peer, address: Option<IpAddr>) -> Self {
        Self {
            peer,
            address,
            unsent: Arc::default(),
            is_authenticated: AtomicBool::new(false),
            visits: AtomicUsize::new(0),
        }
    }

    /// Records that a call was authenticated.
    pub fn mark_authenticated(&self) {
        // Read first: writing on every call would invalidate the cache line of other processors.
        if !self.is_authenticated() {
            self.is_authenticated.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a call on this connection was authenticated.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    /// Starts a visit. `None`: too many are in progress.
    pub fn try_visit(self: &Arc<Self>) -> Option<Visit> {
        let visits_max = if self.is_authenticated() { VISITS_MAX } else { FIRST_VISITS_MAX };
        // Dropped if there are too many.
        let visit = Visit(Arc::clone(self));
        (self.visits.fetch_add(1, Ordering::Relaxed) < visits_max).then_some(visit)
    }
}

// === impl Visit ===

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.visits.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_limited() {
        let connection = Arc::new(ConnectionInfo::new(Peer::Unknown, None));
        let visit = |_| connection.try_visit();
        let mut visits: Vec<_> = (0..FIRST_VISITS_MAX).map_while(visit).collect();
        assert_eq!(visits.len(), FIRST_VISITS_MAX);
        assert!(connection.try_visit().is_none());
        visits.pop();
        assert!(connection.try_visit().is_some(), "rejected visits do not count");
        connection.mark_authenticated();
        visits.extend((visits.len()..VISITS_MAX).map_while(visit));
        assert_eq!(visits.len(), VISITS_MAX);
        assert!(connection.try_visit().is_none());
        visits.clear();
        assert_eq!(connection.visits.load(Ordering::Relaxed), 0);
    }
}
