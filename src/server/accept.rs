//! Sources of connections: TCP listeners and Unix sockets.

use std::{
    future::Future,
    io,
    net::{IpAddr, TcpStream as StdTcpStream},
    os::unix::net::UnixStream as StdUnixStream,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Join, join},
    net::{
        TcpListener, TcpStream, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken};
use tracing::warn;

use crate::{
    auth::{Authenticator, ConnectionInfo, Peer},
    server::{
        authority::LocalAuthority,
        listeners::{Protocol, UnixSocket},
        tls::Tls,
    },
};

/// Pause after an error of `accept`, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// A source of connections.
pub(super) trait Accept: Send + Sync + 'static {
    type Socket: Socket;

    /// The next connection and its origin.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Socket, Origin)>> + Send;
}

/// An accepted connection that no runtime polls yet.
pub(super) trait Socket: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Completes the handshake, if there is one. The current runtime polls the connection.
    fn open(self) -> impl Future<Output = io::Result<Opened<Self::Io>>> + Send;
}

/// A connection after the handshake.
pub(super) struct Opened<IO> {
    pub(super) io: IO,
    pub(super) info: ConnectionInfo,
    /// Cancelled when an authority is removed that may have issued the client's certificate.
    /// `None`: the client presented no certificate.
    pub(super) revoked: Option<CancellationToken>,
}

/// The origin of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// A TCP client.
    Address(IpAddr),
    /// The user id of a process on this host.
    User(u32),
}

/// Accepts the next connection. Logs errors of the listener and retries.
pub(super) async fn accept_next<A: Accept>(acceptor: &A) -> (A::Socket, Origin) {
    loop {
        match acceptor.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_error_of_connection(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections, will retry");
                sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Whether the error concerns one connection, not the listener.
fn is_error_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::PermissionDenied
    )
}

// === impl Accept ===

impl Accept for TcpListener {
    type Socket = StdTcpStream;

    async fn accept(&self) -> io::Result<(StdTcpStream, Origin)> {
        let (stream, address) = TcpListener::accept(self).await?;
        // A response is a few small writes, which must not wait for acknowledgements (Nagle's
        // algorithm).
        stream.set_nodelay(true)?;
        Ok((stream.into_std()?, Origin::Address(address.ip().to_canonical())))
    }
}

impl Socket for StdTcpStream {
    type Io = TcpStream;

    async fn open(self) -> io::Result<Opened<TcpStream>> {
        let io = TcpStream::from_std(self)?;
        let address = io.peer_addr()?.ip().to_canonical();
        Ok(Opened { io, info: ConnectionInfo::new(Peer::Unknown, Some(address)), revoked: None })
    }
}

/// A TCP socket with TLS.
pub(super) struct TlsListener {
    pub(super) tcp: TcpListener,
    pub(super) tls: Arc<Tls>,
    pub(super) protocol: Protocol,
}

/// A connection before the handshake.
pub(super) struct TlsSocket {
    tcp: StdTcpStream,
    tls: Arc<Tls>,
    protocol: Protocol,
}

impl Accept for TlsListener {
    type Socket = TlsSocket;

    async fn accept(&self) -> io::Result<(TlsSocket, Origin)> {
        let (tcp, origin) = Accept::accept(&self.tcp).await?;
        let (tls, protocol) = (Arc::clone(&self.tls), self.protocol);
        Ok((TlsSocket { tcp, tls, protocol }, origin))
    }
}

impl Socket for TlsSocket {
    type Io = TlsStream<TcpStream>;

    async fn open(self) -> io::Result<Opened<Self::Io>> {
        let stream = TcpStream::from_std(self.tcp)?;
        let (io, info, revoked) = self.tls.accept(stream, self.protocol).await?;
        Ok(Opened { io, info, revoked })
    }
}

/// A Unix socket that rejects users without a binding. For gRPC, accepts every `:authority`.
pub(super) struct LocalListener {
    pub(super) socket: UnixSocket,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) protocol: Protocol,
}

/// An accepted connection of a user of this host.
pub(super) struct LocalSocket {
    stream: StdUnixStream,
    protocol: Protocol,
}

impl Accept for LocalListener {
    type Socket = LocalSocket;

    async fn accept(&self) -> io::Result<(LocalSocket, Origin)> {
        let (stream, _) = self.socket.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if !self.authenticator.allows_user(uid) {
            warn!(target: "support_access::audit", uid, "a user of this host was rejected");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let socket = LocalSocket { stream: stream.into_std()?, protocol: self.protocol };
        Ok((socket, Origin::User(uid)))
    }
}

impl Socket for LocalSocket {
    type Io = Join<Either<LocalAuthority<OwnedReadHalf>, OwnedReadHalf>, OwnedWriteHalf>;

    async fn open(self) -> io::Result<Opened<Self::Io>> {
        let stream = UnixStream::from_std(self.stream)?;
        let uid = stream.peer_cred()?.uid();
        let (reader, writer) = stream.into_split();
        let reader = match self.protocol {
            Protocol::Grpc => Either::Left(LocalAuthority::new(reader)),
            Protocol::Web => Either::Right(reader),
        };
        let io = join(reader, writer);
        Ok(Opened { io, info: ConnectionInfo::new(Peer::User(uid), None), revoked: None })
    }
}
