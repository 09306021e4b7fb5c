//! Request targets (RFC 9112 §3.2) and authorities.

use super::HttpError;
use bytes::Bytes;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// A host in lower case without brackets, and a port if one was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Registered name, IPv4 or IPv6 address.
    pub host: Arc<str>,
    /// Port.
    pub port: Option<u16>,
}

impl Authority {
    /// Parses `host`, `host:port`, `[v6]:port`. No user information, no percent-encoding, no empty port.
    ///
    /// One final dot of a name is dropped, so that `wiki.example.` and `wiki.example` are one name for the access rules.
    pub fn parse(text: &[u8]) -> Option<Authority> {
        let text = std::str::from_utf8(text).ok()?;
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest.split_once(']')?;
                let address: Ipv6Addr = inner.parse().ok()?;
                let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
                (address.to_string(), port)
            }
            None => {
                let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
                (name_of(name)?, port)
            }
        };
        let port = match port {
            None => None,
            Some(digits) => Some(port_of(digits)?),
        };
        Some(Authority { host: host.into(), port })
    }
}

fn name_of(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    (name.len() <= 253 && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

fn port_of(digits: &str) -> Option<u16> {
    // `u16::parse` takes a leading `+`.
    let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().filter(|port| *port != 0)
}

/// As it stands in `Host`: brackets around IPv6.
impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The four forms of RFC 9112 §3.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestTarget {
    /// `/path?query`: asked of the receiver itself.
    Origin(Bytes),
    /// `http://authority/path?query`: asked of a proxy. The path is in origin form.
    Absolute {
        /// Of the URI; it wins over `Host` (§3.2.2 ¶4).
        authority: Authority,
        /// Begins with `/`, or is `*` for `OPTIONS`.
        path: Bytes,
    },
    /// `host:port`: `CONNECT` only.
    Authority(Authority),
    /// `*`: `OPTIONS` only.
    Asterisk,
}

impl RequestTarget {
    /// Parses the target of a request with `method`; `target` is a slice of the head's block.
    pub(crate) fn parse(method: &http::Method, target: Bytes) -> Result<RequestTarget, HttpError> {
        // RFC 9112 §3.2 ¶2: no white space; and neither fragments nor octets outside ASCII, which others read differently.
        if !target.iter().all(|b| matches!(b, 0x21..=0x7e) && *b != b'#') {
            return Err(HttpError::Target);
        }
        if method == http::Method::CONNECT {
            let authority = Authority::parse(&target).filter(|a| a.port.is_some()).ok_or(HttpError::Target)?;
            return Ok(RequestTarget::Authority(authority));
        }
        if target.starts_with(b"/") {
            return Ok(RequestTarget::Origin(target));
        }
        if target.as_ref() == b"*" && method == http::Method::OPTIONS {
            return Ok(RequestTarget::Asterisk);
        }
        absolute(method, &target)
    }
}

fn absolute(method: &http::Method, target: &Bytes) -> Result<RequestTarget, HttpError> {
    let colon = target.iter().position(|b| *b == b':').ok_or(HttpError::Target)?;
    if !target[colon..].starts_with(b"://") {
        return Err(HttpError::Target);
    }
    // `ws` is HTTP until its upgrade: some clients ask a proxy so instead of by CONNECT (RFC 6455 §4.1).
    if ![b"http".as_slice(), b"ws"].iter().any(|known| target[..colon].eq_ignore_ascii_case(known)) {
        let scheme = target[..colon].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        return Err(if scheme { HttpError::Scheme } else { HttpError::Target });
    }
    let start = colon + 3;
    let end = target[start..].iter().position(|b| matches!(b, b'/' | b'?')).map_or(target.len(), |i| start + i);
    let authority = Authority::parse(&target[start..end]).ok_or(HttpError::Target)?;
    let path = match target.get(end) {
        // §3.2.4: an empty path and no query in OPTIONS means the server as a whole.
        None if method == http::Method::OPTIONS => Bytes::from_static(b"*"),
        None => Bytes::from_static(b"/"),
        Some(b'?') => [b"/", &target[end..]].concat().into(),
        Some(_) => target.slice(end..),
    };
    Ok(RequestTarget::Absolute { authority, path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn parse(method: Method, target: &'static str) -> Result<RequestTarget, HttpError> {
        RequestTarget::parse(&method, Bytes::from_static(target.as_bytes()))
    }

    #[test]
    fn authorities_have_one_spelling() {
        for (text, host, port) in [
            ("Wiki.Example", "wiki.example", None),
            ("wiki.example.:80", "wiki.example", Some(80)),
            ("[2001:DB8:0::1]:443", "2001:db8::1", Some(443)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
        ] {
            let authority = Authority::parse(text.as_bytes()).expect(text);
            assert_eq!((authority.host.as_ref(), authority.port), (host, port), "{text}");
            assert_eq!(Authority::parse(authority.to_string().as_bytes()), Some(authority));
        }
        let bad = [
            "", ":80", "a:", "a:0", "a:65536", "a:+1", "a:080000", "a b", "u@a", "a..b", ".", "a%2eb", "[::1", "[::1]x", "::1",
            "a:1:2",
        ];
        for text in bad {
            assert_eq!(Authority::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn each_method_has_its_forms() {
        assert!(matches!(parse(Method::CONNECT, "a:443"), Ok(RequestTarget::Authority(_))));
        assert!(matches!(parse(Method::GET, "/a?b"), Ok(RequestTarget::Origin(_))));
        assert_eq!(parse(Method::OPTIONS, "*"), Ok(RequestTarget::Asterisk));
        for (target, path) in
            [("http://a", "/"), ("ws://a/echo", "/echo"), ("HTTP://a:81?x", "/?x"), ("http://a/b?c=http://d", "/b?c=http://d")]
        {
            let Ok(RequestTarget::Absolute { path: got, .. }) = parse(Method::GET, target) else { panic!("{target}") };
            assert_eq!(got.as_ref(), path.as_bytes());
        }
        let Ok(RequestTarget::Absolute { path, .. }) = parse(Method::OPTIONS, "http://a") else { panic!("options") };
        assert_eq!(path.as_ref(), b"*");
        for target in ["a", "/a", "http://a", "*", "a:1/"] {
            assert_eq!(parse(Method::CONNECT, target), Err(HttpError::Target), "{target}");
        }
        for target in ["*", "a:443", "foo/bar", "http:/a", "http://", "http://u:p@a/", "/a#b", "/\u{e9}", "http://a\\b/"] {
            assert_eq!(parse(Method::GET, target), Err(HttpError::Target), "{target}");
        }
        for target in ["https://a/", "ftp://a/", "wss://a/"] {
            assert_eq!(parse(Method::GET, target), Err(HttpError::Scheme), "{target}");
        }
    }
}
