//! Limits on connections: their number, and timeouts for clients that are slow or not
//! authenticated.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    server::{
        accept::{Accept, Opened, Origin, Socket, accept_next},
        connection::{Admission, Connection, ConnectionPermit},
        unauthenticated::UnauthenticatedConnections,
    },
    service::keyed_semaphore::KeyedSemaphore,
};

/// How long a connection may stay open without an authenticated call.
const UNAUTHENTICATED_TIMEOUT: Duration = Duration::from_mins(1);
/// Maximum number of connections without an authenticated call.
const UNAUTHENTICATED_CONNECTIONS_MAX: usize = 256;

/// Limits the connections of a protocol. Clones share the limits.
#[derive(Debug, Clone)]
pub(super) struct ConnectionLimiter {
    /// A listener holds a permit while it waits for the next connection.
    permits: Arc<Semaphore>,
    connections_max: usize,
    connections_open: Arc<AtomicUsize>,
    per_origin: Arc<KeyedSemaphore<Origin>>,
    unauthenticated_connections: UnauthenticatedConnections,
    /// `None`: connections need no authenticated call.
    unauthenticated_timeout: Option<Duration>,
    /// Closes every connection.
    abort: CancellationToken,
}

// === impl ConnectionLimiter ===

impl ConnectionLimiter {
    /// Limits the connections in total and from each origin: a network, or a user of this host.
    /// `abort` closes them. Connections without an authenticated call leave a quarter for others.
    pub(super) fn new(connections_max: usize, per_origin: usize, abort: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max));
        let not_reserved = connections_max - connections_max / 4;
        Self {
            permits,
            connections_max,
            connections_open: Arc::default(),
            per_origin: Arc::new(KeyedSemaphore::new(per_origin)),
            unauthenticated_connections: UnauthenticatedConnections::new(
                not_reserved.clamp(1, UNAUTHENTICATED_CONNECTIONS_MAX),
            ),
            unauthenticated_timeout: None,
            abort,
        }
    }

    /// Also closes connections that make no authenticated call within the timeout.
    pub(super) fn with_unauthenticated_timeout(self) -> Self {
        Self { unauthenticated_timeout: Some(UNAUTHENTICATED_TIMEOUT), ..self }
    }

    /// The number of open connections.
    pub(super) fn connections_open(&self) -> usize {
        self.connections_open.load(Ordering::Relaxed)
    }

    /// The maximum number of open connections.
    pub(super) fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Closes every connection.
    pub(super) fn abort(&self) {
        self.abort.cancel();
    }

    /// The next connection. Closes connections of origins that have reached their limit. Above the
    /// limit of all connections, further connections wait in the backlog of the listener.
    pub(super) async fn next<A: Accept>(&self, acceptor: &A) -> Option<(A::Socket, Admission)> {
        loop {
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            let (socket, origin) = accept_next(acceptor).await;
            if let Some(admission) = self.admit(permit, origin) {
                return Some((socket, admission));
            }
        }
    }

    fn admit(&self, permit: OwnedSemaphorePermit, origin: Origin) -> Option<Admission> {
        let counted_as = match origin {
            Origin::Address(address) => Origin::Address(network_of(address)),
            user @ Origin::User(_) => user,
        };
        let of_origin = self.per_origin.try_acquire(&counted_as)?;
        let open = Arc::clone(&self.connections_open);
        // A child token, because all connections would contend for the lock of a shared one.
        let abort = self.abort.child_token();
        let unauthenticated_permit =
            self.unauthenticated_connections.admit(counted_as, abort.clone());
        let permit = ConnectionPermit::new(permit, of_origin, open);
        Some(Admission { permit, unauthenticated_permit, abort })
    }

    /// Opens an accepted connection. `None`: the handshake has failed, or the server is aborted.
    pub(super) async fn open<S: Socket>(
        &self,
        socket: S,
        admission: Admission,
    ) -> Option<Connection<S::Io>> {
        let opened = admission.abort.run_until_cancelled(socket.open()).await?.ok()?;
        Some(self.connection(opened, admission))
    }

    fn connection<IO>(&self, opened: Opened<IO>, admission: Admission) -> Connection<IO> {
        Connection::new(opened, admission, self.unauthenticated_timeout)
    }
}

/// Returns the network for which connections are counted: an IPv4 address, or a /64 network of
/// IPv6. An IPv6 host may use every address of its network (RFC 4291, section 2.5.4).
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{Instant, sleep, timeout},
    };

    use super::*;
    use crate::{
        auth::{ConnectionInfo, Peer},
        server::connection::{PREFACE_LENGTH, READ_TIMEOUT, UNSENT_TIMEOUT},
    };

    /// A connection with a buffer of 1,000 bytes, and its client.
    fn connect(limiter: &ConnectionLimiter) -> (Connection<DuplexStream>, DuplexStream) {
        let permit = Arc::clone(&limiter.permits).try_acquire_owned().unwrap();
        let admission = limiter.admit(permit, Origin::User(1)).unwrap();
        let (server, client) = duplex(1_000);
        let info = ConnectionInfo::new(Peer::Unknown, None);
        let opened = Opened { io: server, info, revoked: None };
        (limiter.connection(opened, admission), client)
    }

    #[tokio::test(start_paused = true)]
    async fn unauthenticated_connections_are_closed() {
        for (is_authenticated, expected) in [(false, Some(io::ErrorKind::TimedOut)), (true, None)] {
            let limiter = ConnectionLimiter::new(1, 1, CancellationToken::new());
            let (mut connection, mut client) = connect(&limiter.with_unauthenticated_timeout());
            client.write_all(&[0; PREFACE_LENGTH]).await.unwrap();
            connection.read_exact(&mut [0; PREFACE_LENGTH]).await.unwrap();
            if is_authenticated {
                connection.info().mark_authenticated();
            }
            let later = UNAUTHENTICATED_TIMEOUT + Duration::from_secs(1);
            let read = timeout(later, connection.read(&mut [0])).await;
            assert_eq!(read.ok().map(|read| read.unwrap_err().kind()), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_clients_that_do_not_read_are_closed() {
        let limiter = ConnectionLimiter::new(1, 1, CancellationToken::new());
        let (mut connection, mut client) = connect(&limiter);
        let started = Instant::now();
        // A client that reads slowly stays connected.
        for _ in 0..3 {
            connection.write_all(&[0; 1_000]).await.unwrap();
            sleep(READ_TIMEOUT / 2).await; // virtual time
            client.read_exact(&mut [0; 1_000]).await.unwrap();
        }
        connection.write_all(&[0; 1_000]).await.unwrap();
        let error = connection.write_all(&[0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 5 * READ_TIMEOUT.as_secs() / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_with_old_unsent_bytes_are_closed() {
        let limiter = ConnectionLimiter::new(1, 1, CancellationToken::new());
        let (mut connection, mut client) = connect(&limiter);
        client.write_all(&[0; PREFACE_LENGTH]).await.unwrap();
        connection.read_exact(&mut [0; PREFACE_LENGTH]).await.unwrap();
        let later = UNSENT_TIMEOUT + UNSENT_TIMEOUT / 2;
        // Bytes that are read in time close nothing.
        let unsent = connection.info().unsent.start();
        assert!(timeout(UNSENT_TIMEOUT / 2, connection.read(&mut [0])).await.is_err());
        drop(unsent);
        assert!(timeout(later, connection.read(&mut [0])).await.is_err());
        let _unsent = connection.info().unsent.start();
        let started = Instant::now();
        let error = connection.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let took = started.elapsed();
        assert!((0..=1).contains(&(took.as_secs() - UNSENT_TIMEOUT.as_secs())), "{took:?}");
    }

    #[test]
    fn users_have_a_limit_of_their_own() {
        let limiter = ConnectionLimiter::new(10, 2, CancellationToken::new());
        let admit = |origin| {
            let permit = Arc::clone(&limiter.permits).try_acquire_owned().unwrap();
            limiter.admit(permit, origin)
        };
        let held: Vec<_> = (0..4).filter_map(|_| admit(Origin::User(1_000))).collect();
        assert_eq!(held.len(), 2);
        assert!(admit(Origin::User(1_001)).is_some());
        drop(held);
        assert!(admit(Origin::User(1_000)).is_some());
    }

    #[test]
    fn addresses_of_an_ipv6_network_are_counted_together() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
