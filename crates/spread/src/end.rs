//! The part of a packet that only the two ends read: sealed under the session's key of one direction, the same in every copy.
//!
//! ```text
//! kind 1 | index 1 | sources 1 | repairs 1 | group 4 | payload      then the seal, 16
//! ```

use crate::ids::{SessionId, Tick};
use crate::keys::{Aead, Key32, end_keys};
use crate::packet::{HEAD, INNER};

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Control,
    Repair,
}

/// The inner head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    pub kind: Kind,
    /// Place in the group of forward error correction.
    pub index: u8,
    /// Datagrams in the group; 0: in none.
    pub sources: u8,
    pub repairs: u8,
    pub group: u32,
}

impl Inner {
    /// In no group.
    pub(crate) const fn plain(kind: Kind) -> Self {
        Inner { kind, index: 0, sources: 0, repairs: 0, group: 0 }
    }

    pub(crate) fn bytes(&self) -> [u8; INNER] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Control => 1,
            Kind::Repair => 2,
        };
        let [a, b, c, d] = self.group.to_be_bytes();
        [kind, self.index, self.sources, self.repairs, a, b, c, d]
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Inner> {
        let [kind, index, sources, repairs, a, b, c, d] = *bytes.first_chunk::<INNER>()?;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Control,
            2 => Kind::Repair,
            _ => return None,
        };
        Some(Inner { kind, index, sources, repairs, group: u32::from_be_bytes([a, b, c, d]) })
    }
}

/// The two keys of a session, one to seal with, one to open with.
pub(crate) struct EndKeys {
    seal: Aead,
    open: Aead,
}

impl EndKeys {
    /// `user`: whether this is the user's end. `None`: the library refused a key.
    pub(crate) fn new(key: &Key32, session: SessionId, user: bool) -> Option<Self> {
        let (up, down) = end_keys(key, session);
        let (seal, open) = if user { (up, down) } else { (down, up) };
        Some(EndKeys { seal: Aead::new(&seal)?, open: Aead::new(&open)? })
    }

    fn nonce(number: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        nonce
    }

    /// What is authenticated beside the text: number and time, as they lie in the head.
    fn bound(number: u64, time: Tick) -> [u8; 12] {
        let mut bound = [0; 12];
        bound[..8].copy_from_slice(&number.to_be_bytes());
        bound[8..].copy_from_slice(&time.0.to_be_bytes());
        bound
    }

    /// Inner head, payload and seal of one number, into `out` (emptied before). A number is sealed once.
    pub(crate) fn seal(&self, number: u64, time: Tick, inner: &Inner, payload: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
        out.clear();
        out.extend(inner.bytes());
        payload.iter().for_each(|part| out.extend(*part));
        let seal = self.seal.seal(Self::nonce(number), &Self::bound(number, time), out)?;
        out.extend(seal);
        Some(())
    }

    /// Opens a packet in place: its inner head and payload.
    pub(crate) fn open<'a>(&self, number: u64, time: Tick, packet: &'a mut [u8]) -> Option<(Inner, &'a mut [u8])> {
        let plain = self.open.open(Self::nonce(number), &Self::bound(number, time), packet.get_mut(HEAD..)?)?;
        Some((Inner::read(plain)?, plain.get_mut(INNER..)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_one_end_seals_the_other_opens(
            number in any::<u64>(), payload in prop::collection::vec(any::<u8>(), 0..2000), bit in any::<prop::sample::Index>()
        ) {
            let session = SessionId([4; 16]);
            let user = EndKeys::new(&[5; 32], session, true).unwrap();
            let servlet = EndKeys::new(&[5; 32], session, false).unwrap();
            let inner = Inner { kind: Kind::Repair, index: 1, sources: 2, repairs: 3, group: 4 };
            let mut sealed = Vec::new();
            user.seal(number, Tick(7), &inner, &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]], &mut sealed).unwrap();
            let packet = [&[0; HEAD][..], &sealed].concat();
            let (got, text) = (&mut packet.clone(), &payload[..]);
            let (opened, plain) = servlet.open(number, Tick(7), got).unwrap();
            prop_assert_eq!((opened, &*plain), (inner, text));
            prop_assert!(user.open(number, Tick(7), &mut packet.clone()).is_none(), "the other direction has another key");
            prop_assert!(servlet.open(number ^ 1, Tick(7), &mut packet.clone()).is_none());
            prop_assert!(servlet.open(number, Tick(8), &mut packet.clone()).is_none());
            let mut bent = packet.clone();
            let at = HEAD * 8 + bit.index(sealed.len() * 8);
            bent[at / 8] ^= 1 << (at % 8);
            prop_assert!(servlet.open(number, Tick(7), &mut bent).is_none());
        }
    }
}
