//! What a tunnel says of its user, on its way to a site that asks (`docs/design/site-users.md`).
//!
//! Only the access point knows the user. It seals its word to the site's agent, anew for every attempt; hops carry it along
//! and cannot read it.

use std::sync::Arc;

/// Most characters of a word: a chain of certificates takes some 2 KiB of it.
pub(crate) const MAX_WORD: usize = 8 * 1024;
/// The field of a hop's request that carries it.
pub(crate) const FIELD: &str = "polder-user";

/// A tunnel's word.
#[derive(Clone, Default)]
pub(crate) enum Word {
    /// The site does not ask.
    #[default]
    Nothing,
    /// Sealed by the access point that the tunnel came from.
    Sealed(Arc<str>),
}

impl Word {
    /// The word for one attempt.
    pub(crate) fn say(&self) -> Option<Arc<str>> {
        match self {
            Word::Nothing => None,
            Word::Sealed(word) => Some(word.clone()),
        }
    }
}

impl From<Option<Arc<str>>> for Word {
    fn from(word: Option<Arc<str>>) -> Self {
        word.map_or(Word::Nothing, Word::Sealed)
    }
}

/// Whether a peer's field may be one: base64url with a dot in it, and not too long.
pub(crate) fn is_word(text: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= MAX_WORD && text.bytes().all(good)
}
