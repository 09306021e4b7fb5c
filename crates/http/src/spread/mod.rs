//! Tunnels over the spread plane: one bidirectional QUIC stream between a user's forwarder and a servlet each.
//!
//! The control plane gives both ends their half of a ticket ([`order`]); [`user`] keeps the forwarder's sessions, [`servlet`] the
//! servlet's. At the servlet a stream goes on as any tunnel does (`path`), so that a site cannot tell the planes apart.

pub mod order;
mod servlet;
mod stream;
mod user;

pub use rustls::ServerConfig;
pub use servlet::Servlet;
pub use user::Users;

/// A SHA-256 pin, or another 32 bytes.
pub(crate) fn bytes32(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}
