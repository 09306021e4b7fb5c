//! Response heads (RFC 9112 §4) and how long their bodies are (§6.3).

use super::{BodyLength, Fields, HeadScanner, HttpError, MAX_FIELDS, Version, parse_error, version};
use bytes::{Bytes, BytesMut};

/// An origin's response head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// 100 … 599.
    pub status: u16,
    /// Version.
    pub version: Version,
    /// All fields.
    pub fields: Fields,
    /// Body, for the method that was asked with.
    pub length: BodyLength,
}

impl ResponseHead {
    /// Whether the origin will take another request on this connection.
    pub fn persists(&self) -> bool {
        let wants = match self.version {
            Version::Http11 => !self.fields.nominated("close"),
            Version::Http10 => self.fields.nominated("keep-alive") && !self.fields.nominated("close"),
        };
        wants && self.length != BodyLength::UntilClose && self.status != 101
    }

    /// A 1xx that another response follows.
    pub fn interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    fn parse(block: Bytes, method: &http::Method) -> Result<ResponseHead, HttpError> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut lines);
        match parsed.parse(&block) {
            Ok(httparse::Status::Complete(length)) if length == block.len() => {}
            Ok(_) => return Err(HttpError::StartLine),
            Err(error) => return Err(parse_error(error)),
        }
        let version = version(parsed.version)?;
        let status = parsed.code.filter(|code| (100..600).contains(code)).ok_or(HttpError::Status)?;
        let fields = Fields::new(&block, parsed.headers)?;
        let length = BodyLength::of_response(&fields, version, status, method)?;
        Ok(ResponseHead { status, version, fields, length })
    }
}

/// Takes response heads off a buffer.
#[derive(Debug, Default)]
pub struct ResponseReader(HeadScanner);

impl ResponseReader {
    /// The next head of an answer to `method`, once all of it is in `buffer`; its bytes are then taken off.
    pub fn next(&mut self, buffer: &mut BytesMut, method: &http::Method) -> Result<Option<ResponseHead>, HttpError> {
        match self.0.find(buffer)? {
            Some(length) => ResponseHead::parse(buffer.split_to(length).freeze(), method).map(Some),
            None => Ok(None),
        }
    }
}
