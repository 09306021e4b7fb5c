//! Mutual TLS 1.3 with the overlay's identities.
//!
//! Theory of operation. A [`Settings`] is built whole from one snapshot: what this process proves itself with, whom it
//! believes, who is revoked. A new snapshot makes a new `Settings`; handshakes that start afterwards use it. Every handshake
//! is mutual, and yields the peer's [`Identity`]: a chain to a pinned root, then exactly one URI SAN in the trust domain,
//! then time and revocation. A resumed session is checked again in full with the settings in force, so that a ticket never
//! outlives a revocation (`docs/design/tunnels.md`).

mod corked;
mod identify;
mod quic;
mod session;
mod settings;
mod verify;
mod wire;

pub use corked::{Corked, Hold};
pub use identify::{GROUPS_OID, RING_ID_OID, Rejected, read_leaf};
pub use quic::{ALPN_SPREAD, SPREAD_NAME, spread_pin};
pub use session::{BadWord, Jws, SEAL_KEY, Sealer, Unsealer, pseudonym};
pub use settings::{ALPN_DIALOUT, ALPN_H1, ALPN_H2, Alpn, Expected, HandshakeError, Settings, SettingsError};
pub use wire::{FRAME, Wire, read_batch};

/// A connection that we accepted.
pub type Accepted = tokio_rustls::server::TlsStream<Wire>;
/// A connection that we made.
pub type Connected = tokio_rustls::client::TlsStream<Wire>;
