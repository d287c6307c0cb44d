//! Sources of connections: TCP listeners and Unix sockets.

use std::{future::Future, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, Join, join},
    net::{
        TcpListener, TcpStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::sleep,
};
use tracing::warn;

use crate::{
    auth::Authenticator,
    server::{authority::LocalAuthority, listeners::UnixSocket},
};

/// Pause after an error of `accept`, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(500);

/// A source of connections.
pub(super) trait Accept: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and its origin.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Origin)>> + Send;
}

/// The origin of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// A TCP client.
    Address(IpAddr),
    /// A user of this host.
    User(u32),
}

/// Accepts the next connection. Logs errors of the listener and retries.
pub(super) async fn accept_next<A: Accept>(acceptor: &A) -> (A::Io, Origin) {
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
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Origin)> {
        let (stream, address) = TcpListener::accept(self).await?;
        // A response is a few small writes, which must not wait for acknowledgements (Nagle's
        // algorithm).
        stream.set_nodelay(true)?;
        Ok((stream, Origin::Address(address.ip().to_canonical())))
    }
}

/// A Unix socket that rejects users without a binding, and accepts every `:authority`.
pub(super) struct LocalListener {
    pub(super) socket: UnixSocket,
    pub(super) authenticator: Arc<Authenticator>,
}

impl Accept for LocalListener {
    type Io = Join<LocalAuthority<OwnedReadHalf>, OwnedWriteHalf>;

    async fn accept(&self) -> io::Result<(Self::Io, Origin)> {
        let (stream, _) = self.socket.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if !self.authenticator.allows_user(uid) {
            warn!(target: "support_access::audit", uid, "a user of this host was rejected");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (reader, writer) = stream.into_split();
        Ok((join(LocalAuthority::new(reader), writer), Origin::User(uid)))
    }
}
