//! Accepts the `:authority` that gRPC libraries send at a Unix socket.
//!
//! The authority of a Unix socket has no meaning. Java and the libraries on gRPC's C core (Python,
//! C++, Ruby, PHP) send the path of the socket, such as `run%2Fsupport-access%2Fcheck.sock`. `h2`
//! resets these streams with `PROTOCOL_ERROR`, because the path is not an authority of HTTP.
//! [`LocalAuthority`] replaces the characters at fault before `h2` reads them.
//!
//! The replacement of a character has a Huffman code of the same length (RFC 7541, appendix B). So
//! no length changes, and the HPACK tables of both sides stay equal. An `:authority` by its index
//! in the dynamic table needs no change, because the entry was rewritten when it was added. The
//! adapter does not recognize an index of the dynamic table as the *name* of a literal. Encoders
//! have no reason to send one, since `:authority` is in the static table.

use std::{
    io, iter,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::{
    bytes::{Buf, BufMut, BytesMut},
    io::poll_read_buf,
};

/// Length of the connection preface (RFC 9113, section 3.4).
const PREFACE_LENGTH: usize = 24;
/// Length of a frame header (RFC 9113, section 4.1).
const FRAME_HEADER_LENGTH: usize = 9;
/// Types of the frames that carry a header block, and their flags (RFC 9113, sections 6.2 and
/// 6.10).
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Maximum length of the frames of one header block that are held back: the longest frame that the
/// server accepts (RFC 9113, section 4.2). A longer block exceeds the limit on metadata.
const BLOCK_LENGTH_MAX: usize = FRAME_HEADER_LENGTH + 16_384;
/// Maximum number of bytes read at once.
const READ_LENGTH: usize = 8_192;
/// Index of `:authority` in the static table (RFC 7541, appendix A), and its literal forms.
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_HUFFMAN: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// Lengths of Huffman codes in bits, with the upper bound of their codes, aligned to the left of 32
/// bits. Codes of one length are consecutive, and follow the shorter ones (RFC 7541, appendix B).
/// No character of an escaped path has a longer code.
const CODE_LENGTHS: [(u32, u32); 8] = [
    (5, 0x5000_0000),
    (6, 0xb800_0000),
    (7, 0xf800_0000),
    (8, 0xfe00_0000),
    (10, 0xff40_0000),
    (11, 0xffa0_0000),
    (12, 0xffc0_0000),
    (13, 0xfff0_0000),
];
/// Huffman codes that are replaced: length, code and replacement.
const REPLACED_CODES: [(u32, u32, u32); 10] = [
    (6, 0x14, 0x16),      // space, by -
    (6, 0x15, 0x16),      // %, by -
    (6, 0x18, 0x16),      // /, by -
    (7, 0x5c, 0x5d),      // :, by B
    (10, 0x3f9, 0x3f8),   // ", by !
    (10, 0x3fc, 0x3f8),   // ?, by !
    (11, 0x7fc, 0x7fb),   // |, by +
    (13, 0x1ffa, 0x1ff9), // @, by $
    (13, 0x1ffb, 0x1ff9), // [, by $
    (13, 0x1ffc, 0x1ff9), // ], by $
];

/// The reader of a connection, with an `:authority` that `h2` accepts.
///
/// Holds at most [`BLOCK_LENGTH_MAX`] and [`READ_LENGTH`] bytes. `h2` receives a header block once
/// the block is complete, and would not use a part of one.
#[derive(Debug)]
pub(super) struct LocalAuthority<R> {
    reader: R,
    bytes: BytesMut,
    /// The position in `bytes` of the next frame header. May be beyond the end.
    next: usize,
    /// The position in `bytes` of an incomplete header block.
    block: Option<usize>,
}

/// The parts of a frame header that matter here.
struct FrameHeader {
    length: usize,
    kind: u8,
    flags: u8,
}

/// The unread rest of a header block (RFC 7541, section 6).
struct Block<'a>(&'a mut [u8]);

/// A string of a header block (RFC 7541, section 5.2).
struct Literal<'a> {
    is_huffman: bool,
    bytes: &'a mut [u8],
}

// === impl LocalAuthority ===

impl<R> LocalAuthority<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, bytes: BytesMut::new(), next: PREFACE_LENGTH, block: None }
    }

    /// The number of bytes that are passed on.
    fn ready(&self) -> usize {
        self.block.unwrap_or(self.next).min(self.bytes.len())
    }

    /// Moves ready bytes to `buffer`.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.ready().min(buffer.remaining());
        buffer.put_slice(&self.bytes[..length]);
        self.bytes.advance(length);
        self.next -= length;
        self.block = self.block.map(|block| block - length);
    }

    /// Examines the frames that have arrived. Rewrites complete header blocks.
    fn examine(&mut self) {
        while let Some(header) = self.bytes.get(self.next..).and_then(FrameHeader::parse) {
            let end = self.next + FRAME_HEADER_LENGTH + header.length;
            let start = self.block.unwrap_or(self.next);
            let kind = if self.block.is_some() { CONTINUATION } else { HEADERS };
            let is_part = header.kind == kind && end - start <= BLOCK_LENGTH_MAX;
            if is_part && end > self.bytes.len() {
                return;
            }
            if is_part {
                self.next = end;
                self.block = Some(start);
            }
            if !is_part || header.flags & END_HEADERS != 0 {
                // A block that is too long or malformed is rewritten as far as it was examined.
                if let Some(block) = self.block.take() {
                    rewrite_block(&mut self.bytes[block..self.next]);
                }
            }
            self.next = end;
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for LocalAuthority<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready() == 0 {
            this.bytes.reserve(READ_LENGTH);
            let mut chunk = (&mut this.bytes).limit(READ_LENGTH);
            let length = ready!(poll_read_buf(Pin::new(&mut this.reader), cx, &mut chunk))?;
            if length == 0 {
                // The end of the stream. `h2` reports an incomplete block.
                this.block = None;
                this.next = this.next.max(this.bytes.len());
                break;
            }
            this.examine();
        }
        this.take(buffer);
        Poll::Ready(Ok(()))
    }
}

// === impl FrameHeader ===

impl FrameHeader {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, ..] = *bytes.first_chunk::<FRAME_HEADER_LENGTH>()?;
        Some(Self { length: u32::from_be_bytes([0, a, b, c]) as usize, kind, flags })
    }

    /// The part of the header block in `payload`, without priority and padding.
    fn fragment<'a>(&self, payload: &'a mut [u8]) -> &'a mut [u8] {
        let has = |flag| self.kind == HEADERS && self.flags & flag != 0;
        let (mut start, mut end) = (0, payload.len());
        if has(PADDED) {
            start += 1;
            end -= payload.first().map_or(0, |padding| usize::from(*padding).min(end));
        }
        if has(PRIORITY) {
            start += 5;
        }
        payload.get_mut(start..end).unwrap_or_default()
    }
}

/// Rewrites the `:authority` in the header block of these frames.
fn rewrite_block(mut frames: &mut [u8]) {
    let mut fragments = iter::from_fn(move || {
        let header = FrameHeader::parse(frames)?;
        let frame = frames.split_off_mut(..FRAME_HEADER_LENGTH + header.length)?;
        Some(header.fragment(&mut frame[FRAME_HEADER_LENGTH..]))
    });
    let Some(first) = fragments.next() else { return };
    let Some(second) = fragments.next() else {
        // Most blocks are one frame.
        return rewrite_authority(first);
    };
    let fragments: Vec<_> = [first, second].into_iter().chain(fragments).collect();
    let mut block = fragments.concat();
    rewrite_authority(&mut block);
    let mut rewritten = &block[..];
    for fragment in fragments {
        rewritten.copy_to_slice(fragment);
    }
}

fn rewrite_authority(block: &mut [u8]) {
    if let Some(authority) = Block(block).authority() {
        authority.rewrite();
    }
}

// === impl Block ===

impl<'a> Block<'a> {
    /// The value of `:authority`. `None`: the value is in a table, or the block is malformed.
    fn authority(mut self) -> Option<Literal<'a>> {
        loop {
            let prefix_bits = match *self.0.first()? {
                // An indexed field, and a change of the size of the table, have no strings.
                0x80.. => {
                    self.integer(7)?;
                    continue;
                }
                0x20..0x40 => {
                    self.integer(5)?;
                    continue;
                }
                0x40..0x80 => 6,
                0x00..0x20 => 4,
            };
            let is_authority = match self.integer(prefix_bits)? {
                0 => self.literal()?.is_authority(),
                index => index == AUTHORITY_INDEX,
            };
            let value = self.literal()?;
            if is_authority {
                return Some(value);
            }
        }
    }

    /// Reads an integer (RFC 7541, section 5.1). `None`: the integer is incomplete, or larger than
    /// every valid length.
    fn integer(&mut self, prefix_bits: u32) -> Option<usize> {
        let mask = (1 << prefix_bits) - 1;
        let mut value = usize::from(*self.0.split_off_first_mut()?) & mask;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14] {
            let byte = usize::from(*self.0.split_off_first_mut()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a string. `None`: the string is incomplete.
    fn literal(&mut self) -> Option<Literal<'a>> {
        let is_huffman = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        Some(Literal { is_huffman, bytes: self.0.split_off_mut(..length)? })
    }
}

// === impl Literal ===

impl Literal<'_> {
    fn is_authority(&self) -> bool {
        let name = if self.is_huffman { AUTHORITY_HUFFMAN } else { AUTHORITY };
        self.bytes == name
    }

    /// Replaces the characters that `h2` may reject.
    fn rewrite(self) {
        if self.is_huffman {
            rewrite_huffman(self.bytes);
        } else {
            rewrite_plain(self.bytes);
        }
    }
}

fn rewrite_plain(value: &mut [u8]) {
    for byte in value {
        if !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'.' | b'_') {
            *byte = b'-';
        }
    }
}

fn rewrite_huffman(value: &mut [u8]) {
    let mut position = 0;
    loop {
        let window = window(value, position);
        let length = CODE_LENGTHS.iter().find(|(_, bound)| window < *bound);
        // The end is padding, a character with a longer code, or malformed.
        let Some(&(length, _)) = length else { break };
        let next = position + length as usize;
        if next > 8 * value.len() {
            break;
        }
        let code = window >> (32 - length);
        let replaced =
            REPLACED_CODES.iter().find(|(bits, from, _)| (*bits, *from) == (length, code));
        if let Some((_, from, to)) = replaced {
            flip(value, position, (from ^ to) << (32 - length));
        }
        position = next;
    }
}

/// The bits from `position` on, of which at least 25 are valid. Bits beyond the value are ones, as
/// in the padding.
fn window(value: &[u8], position: usize) -> u32 {
    let byte = |offset| value.get(position / 8 + offset).copied().unwrap_or(u8::MAX);
    u32::from_be_bytes([0, 1, 2, 3].map(byte)) << (position % 8)
}

/// Flips the bits from `position` on that are ones in `bits`.
fn flip(value: &mut [u8], position: usize, bits: u32) {
    let bits = (bits >> (position % 8)).to_be_bytes();
    value.iter_mut().skip(position / 8).zip(bits).for_each(|(byte, bits)| *byte ^= bits);
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http::uri::Authority;
    use proptest::{collection::vec, prelude::*, sample::select};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// The characters with codes of each length in bits, in the order of their codes (RFC 7541,
    /// appendix B), and the first code.
    const CODES: [(&str, u32, u32); 8] = [
        ("012aceiost", 5, 0x0),
        (" %-./3456789=A_bdfghlmnpru", 6, 0x14),
        (":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz", 7, 0x5c),
        ("&*,;XZ", 8, 0xf8),
        ("!\"()?", 10, 0x3f8),
        ("'+|", 11, 0x7fa),
        ("#>", 12, 0xffa),
        ("\0$@[]~", 13, 0x1ff8),
    ];
    /// Characters for which no permitted character has a code of the same length.
    const UNREPLACED: &str = "#>\0";
    const PREFACE: &[u8; PREFACE_LENGTH] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const DATA: u8 = 0x0;
    const SETTINGS: u8 = 0x4;

    fn huffman(text: &str) -> Vec<u8> {
        let mut bits = Vec::new();
        for character in text.chars() {
            let (offset, length, first) = CODES
                .iter()
                .find_map(|(characters, length, first)| {
                    let offset = characters.find(character)?;
                    Some((u32::try_from(offset).unwrap(), length, first))
                })
                .unwrap();
            let code = first + offset;
            bits.extend((0..*length).rev().map(|bit| code >> bit & 1));
        }
        bits.resize(bits.len().next_multiple_of(8), 1);
        let byte = |bits: &[u32]| bits.iter().fold(0, |byte, bit| byte << 1 | bit);
        bits.chunks(8).map(|bits| u8::try_from(byte(bits)).unwrap()).collect()
    }

    fn literal(text: &str, is_huffman: bool) -> Vec<u8> {
        let bytes = if is_huffman { huffman(text) } else { text.as_bytes().to_vec() };
        let flag = if is_huffman { 0x80 } else { 0 };
        let length = u8::try_from(bytes.len());
        let mut literal = match length.unwrap() {
            length @ 0..127 => vec![flag | length],
            length => vec![flag | 127, length - 127],
        };
        literal.extend(bytes);
        literal
    }

    /// A form of a literal field: its first byte without the index of the name, whether the name is
    /// indexed, and whether strings are in Huffman form.
    type Form = (u8, bool, bool);
    const FORM: Form = (0x40, true, false);

    /// A header block: a change of the table's size, `:method`, a field with other names and values
    /// like those of an authority, `:authority`, and `content-type`.
    fn block(authority: &str, (first, is_indexed, is_huffman): Form) -> Vec<u8> {
        let mut block = vec![0x3f, 0xe1, 0x1f, 0x83, 0x40];
        block.extend(literal(":authorities", is_huffman));
        block.extend(literal("a%/b", is_huffman));
        if is_indexed {
            block.push(first | 1);
        } else {
            block.push(first);
            block.extend(literal(":authority", is_huffman));
        }
        block.extend(literal(authority, is_huffman));
        block.push(0x5f);
        block.extend(literal("application/grpc", is_huffman));
        block
    }

    fn forms() -> impl Strategy<Value = Form> {
        (select(vec![0x40, 0x00, 0x10]), any::<bool>(), any::<bool>())
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Frames of a call: a block with padding and priority, split into frames at `cuts`, and `DATA`
    /// that looks like a `HEADERS` frame.
    fn call(block: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut fragments = split(block, cuts).into_iter();
        let first = fragments.next().unwrap();
        let padding = [0x41, 1, b'%'];
        let padded = [&[3, 0, 0, 0, 0, 16], first, &padding].concat();
        let mut frames = vec![(HEADERS, PADDED | PRIORITY, padded)];
        frames.extend(fragments.map(|fragment| (CONTINUATION, 0, fragment.to_vec())));
        frames.last_mut().unwrap().1 |= END_HEADERS;
        frames.push((DATA, 0x1, frame(HEADERS, END_HEADERS, &[0x41, 1, b'%'])));
        frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, payload)).collect()
    }

    fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % bytes.len()).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect()
    }

    fn connection(calls: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE.to_vec(), frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 100]), calls.concat()].concat()
    }

    /// The bytes that `h2` reads if the client sends `chunks`, and then closes the connection.
    async fn read(chunks: &[&[u8]]) -> Vec<u8> {
        let (mut client, server) = duplex(64 * 1_024);
        let mut server = LocalAuthority::new(server);
        let mut read = Vec::new();
        for chunk in chunks {
            client.write_all(chunk).await.unwrap();
            let mut buffer = [0; 100];
            // Takes what is ready now, before the next chunk arrives.
            while let Some(length) = server.read(&mut buffer).now_or_never() {
                read.extend(&buffer[..length.unwrap()]);
            }
        }
        drop(client);
        server.read_to_end(&mut read).await.unwrap();
        read
    }

    fn replaced(authority: &str, is_huffman: bool) -> String {
        let replacement = |character| match character {
            ' ' | '%' | '/' => '-',
            ':' if is_huffman => 'B',
            '"' | '?' if is_huffman => '!',
            '|' if is_huffman => '+',
            '@' | '[' | ']' if is_huffman => '$',
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' => character,
            _ if is_huffman => character,
            _ => '-',
        };
        authority.chars().map(replacement).collect()
    }

    /// Texts of all characters with an entry in `CODES`, except `excluded`.
    fn texts(excluded: &'static str) -> impl Strategy<Value = String> {
        let characters = CODES.iter().flat_map(|(some, ..)| some.chars());
        let characters: Vec<_> =
            characters.filter(|character| !excluded.contains(*character)).collect();
        let at_fault = vec!['%', '/', ':', '@'];
        vec(prop_oneof![select(characters), select(at_fault)], 1..60)
            .prop_map(|characters| characters.into_iter().collect())
    }

    fn rewritten(block: &[u8]) -> Vec<u8> {
        let mut frame = frame(HEADERS, END_HEADERS, block);
        rewrite_block(&mut frame);
        frame.split_off(FRAME_HEADER_LENGTH)
    }

    #[test]
    fn the_name_has_this_huffman_form() {
        assert_eq!(huffman(":authority"), AUTHORITY_HUFFMAN);
    }

    proptest! {
        #[test]
        fn characters_are_replaced_in_every_form_of_a_literal(text in texts(""), form in forms()) {
            let expected = block(&replaced(&text, form.2), form);
            prop_assert_eq!(rewritten(&block(&text, form)), expected);
        }

        #[test]
        fn rewritten_authorities_are_valid(text in texts(UNREPLACED), is_huffman: bool) {
            replaced(&text, is_huffman).parse::<Authority>().unwrap();
        }

        #[test]
        fn frames_may_be_split_and_arrive_in_any_parts(
            calls in vec((vec(any::<usize>(), 0..4), forms(), any::<bool>()), 1..4),
            cuts in vec(any::<usize>(), 0..20),
        ) {
            let path = "run%2Fa/b:c.sock";
            let connection = |replaced: &dyn Fn(bool) -> String| {
                let call = |(cuts, form, is_path): &(Vec<usize>, Form, bool)| {
                    let authority =
                        if *is_path { replaced(form.2) } else { "localhost".to_owned() };
                    call(&block(&authority, *form), cuts)
                };
                connection(&calls.iter().map(call).collect::<Vec<_>>())
            };
            let sent = connection(&|_| path.to_owned());
            let expected = connection(&|is_huffman| replaced(path, is_huffman));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(read(&split(&sent, &cuts)));
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn malformed_bytes_are_passed_on_without_a_panic(
            mut payload in vec(any::<u8>(), 0..64), flags: u8, is_huffman: bool, noise: Vec<u8>,
        ) {
            if is_huffman {
                rewrite_huffman(&mut payload);
            }
            let sent = [&PREFACE[..], &frame(HEADERS, flags, &payload), &noise].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(read(&[&sent]));
            prop_assert_eq!(read.len(), sent.len());
        }
    }

    #[test]
    fn a_code_that_ends_in_the_padding_is_not_replaced() {
        // `a`, `b`, and `%` without its last bit.
        let mut value = [0b0001_1100, 0b0110_1010];
        rewrite_huffman(&mut value);
        assert_eq!(value, [0b0001_1100, 0b0110_1010]);
    }

    #[tokio::test]
    async fn a_block_that_is_too_long_is_passed_on_and_rewritten_up_to_the_limit() {
        let unlimited = vec![0x83; BLOCK_LENGTH_MAX];
        let frames = |authority| {
            let first = frame(HEADERS, 0, &block(authority, FORM));
            [connection(&[]), first, frame(CONTINUATION, END_HEADERS, &unlimited)].concat()
        };
        let next = |authority| call(&block(authority, FORM), &[]);
        let sent = [frames("a%2Fb"), next("a/b")].concat();
        assert_eq!(read(&[&sent]).await, [frames("a-2Fb"), next("a-b")].concat());
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let (mut client, server) = duplex(1_024 * 1_024);
        let mut server = LocalAuthority::new(server);
        let fragment = frame(CONTINUATION, 0, &[0x83; 1_000]);
        let sent = [connection(&[]), frame(HEADERS, 0, &[0x83]), fragment.repeat(100)].concat();
        client.write_all(&sent).await.unwrap();
        let mut read = 0;
        while let Some(length) = server.read(&mut [0; 100]).now_or_never() {
            read += length.unwrap();
            assert!(server.bytes.len() <= BLOCK_LENGTH_MAX + READ_LENGTH);
        }
        assert_eq!(read, sent.len());
    }
}
