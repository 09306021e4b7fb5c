//! Words about users, sealed by an access point to one site's agent (`docs/design/site-users.md`).
//!
//! Theory of operation. Sealing and signing each word would cost a tunnel more than its way through a node. So the access
//! point opens a *session*: a fresh key, signed with the node's identity and sealed to the site's public key by HPKE (RFC
//! 9180). It stays the same for many tunnels, and the agent opens it once. Each tunnel's word is then sealed by that key
//! (AES-256-GCM; the number of the word is the nonce). The signature stands inside of what is sealed: who carries a word
//! learns neither the user nor the access point.

use crate::settings::Settings;
use crate::verify::Side;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{rand, signature};
use polder_types::{Identity, Kind};
use polder_wire::word::SessionWord;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as HPKE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_bytes::ByteBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use x509_parser::prelude::*;

/// Length of a site's public and private key (X25519).
pub const SEAL_KEY: usize = 32;
const INFO: &[u8] = b"polder-session/1";
/// Clocks of nodes and sites may differ by so many seconds.
const SKEW: i64 = 30;

/// Why a word is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWord {
    /// Sealed to somebody else, changed on the way, or junk.
    #[error("a word about a user cannot be opened: it was sealed to another key, or forged")]
    Sealed,
    /// Signed by nobody that is believed now: foreign, expired, revoked, or no node.
    #[error("a word about a user comes from nobody that may say it")]
    Signer,
    /// The session is too old or too young.
    #[error("a word about a user comes from a session that is over or has not begun: look at the clocks")]
    Time,
}

/// An access point's end of a session.
pub struct Sealer {
    /// The sealed opening, the same for every word.
    pub opening: Vec<u8>,
    /// End of its validity, Unix seconds.
    pub not_after: i64,
    key: LessSafeKey,
    next: AtomicU64,
}

impl Sealer {
    /// Seals the next word; its number and the sealed bytes.
    pub fn seal(&self, plain: &[u8]) -> Option<(u64, Vec<u8>)> {
        let number = self.next.fetch_add(1, Relaxed);
        let mut message = plain.to_vec();
        self.key.seal_in_place_append_tag(nonce(number), Aad::from(INFO), &mut message).ok()?;
        Some((number, message))
    }
}

/// A site agent's end of a session.
pub struct Unsealer {
    /// The access point.
    pub node: Identity,
    /// Begin of its validity, Unix seconds.
    pub not_before: i64,
    /// End of its validity, Unix seconds.
    pub not_after: i64,
    key: LessSafeKey,
}

impl Unsealer {
    /// Opens word `number`.
    pub fn open(&self, number: u64, message: &[u8]) -> Result<Vec<u8>, BadWord> {
        let mut message = message.to_vec();
        let plain = self.key.open_in_place(nonce(number), Aad::from(INFO), &mut message).map_err(|_| BadWord::Sealed)?;
        Ok(plain.to_vec())
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn cipher(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

impl Settings {
    /// Opens a session with the agent of `site` for `life` seconds from `now` on; `None` when the key is no key.
    pub fn session(&self, site: &str, site_key: &[u8], now: i64, life: i64) -> Option<Sealer> {
        let mut key = [0; 32];
        rand::fill(&mut key).ok()?;
        let own = self.certified();
        let mut word = SessionWord {
            key: ByteBuf::from(key),
            not_before: now,
            not_after: (now + life).min(self.me().not_after),
            chain: own.cert.iter().map(|c| ByteBuf::from(c.to_vec())).collect(),
            signature: ByteBuf::new(),
        };
        let signer = own.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?;
        word.signature = ByteBuf::from(signer.sign(&word.signed(site, site_key)).ok()?);
        let plain = polder_types::encode(&word);
        let (encapsulated, sealed) = HPKE.seal(INFO, site.as_bytes(), &plain, &HpkePublicKey(site_key.to_vec())).ok()?;
        let opening = [encapsulated.0, sealed].concat();
        Some(Sealer { opening, not_after: word.not_after, key: cipher(&key)?, next: AtomicU64::new(0) })
    }

    /// Opens what an access point's [`Settings::session`] sealed to us. `keys`: our private and public key.
    pub fn open_session(&self, site: &str, keys: (&[u8], &[u8]), opening: &[u8], now: i64) -> Result<Unsealer, BadWord> {
        let (encapsulated, sealed) = opening.split_at_checked(SEAL_KEY).ok_or(BadWord::Sealed)?;
        let secret = HpkePrivateKey::from(keys.0.to_vec());
        let plain = HPKE.open(&EncapsulatedSecret(encapsulated.to_vec()), INFO, site.as_bytes(), sealed, &secret);
        let plain = plain.map_err(|_| BadWord::Sealed)?;
        let word: SessionWord = polder_types::decode(&plain).map_err(|_| BadWord::Sealed)?;
        let chain: Vec<_> = word.chain.iter().map(|c| CertificateDer::from(c.as_ref())).collect();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.unsigned_abs()));
        let node = self.trust().verify(&chain, Side::Client, at).map_err(|_| BadWord::Signer)?;
        let signed = word.signed(site, keys.1);
        if node.kind != Kind::Node || !verifies(chain.first().ok_or(BadWord::Signer)?, &signed, &word.signature) {
            return Err(BadWord::Signer);
        }
        if now > word.not_after || now + SKEW < word.not_before {
            return Err(BadWord::Time);
        }
        let key = cipher(&word.key).ok_or(BadWord::Sealed)?;
        Ok(Unsealer { node, not_before: word.not_before, not_after: word.not_after.min(at_most(now)), key })
    }
}

/// No session is believed for longer than a day, whatever it says.
fn at_most(now: i64) -> i64 {
    now + 86_400
}

fn verifies(leaf: &CertificateDer<'_>, message: &[u8], told: &[u8]) -> bool {
    let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return false };
    let key = &cert.public_key().subject_public_key.data;
    signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, key).verify(message, told).is_ok()
}

/// Signs compact JSON web signatures with ES256 (RFC 7515, RFC 7518 §3.4).
pub struct Jws {
    key: signature::EcdsaKeyPair,
    head: String,
}

impl Jws {
    /// `key`: P-256, PKCS #8; `id`: what the origin finds it by among the site's keys. `None` when the key is none.
    pub fn new(key: &[u8], id: &str) -> Option<Jws> {
        let key = signature::EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, key).ok()?;
        let head = polder_wire::word::base64url(format!(r#"{{"alg":"ES256","kid":"{id}","typ":"JWT"}}"#).as_bytes());
        Some(Jws { key, head })
    }

    /// The JWS of a payload, which is JSON.
    pub fn sign(&self, payload: &str) -> Option<String> {
        let text = format!("{}.{}", self.head, polder_wire::word::base64url(payload.as_bytes()));
        let signature = self.key.sign(&rand::SystemRandom::new(), text.as_bytes()).ok()?;
        Some(format!("{text}.{}", polder_wire::word::base64url(signature.as_ref())))
    }
}

/// Sixteen bytes by which the holder of `secret` always knows `what` again, and nobody else.
pub fn pseudonym(secret: &[u8], what: &[u8]) -> [u8; 16] {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, &[b"polder-pseudonym/1\0", what].concat());
    let mut out = [0; 16];
    out.copy_from_slice(&tag.as_ref()[..16]);
    out
}
