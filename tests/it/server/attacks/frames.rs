//! HTTP/2 (RFC 9113) on raw sockets, to send frames that no client library sends.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GO_AWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const CHECK: &str = "/supportaccess.v1.SupportAccess/CheckAccess";
pub(super) const BATCH: &str = "/supportaccess.v1.SupportAccess/BatchCheckAccess";
pub(super) const EXPLAIN: &str = "/supportaccess.v1.SupportAccess/ExplainAccess";
pub(super) const GRANT: &str = "/supportaccess.v1.SupportAccessAdmin/GrantAccess";
pub(super) const LIST_EVENTS: &str = "/supportaccess.v1.SupportAccessAdmin/ListEvents";
pub(super) const FOLLOW: &str = "/supportaccess.replication.v1.Replication/Follow";

/// The client side of a connection.
pub(super) struct Attacker<IO> {
    io: IO,
    read: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a call of the caller `actor`, without compression (RFC 7541, section 6.2.2).
pub(super) fn call(path: &str, actor: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("support-access-actor", actor),
    ] {
        header(&mut block, name, value);
    }
    block
}

pub(super) fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        integer(block, text.len());
        block.extend(text.as_bytes());
    }
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(block: &mut Vec<u8>, number: usize) {
    if number < 127 {
        block.push(u8::try_from(number).unwrap());
        return;
    }
    block.push(127);
    let mut rest = number - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// A gRPC message whose prefix states the length `claimed`.
pub(super) fn message(claimed: usize, bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(claimed).unwrap().to_be_bytes());
    framed.extend(bytes);
    framed
}

impl Attacker<TcpStream> {
    /// A connection with a valid preface.
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut attacker = Self::silent(address).await?;
        attacker.start(&[]).await?;
        Ok(attacker)
    }

    /// A connection on which nothing was sent.
    pub(super) async fn silent(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::on(stream))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Attacker<IO> {
    pub(super) fn on(io: IO) -> Self {
        Self { io, read: Vec::new() }
    }

    /// Sends the preface and `settings`.
    pub(super) async fn start(&mut self, settings: &[u8]) -> io::Result<()> {
        self.send(PREFACE).await?;
        self.send(&frame(SETTINGS, 0, 0, settings)).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await
    }

    /// As [`Self::send`], with a deadline: a server that does not read blocks writes.
    pub(super) async fn send_until(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        timeout_at(deadline, self.io.write_all(bytes))
            .await
            .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next frame; `None` at the end of the connection. Acknowledges pings and settings.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(received) = self.take_frame() {
                let ack = match received.kind {
                    PING | SETTINGS if received.flags & ACK == 0 => {
                        let is_ping = received.kind == PING;
                        frame(received.kind, ACK, 0, if is_ping { &received.payload } else { &[] })
                    }
                    _ => return Some(received),
                };
                self.io.write_all(&ack).await.ok()?;
                continue;
            }
            if self.io.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.read.get(..9)?.try_into().unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.read.get(9..9 + length)?.to_vec();
        self.read.drain(..9 + length);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame that matches. `None` if the connection ends or the timeout passes before.
    pub(super) async fn until(
        &mut self,
        timeout: Duration,
        matches: impl Fn(&Frame) -> bool,
    ) -> Option<Frame> {
        let deadline = Instant::now() + timeout;
        while let Ok(Some(received)) = timeout_at(deadline, self.next()).await {
            if matches(&received) {
                return Some(received);
            }
        }
        None
    }

    /// Reads until the server closes the connection, and sends nothing. Returns the elapsed time;
    /// `None` if the timeout passes before.
    pub(super) async fn until_closed(&mut self, timeout: Duration) -> Option<Duration> {
        let started = Instant::now();
        let mut chunk = vec![0; 4_096];
        loop {
            match timeout_at(started + timeout, self.io.read(&mut chunk)).await {
                Ok(Ok(0) | Err(_)) => return Some(started.elapsed()),
                Ok(Ok(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// As [`Self::until_closed`], while sending a byte of `bytes` every 300 milliseconds.
    pub(super) async fn dribble(&mut self, bytes: &[u8], timeout: Duration) -> Option<Duration> {
        let started = Instant::now();
        for byte in bytes {
            if self.io.write_all(&[*byte]).await.is_err() {
                return Some(started.elapsed());
            }
            if self.until_closed(Duration::from_millis(300)).await.is_some() {
                return Some(started.elapsed());
            }
            if started.elapsed() > timeout {
                return None;
            }
        }
        self.until_closed(timeout).await.map(|_| started.elapsed())
    }
}
