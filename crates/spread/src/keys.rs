//! Which key follows from which, and the three things done with keys: seal, authenticate, derive.
//!
//! ```text
//! relay's secret ── epoch key E ─┬─ grant key G (for one issuer) ─┬─ mac key M of a session (the user has it)
//!                                │                                └─ destination key D (the issuer keeps it)
//!                                ├─ peer key P (for one servlet) ─┬─ return key of a session
//!                                │                                └─ voucher key of a session
//!                                └─ address key of a session (the relay's own: seals return addresses)
//! session key K (issuer, user, servlet) ── choice key C (relays too), keys of both directions
//! ```
//!
//! After DRKey (SCION): a relay derives what it needs from its own epoch key and the packet's head alone; what it can derive
//! opens nothing at another relay. Derivation is HMAC-SHA256 (RFC 2104), sealing AES-128-GCM (NIST SP 800-38D) with an empty
//! plaintext where only authenticity is wanted.

use crate::ids::{NodeId, SessionId};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;

/// A 32-byte key.
pub type Key32 = [u8; 32];
/// A key of AES-128.
pub type Key16 = [u8; 16];

/// A key that others are derived from.
pub(crate) struct Deriver(hmac::Key);

impl Deriver {
    pub(crate) fn new(key: &Key32) -> Self {
        Deriver(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    pub(crate) fn whole(&self, label: &str, parts: &[&[u8]]) -> Key32 {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(label.as_bytes());
        parts.iter().for_each(|part| context.update(part));
        let mut out = [0; 32];
        // HMAC-SHA256 has 32 bytes.
        context.sign().as_ref().iter().zip(&mut out).for_each(|(from, to)| *to = *from);
        out
    }

    pub(crate) fn half(&self, label: &str, parts: &[&[u8]]) -> Key16 {
        halve(&self.whole(label, parts))
    }
}

/// The first half.
pub(crate) fn halve(key: &Key32) -> Key16 {
    let mut out = [0; 16];
    out.copy_from_slice(&key[..16]);
    out
}

fn derive(key: &Key32, label: &str, parts: &[&[u8]]) -> Key32 {
    Deriver::new(key).whole(label, parts)
}

/// E: a relay's key of one epoch.
pub fn epoch_key(secret: &Key32, epoch: u32) -> Key32 {
    derive(secret, "polder epoch", &[&epoch.to_be_bytes()])
}

/// G: what a relay tells an issuer that asked for a grant.
pub fn grant_key(epoch_key: &Key32, grant: [u8; 8]) -> Key32 {
    derive(epoch_key, "polder grant", &[&grant])
}

/// P: what a relay tells a node that asked for its peer key.
pub fn peer_key(epoch_key: &Key32, node: NodeId) -> Key32 {
    derive(epoch_key, "polder peer", &[&node.0.to_be_bytes()])
}

/// M: authenticates a session's packets to one relay.
pub(crate) fn mac_key(grant_key: &Key32, session: SessionId) -> Key16 {
    Deriver::new(grant_key).half("polder mac", &[&session.0])
}

/// D: seals a session's destination for one relay.
pub(crate) fn destination_key(grant_key: &Key32, session: SessionId) -> Key16 {
    Deriver::new(grant_key).half("polder destination", &[&session.0])
}

/// C: orders the relays of each block.
pub(crate) fn choice_key(session_key: &Key32, session: SessionId) -> Key16 {
    Deriver::new(session_key).half("polder choice", &[&session.0])
}

/// Keys of the ends: what the user seals with, what the servlet seals with.
pub(crate) fn end_keys(session_key: &Key32, session: SessionId) -> (Key16, Key16) {
    let deriver = Deriver::new(session_key);
    (deriver.half("polder up", &[&session.0]), deriver.half("polder down", &[&session.0]))
}

/// Authenticates a servlet's packets to one relay.
pub(crate) fn return_key(peer_key: &Key32, session: SessionId) -> Key16 {
    Deriver::new(peer_key).half("polder return", &[&session.0])
}

/// That whoever asks for a detour of a session at `at` (Unix µs) holds its key.
pub fn detour_proof(session_key: &Key32, session: SessionId, at: u64) -> [u8; 16] {
    Deriver::new(session_key).half("polder detour", &[&session.0, &at.to_be_bytes()])
}

/// Whether `proof` is [`detour_proof`]; takes the same time for every wrong one.
pub fn proves_detour(session_key: &Key32, session: SessionId, at: u64, proof: &[u8; 16]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(&detour_proof(session_key, session, at), proof).is_ok()
}

/// A relay's word to a servlet that a return address is its own.
pub(crate) fn voucher(peer_key: &Key32, session: SessionId, relay: NodeId, address: &[u8; 48]) -> Key16 {
    let key = Deriver::new(peer_key).whole("polder voucher", &[&session.0]);
    Deriver::new(&key).half("polder return address", &[&relay.0.to_be_bytes(), address])
}

/// AES-128-GCM under one key. Who holds it must never seal two things under one nonce.
pub(crate) struct Aead(LessSafeKey);

impl Aead {
    /// `None`: the library refused the key (it never does for this length).
    pub(crate) fn new(key: &Key16) -> Option<Self> {
        UnboundKey::new(&AES_128_GCM, key).ok().map(|key| Aead(LessSafeKey::new(key)))
    }

    /// Encrypts in place; returns the seal.
    pub(crate) fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8]) -> Option<[u8; 16]> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), text).ok()?;
        tag.as_ref().first_chunk().copied()
    }

    /// Decrypts `text` (ciphertext and seal) in place; the plain part of it.
    pub(crate) fn open<'a>(&self, nonce: [u8; 12], aad: &[u8], text: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), text).ok()
    }

    /// Authenticates without encrypting.
    pub(crate) fn tag(&self, nonce: [u8; 12], covered: &[u8]) -> Option<[u8; 16]> {
        self.seal(nonce, covered, &mut [])
    }

    /// Whether `tag` is the one for `covered`; takes the same time for every wrong one.
    pub(crate) fn verify(&self, nonce: [u8; 12], covered: &[u8], mut tag: [u8; 16]) -> bool {
        self.open(nonce, covered, &mut tag).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_differs_from_every_other() {
        let secret = [7; 32];
        let (e1, e2) = (epoch_key(&secret, 1), epoch_key(&secret, 2));
        let (s1, s2) = (SessionId([1; 16]), SessionId([2; 16]));
        let g = grant_key(&e1, [0, 0, 0, 0, 0, 0, 0, 5]);
        let p = peer_key(&e1, NodeId(5));
        let mut all = vec![halve(&e1), halve(&e2), halve(&g), halve(&p), halve(&grant_key(&e2, [5; 8]))];
        for s in [s1, s2] {
            let (up, down) = end_keys(&e1, s);
            all.extend([mac_key(&g, s), destination_key(&g, s), return_key(&p, s), choice_key(&e1, s), up, down]);
            all.extend([voucher(&p, s, NodeId(1), &[0; 48]), voucher(&p, s, NodeId(2), &[0; 48])]);
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_seal_holds_for_its_key_nonce_and_bytes_only() {
        let (a, b) = (Aead::new(&[1; 16]).unwrap(), Aead::new(&[2; 16]).unwrap());
        let tag = a.tag([3; 12], b"covered").unwrap();
        assert!(a.verify([3; 12], b"covered", tag));
        assert!(
            !a.verify([4; 12], b"covered", tag) && !a.verify([3; 12], b"Covered", tag) && !b.verify([3; 12], b"covered", tag)
        );
        let mut text = *b"secret";
        let seal = a.seal([0; 12], b"", &mut text).unwrap();
        let mut whole = [&text[..], &seal].concat();
        assert_eq!(a.open([0; 12], b"", &mut whole).unwrap(), b"secret");
    }
}
