//! What travels sealed for one relay: the servlet behind a session, and the user behind a reply.

use crate::ids::{Micros, NodeId, SessionId};
use crate::keys::{Aead, Key16};
use crate::packet::SEALED;
use crate::ticket::Terms;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a session goes and what it may: sealed by the issuer, opened by the relay. The user cannot read it.
///
/// ```text
/// servlet 8 | choice key 16 | starts 4 | lasts 2 | pace 1 | rate 1    then the seal, 16
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    pub servlet: NodeId,
    pub choice: Key16,
    pub starts: u32,
    pub lasts: u16,
    pub pace: u8,
    pub rate: u8,
}

const DESTINATION: usize = 32;
/// A destination is sealed once under its key: one session, one grant, one destination.
const ONCE: [u8; 12] = [0; 12];

impl Destination {
    /// For the user to carry. `None`: the library refused the key.
    pub(crate) fn seal(&self, key: &Key16, session: SessionId) -> Option<[u8; SEALED]> {
        let mut out = [0; SEALED];
        let (plain, seal) = out.split_at_mut(DESTINATION);
        let parts: [&[u8]; 6] = [
            &self.servlet.0.to_be_bytes(),
            &self.choice,
            &self.starts.to_be_bytes(),
            &self.lasts.to_be_bytes(),
            &[self.pace],
            &[self.rate],
        ];
        parts.concat().iter().zip(plain.iter_mut()).for_each(|(from, to)| *to = *from);
        let tag = Aead::new(key)?.seal(ONCE, &session.0, plain)?;
        seal.copy_from_slice(&tag);
        Some(out)
    }

    /// What the relay reads; `None` unless the issuer sealed it for this session.
    pub(crate) fn open(key: &Key16, session: SessionId, mut sealed: [u8; SEALED]) -> Option<Self> {
        let plain: &[u8; DESTINATION] = Aead::new(key)?.open(ONCE, &session.0, &mut sealed)?.first_chunk()?;
        let (servlet, rest) = plain.split_first_chunk()?;
        let (choice, rest) = rest.split_first_chunk()?;
        let (starts, rest) = rest.split_first_chunk()?;
        let (lasts, rest) = rest.split_first_chunk()?;
        let [pace, rate] = *rest.first_chunk()?;
        Some(Destination {
            servlet: NodeId(u64::from_be_bytes(*servlet)),
            choice: *choice,
            starts: u32::from_be_bytes(*starts),
            lasts: u16::from_be_bytes(*lasts),
            pace,
            rate,
        })
    }

    /// What the session may.
    pub(crate) fn terms(&self) -> Terms {
        let Destination { starts, lasts, pace, rate, .. } = *self;
        Terms { starts, lasts, pace, rate }
    }
}

/// Where a user's packets came from: sealed by the relay for itself, kept by the servlet.
///
/// ```text
/// Unix seconds 4 | count 4 | sealed { address 16 | port 2 | zero 6 } 24 | seal 16
/// ```
/// The first eight bytes are the nonce: a relay counts what it seals, from a start drawn by chance. The key is the session's.
pub(crate) struct ReturnAddress;

impl ReturnAddress {
    pub(crate) fn seal(
        key: &Aead,
        session: SessionId,
        servlet: NodeId,
        from: SocketAddr,
        now: Micros,
        count: u32,
    ) -> Option<[u8; SEALED]> {
        let mut out = [0; SEALED];
        out[..4].copy_from_slice(&(now.secs() as u32).to_be_bytes());
        out[4..8].copy_from_slice(&count.to_be_bytes());
        let address = match from.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        out[8..24].copy_from_slice(&address.octets());
        out[24..26].copy_from_slice(&from.port().to_be_bytes());
        let tag = key.seal(Self::nonce(&out), &Self::bound(session, servlet), &mut out[8..32])?;
        out[32..].copy_from_slice(&tag);
        Some(out)
    }

    /// The user's address and when it was sealed (Unix seconds modulo 2³²); `None` unless this relay sealed it for that session
    /// and servlet.
    pub(crate) fn open(key: &Aead, session: SessionId, servlet: NodeId, mut sealed: [u8; SEALED]) -> Option<(SocketAddr, u32)> {
        let nonce = Self::nonce(&sealed);
        let at = u32::from_be_bytes(*sealed.first_chunk()?);
        let plain = key.open(nonce, &Self::bound(session, servlet), &mut sealed[8..])?;
        let (address, rest) = plain.split_first_chunk::<16>()?;
        let port = u16::from_be_bytes(*rest.first_chunk()?);
        let ip = Ipv6Addr::from(*address);
        Some((SocketAddr::new(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), |v4: Ipv4Addr| v4.into()), port), at))
    }

    fn nonce(sealed: &[u8; SEALED]) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&sealed[..8]);
        nonce
    }

    fn bound(session: SessionId, servlet: NodeId) -> [u8; 24] {
        let mut out = [0; 24];
        out[..16].copy_from_slice(&session.0);
        out[16..].copy_from_slice(&servlet.0.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_destination_opens_for_its_key_and_session_only(
            key in any::<[u8; 16]>(), session in any::<[u8; 16]>(), servlet in any::<u64>(), choice in any::<[u8; 16]>(),
            starts in any::<u32>(), lasts in any::<u16>(), pace in any::<u8>(), rate in any::<u8>(), bit in 0usize..SEALED * 8
        ) {
            let session = SessionId(session);
            let destination = Destination { servlet: NodeId(servlet), choice, starts, lasts, pace, rate };
            let mut sealed = destination.seal(&key, session).unwrap();
            prop_assert!(Destination::open(&key, session, sealed) == Some(destination));
            let mut other = session;
            other.0[0] ^= 1;
            prop_assert!(Destination::open(&key, other, sealed).is_none());
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Destination::open(&key, session, sealed).is_none());
        }

        #[test]
        fn a_return_address_opens_for_its_session_and_servlet_only(
            ip in any::<IpAddr>(), port in any::<u16>(), now in 0u64..1 << 50, count in any::<u32>(), bit in 0usize..SEALED * 8
        ) {
            let key = Aead::new(&[3; 16]).unwrap();
            let (session, servlet) = (SessionId([1; 16]), NodeId(9));
            let from = SocketAddr::new(ip, port);
            let mut sealed = ReturnAddress::seal(&key, session, servlet, from, Micros(now), count).unwrap();
            let canonical = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(ReturnAddress::open(&key, session, servlet, sealed), Some((canonical, Micros(now).secs() as u32)));
            prop_assert_eq!(ReturnAddress::open(&key, session, NodeId(8), sealed), None);
            prop_assert_eq!(ReturnAddress::open(&key, SessionId([2; 16]), servlet, sealed), None);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(ReturnAddress::open(&key, session, servlet, sealed), None);
        }
    }
}
