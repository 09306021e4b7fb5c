//! What a tunnel says of its user, on its way to a site that asks (`docs/design/site-users.md`).
//!
//! Only the access point knows the user. It seals its word to the site's agent, anew for every attempt; hops carry it along
//! and cannot read it.

use http::HeaderValue;
use std::sync::Arc;

/// Most characters of a word: a chain of certificates takes some 2 KiB of it.
pub(crate) const MAX_WORD: usize = 8 * 1024;
/// The field of a hop's request that carries it.
pub(crate) const FIELD: &str = "polder-user";

/// Makes a word; `None` when it cannot.
pub(crate) type Seal = dyn Fn() -> Option<Arc<str>> + Send + Sync;

/// A tunnel's word.
#[derive(Clone, Default)]
pub(crate) enum Word {
    /// The site does not ask.
    #[default]
    Nothing,
    /// Sealed by the access point that the tunnel came from.
    Sealed(Arc<str>),
    /// This is the access point: each attempt gets a word of its own.
    Fresh(Arc<Seal>),
}

impl Word {
    /// The word for one attempt.
    pub(crate) fn say(&self) -> Option<Arc<str>> {
        match self {
            Word::Nothing => None,
            Word::Sealed(word) => Some(word.clone()),
            Word::Fresh(seal) => seal(),
        }
    }
}

impl From<Option<Arc<str>>> for Word {
    fn from(word: Option<Arc<str>>) -> Self {
        word.map_or(Word::Nothing, Word::Sealed)
    }
}

/// A word as a field's value; marked, so that header compression neither keeps nor compares it.
pub(crate) fn value(word: &str) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::from_str(word)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether a peer's field may be one: base64url with a dot in it, and not too long.
pub(crate) fn is_word(text: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= MAX_WORD && text.bytes().all(good)
}
