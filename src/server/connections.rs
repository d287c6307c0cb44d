//! Limits on connections: their number, and timeouts for clients that are slow or not
//! authenticated.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{
    Stream, StreamExt,
    stream::{self, FuturesUnordered},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{ConnectionInfo, Peer},
    server::{
        accept::{Accept, Origin, accept_next},
        connection::{Connection, ConnectionPermit},
        tasks::Tasks,
        tls::{Tls, TlsConnection},
    },
    service::keyed_semaphore::KeyedSemaphore,
};

/// How long a connection may stay open without an authenticated call.
const UNAUTHENTICATED_TIMEOUT: Duration = Duration::from_mins(1);

/// Limits the connections of a protocol. Clones share the limits.
#[derive(Debug, Clone)]
pub(super) struct ConnectionLimiter {
    /// A listener holds a permit while it waits for the next connection.
    permits: Arc<Semaphore>,
    connections_max: usize,
    connections_open: Arc<AtomicUsize>,
    per_network: Arc<KeyedSemaphore<IpAddr>>,
    /// `None`: connections need no authenticated call.
    unauthenticated_timeout: Option<Duration>,
    /// Closes every connection.
    abort: CancellationToken,
}

// === impl ConnectionLimiter ===

impl ConnectionLimiter {
    /// Limits the connections in total and from each network. `abort` closes them.
    pub(super) fn new(
        connections_max: usize,
        per_network: usize,
        abort: CancellationToken,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max));
        let per_network = Arc::new(KeyedSemaphore::new(per_network));
        Self {
            permits,
            connections_max,
            connections_open: Arc::default(),
            per_network,
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

    /// The connections of `acceptor`. Above the limit, further connections wait in the backlog of
    /// the listener.
    pub(super) fn connections<A: Accept>(
        self,
        acceptor: A,
    ) -> impl Stream<Item = io::Result<Connection<A::Io>>> + Send {
        stream::unfold((self, acceptor), async |(limiter, acceptor)| {
            let (io, origin, permit) = limiter.next(&acceptor).await?;
            let info = match origin {
                Origin::Address(address) => ConnectionInfo::new(Peer::Unknown, Some(address)),
                Origin::User(uid) => ConnectionInfo::new(Peer::User(uid), None),
            };
            Some((Ok(limiter.connection(io, info, permit)), (limiter, acceptor)))
        })
    }

    /// The connections of `listener` after the TLS handshake. Handshakes run as `tasks`, so that a
    /// slow one delays no other.
    pub(super) fn tls_connections(
        self,
        listener: TcpListener,
        tls: Arc<Tls>,
        tasks: Tasks,
    ) -> impl Stream<Item = io::Result<Connection<TlsStream<TcpStream>>>> + Send {
        let handshakes = FuturesUnordered::new();
        stream::unfold((self, listener, handshakes), move |state| {
            let (tls, tasks) = (Arc::clone(&tls), tasks.clone());
            async move {
                let (limiter, listener, mut handshakes) = state;
                loop {
                    tokio::select! {
                        Some(done) = handshakes.next() => {
                            if let Some((TlsConnection { stream, info, revoked }, permit)) = done {
                                let connection = limiter.connection(stream, info, permit);
                                let connection = connection.until_revoked(revoked);
                                return Some((Ok(connection), (limiter, listener, handshakes)));
                            }
                        }
                        accepted = limiter.next(&listener) => {
                            let (io, _, permit) = accepted?;
                            let (tls, abort) = (Arc::clone(&tls), limiter.abort.child_token());
                            handshakes.push(tasks.spawn_detached("TLS handshake", async move {
                                let done = abort.run_until_cancelled(tls.accept(io)).await?;
                                done.ok().map(|connection| (connection, permit))
                            }));
                        }
                    }
                }
            }
        })
    }

    /// The next connection and its permit. Closes connections of networks that have reached their
    /// limit.
    async fn next<A: Accept>(&self, acceptor: &A) -> Option<(A::Io, Origin, ConnectionPermit)> {
        loop {
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            let (io, origin) = accept_next(acceptor).await;
            let of_network = match origin {
                Origin::Address(address) => {
                    match self.per_network.try_acquire(&network_of(address)) {
                        Some(of_network) => Some(of_network),
                        None => continue,
                    }
                }
                Origin::User(_) => None,
            };
            let open = Arc::clone(&self.connections_open);
            return Some((io, origin, ConnectionPermit::new(permit, of_network, open)));
        }
    }

    fn connection<IO>(
        &self,
        io: IO,
        info: ConnectionInfo,
        permit: ConnectionPermit,
    ) -> Connection<IO> {
        // A child token, because all connections would contend for the lock of a shared one.
        let abort = self.abort.child_token();
        Connection::new(io, info, permit, self.unauthenticated_timeout, abort)
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{Instant, sleep, timeout},
    };

    use super::*;
    use crate::server::connection::{PREFACE_LENGTH, READ_TIMEOUT};

    /// A connection with a buffer of 1,000 bytes, and its client.
    fn connect(limiter: &ConnectionLimiter) -> (Connection<DuplexStream>, DuplexStream) {
        let permit = Arc::clone(&limiter.permits).try_acquire_owned().unwrap();
        let open = Arc::clone(&limiter.connections_open);
        let permit = ConnectionPermit::new(permit, None, open);
        let (server, client) = duplex(1_000);
        let info = ConnectionInfo::new(Peer::Unknown, None);
        (limiter.connection(server, info, permit), client)
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

    #[test]
    fn addresses_of_an_ipv6_network_are_counted_together() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
