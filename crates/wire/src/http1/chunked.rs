//! The chunked coding (RFC 9112 §7.1), read strictly and written plainly.
//!
//! ```text
//!   Head ──size line──> Data(n) ──CRLF──> Head …  ──"0"──> Trailers ──empty line──> Ended
//! ```
//!
//! Extensions and trailers are checked, bounded and dropped (RFC 9110 §6.5.1 allows it): nothing that Polder carries needs
//! them, and much that has been attacked parses them.

use super::{HttpError, MAX_FIELDS, Piece, is_framing};
use bytes::{Buf, Bytes, BytesMut};

/// Most bytes of one size line with its extension.
const MAX_LINE: usize = 256;
/// Most bytes of extensions and trailers in one body: else a body of 1-byte chunks could cost 256 bytes each.
const MAX_OVERHEAD: usize = 16 * 1024;

/// What ends a chunked body that Polder writes.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line before a chunk of `size` bytes; CRLF must follow the chunk.
pub fn chunk_head(size: usize) -> Bytes {
    format!("{size:x}\r\n").into()
}

#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    overhead: usize,
    trailers: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Data(u64),
    DataEnd,
    Trailers,
    Ended,
}

impl Chunked {
    pub(crate) fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// See `BodyReader::direct`: what is left of the present chunk.
    pub(crate) fn direct(&mut self, from: &mut Bytes) -> Bytes {
        let State::Data(left) = self.state else { return Bytes::new() };
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(from.len());
        self.state = if left == taken as u64 { State::DataEnd } else { State::Data(left - taken as u64) };
        from.split_to(taken)
    }

    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, HttpError> {
        loop {
            match self.state {
                State::Ended => return Ok(Piece::End),
                State::Data(_) if buffer.is_empty() => return Ok(Piece::More),
                State::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Piece::Data(buffer.split_to(taken).freeze()));
                }
                State::DataEnd => match (buffer.first(), buffer.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        buffer.advance(2);
                        self.state = State::Head;
                    }
                    (None, _) | (Some(b'\r'), None) => return Ok(Piece::More),
                    _ => return Err(HttpError::Chunk),
                },
                State::Head => {
                    let Some(line) = take_line(buffer, MAX_LINE)? else { return Ok(Piece::More) };
                    let (size, extension) = size_line(&line)?;
                    self.spend(extension)?;
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Trailers => {
                    let Some(line) = take_line(buffer, MAX_OVERHEAD)? else { return Ok(Piece::More) };
                    if line.is_empty() {
                        self.state = State::Ended;
                        continue;
                    }
                    self.spend(line.len())?;
                    self.trailers += 1;
                    trailer(&line, self.trailers)?;
                }
            }
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), HttpError> {
        self.overhead += bytes;
        if self.overhead > MAX_OVERHEAD { Err(HttpError::Chunk) } else { Ok(()) }
    }
}

/// A line without its CRLF, once it is whole. A line that cannot end within `most` bytes is an error.
fn take_line(buffer: &mut BytesMut, most: usize) -> Result<Option<BytesMut>, HttpError> {
    let window = &buffer[..buffer.len().min(most)];
    match memchr::memchr2(b'\r', b'\n', window) {
        None if buffer.len() >= most => Err(HttpError::Chunk),
        None => Ok(None),
        Some(at) if buffer[at] == b'\n' => Err(HttpError::LineEnd),
        Some(at) => match buffer.get(at + 1) {
            None => Ok(None),
            Some(b'\n') => {
                let line = buffer.split_to(at);
                buffer.advance(2);
                Ok(Some(line))
            }
            Some(_) => Err(HttpError::LineEnd),
        },
    }
}

/// Size, and how many bytes the extension has. `1*HEXDIG [ BWS ";" … ]`; white space without an extension is refused.
fn size_line(line: &[u8]) -> Result<(u64, usize), HttpError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    // 15 hexadecimal digits cannot overflow.
    if digits == 0 || digits > 15 {
        return Err(HttpError::Chunk);
    }
    let size = line[..digits].iter().fold(0, |n, d| n << 4 | u64::from((*d as char).to_digit(16).unwrap_or(0)));
    let rest = &line[digits..];
    let extension = rest.trim_ascii_start();
    let plain = extension.iter().all(|b| matches!(b, b'\t' | 0x20..=0x7e));
    if rest.is_empty() || (extension.starts_with(b";") && plain) { Ok((size, rest.len())) } else { Err(HttpError::Chunk) }
}

/// A trailer must be a good field line that neither frames nor routes (RFC 9110 §6.5.1).
fn trailer(line: &[u8], count: usize) -> Result<(), HttpError> {
    if count > MAX_FIELDS {
        return Err(HttpError::TooManyFields);
    }
    let mut found = [httparse::EMPTY_HEADER; 1];
    let whole = [line, b"\r\n\r\n"].concat();
    match httparse::parse_headers(&whole, &mut found) {
        Ok(httparse::Status::Complete((length, [field]))) if length == whole.len() && !is_framing(field.name) => Ok(()),
        _ => Err(HttpError::Field),
    }
}
