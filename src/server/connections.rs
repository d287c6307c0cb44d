//! Connections, limited in number and patience, and cut when the server must end.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    Stream, StreamExt,
    stream::{self, FuturesUnordered},
};
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::{
    api::keyed_semaphore::{KeyedPermit, KeyedSemaphore},
    auth::{ConnectionInfo, Peer},
    server::{
        tasks::Tasks,
        tls::{Shaken, Tls},
    },
};

mod accept;

pub(super) use accept::{Accept, Admitting};
use accept::{Origin, accept_one};

/// How long a connection may take to begin: with the preface of HTTP/2 (RFC 9113, 3.4), or as many bytes of HTTP/1.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_LENGTH: usize = 24;
/// How long a connection may last on which nobody has called who could be told.
const STRANGER_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a caller may take to read what is sent to it, when nothing more can be on its way.
const READING_TIMEOUT: Duration = Duration::from_secs(30);

/// What holds for the connections of one door. Its clones share the limits.
#[derive(Debug, Clone)]
pub(super) struct ConnectionLimiter {
    room: Arc<Semaphore>,
    connections_max: usize,
    /// For each address on the network.
    per_address: Arc<KeyedSemaphore<IpAddr>>,
    /// How long a connection may last on which nobody has called who could be told.
    stranger_timeout: Option<Duration>,
    cut: CancellationToken,
}

/// A connection's place among all.
#[derive(Debug)]
pub(super) struct Place {
    _room: OwnedSemaphorePermit,
    _of_address: Option<KeyedPermit<IpAddr>>,
}

pin_project! {
    /// A connection. Whoever reads from or writes to it gets an error once it is cut.
    #[derive(Debug)]
    pub(super) struct Connection<IO> {
        #[pin]
        io: IO,
        visitor: Arc<ConnectionInfo>,
        // Until somebody has called who could be told.
        stranger: Option<Pin<Box<Sleep>>>,
        cut: Pin<Box<WaitForCancellationFutureOwned>>,
        // When what its client has shown is not trusted any more.
        distrust: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
        // Until it has said enough to be taken seriously.
        silence: Option<Silence>,
        // While what is sent is not read.
        unread: Option<Pin<Box<Sleep>>>,
        place: Place,
    }
}

/// How much is still to be heard, and until when.
#[derive(Debug)]
struct Silence {
    bytes_left: usize,
    limit: Pin<Box<Sleep>>,
}

// === impl ConnectionLimiter ===

impl ConnectionLimiter {
    /// Room for so many connections, and so many from each address, until `cut` is cancelled.
    pub(super) fn new(connections_max: usize, per_address: usize, cut: CancellationToken) -> Self {
        let room = Arc::new(Semaphore::new(connections_max));
        let per_address = Arc::new(KeyedSemaphore::new(per_address));
        Self { room, connections_max, per_address, stranger_timeout: None, cut }
    }

    /// Hangs up on who has not called, in good time, as somebody who could be told: places are for callers.
    pub(super) fn without_strangers(self) -> Self {
        Self { stranger_timeout: Some(STRANGER_TIMEOUT), ..self }
    }

    /// How many connections there are.
    pub(super) fn connections_open(&self) -> usize {
        self.connections_max - self.room.available_permits()
    }

    /// How many there may be.
    pub(super) fn connections_max(&self) -> usize {
        self.connections_max
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
            let (io, origin, place) = gate.next(&acceptor).await?;
            let visitor = match origin {
                Origin::Address(address) => ConnectionInfo::new(Peer::Unknown, Some(address)),
                Origin::User(uid) => ConnectionInfo::new(Peer::User(uid), None),
            };
            Some((Ok(gate.connection(io, visitor, place)), (gate, acceptor)))
        })
    }

    /// As [`Self::connections`], of those that have shaken hands, which they do as `tasks`: who takes long keeps nobody waiting.
    pub(super) fn secured(
        self,
        listener: TcpListener,
        tls: Arc<Tls>,
        tasks: Tasks,
    ) -> impl Stream<Item = io::Result<Connection<TlsStream<TcpStream>>>> + Send {
        let handshakes = FuturesUnordered::new();
        stream::unfold((self, listener, handshakes), move |state| {
            let (tls, tasks) = (Arc::clone(&tls), tasks.clone());
            async move {
                let (gate, listener, mut handshakes) = state;
                loop {
                    tokio::select! {
                        Some(done) = handshakes.next() => {
                            if let Some((Shaken { stream, visitor, distrust }, place)) = done {
                                let mut connection = gate.connection(stream, visitor, place);
                                connection.distrust = distrust.map(|it| Box::pin(it.cancelled_owned()));
                                return Some((Ok(connection), (gate, listener, handshakes)));
                            }
                        }
                        accepted = gate.next(&listener) => {
                            let (io, _, place) = accepted?;
                            let (tls, cut) = (Arc::clone(&tls), gate.cut.child_token());
                            handshakes.push(tasks.detached("TLS handshake", async move {
                                let shaken = cut.run_until_cancelled(tls.accept(io)).await?;
                                shaken.ok().map(|shaken| (shaken, place))
                            }));
                        }
                    }
                }
            }
        })
    }

    /// The next connection, in a place of its own. `None` if there will be none.
    async fn next<A: Accept>(&self, acceptor: &A) -> Option<(A::Io, Origin, Place)> {
        loop {
            let room = Arc::clone(&self.room).acquire_owned().await.ok()?;
            let (io, origin) = accept_one(acceptor).await;
            let of_address = match origin {
                // Who has enough already is hung up on.
                Origin::Address(address) => match self.per_address.take(&neighbourhood(address)) {
                    Some(slot) => Some(slot),
                    None => continue,
                },
                Origin::User(_) => None,
            };
            return Some((io, origin, Place { _room: room, _of_address: of_address }));
        }
    }

    fn connection<IO>(&self, io: IO, visitor: ConnectionInfo, place: Place) -> Connection<IO> {
        let limit = Box::pin(sleep(PREFACE_TIMEOUT));
        Connection {
            io,
            visitor: Arc::new(visitor),
            stranger: self.stranger_timeout.map(|timeout| Box::pin(sleep(timeout))),
            // A token of its own: a shared one would be a lock that all connections meet at.
            cut: Box::pin(self.cut.child_token().cancelled_owned()),
            distrust: None,
            silence: Some(Silence { bytes_left: PREFACE_LENGTH, limit }),
            unread: None,
            place,
        }
    }
}

/// Whom connections are counted for: an address, or with IPv6 a network (RFC 4291, 2.5.4), all of whose addresses are one host's to
/// choose from.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

// === impl Connection ===

impl<IO> Connection<IO> {
    /// An error if it is cut. Asked only when there is nothing else to do: a busy connection soon has nothing to do.
    fn poll_cut<T>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let this = self.project();
        let mut is_over = this.cut.as_mut().poll(cx).is_ready();
        if let Some(distrust) = this.distrust {
            is_over |= distrust.as_mut().poll(cx).is_ready();
        }
        if is_over {
            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
        } else {
            Poll::Pending
        }
    }

    /// What has become of sending something: an error if it is cut, or nobody has read for too long.
    fn sent<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let unread = self.as_mut().project().unread;
        if polled.is_ready() {
            *unread = None;
            return polled;
        }
        let limit = unread.get_or_insert_with(|| Box::pin(sleep(READING_TIMEOUT)));
        if limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.poll_cut(cx)
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
        if let Some(silence) = this.silence {
            let read = buffer.filled().len() - filled;
            silence.bytes_left = silence.bytes_left.saturating_sub(read);
        }
        if this.silence.as_ref().is_some_and(|silence| silence.bytes_left == 0) {
            *this.silence = None;
        }
        if polled.is_ready() {
            return polled;
        }
        if let Some(silence) = this.silence
            && silence.limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if this.visitor.is_known() {
            *this.stranger = None;
        }
        if let Some(stranger) = this.stranger
            && stranger.as_mut().poll(cx).is_ready()
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
        let polled = self.as_mut().project().io.poll_write(cx, bytes);
        self.sent(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.as_mut().project().io.poll_flush(cx);
        self.sent(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.as_mut().project().io.poll_shutdown(cx);
        self.sent(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.as_mut().project().io.poll_write_vectored(cx, slices);
        self.sent(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO> Connected for Connection<IO> {
    type ConnectInfo = Arc<ConnectionInfo>;

    fn connect_info(&self) -> Arc<ConnectionInfo> {
        Arc::clone(&self.visitor)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_call_as_anybody_is_hung_up_on() {
        for (is_known, expected) in [(false, Some(io::ErrorKind::TimedOut)), (true, None)] {
            let gate = ConnectionLimiter::new(1, 1, CancellationToken::new()).without_strangers();
            let permit = Arc::clone(&gate.room).try_acquire_owned().unwrap();
            let place = Place { _room: permit, _of_address: None };
            let (near, mut far) = duplex(1_000);
            let mut connection =
                gate.connection(near, ConnectionInfo::new(Peer::Unknown, None), place);
            far.write_all(&[0; PREFACE_LENGTH]).await.unwrap();
            connection.read_exact(&mut [0; PREFACE_LENGTH]).await.unwrap();
            if is_known {
                connection.visitor.introduce();
            }
            let patience = STRANGER_TIMEOUT + Duration::from_secs(1);
            let read = tokio::time::timeout(patience, connection.read(&mut [0])).await;
            assert_eq!(read.ok().map(|read| read.unwrap_err().kind()), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_hung_up_on() {
        let gate = ConnectionLimiter::new(1, 1, CancellationToken::new());
        let permit = Arc::clone(&gate.room).try_acquire_owned().unwrap();
        let place = Place { _room: permit, _of_address: None };
        let (near, mut far) = duplex(1_000);
        let mut connection = gate.connection(near, ConnectionInfo::new(Peer::Unknown, None), place);
        let began = Instant::now();
        // A little at a time is enough.
        for _ in 0..3 {
            connection.write_all(&[0; 1_000]).await.unwrap();
            sleep(READING_TIMEOUT / 2).await; // paused: the clock jumps
            far.read_exact(&mut [0; 1_000]).await.unwrap();
        }
        connection.write_all(&[0; 1_000]).await.unwrap();
        let error = connection.write_all(&[0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 5 * READING_TIMEOUT.as_secs() / 2);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_counted_together() {
        let of = |text: &str| neighbourhood(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
