//! What a client has said while nobody had answered, and whether it may be said again.
//!
//! Saying it twice does no harm in two cases. A TLS client's first flight (RFC 8446 §4.1.2): the server answers it with
//! bytes, or nothing has happened; early data in it the origin must be ready to hear twice (RFC 8446 §8, RFC 8470). The head
//! of one HTTP request with a safe method (RFC 9110 §9.2.1) and nothing behind it. All else is kept from travelling before a
//! path stands, and once it has travelled, the tunnel is not repeated.

use bytes::Bytes;

/// What a kept chunk counts at least: each costs a frame in the queue of the link.
const SMALL: usize = 256;

/// Methods whose head may be said again; the front repeats other idempotent ones itself.
const METHODS: [&[u8]; 3] = [b"GET ", b"HEAD ", b"OPTIONS "];

/// Longest of [`METHODS`], and the first bytes of a TLS record with a ClientHello.
const FIRST: usize = 8;

/// What is kept.
#[derive(Debug)]
pub(crate) struct Early {
    kept: Vec<Bytes>,
    size: usize,
    limit: usize,
    nature: Nature,
    /// The client has ended in good order.
    pub(crate) ended: bool,
}

/// What the bytes look like so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// Too few to tell; these may be the beginning of something repeatable.
    Open([u8; FIRST], usize),
    Tls,
    /// `line`: whether the line that goes on has something in it; `whole`: the head has ended.
    Head {
        line: bool,
        whole: bool,
    },
    Other,
}

impl Nature {
    fn after(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self = match self {
                Nature::Open(seen, count) => Nature::opened(seen, count, *byte),
                Nature::Tls => return Nature::Tls,
                Nature::Head { whole: true, .. } | Nature::Other => return Nature::Other,
                Nature::Head { line, .. } => match byte {
                    b'\n' => Nature::Head { line: false, whole: !line },
                    b'\r' => self,
                    _ => Nature::Head { line: true, whole: false },
                },
            };
        }
        self
    }

    fn opened(mut seen: [u8; FIRST], count: usize, byte: u8) -> Self {
        seen[count] = byte;
        let so_far = &seen[..=count];
        // ContentType handshake, legacy_record_version 3.x, two bytes of length, client_hello (RFC 8446 §5.1, §4).
        let hello = [Some(22), Some(3), None, None, None, Some(1)];
        if so_far.iter().zip(hello).all(|(byte, wanted)| wanted.is_none_or(|wanted| *byte == wanted)) {
            return if so_far.len() >= hello.len() { Nature::Tls } else { Nature::Open(seen, count + 1) };
        }
        if METHODS.contains(&so_far) {
            return Nature::Head { line: true, whole: false };
        }
        if METHODS.iter().any(|method| method.starts_with(so_far)) { Nature::Open(seen, count + 1) } else { Nature::Other }
    }
}

impl Early {
    /// Nothing yet; at most about `limit` bytes.
    pub(crate) fn new(limit: u32) -> Self {
        Early { kept: Vec::new(), size: 0, limit: limit as usize, nature: Nature::Open([0; FIRST], 0), ended: false }
    }

    /// Keeps `chunk`, unless it is too much, or the whole could not be said again: then it must not travel yet. Whether it was
    /// kept.
    pub(crate) fn keep(&mut self, chunk: &Bytes) -> bool {
        let nature = self.nature.after(chunk);
        if nature == Nature::Other || self.size >= self.limit {
            return false;
        }
        self.nature = nature;
        self.size += chunk.len().max(SMALL);
        self.kept.push(chunk.clone());
        true
    }

    /// What is kept, in order.
    pub(crate) fn kept(&self) -> &[Bytes] {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_kept(pieces: &[&[u8]]) -> bool {
        let mut early = Early::new(1 << 16);
        pieces.iter().all(|piece| early.keep(&Bytes::copy_from_slice(piece)))
    }

    #[test]
    fn hellos_and_safe_heads_are_kept() {
        for good in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and early data"[..],
            b"\x16",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"HEAD /x HTTP/1.1\r\nHost: a\r\nX:",
            b"OPTIONS * HTTP/1.1\nHost: a\n\n",
            b"OPT",
            b"",
        ] {
            assert!(all_kept(&[good]), "{good:?}");
        }
    }

    #[test]
    fn what_might_be_done_twice_is_not() {
        for bad in [
            &b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /pay HTTP/1.1\r\n",
            b"GET / HTTP/1.1\n\nP",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x16\x02\x01\x02\x00\x01",
            b"\x16\x03\x01\x02\x00\x02",
            b"GETTY",
            b"\0",
        ] {
            assert!(!all_kept(&[bad]), "{bad:?}");
        }
    }

    #[test]
    fn what_is_too_much_is_left() {
        let mut early = Early::new(1000);
        assert!(early.keep(&Bytes::from_static(b"GET /")));
        let long = Bytes::from(vec![b'a'; 2000]);
        assert!(early.keep(&long), "one chunk over the bound");
        assert!(!early.keep(&long));
        let mut small = Early::new(1000);
        let bytes: Vec<_> = b"GET /aaaaaaaa".iter().map(|byte| Bytes::copy_from_slice(&[*byte])).collect();
        assert_eq!(bytes.iter().filter(|byte| small.keep(byte)).count(), 4, "each frame costs");
    }

    proptest! {
        #[test]
        fn how_it_is_cut_makes_no_difference(
            text in prop_oneof![
                "(GET|HEAD|OPTIONS|POST|PUT) /[a-z]{0,9} HTTP/1.1(\r\n[a-z]{1,5}: [a-z]{0,5}){0,3}\r\n\r\n[a-z]{0,3}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..40),
            ],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            places.push(0);
            places.push(text.len());
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(all_kept(&pieces), all_kept(&[&text]));
        }
    }
}
