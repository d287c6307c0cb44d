//! Where connections come from.

use std::{future::Future, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    time::sleep,
};
use tracing::warn;

use crate::{auth::Authenticator, server::listeners::UnixSocket};

/// How long to wait when connections cannot be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Where connections come from.
pub(in crate::server) trait Accept: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next, and where it is from.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Origin)>> + Send;
}

/// Where a connection is from.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) enum Origin {
    /// The network.
    Address(IpAddr),
    /// A user of this host.
    User(u32),
}

pub(super) async fn accept_one<A: Accept>(acceptor: &A) -> (A::Io, Origin) {
    loop {
        match acceptor.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_the_caller_s(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections, will go on trying");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_the_caller_s(error: &io::Error) -> bool {
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
        // An answer is a few small writes: none of them should wait for the acknowledgement of another.
        stream.set_nodelay(true)?;
        Ok((stream, Origin::Address(address.ip().to_canonical())))
    }
}

/// A Unix socket for those users of the host who may use it.
pub(in crate::server) struct Admitting(
    pub(in crate::server) UnixSocket,
    pub(in crate::server) Arc<Authenticator>,
);

impl Accept for Admitting {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Origin)> {
        let Self(socket, authenticator) = self;
        let (stream, _) = socket.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if !authenticator.admits_user(uid) {
            warn!(target: "support_access::audit", uid, "a user of this host was refused");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok((stream, Origin::User(uid)))
    }
}
