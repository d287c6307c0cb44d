//! Connections, limited in number and patience, and cut when the server must end.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::server::listeners::UnixSocket;

/// How long a connection may stay silent before its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when connections cannot be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What holds for the connections of one door. Its clones share the limit.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    room: Arc<Semaphore>,
    connections_max: usize,
    cut: CancellationToken,
}

/// Where connections come from.
pub(super) trait Accept: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

pin_project! {
    /// A connection. Whoever reads from or writes to it gets an error once it is cut.
    #[derive(Debug)]
    pub(super) struct Connection<IO> {
        #[pin]
        io: IO,
        cut: Pin<Box<WaitForCancellationFutureOwned>>,
        // Until it has said something.
        silence: Option<Pin<Box<Sleep>>>,
        _place: OwnedSemaphorePermit,
    }
}

// === impl Gate ===

impl Gate {
    /// Room for so many connections, until `cut` is cancelled.
    pub(super) fn new(connections_max: usize, cut: CancellationToken) -> Self {
        Self { room: Arc::new(Semaphore::new(connections_max)), connections_max, cut }
    }

    /// How many connections there are.
    pub(super) fn connections_open(&self) -> usize {
        self.connections_max - self.room.available_permits()
    }

    /// Cuts every connection.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// What is accepted, as long as there is room; when there is none, callers wait.
    pub(super) fn connections<A: Accept>(
        self,
        acceptor: A,
    ) -> impl Stream<Item = io::Result<Connection<A::Io>>> + Send {
        stream::unfold((self, acceptor), async |(gate, acceptor)| {
            let io = accept_one(&acceptor).await;
            let place = Arc::clone(&gate.room).acquire_owned().await.ok()?;
            // A token of its own: a shared one would be a lock that all connections meet at.
            let cut = Box::pin(gate.cut.child_token().cancelled_owned());
            let silence = Some(Box::pin(sleep(FIRST_BYTE_TIMEOUT)));
            Some((Ok(Connection { io, cut, silence, _place: place }), (gate, acceptor)))
        })
    }
}

async fn accept_one<A: Accept>(acceptor: &A) -> A::Io {
    loop {
        match acceptor.accept().await {
            Ok(io) => return io,
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
    )
}

// === impl Accept ===

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        // An answer is a few small writes: none of them should wait for the acknowledgement of another.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Accept for UnixSocket {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

// === impl Connection ===

impl<IO> Connection<IO> {
    /// An error if it is cut. Asked only when there is nothing else to do: a busy connection soon has nothing to do.
    fn poll_cut<T>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.project().cut.as_mut().poll(cx).map(|()| Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl<IO: AsyncRead> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.as_mut().project();
        if let ready @ Poll::Ready(_) = this.io.poll_read(cx, buffer) {
            *this.silence = None;
            return ready;
        }
        if let Some(silence) = this.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.poll_cut(cx)
    }
}

impl<IO: AsyncWrite> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.as_mut().project().io.poll_write(cx, bytes) {
            Poll::Pending => self.poll_cut(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.as_mut().project().io.poll_flush(cx) {
            Poll::Pending => self.poll_cut(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.as_mut().project().io.poll_shutdown(cx) {
            Poll::Pending => self.poll_cut(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.as_mut().project().io.poll_write_vectored(cx, slices) {
            Poll::Pending => self.poll_cut(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: Connected> Connected for Connection<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}
