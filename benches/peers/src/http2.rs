//! An HTTP/2 client that does as little as possible, so that the generator uses less CPU than any
//! server. It encodes the header of a call once, and skips the headers of responses.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Instant,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::bytes::{Buf, BufMut, BytesMut};

use crate::socket::Socket;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEADER: usize = 9;
/// The largest payload that every server accepts in a frame.
const FRAME_MAX: usize = 16_384;
/// The window for responses, of the connection and of each stream.
const WINDOW: u32 = 1 << 30;
const DEFAULT_WINDOW: u32 = 65_535;
/// The number of bytes of a response that are kept.
const KEPT: usize = 32;

/// The headers of all calls.
#[derive(Debug, Clone)]
pub struct Head {
    /// The block of the first call, after which the server knows all fields.
    first: Vec<u8>,
    /// The block of all other calls: indexes of known fields.
    next: Vec<u8>,
}

/// A call without a response yet.
#[derive(Debug)]
struct Open {
    stream: u32,
    due: Instant,
    /// The first bytes of the response, with the prefix of gRPC.
    response: Vec<u8>,
}

/// A completed call.
#[derive(Debug)]
pub struct Completed {
    /// When the call was due.
    pub due: Instant,
    /// The first bytes of the response message. `None`: the call has failed.
    pub message: Option<Vec<u8>>,
}

/// A connection.
pub struct Connection {
    socket: Box<dyn Socket>,
    head: Head,
    input: BytesMut,
    output: BytesMut,
    next_stream: u32,
    /// The number of bytes that the server still accepts on this connection.
    window: i64,
    /// The number of bytes that the server accepts on a new stream.
    stream_window: i64,
    /// The number of bytes for which the server has no new window yet.
    unacknowledged: u32,
    open: Vec<Open>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("open", &self.open).finish_non_exhaustive()
    }
}

// === impl Head ===

impl Head {
    /// The headers of calls of the method at this path, with a bearer token.
    pub fn new(path: &str, token: Option<&str>) -> Self {
        // The indexes of `:method: POST` and `:scheme: http` in the static table of HPACK.
        let fixed = [0x83, 0x86];
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut fields = vec![
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "support-access-bench"),
        ];
        fields.extend(authorization.as_deref().map(|value| ("authorization", value)));
        let mut first = fixed.to_vec();
        for (name, value) in &fields {
            first.put_u8(0x40); // a new field, which enters the dynamic table
            text(&mut first, name);
            text(&mut first, value);
        }
        let newest = 62; // the first index of the dynamic table
        let indexes = (newest..newest + u8::try_from(fields.len()).expect("there are few")).rev();
        let next = fixed.into_iter().chain(indexes.map(|index| 0x80 | index)).collect();
        Self { first, next }
    }
}

/// A text in the encoding of HPACK, without Huffman codes.
fn text(block: &mut Vec<u8>, text: &str) {
    const LIMIT: usize = 127;
    if text.len() < LIMIT {
        block.put_u8(u8::try_from(text.len()).expect("it is below the limit"));
    } else {
        block.put_u8(0x7f);
        let mut rest = text.len() - LIMIT;
        while rest >= 128 {
            block.put_u8(u8::try_from(rest % 128).expect("it is a remainder") | 0x80);
            rest /= 128;
        }
        block.put_u8(u8::try_from(rest).expect("it is below 128"));
    }
    block.extend_from_slice(text.as_bytes());
}

// === impl Connection ===

impl Connection {
    /// Starts HTTP/2 on the socket.
    pub fn new(socket: Box<dyn Socket>, head: Head) -> Self {
        let mut output = BytesMut::from(PREFACE);
        frame(&mut output, SETTINGS, 0, 0, &[0, 4, 0x40, 0, 0, 0]); // INITIAL_WINDOW_SIZE: WINDOW
        frame(&mut output, WINDOW_UPDATE, 0, 0, &(WINDOW - DEFAULT_WINDOW).to_be_bytes());
        Self {
            socket,
            head,
            input: BytesMut::with_capacity(1 << 18),
            output,
            next_stream: 1,
            window: DEFAULT_WINDOW.into(),
            stream_window: DEFAULT_WINDOW.into(),
            unacknowledged: 0,
            open: Vec::new(),
        }
    }

    /// The number of calls without a response.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether the windows have room for the message.
    pub fn has_room(&self, message: &[u8]) -> bool {
        let length = i64::try_from(message.len()).expect("messages are short");
        assert!(length <= self.stream_window, "the message exceeds the window of a stream");
        length <= self.window
    }

    /// Begins a call. [`Self::flush`] sends the message.
    pub fn send(&mut self, message: &[u8], due: Instant) {
        let stream = self.next_stream;
        let block = if stream == 1 { &self.head.first } else { &self.head.next };
        frame(&mut self.output, HEADERS, END_HEADERS, stream, block);
        let mut chunks = message.chunks(FRAME_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            let flags = if chunks.peek().is_none() { END_STREAM } else { 0 };
            frame(&mut self.output, DATA, flags, stream, chunk);
        }
        self.window -= i64::try_from(message.len()).expect("messages are short");
        self.next_stream += 2;
        self.open.push(Open { stream, due, response: Vec::with_capacity(KEPT) });
    }

    /// Sends all begun calls.
    ///
    /// # Errors
    /// The connection has failed.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.socket.write_all_buf(&mut self.output).await?;
            self.socket.flush().await?;
        }
        Ok(())
    }

    /// Waits for bytes of the server.
    ///
    /// # Errors
    /// The connection has failed, or the server has closed it.
    pub async fn read(&mut self) -> io::Result<()> {
        match self.socket.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads bytes that have arrived. Returns whether there were any.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_ready(&mut self) -> io::Result<bool> {
        let mut read = pin!(self.read());
        match poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Passes on the calls that are completed by the bytes read so far.
    ///
    /// # Errors
    /// The server has sent `GOAWAY`.
    pub fn completed(&mut self, mut on_completed: impl FnMut(Completed)) -> io::Result<()> {
        while let Some((kind, flags, stream, length)) = self.next_frame() {
            let payload = self.input.split_to(FRAME_HEADER + length).split_off(FRAME_HEADER);
            let is_last = flags & END_STREAM != 0;
            match kind {
                DATA => {
                    self.unacknowledged += u32::try_from(length).expect("frames are short");
                    if let Some(open) = self.open.iter_mut().find(|open| open.stream == stream) {
                        let room = KEPT.saturating_sub(open.response.len()).min(length);
                        open.response.extend_from_slice(&payload[..room]);
                    }
                    assert!(!is_last, "gRPC ends with trailers");
                }
                HEADERS if is_last => self.end(stream, true, &mut on_completed),
                RST_STREAM => self.end(stream, false, &mut on_completed),
                SETTINGS if flags & ACK == 0 => self.accept_settings(&payload),
                PING if flags & ACK == 0 => frame(&mut self.output, PING, ACK, 0, &payload),
                GOAWAY => return Err(io::Error::other(format!("GOAWAY {payload:?}"))),
                WINDOW_UPDATE if stream == 0 => self.window += i64::from((&payload[..]).get_u32()),
                _ => {}
            }
        }
        if self.unacknowledged > WINDOW / 2 {
            frame(&mut self.output, WINDOW_UPDATE, 0, 0, &self.unacknowledged.to_be_bytes());
            self.unacknowledged = 0;
        }
        Ok(())
    }

    /// Type, flags, stream and length of a frame that has arrived as a whole.
    fn next_frame(&self) -> Option<(u8, u8, u32, usize)> {
        let header = self.input.get(..FRAME_HEADER)?;
        let length =
            (usize::from(header[0]) << 16) | (usize::from(header[1]) << 8) | usize::from(header[2]);
        let stream = (&header[5..]).get_u32();
        let is_whole = self.input.len() >= FRAME_HEADER + length;
        is_whole.then_some((header[3], header[4], stream, length))
    }

    /// A call has succeeded if it ends with trailers after a message: a failed call has no message.
    fn end(&mut self, stream: u32, has_trailers: bool, on_completed: &mut impl FnMut(Completed)) {
        let Some(index) = self.open.iter().position(|open| open.stream == stream) else { return };
        let Open { due, mut response, .. } = self.open.swap_remove(index);
        let message = (has_trailers && response.len() >= 5).then(|| response.split_off(5));
        on_completed(Completed { due, message });
    }

    fn accept_settings(&mut self, mut payload: &[u8]) {
        const INITIAL_WINDOW_SIZE: u16 = 4;
        while payload.len() >= 6 {
            let (name, value) = (payload.get_u16(), payload.get_u32());
            if name == INITIAL_WINDOW_SIZE {
                self.stream_window = value.into();
            }
        }
        frame(&mut self.output, SETTINGS, ACK, 0, &[]);
    }
}

fn frame(output: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    output.put_uint(payload.len().try_into().expect("frames are short"), 3);
    output.put_u8(kind);
    output.put_u8(flags);
    output.put_u32(stream);
    output.put_slice(payload);
}
