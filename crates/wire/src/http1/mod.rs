//! One strict HTTP/1.x parser for everything that reads it: requests from clients, answers from origins.
//!
//! Theory of operation. A head is first *found* (`HeadScanner` looks at every byte once, however it drips in), then parsed
//! whole by `httparse`, then judged. Whatever two parsers might read differently is refused, not repaired: that is what
//! request smuggling lives on. Bodies are re-framed, never passed on as they were framed.
//!
//! ```text
//!   bytes ──HeadScanner──> block ──httparse──> fields ──rules of RFC 9112──> RequestHead | ResponseHead ──> BodyLength
//!                                                                                                            │
//!   bytes ───────────────────────────────────BodyReader<─────────────────────────────────────────────────────┘
//! ```

mod body;
mod chunked;
mod fields;
mod request;
mod response;
mod target;

pub use body::{BodyLength, BodyReader, Piece};
pub use chunked::{LAST_CHUNK, chunk_head};
pub use fields::{Fields, is_framing, is_hop_by_hop, is_identity};
pub use request::{RequestHead, RequestReader, method};
pub use response::{ResponseHead, ResponseReader};
pub use target::{Authority, RequestTarget};

/// Most bytes of a head, start line and both final CRLF included.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most field lines of a head.
pub const MAX_FIELDS: usize = 100;
/// Most field lines that any knob may allow.
pub(crate) const MOST_FIELDS: usize = 256;

/// Minor version of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, no persistence unless asked for, no 1xx.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Why bytes are not HTTP that Polder speaks. Always the sender's fault; the same bytes will never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Longer than [`MAX_HEAD`], or than the reader allows.
    #[error("the head is too long")]
    HeadTooLong,
    /// More than [`MAX_FIELDS`], or than the reader allows.
    #[error("the head has too many fields")]
    TooManyFields,
    /// A line that does not end with CRLF (RFC 9112 §2.2: a recipient MAY take a bare LF; we do not).
    #[error("a line ends with a bare LF or holds a bare CR")]
    LineEnd,
    /// Start line.
    #[error("malformed start line")]
    StartLine,
    /// Method: 1 to 24 token characters without lower case.
    #[error("malformed method")]
    Method,
    /// Request target.
    #[error("malformed request target")]
    Target,
    /// Scheme other than `http` in absolute form.
    #[error("only http:// may be asked for in absolute form; use CONNECT for the rest")]
    Scheme,
    /// Version other than HTTP/1.0 and HTTP/1.1.
    #[error("HTTP version is not 1.0 or 1.1")]
    Version,
    /// A field line with bad characters, white space before the colon, or folded.
    #[error("malformed field line")]
    Field,
    /// Host: missing, repeated or malformed.
    #[error("Host is missing, repeated or malformed")]
    Host,
    /// Content-Length: repeated, a list, not digits, or too large.
    #[error("Content-Length is repeated or malformed")]
    Length,
    /// Transfer-Encoding: repeated, in HTTP/1.0, or anything but `chunked`.
    #[error("Transfer-Encoding is repeated, not chunked, or in HTTP/1.0")]
    Coding,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.3 ¶3: ought to be handled as an error).
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// Chunked coding.
    #[error("malformed chunk")]
    Chunk,
    /// Status code.
    #[error("malformed status")]
    Status,
    /// The stream ended in the middle.
    #[error("the message ended too early")]
    Truncated,
}

/// Finds the end of a head. Looks at each byte once, so that a sender who drips bytes costs no more than one who does not.
#[derive(Debug)]
pub(crate) struct HeadScanner {
    seen: usize,
    line: usize,
    most: usize,
}

impl Default for HeadScanner {
    fn default() -> Self {
        HeadScanner::new(MAX_HEAD)
    }
}

impl HeadScanner {
    /// For heads of at most `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        HeadScanner { seen: 0, line: 0, most }
    }

    /// Length of the head once its empty line is in `buffer`, which must hold all bytes since the last head.
    ///
    /// Errors: a bare LF, an empty first line, too many bytes.
    pub(crate) fn find(&mut self, buffer: &[u8]) -> Result<Option<usize>, HttpError> {
        while let Some(offset) = buffer.get(self.seen..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let newline = self.seen + offset;
            if newline >= self.most {
                return Err(HttpError::HeadTooLong);
            }
            if newline == self.line || buffer[newline - 1] != b'\r' {
                return Err(HttpError::LineEnd);
            }
            let empty = newline == self.line + 1;
            if empty && self.line == 0 {
                // RFC 9112 §2.2 ¶6 lets a server skip an empty line before a request; skipping hides a wrong body length.
                return Err(HttpError::StartLine);
            }
            self.seen = newline + 1;
            self.line = newline + 1;
            if empty {
                let length = self.seen;
                *self = HeadScanner::new(self.most);
                return Ok(Some(length));
            }
        }
        self.seen = buffer.len();
        if self.seen >= self.most { Err(HttpError::HeadTooLong) } else { Ok(None) }
    }
}

pub(crate) fn parse_error(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::TooManyFields,
        httparse::Error::Version => HttpError::Version,
        httparse::Error::NewLine => HttpError::LineEnd,
        httparse::Error::Status => HttpError::Status,
        httparse::Error::Token => HttpError::StartLine,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HttpError::Field,
    }
}

pub(crate) fn version(minor: Option<u8>) -> Result<Version, HttpError> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        _ => Err(HttpError::Version),
    }
}
