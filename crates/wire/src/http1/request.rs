//! Request heads (RFC 9112 §3) and how long their bodies are (§6.3).

use super::{
    Authority, BodyLength, Fields, HeadScanner, HttpError, MAX_FIELDS, MOST_FIELDS, RequestTarget, Version, parse_error, version,
};
use bytes::{Bytes, BytesMut};

/// A request head that one reader only can understand.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Method.
    pub method: http::Method,
    /// Target.
    pub target: RequestTarget,
    /// Version.
    pub version: Version,
    /// `Host`; none in HTTP/1.0 without one.
    pub host: Option<Authority>,
    /// All fields.
    pub fields: Fields,
    /// Body.
    pub length: BodyLength,
}

impl RequestHead {
    /// Whether the client will wait for more answers on this connection (RFC 9112 §9.3).
    pub fn persists(&self) -> bool {
        match self.version {
            Version::Http11 => !self.fields.nominated("close"),
            Version::Http10 => self.fields.nominated("keep-alive") && !self.fields.nominated("close"),
        }
    }

    /// The protocol of a well-formed `Upgrade` (RFC 9110 §7.8), e.g. `websocket`.
    pub fn upgrade(&self) -> Option<&[u8]> {
        let offered = self.version == Version::Http11 && self.fields.nominated("upgrade");
        self.fields.all("upgrade").next().filter(|_| offered)
    }

    fn parse(block: Bytes, most_fields: usize) -> Result<RequestHead, HttpError> {
        let mut lines = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut parsed = httparse::Request::new(&mut lines[..most_fields]);
        match parsed.parse(&block) {
            Ok(httparse::Status::Complete(length)) if length == block.len() => {}
            Ok(_) => return Err(HttpError::StartLine),
            Err(error) => return Err(parse_error(error)),
        }
        let version = version(parsed.version)?;
        let method = method(parsed.method.unwrap_or_default())?;
        let path = parsed.path.unwrap_or_default();
        let target = RequestTarget::parse(&method, block.slice_ref(path.as_bytes()))?;
        let fields = Fields::new(&block, parsed.headers)?;
        let host = host(&fields, version)?;
        // A second Content-Type is nothing a browser sends; origins differ in which they believe.
        fields.only("content-type", HttpError::Field)?;
        let length = BodyLength::of_request(&fields, version)?;
        if method == http::Method::CONNECT && length != BodyLength::Empty {
            // RFC 9110 §9.3.6: a CONNECT request has no content; what follows is the tunnel's.
            return Err(HttpError::Length);
        }
        Ok(RequestHead { method, target, version, host, fields, length })
    }
}

/// A method that every origin reads alike, whichever HTTP it came by.
pub fn method(text: &str) -> Result<http::Method, HttpError> {
    // Methods are case-sensitive (RFC 9110 §9.1); an origin that is not would see another method than we do.
    if text.len() > 24 || text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(HttpError::Method);
    }
    http::Method::from_bytes(text.as_bytes()).map_err(|_| HttpError::Method)
}

/// RFC 9112 §3.2 ¶6: exactly one valid Host in HTTP/1.1.
fn host(fields: &Fields, version: Version) -> Result<Option<Authority>, HttpError> {
    match fields.only("host", HttpError::Host)? {
        Some(value) => Authority::parse(value).map(Some).ok_or(HttpError::Host),
        None if version == Version::Http10 => Ok(None),
        None => Err(HttpError::Host),
    }
}

/// Takes request heads off a buffer.
#[derive(Debug)]
pub struct RequestReader {
    scanner: HeadScanner,
    most_fields: usize,
}

impl Default for RequestReader {
    fn default() -> Self {
        RequestReader::bounded(super::MAX_HEAD, MAX_FIELDS)
    }
}

impl RequestReader {
    /// Takes heads of at most `bytes` (65,535 at most) and `fields` lines (256 at most).
    pub fn bounded(bytes: usize, fields: usize) -> Self {
        let bytes = bytes.min(usize::from(u16::MAX));
        RequestReader { scanner: HeadScanner::new(bytes), most_fields: fields.min(MOST_FIELDS) }
    }

    /// The next head, once all of it is in `buffer`; its bytes are then taken off. After an error the connection is lost.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<RequestHead>, HttpError> {
        match self.scanner.find(buffer)? {
            Some(length) => RequestHead::parse(buffer.split_to(length).freeze(), self.most_fields).map(Some),
            None => Ok(None),
        }
    }
}
