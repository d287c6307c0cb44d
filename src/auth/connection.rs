//! Connections, as calls see them.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::{auth::certificate::Certificate, service::unsent::Unsent};

/// Maximum number of [`UnauthenticatedCall`]s on a connection without an authenticated call.
const UNAUTHENTICATED_CALLS_MAX: usize = 8;
/// Maximum number of [`UnauthenticatedCall`]s on any other connection.
const LATER_UNAUTHENTICATED_CALLS_MAX: usize = 16;

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
    /// The number of [`UnauthenticatedCall`]s.
    unauthenticated_calls: AtomicUsize,
}

/// A call in progress without an authenticated caller.
#[derive(Debug)]
pub struct UnauthenticatedCall(Arc<ConnectionInfo>);

// === impl ConnectionInfo ===

impl ConnectionInfo {
    /// A connection without an authenticated call.
    pub fn new(peer: Peer, address: Option<IpAddr>) -> Self {
        Self {
            peer,
            address,
            unsent: Arc::default(),
            is_authenticated: AtomicBool::new(false),
            unauthenticated_calls: AtomicUsize::new(0),
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

    /// Starts a call without an authenticated caller. `None`: too many are in progress.
    pub fn try_start_unauthenticated_call(self: &Arc<Self>) -> Option<UnauthenticatedCall> {
        let calls_max = if self.is_authenticated() {
            LATER_UNAUTHENTICATED_CALLS_MAX
        } else {
            UNAUTHENTICATED_CALLS_MAX
        };
        // Dropped if there are too many.
        let call = UnauthenticatedCall(Arc::clone(self));
        (self.unauthenticated_calls.fetch_add(1, Ordering::Relaxed) < calls_max).then_some(call)
    }
}

// === impl UnauthenticatedCall ===

impl Drop for UnauthenticatedCall {
    fn drop(&mut self) {
        self.0.unauthenticated_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unauthenticated_calls_are_limited() {
        let connection = Arc::new(ConnectionInfo::new(Peer::Unknown, None));
        let call = |_| connection.try_start_unauthenticated_call();
        let mut calls: Vec<_> = (0..UNAUTHENTICATED_CALLS_MAX).map_while(call).collect();
        assert_eq!(calls.len(), UNAUTHENTICATED_CALLS_MAX);
        assert!(connection.try_start_unauthenticated_call().is_none());
        calls.pop();
        assert!(
            connection.try_start_unauthenticated_call().is_some(),
            "rejected calls do not count"
        );
        connection.mark_authenticated();
        calls.extend((calls.len()..LATER_UNAUTHENTICATED_CALLS_MAX).map_while(call));
        assert_eq!(calls.len(), LATER_UNAUTHENTICATED_CALLS_MAX);
        assert!(connection.try_start_unauthenticated_call().is_none());
        calls.clear();
        assert_eq!(connection.unauthenticated_calls.load(Ordering::Relaxed), 0);
    }
}
