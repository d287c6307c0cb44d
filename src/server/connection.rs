//! A connection that is closed on timeouts, at shutdown, and when its client's certificate is no
//! longer trusted.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    auth::ConnectionInfo,
    server::{
        accept::{Opened, Origin},
        unauthenticated::UnauthenticatedPermit,
    },
    service::keyed_semaphore::KeyedPermit,
};

/// Timeout for the connection preface of HTTP/2 (RFC 9113, section 3.4), or for the same number of
/// bytes of HTTP/1.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const PREFACE_LENGTH: usize = 24;
/// How long a client may read nothing while data waits to be sent.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum age of response bytes that a client has not read. The windows of HTTP/2 can delay
/// responses without a blocked write.
pub(super) const UNSENT_TIMEOUT: Duration = Duration::from_mins(1);

pin_project! {
    /// A connection. Reads and writes fail once the connection must be closed.
    #[derive(Debug)]
    pub(super) struct Connection<IO> {
        #[pin]
        io: IO,
        info: Arc<ConnectionInfo>,
        // `None`: a call was authenticated, or no authentication is needed.
        unauthenticated: Option<Pin<Box<Sleep>>>,
        // `None`: a call was authenticated.
        unauthenticated_permit: Option<UnauthenticatedPermit>,
        abort_token: CancellationToken,
        abort: Pin<Box<WaitForCancellationFutureOwned>>,
        // `None`: the client presented no certificate.
        revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
        // `None`: the preface has arrived.
        preface: Option<Preface>,
        // When the oldest unsent bytes may have reached their maximum age.
        unsent: Pin<Box<Sleep>>,
        // Running while a write is blocked.
        blocked: Option<Pin<Box<Sleep>>>,
        permit: ConnectionPermit,
    }
}

/// The rest of the preface.
#[derive(Debug)]
struct Preface {
    bytes_left: usize,
    deadline: Pin<Box<Sleep>>,
}

/// The permits of a connection, released when the connection is closed.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    _connection: OwnedSemaphorePermit,
    _of_origin: KeyedPermit<Origin>,
    /// The number of open connections.
    open: Arc<AtomicUsize>,
}

/// The resources of an accepted connection.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) permit: ConnectionPermit,
    pub(super) unauthenticated_permit: UnauthenticatedPermit,
    /// Closes the connection.
    pub(super) abort: CancellationToken,
}

// === impl ConnectionPermit ===

impl ConnectionPermit {
    /// Combines a permit for the server and a permit for the origin. Counts the connection in
    /// `open`.
    pub(super) fn new(
        connection: OwnedSemaphorePermit,
        of_origin: KeyedPermit<Origin>,
        open: Arc<AtomicUsize>,
    ) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self { _connection: connection, _of_origin: of_origin, open }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Connection ===

impl<IO> Connection<IO> {
    pub(super) fn new(
        opened: Opened<IO>,
        admission: Admission,
        unauthenticated_timeout: Option<Duration>,
    ) -> Self {
        let Opened { io, info, revoked } = opened;
        let Admission { permit, unauthenticated_permit, abort } = admission;
        let deadline = Box::pin(sleep(PREFACE_TIMEOUT));
        Self {
            io,
            info: Arc::new(info),
            unauthenticated: unauthenticated_timeout.map(|timeout| Box::pin(sleep(timeout))),
            unauthenticated_permit: Some(unauthenticated_permit),
            abort_token: abort.clone(),
            abort: Box::pin(abort.cancelled_owned()),
            revoked: revoked.map(|token| Box::pin(token.cancelled_owned())),
            preface: Some(Preface { bytes_left: PREFACE_LENGTH, deadline }),
            unsent: Box::pin(sleep(UNSENT_TIMEOUT)),
            blocked: None,
            permit,
        }
    }

    /// Cancelled when the connection must be closed at once.
    pub(super) fn abort_token(&self) -> CancellationToken {
        self.abort_token.clone()
    }

    /// The connection as the calls see it.
    pub(super) fn info(&self) -> Arc<ConnectionInfo> {
        Arc::clone(&self.info)
    }

    /// Fails once the connection is aborted or revoked, or has unsent bytes that are too old.
    /// Polled only when no I/O is ready. Even a busy connection soon has a moment without ready
    /// I/O.
    fn poll_closed<T>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let this = self.project();
        while this.unsent.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = this.info.unsent.oldest().unwrap_or(now) + UNSENT_TIMEOUT;
            if due <= now {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.unsent.as_mut().reset(due);
        }
        let mut is_closed = this.abort.as_mut().poll(cx).is_ready();
        if let Some(revoked) = this.revoked {
            is_closed |= revoked.as_mut().poll(cx).is_ready();
        }
        if is_closed {
            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
        } else {
            Poll::Pending
        }
    }

    /// The result of a write. Fails if writes are blocked for longer than [`READ_TIMEOUT`].
    fn written<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let blocked = self.as_mut().project().blocked;
        if polled.is_ready() {
            *blocked = None;
            return polled;
        }
        let deadline = blocked.get_or_insert_with(|| Box::pin(sleep(READ_TIMEOUT)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.poll_closed(cx)
    }
}

impl<IO: AsyncRead> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.as_mut().project();
        let filled = buffer.filled().len();
        let polled = this.io.poll_read(cx, buffer);
        if let Some(preface) = this.preface {
            let read = buffer.filled().len() - filled;
            preface.bytes_left = preface.bytes_left.saturating_sub(read);
        }
        if this.preface.as_ref().is_some_and(|preface| preface.bytes_left == 0) {
            *this.preface = None;
        }
        if polled.is_ready() {
            return polled;
        }
        if let Some(preface) = this.preface
            && preface.deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if this.info.is_authenticated() {
            *this.unauthenticated = None;
            *this.unauthenticated_permit = None;
        }
        if let Some(deadline) = this.unauthenticated
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.poll_closed(cx)
    }
}

impl<IO: AsyncWrite> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.as_mut().project().io.poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.as_mut().project().io.poll_flush(cx);
        self.written(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.as_mut().project().io.poll_shutdown(cx);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.as_mut().project().io.poll_write_vectored(cx, slices);
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
