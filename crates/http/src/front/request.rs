//! What is asked of an origin: a client's request, made fit for the next hop.

use super::client::malformed;
use crate::trace::{Context, FOREIGN};
use crate::tunnel::Target;
use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use polder_wire::http1::{Authority, BodyLength, HttpError, RequestHead, Version, is_framing, is_hop_by_hop, is_identity};
use polder_wire::{ProxyError, Refusal};

/// Name of every Polder proxy in `Via` (RFC 9110 §7.6.3 allows a pseudonym).
pub(crate) const PSEUDONYM: &str = "polder";
/// A request that has been through so many of them goes in circles.
const MAX_VIA: usize = 4;

/// A request ready for an origin.
pub(crate) struct Request {
    pub(crate) target: Target,
    pub(crate) method: Method,
    /// Serialised head.
    pub(crate) head: Bytes,
    /// Whether the body that follows is to be chunked.
    pub(crate) chunked: bool,
    /// Whether saying it twice does no more than saying it once, and all of it is in `head`.
    pub(crate) replayable: bool,
    pub(crate) upgrade: bool,
    /// The trace that the client asks for.
    pub(crate) trace: Option<Context>,
}

/// Pieces of a request, whichever HTTP they came by.
pub(crate) struct Parts<'a> {
    pub(crate) method: &'a Method,
    pub(crate) authority: &'a Authority,
    pub(crate) path: &'a [u8],
    pub(crate) length: BodyLength,
    pub(crate) upgrade: Option<&'a [u8]>,
    /// Of the received message, for `Via`.
    pub(crate) version: &'static str,
    /// Whether the client's own trace fields are for the origin too.
    pub(crate) foreign: bool,
}

impl Request {
    /// From an absolute-form HTTP/1 request.
    pub(crate) fn from_h1(head: &RequestHead, authority: &Authority, path: &[u8], foreign: bool) -> Result<Request, Refusal> {
        let version = if head.version == Version::Http11 { "1.1" } else { "1.0" };
        let upgrade = head.upgrade();
        let parts = Parts { method: &head.method, authority, path, length: head.length, upgrade, version, foreign };
        let fields = || head.fields.iter().filter(|(name, _)| !head.fields.nominated(name));
        Request::new(&parts, fields)
    }

    /// The same with more fields; the client's own of those names have been stripped.
    pub(crate) fn with(self, fields: &[(&str, String)]) -> Request {
        let mut head = BytesMut::with_capacity(self.head.len() + 1024);
        head.put_slice(&self.head[..self.head.len() - 2]);
        fields.iter().for_each(|(name, value)| field(&mut head, name, value.as_bytes()));
        head.put_slice(b"\r\n");
        Request { head: head.freeze(), ..self }
    }

    /// Serialises `parts` with those `fields` that are for the origin.
    pub(crate) fn new<'f, I>(parts: &Parts<'_>, fields: impl Fn() -> I) -> Result<Request, Refusal>
    where
        I: Iterator<Item = (&'f str, &'f [u8])>,
    {
        if *parts.method == Method::TRACE {
            // RFC 9110 §9.3.8: it would show the client what was added for the origin.
            return Err(malformed(HttpError::Method));
        }
        let times =
            |value: &[u8]| value.split(|b| *b == b',').filter(|hop| hop.trim_ascii().ends_with(PSEUDONYM.as_bytes())).count();
        let vias: usize = fields().filter(|(name, _)| name.eq_ignore_ascii_case("via")).map(|(_, value)| times(value)).sum();
        if vias >= MAX_VIA {
            return Err(Refusal::new(ProxyError::Loop, "The request has been through this overlay several times already."));
        }
        let port = parts.authority.port.unwrap_or(80);
        let idempotent = matches!(*parts.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
        Ok(Request {
            target: Target { host: parts.authority.host.clone(), port },
            method: parts.method.clone(),
            head: serialise(parts, fields()),
            chunked: parts.length == BodyLength::Chunked,
            replayable: idempotent && parts.length == BodyLength::Empty && parts.upgrade.is_none(),
            upgrade: parts.upgrade.is_some(),
            trace: one_trace(fields().filter(|(name, _)| name.eq_ignore_ascii_case("traceparent")).map(|(_, value)| value)),
        })
    }
}

/// The trace that a client asks for: in exactly one good `traceparent`.
pub(crate) fn one_trace<'f>(mut values: impl Iterator<Item = &'f [u8]>) -> Option<Context> {
    let first = values.next()?;
    if values.next().is_some() { None } else { Context::of_traceparent(first) }
}

fn serialise<'f>(parts: &Parts<'_>, fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> Bytes {
    let mut out = BytesMut::with_capacity(1024);
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(parts.path);
    // RFC 9112 §3.2.2 ¶4: Host is made from the target, not from what the client sent.
    out.put_slice(b" HTTP/1.1\r\nHost: ");
    let authority = Authority { port: parts.authority.port.filter(|port| *port != 80), ..parts.authority.clone() };
    out.put_slice(authority.to_string().as_bytes());
    out.put_slice(b"\r\n");
    for (name, value) in fields {
        let foreign = FOREIGN.iter().any(|known| name.eq_ignore_ascii_case(known));
        if !is_framing(name) && !is_hop_by_hop(name) && !is_identity(name) && (parts.foreign || !foreign) {
            field(&mut out, name, value);
        }
    }
    field(&mut out, "Via", format!("{} {PSEUDONYM}", parts.version).as_bytes());
    match parts.length {
        BodyLength::Sized(n) => field(&mut out, "Content-Length", n.to_string().as_bytes()),
        BodyLength::Chunked => field(&mut out, "Transfer-Encoding", b"chunked"),
        // RFC 9110 §8.6 ¶5: methods that mean content say so even when there is none.
        _ if matches!(*parts.method, Method::POST | Method::PUT | Method::PATCH) => field(&mut out, "Content-Length", b"0"),
        _ => {}
    }
    if let Some(protocol) = parts.upgrade {
        field(&mut out, "Connection", b"upgrade");
        field(&mut out, "Upgrade", protocol);
    }
    out.put_slice(b"\r\n");
    out.freeze()
}

/// Appends one field line.
pub(crate) fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}
