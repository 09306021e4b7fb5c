//! Where a body ends.

use super::chunked::Chunked;
use super::{Fields, HttpError, Version};
use bytes::{Bytes, BytesMut};

/// RFC 9112 §6.3, with everything ambiguous refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// No body.
    Empty,
    /// So many bytes, at least one.
    Sized(u64),
    /// Chunked coding.
    Chunked,
    /// Until the connection ends: responses only.
    UntilClose,
}

impl BodyLength {
    pub(crate) fn of_request(fields: &Fields, version: Version) -> Result<BodyLength, HttpError> {
        Ok(declared(fields, version)?.unwrap_or(BodyLength::Empty))
    }

    pub(crate) fn of_response(
        fields: &Fields,
        version: Version,
        status: u16,
        method: &http::Method,
    ) -> Result<BodyLength, HttpError> {
        let declared = declared(fields, version)?;
        let bodiless = status < 200 || matches!(status, 204 | 304) || method == http::Method::HEAD;
        if (status < 200 || status == 204) && declared == Some(BodyLength::Chunked) {
            return Err(HttpError::Coding); // RFC 9112 §6.1 ¶6
        }
        Ok(if bodiless { BodyLength::Empty } else { declared.unwrap_or(BodyLength::UntilClose) })
    }
}

/// What Content-Length or Transfer-Encoding say.
fn declared(fields: &Fields, version: Version) -> Result<Option<BodyLength>, HttpError> {
    let coding = fields.only("transfer-encoding", HttpError::Coding)?;
    let length = fields.only("content-length", HttpError::Length)?;
    match (coding, length) {
        (Some(_), Some(_)) => Err(HttpError::LengthAndCoding),
        // RFC 9112 §6.1 ¶7: Transfer-Encoding in HTTP/1.0 means faulty framing.
        (Some(coding), None) if version == Version::Http11 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(BodyLength::Chunked))
        }
        (Some(_), None) => Err(HttpError::Coding),
        (None, Some(digits)) => number(digits).map(|n| Some(if n == 0 { BodyLength::Empty } else { BodyLength::Sized(n) })),
        (None, None) => Ok(None),
    }
}

fn number(digits: &[u8]) -> Result<u64, HttpError> {
    // 18 digits cannot overflow; an exabyte is enough.
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HttpError::Length);
    }
    Ok(digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// A step of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of content.
    Data(Bytes),
    /// The end; what is left in the buffer belongs to the next message.
    End,
    /// Nothing before more has been read.
    More,
}

/// Takes a body off a buffer. After an error, or when the stream ends while [`BodyReader::complete_at_eof`] is false, the
/// message is broken.
#[derive(Debug)]
pub struct BodyReader(State);

#[derive(Debug)]
enum State {
    Left(u64),
    Chunked(Chunked),
    UntilClose,
}

impl BodyReader {
    /// A reader for a body of `length`.
    pub fn new(length: BodyLength) -> Self {
        BodyReader(match length {
            BodyLength::Empty => State::Left(0),
            BodyLength::Sized(n) => State::Left(n),
            BodyLength::Chunked => State::Chunked(Chunked::default()),
            BodyLength::UntilClose => State::UntilClose,
        })
    }

    /// The next step. `End` again and again after the end. Errors: [`HttpError::Chunk`], [`HttpError::Field`] in trailers.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, HttpError> {
        match &mut self.0 {
            State::Left(0) => Ok(Piece::End),
            State::Chunked(chunked) => chunked.next(buffer),
            _ if buffer.is_empty() => Ok(Piece::More),
            State::UntilClose => Ok(Piece::Data(buffer.split().freeze())),
            State::Left(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= taken as u64;
                Ok(Piece::Data(buffer.split_to(taken).freeze()))
            }
        }
    }

    /// Takes from the front of `chunk`, which has not been in a buffer, what is surely content: for relaying without a copy.
    pub fn direct(&mut self, chunk: &mut Bytes) -> Bytes {
        match &mut self.0 {
            State::UntilClose => std::mem::take(chunk),
            State::Chunked(chunked) => chunked.direct(chunk),
            State::Left(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
                *left -= taken as u64;
                chunk.split_to(taken)
            }
        }
    }

    /// Whether the end of the stream is a proper end of the body.
    pub fn complete_at_eof(&self) -> bool {
        match &self.0 {
            State::Left(left) => *left == 0,
            State::Chunked(chunked) => chunked.ended(),
            State::UntilClose => true,
        }
    }
}
