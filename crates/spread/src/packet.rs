//! The packet: where each field lies. Numbers are big-endian.
//!
//! ```text
//!   0 seal 16     out, back: authenticates everything behind it, for the relay; onward: the relay's voucher; home: zero
//!  16 kind 1      17 rank 1      18 epoch 1      19 members 1
//!  20 session 16
//!  36 number 8    44 time 4
//!  48 party 8     out: grant; onward, home: the relay; back: the servlet
//!  56 sealed 48   out: sealed destination; onward, back: return address; home: zero
//! 104 inner 8     from here on all copies of a number are the same
//! 112 payload
//! -16 end seal
//! ```
//!
//! All four legs have one length, so that a relay rewrites a head where it lies and a whole run leaves in one call.

use crate::ids::{SessionId, Tick};

/// Bytes before the part that only the ends read.
pub const HEAD: usize = 104;
/// Bytes of the ends' own head.
pub const INNER: usize = 8;
/// Bytes of each seal.
pub const SEAL: usize = 16;
/// Bytes that a packet has more than its payload.
pub const OVERHEAD: usize = HEAD + INNER + SEAL;
/// Numbers in a block: they share an order of relays.
pub const BLOCK: u64 = 64;
/// Bytes of a sealed destination and of a return address.
pub const SEALED: usize = 48;

const KIND: usize = 16;
const RANK: usize = 17;
const EPOCH: usize = 18;
const MEMBERS: usize = 19;
const SESSION: usize = 20;
const NUMBER: usize = 36;
const TIME: usize = 44;
const PARTY: usize = 48;
const SEALED_AT: usize = 56;

/// Which of the four ways a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// User to relay.
    Out,
    /// Relay to servlet.
    Onward,
    /// Servlet to relay.
    Back,
    /// Relay to user.
    Home,
}

impl Leg {
    /// The byte in the packet.
    pub const fn byte(self) -> u8 {
        match self {
            Leg::Out => 0xA1,
            Leg::Onward => 0xA2,
            Leg::Back => 0xA3,
            Leg::Home => 0xA4,
        }
    }

    const fn read(byte: u8) -> Option<Leg> {
        match byte {
            0xA1 => Some(Leg::Out),
            0xA2 => Some(Leg::Onward),
            0xA3 => Some(Leg::Back),
            0xA4 => Some(Leg::Home),
            _ => None,
        }
    }
}

/// A packet's head, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Seal or voucher.
    pub seal: [u8; SEAL],
    /// Which way.
    pub leg: Leg,
    /// Place in the block's order; on the way back, which copy.
    pub rank: u8,
    /// Epoch modulo 256.
    pub epoch: u8,
    /// Version of the list modulo 256.
    pub members: u8,
    /// Session.
    pub session: SessionId,
    /// Number within the session and direction.
    pub number: u64,
    /// When it was sent.
    pub time: Tick,
    /// Grant, relay or servlet.
    pub party: [u8; 8],
    /// Sealed destination or return address.
    pub sealed: [u8; SEALED],
}

fn take<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..)?.first_chunk().copied()
}

impl Head {
    /// The head of a packet that is long enough to have one, an inner head and both seals.
    pub fn read(packet: &[u8]) -> Option<Head> {
        if packet.len() < OVERHEAD {
            return None;
        }
        Some(Head {
            seal: take(packet, 0)?,
            leg: Leg::read(packet[KIND])?,
            rank: packet[RANK],
            epoch: packet[EPOCH],
            members: packet[MEMBERS],
            session: SessionId(take(packet, SESSION)?),
            number: u64::from_be_bytes(take(packet, NUMBER)?),
            time: Tick(u32::from_be_bytes(take(packet, TIME)?)),
            party: take(packet, PARTY)?,
            sealed: take(packet, SEALED_AT)?,
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..SEAL].copy_from_slice(&self.seal);
        out[KIND] = self.leg.byte();
        out[RANK] = self.rank;
        out[EPOCH] = self.epoch;
        out[MEMBERS] = self.members;
        out[SESSION..NUMBER].copy_from_slice(&self.session.0);
        out[NUMBER..TIME].copy_from_slice(&self.number.to_be_bytes());
        out[TIME..PARTY].copy_from_slice(&self.time.0.to_be_bytes());
        out[PARTY..SEALED_AT].copy_from_slice(&self.party);
        out[SEALED_AT..].copy_from_slice(&self.sealed);
        out
    }

    /// What makes each sealing under a relay's key one of its kind: a copy with another rank is another packet.
    pub fn nonce(&self) -> [u8; 12] {
        hop_nonce(self.number, self.rank)
    }
}

/// See [`Head::nonce`].
pub fn hop_nonce(number: u64, rank: u8) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    nonce[8] = rank;
    nonce
}

/// What the seal of a leg covers.
pub fn covered(packet: &[u8]) -> &[u8] {
    packet.get(SEAL..).unwrap_or_default()
}

/// Puts a seal before what it covers.
pub fn put_seal(packet: &mut [u8], seal: [u8; SEAL]) {
    if let Some(place) = packet.first_chunk_mut() {
        *place = seal;
    }
}

/// What a relay writes over a packet's head: the seal's place, the kind, and everything from `party` to the inner head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Voucher or zero.
    pub seal: [u8; SEAL],
    /// The next leg.
    pub leg: Leg,
    /// The relay.
    pub party: [u8; 8],
    /// Return address or zero.
    pub sealed: [u8; SEALED],
}

impl Rewrite {
    /// Writes it. `packet` has a head.
    pub fn over(&self, packet: &mut [u8]) {
        let Some(head) = packet.first_chunk_mut::<HEAD>() else { return };
        head[..SEAL].copy_from_slice(&self.seal);
        head[KIND] = self.leg.byte();
        head[PARTY..SEALED_AT].copy_from_slice(&self.party);
        head[SEALED_AT..].copy_from_slice(&self.sealed);
    }
}

/// Leg and session of a packet, to find whom it is for; `None` if it is no packet.
pub fn peek(packet: &[u8]) -> Option<(Leg, SessionId)> {
    if packet.len() < OVERHEAD {
        return None;
    }
    Some((Leg::read(packet[KIND])?, SessionId(take(packet, SESSION)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            match Head::read(&bytes) {
                Some(head) => {
                    prop_assert_eq!(&head.bytes()[..], &bytes[..HEAD]);
                    prop_assert_eq!(peek(&bytes), Some((head.leg, head.session)));
                }
                None => prop_assert!(bytes.len() < OVERHEAD || !(0xA1..=0xA4).contains(&bytes[16])),
            }
        }

        #[test]
        fn rewriting_leaves_what_the_ends_authenticate(mut bytes in prop::collection::vec(any::<u8>(), OVERHEAD..300)) {
            bytes[16] = 0xA1;
            let before = bytes.clone();
            let new = Rewrite { seal: [1; 16], leg: Leg::Onward, party: [2; 8], sealed: [3; 48] };
            new.over(&mut bytes);
            let (old, head) = (Head::read(&before).unwrap(), Head::read(&bytes).unwrap());
            prop_assert_eq!(&bytes[HEAD..], &before[HEAD..]);
            prop_assert_eq!(head, Head { seal: new.seal, leg: new.leg, party: new.party, sealed: new.sealed, ..old });
        }
    }
}
