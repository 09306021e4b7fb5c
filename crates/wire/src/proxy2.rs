//! PROXY protocol, version 2 (haproxy's `proxy-protocol.txt` §2.2): who speaks, said in front of a connection's first byte.
//!
//! ```text
//!   12 bytes  signature            1 byte   version 2, command (LOCAL 0, PROXY 1)
//!    1 byte   family, transport    2 bytes  length of all that follows
//!   12 or 36  both addresses, both ports          then TLVs: type, 2 bytes of length, value
//! ```

use std::net::{IpAddr, SocketAddr};

/// How every header begins; no protocol that a client speaks first begins so.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Most bytes of a header that we take.
pub const MAX_PROXY2: usize = 16 + 16 * 1024;

/// TLV: the host name that the client asked for.
pub const AUTHORITY: u8 = 0x02;
/// TLV: CRC-32C of the whole header.
pub const CRC32C: u8 = 0x03;
/// TLV of Polder's: the user's SPIFFE id.
pub const USER: u8 = 0xe0;
/// TLV of Polder's: the user's groups, separated by commas.
pub const GROUPS: u8 = 0xe1;
/// TLV of Polder's, from a servlet to the site's agent: the access point's sealed word.
pub const WORD: u8 = 0xe8;

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy2 {
    /// Source and destination of the client's connection, both of one family; `None`: command LOCAL, nobody's connection.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Type and value in order; the checksum is made and checked by the codec and never among them.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// Why bytes are not a header that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Proxy2Error {
    /// Another signature, version or command.
    #[error("this is no PROXY protocol header of version 2")]
    Foreign,
    /// Another family or transport than TCP over IPv4 or IPv6, or addresses that are cut.
    #[error("the addresses of the PROXY header cannot be read")]
    Addresses,
    /// A TLV that is cut, or too many bytes.
    #[error("the PROXY header is malformed or too long")]
    Shape,
    /// The checksum is missing or wrong.
    #[error("the checksum of the PROXY header is missing or wrong")]
    Checksum,
}

impl Proxy2 {
    /// The value of the only TLV of this type.
    pub fn only(&self, kind: u8) -> Option<&[u8]> {
        let mut found = self.tlvs.iter().filter(|(of, _)| *of == kind);
        let first = found.next()?;
        found.next().is_none().then_some(first.1.as_slice())
    }

    /// As bytes, with a checksum. `None`: addresses of two families, or too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut out = SIGNATURE.to_vec();
        match self.addresses {
            None => out.extend([0x20, 0x00, 0, 0]),
            Some((from, to)) => {
                out.extend([0x21, if from.is_ipv4() { 0x11 } else { 0x21 }, 0, 0]);
                match (from.ip(), to.ip()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => out.extend([a.octets(), b.octets()].concat()),
                    (IpAddr::V6(a), IpAddr::V6(b)) => out.extend([a.octets(), b.octets()].concat()),
                    _ => return None,
                }
                out.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
            }
        }
        for (kind, value) in &self.tlvs {
            tlv(&mut out, *kind, value)?;
        }
        tlv(&mut out, CRC32C, &[0; 4])?;
        let length = u16::try_from(out.len() - 16).ok().filter(|_| out.len() <= MAX_PROXY2)?;
        out[14..16].copy_from_slice(&length.to_be_bytes());
        let at = out.len() - 4;
        let sum = crc32c(&out);
        out[at..].copy_from_slice(&sum.to_be_bytes());
        Some(out)
    }

    /// The header at the front of `bytes` and its length; `Ok(None)`: more bytes are needed. A checksum is demanded.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Proxy2, usize)>, Proxy2Error> {
        let known = bytes.len().min(12);
        if bytes[..known] != SIGNATURE[..known] {
            return Err(Proxy2Error::Foreign);
        }
        let Some(fixed) = bytes.get(..16) else { return Ok(None) };
        let length = 16 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if fixed[12] & 0xfe != 0x20 {
            return Err(Proxy2Error::Foreign);
        }
        if length > MAX_PROXY2 {
            return Err(Proxy2Error::Shape);
        }
        let Some(whole) = bytes.get(..length) else { return Ok(None) };
        let (addresses, rest) = match (fixed[12] & 1, fixed[13]) {
            (0, _) => (None, skip_addresses(fixed[13], &whole[16..])?),
            (_, 0x11) => addresses::<4>(&whole[16..])?,
            (_, 0x21) => addresses::<16>(&whole[16..])?,
            _ => return Err(Proxy2Error::Addresses),
        };
        let tlvs = tlvs(whole, rest)?;
        Ok(Some((Proxy2 { addresses, tlvs }, length)))
    }
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) -> Option<()> {
    out.push(kind);
    out.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
    out.extend(value);
    Some(())
}

/// LOCAL: whatever addresses are there are passed over (§2.2).
fn skip_addresses(family: u8, bytes: &[u8]) -> Result<&[u8], Proxy2Error> {
    let length = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        _ => return Err(Proxy2Error::Addresses),
    };
    bytes.get(length..).ok_or(Proxy2Error::Addresses)
}

type Ends<'a> = (Option<(SocketAddr, SocketAddr)>, &'a [u8]);

fn addresses<const N: usize>(bytes: &[u8]) -> Result<Ends<'_>, Proxy2Error>
where
    [u8; N]: Into<IpAddr>,
{
    let part = |from: usize| bytes.get(from..from + N).and_then(|part| <[u8; N]>::try_from(part).ok());
    let port = |at: usize| bytes.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    match (part(0), part(N), port(2 * N), port(2 * N + 2)) {
        (Some(from), Some(to), Some(from_port), Some(to_port)) => {
            let ends = (SocketAddr::new(from.into(), from_port), SocketAddr::new(to.into(), to_port));
            Ok((Some(ends), &bytes[2 * N + 4..]))
        }
        _ => Err(Proxy2Error::Addresses),
    }
}

fn tlvs(whole: &[u8], mut rest: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, Proxy2Error> {
    let (mut found, mut checked) = (Vec::new(), false);
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = after.get(..length).ok_or(Proxy2Error::Shape)?;
        rest = &after[length..];
        if *kind == CRC32C {
            let told: [u8; 4] = value.try_into().map_err(|_| Proxy2Error::Checksum)?;
            let at = whole.len() - rest.len() - 4;
            let mut zeroed = whole.to_vec();
            zeroed[at..at + 4].fill(0);
            if checked || crc32c(&zeroed) != u32::from_be_bytes(told) {
                return Err(Proxy2Error::Checksum);
            }
            checked = true;
        } else {
            found.push((*kind, value.to_vec()));
        }
    }
    match (rest.is_empty(), checked) {
        (false, _) => Err(Proxy2Error::Shape),
        (true, false) => Err(Proxy2Error::Checksum),
        (true, true) => Ok(found),
    }
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: headers are short and rare.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        prop_oneof![
            any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
            any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
        ]
    }

    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "RFC 3720's check value");
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720, appendix B.4");
    }

    #[test]
    fn a_header_as_haproxy_s_text_has_it() {
        let ends = ("192.0.2.1:1025".parse().unwrap(), "198.51.100.2:443".parse().unwrap());
        let header = Proxy2 { addresses: Some(ends), tlvs: vec![(AUTHORITY, b"wiki.test".to_vec())] };
        let bytes = header.encode().unwrap();
        assert_eq!(bytes[..12], SIGNATURE);
        assert_eq!(bytes[12..16], [0x21, 0x11, 0, 12 + 12 + 7]);
        assert_eq!(bytes[16..28], [192, 0, 2, 1, 198, 51, 100, 2, 4, 1, 1, 187]);
        assert_eq!(bytes[28..40], *b"\x02\x00\x09wiki.test");
        let mut wrong = bytes.clone();
        wrong[20] ^= 1;
        assert_eq!(Proxy2::decode(&wrong), Err(Proxy2Error::Checksum));
        assert_eq!(Proxy2::decode(b"GET / HTTP/1.1\r\n"), Err(Proxy2Error::Foreign));
        assert_eq!(Proxy2::decode(b""), Ok(None));
        assert_eq!(Proxy2 { addresses: Some((ends.0, "[::1]:1".parse().unwrap())), tlvs: vec![] }.encode(), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            addresses in proptest::option::of(address()),
            tlvs in proptest::collection::vec((4u8.., proptest::collection::vec(any::<u8>(), 0..300)), 0..5),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let header = Proxy2 { addresses, tlvs };
            let mut bytes = header.encode().unwrap();
            let length = bytes.len();
            for end in [0, 11, 12, 15, 16, length - 1] {
                prop_assert_eq!(Proxy2::decode(&bytes[..end]), Ok(None));
            }
            bytes.extend(tail);
            prop_assert_eq!(Proxy2::decode(&bytes), Ok(Some((header, length))));
        }

        #[test]
        fn a_changed_header_is_refused(at in any::<prop::sample::Index>(), by in 1u8.., ends in address()) {
            let mut bytes = Proxy2 { addresses: Some(ends), tlvs: vec![(USER, b"ann".to_vec())] }.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            let read = Proxy2::decode(&bytes);
            prop_assert!(!matches!(read, Ok(Some(_))), "{:?}", read);
        }

        #[test]
        fn junk_ends_in_a_verdict(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), good in 0usize..17) {
            let good = good.min(bytes.len());
            let start = [SIGNATURE.as_slice(), &[0x21, 0x11, 0, 60]].concat();
            bytes[..good].copy_from_slice(&start[..good]);
            let _ = Proxy2::decode(&bytes);
        }
    }
}
