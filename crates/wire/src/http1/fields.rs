//! Field lines as spans of the block they arrived in: one allocation for a whole head.

use super::{HttpError, MAX_FIELDS};
use bytes::Bytes;

/// Fields of a head in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    block: Bytes,
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    name: (u16, u16),
    value: (u16, u16),
}

impl Fields {
    /// Takes what `httparse` found in `block`. Errors: names that pretend to be framing (`Content_Length`).
    pub(crate) fn new(block: &Bytes, found: &[httparse::Header<'_>]) -> Result<Self, HttpError> {
        let base = block.as_ptr() as usize;
        let span = |part: &[u8]| {
            let start = (part.as_ptr() as usize).saturating_sub(base);
            (start as u16, (start + part.len()) as u16)
        };
        let mut spans = Vec::with_capacity(found.len().min(MAX_FIELDS));
        for field in found {
            if field.name.contains('_') && is_framing(field.name) {
                // CGI-like servers read `_` and `-` alike.
                return Err(HttpError::Field);
            }
            let value = if field.value.is_empty() { (0, 0) } else { span(field.value) };
            spans.push(Span { name: span(field.name.as_bytes()), value });
        }
        Ok(Fields { block: block.clone(), spans })
    }

    /// Name and value of each field line, names in the sender's case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.spans.iter().map(|span| {
            let name = &self.block[usize::from(span.name.0)..usize::from(span.name.1)];
            let value = &self.block[usize::from(span.value.0)..usize::from(span.value.1)];
            (std::str::from_utf8(name).unwrap_or_default(), value)
        })
    }

    /// Values of every line named `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Value of the only line named `name`. Errors with `repeated` when there are several.
    pub fn only<'a>(&'a self, name: &'a str, repeated: HttpError) -> Result<Option<&'a [u8]>, HttpError> {
        let mut lines = self.all(name);
        let first = lines.next();
        if lines.next().is_some() { Err(repeated) } else { Ok(first) }
    }

    /// Whether the comma-separated list field `name` has the member `member`, case ignored.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.all(name).any(|value| list(value).any(|m| m.eq_ignore_ascii_case(member.as_bytes())))
    }

    /// Whether `Connection` nominates `name` as hop-by-hop (RFC 9110 §7.6.1).
    pub fn nominated(&self, name: &str) -> bool {
        self.lists("connection", name)
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

/// Members of a comma-separated list, without white space around them.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|m| !m.is_empty())
}

/// Whether two names are the same to a reader that ignores case and, like CGI, takes `_` for `-`.
fn alike(name: &str, other: &str) -> bool {
    let fold = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == other.len() && name.bytes().zip(other.bytes()).all(|(a, b)| fold(a) == b)
}

fn among(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| alike(name, other))
}

/// Fields that say where a message ends or whom it is for, in any spelling.
pub fn is_framing(name: &str) -> bool {
    among(name, &["content-length", "transfer-encoding", "host"])
}

/// Fields that are for the next hop only (RFC 9110 §7.6.1), whether or not `Connection` says so.
pub fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    among(name, &NAMES)
}

/// Fields by which a client could claim to be somebody, or which would tell the site what the overlay hides.
pub fn is_identity(name: &str) -> bool {
    const NAMES: [&str; 7] =
        ["forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "client-ip", "client-cert", "client-cert-chain"];
    let prefixed = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| alike(start, prefix));
    prefixed("x-forwarded") || prefixed("polder-") || among(name, &NAMES)
}
