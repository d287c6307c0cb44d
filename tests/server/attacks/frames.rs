//! HTTP/2 (RFC 9113) by hand: frames that no client library would send.

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
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const CHECK: &str = "/supportaccess.v1.SupportAccess/CheckAccess";
pub(super) const LIST_EVENTS: &str = "/supportaccess.v1.SupportAccessAdmin/ListEvents";
pub(super) const FOLLOW: &str = "/supportaccess.replication.v1.Replication/Follow";

/// One side of a connection.
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

/// The header block of a call by somebody of this name, without compression (RFC 7541, 6.2.2).
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

/// RFC 7541, 5.1, with a prefix of seven bits.
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

/// A message as gRPC frames it, which claims to be so long.
pub(super) fn message(claimed: usize, bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(claimed).unwrap().to_be_bytes());
    framed.extend(bytes);
    framed
}

impl Attacker<TcpStream> {
    /// A connection that has begun as it should.
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut attacker = Self::silent(address).await?;
        attacker.begin(&[]).await?;
        Ok(attacker)
    }

    /// A connection on which nothing was said.
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

    /// Preface and settings.
    pub(super) async fn begin(&mut self, settings: &[u8]) -> io::Result<()> {
        self.send(PREFACE).await?;
        self.send(&frame(SETTINGS, 0, 0, settings)).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await
    }

    /// As [`Self::send`], but only until `deadline`: who does not read cannot be written to for ever.
    pub(super) async fn send_until(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        timeout_at(deadline, self.io.write_all(bytes))
            .await
            .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next frame; `None` once the connection has ended. Pings and settings are answered.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(found) = self.take_frame() {
                let answer = match found.kind {
                    PING | SETTINGS if found.flags & ACK == 0 => {
                        let payload = if found.kind == PING { &*found.payload } else { &[] };
                        frame(found.kind, ACK, 0, payload)
                    }
                    _ => return Some(found),
                };
                self.io.write_all(&answer).await.ok()?;
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

    /// Waits until `is_it`. Nothing if the connection ends before, or `patience`.
    pub(super) async fn until(
        &mut self,
        patience: Duration,
        is_it: impl Fn(&Frame) -> bool,
    ) -> Option<Frame> {
        let deadline = Instant::now() + patience;
        while let Ok(Some(found)) = timeout_at(deadline, self.next()).await {
            if is_it(&found) {
                return Some(found);
            }
        }
        None
    }

    /// Reads until the other side hangs up, and answers nothing. How long that took; `None` if longer than `patience`.
    pub(super) async fn until_closed(&mut self, patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        let mut chunk = vec![0; 4_096];
        loop {
            match timeout_at(began + patience, self.io.read(&mut chunk)).await {
                Ok(Ok(0) | Err(_)) => return Some(began.elapsed()),
                Ok(Ok(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// As [`Self::until_closed`], while it sends another byte of `bytes` every now and then.
    pub(super) async fn dribble(&mut self, bytes: &[u8], patience: Duration) -> Option<Duration> {
        let began = Instant::now();
        for byte in bytes {
            if self.io.write_all(&[*byte]).await.is_err() {
                return Some(began.elapsed());
            }
            if self.until_closed(Duration::from_millis(300)).await.is_some() {
                return Some(began.elapsed());
            }
            if began.elapsed() > patience {
                return None;
            }
        }
        self.until_closed(patience).await.map(|_| began.elapsed())
    }
}
