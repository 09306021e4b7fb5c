//! What an access point says of a user to a site's agent, and the text in which it travels sealed (`docs/design/site-users.md`).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::net::IpAddr;

/// Plain words are filled up to a multiple of so many bytes: their length must not tell who it is.
const BLOCK: usize = 64;
/// Most bytes of a plain word: groups take most of it.
const MAX_PLAIN: usize = 2048;

/// One user's tunnel, in an access point's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserWord {
    /// When it was said, Unix milliseconds.
    pub at: i64,
    /// Host that the user asked for.
    pub host: String,
    /// Port that the user asked for.
    pub port: u16,
    /// The user's SPIFFE id.
    pub user: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// Where the user's connection came from, if the site asks.
    pub address: Option<IpAddr>,
}

impl UserWord {
    /// Filled up, ready to be sealed; `None` when too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let body = polder_types::encode(self);
        let length = u16::try_from(body.len()).ok().filter(|_| body.len() + 2 <= MAX_PLAIN)?;
        let mut out = length.to_be_bytes().to_vec();
        out.extend(body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        Some(out)
    }

    /// The word in unsealed bytes.
    pub fn decode(bytes: &[u8]) -> Option<UserWord> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (body, fill) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let plain = fill.len() < BLOCK && fill.iter().all(|byte| *byte == 0);
        plain.then(|| polder_types::decode(body).ok()).flatten()
    }
}

/// What opens a session between an access point and a site's agent: the key of its words, and who says so. Travels sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionWord {
    /// Key of the words.
    pub key: ByteBuf,
    /// Begin of its validity, Unix seconds.
    pub not_before: i64,
    /// End of its validity, Unix seconds.
    pub not_after: i64,
    /// The access point's certificates, leaf first.
    pub chain: Vec<ByteBuf>,
    /// By the leaf's key over [`SessionWord::signed`].
    pub signature: ByteBuf,
}

impl SessionWord {
    /// What is signed: the site's name and public key bind it to one reader, so that he cannot pass it on as his own.
    pub fn signed(&self, site: &str, site_key: &[u8]) -> Vec<u8> {
        let mut out = b"polder-session/1\0".to_vec();
        for part in [site.as_bytes(), site_key, &self.key, &self.not_before.to_be_bytes(), &self.not_after.to_be_bytes()] {
            out.extend((part.len() as u64).to_be_bytes());
            out.extend(part);
        }
        out
    }
}

/// A sealed word: a session and one message of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedWord {
    /// The sealed [`SessionWord`].
    pub session: Vec<u8>,
    /// Which message of the session.
    pub number: u64,
    /// The sealed [`UserWord`].
    pub message: Vec<u8>,
}

impl SealedWord {
    /// Base64url of both parts with a dot between them.
    pub fn to_text(&self) -> String {
        let mut message = self.number.to_be_bytes().to_vec();
        message.extend(&self.message);
        format!("{}.{}", base64url(&self.session), base64url(&message))
    }

    /// Reads the text; `None` unless it is exactly what [`SealedWord::to_text`] writes.
    pub fn from_text(text: &str) -> Option<SealedWord> {
        let (session, message) = text.split_once('.')?;
        let (session, message) = (unbase64url(session)?, unbase64url(message)?);
        let (number, message) = message.split_first_chunk::<8>()?;
        Some(SealedWord { session, number: u64::from_be_bytes(*number), message: message.to_vec() })
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url without padding (RFC 4648 §5).
pub fn base64url(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let block = chunk.iter().fold(0u32, |block, byte| block << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).for_each(|n| out.push(ALPHABET[(block >> (18 - 6 * n) & 63) as usize].into()));
    }
    out
}

/// Strict: no padding, no other characters, no stray bits at the end.
pub fn unbase64url(text: &str) -> Option<Vec<u8>> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut block = 0u32;
        for c in chunk {
            block = block << 6 | u32::from(value(*c)?);
        }
        block <<= 6 * (4 - chunk.len());
        let bytes = block.to_be_bytes();
        let count = chunk.len() - 1;
        if count == 0 || bytes[1 + count..].iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend(&bytes[1..=count]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word() -> UserWord {
        UserWord {
            at: 1_800_000_000_000,
            host: "wiki.test".into(),
            port: 443,
            user: "spiffe://o.test/user/ann".into(),
            groups: vec!["staff".into()],
            address: Some("2001:db8::1".parse().unwrap()),
        }
    }

    #[test]
    fn words_of_like_length_look_alike() {
        let (one, other) =
            (word().encode().unwrap(), UserWord { user: "spiffe://o.test/user/b".into(), ..word() }.encode().unwrap());
        assert_eq!((one.len(), one.len() % BLOCK), (other.len(), 0));
        assert_eq!(UserWord { groups: vec!["g".repeat(MAX_PLAIN)], ..word() }.encode(), None);
        let mut filled = word().encode().unwrap();
        filled.extend([0; BLOCK]);
        assert_eq!(UserWord::decode(&filled), None, "one form only");
    }

    #[test]
    fn base64url_as_in_rfc_4648() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
            assert_eq!(unbase64url(text), Some(bytes.as_bytes().to_vec()));
        }
        for bad in ["Z", "Zg==", "Zh", "Zm9", "Zm+v", "Zm 9", "Zm9vY"] {
            assert_eq!(unbase64url(bad), None, "{bad}");
        }
        assert_eq!(base64url(&[0xff, 0xef, 0xbe]), "_---");
    }

    #[test]
    fn what_is_signed_has_no_two_readings() {
        let session = SessionWord {
            key: ByteBuf::from(vec![1; 32]),
            not_before: 1,
            not_after: 2,
            chain: vec![],
            signature: ByteBuf::new(),
        };
        assert_ne!(session.signed("wiki", b"ab"), session.signed("wik", b"iab"));
    }

    proptest! {
        #[test]
        fn words_survive(user in "[ -~]{0,80}", groups in proptest::collection::vec("[a-z]{1,20}", 0..8), at: i64, port: u16) {
            let word = UserWord { at, port, user, groups, ..word() };
            prop_assert_eq!(UserWord::decode(&word.encode().unwrap()), Some(word));
        }

        #[test]
        fn texts_survive_and_have_one_spelling(session in proptest::collection::vec(any::<u8>(), 0..90), number: u64,
            message in proptest::collection::vec(any::<u8>(), 0..90), at in any::<prop::sample::Index>(), with in "[!-~]") {
            let word = SealedWord { session, number, message };
            let text = word.to_text();
            prop_assert_eq!(SealedWord::from_text(&text), Some(word.clone()));
            let mut changed = text.clone();
            let at = at.index(text.len());
            changed.replace_range(at..=at, &with);
            prop_assert!(changed == text || SealedWord::from_text(&changed) != Some(word));
        }

        #[test]
        fn junk_is_no_word(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_.-]{0,60}") {
            let _ = UserWord::decode(&bytes);
            if let Some(word) = SealedWord::from_text(&text) {
                prop_assert_eq!(word.to_text(), text);
            }
        }
    }
}
