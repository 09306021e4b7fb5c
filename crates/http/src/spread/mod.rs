//! Tunnels over the spread plane: one bidirectional QUIC stream between a user's forwarder and a servlet each.
//!
//! The control plane gives both ends their half of a ticket ([`order`]); [`user`] keeps the forwarder's sessions, [`servlet`] the
//! servlet's. At the servlet a stream goes on as any tunnel does (`path`), so that a site cannot tell the planes apart.

mod detour;
pub mod order;
mod servlet;
mod stream;
mod user;

use crate::plane::Plane;
use polder_quic::{Connection, ConnectionError, Limits};
pub use rustls::ServerConfig;
pub use servlet::Servlet;
use std::time::Duration;
pub use user::Users;

/// Bounds of a session's connection, as they are configured.
pub fn quic_limits(limits: &polder_types::Limits) -> Limits {
    Limits {
        stream_window: limits.spread_stream_window,
        window: limits.spread_session_window,
        streams: limits.spread_streams,
        idle: Duration::from_millis(u64::from(limits.spread_idle_ms)),
        tolerated: f64::from(limits.spread_tolerated_percent) / 100.0,
        ..Limits::default()
    }
}

/// Counts where a session met its bounds.
fn told_at_end(plane: &Plane, connection: &Connection, reason: &ConnectionError) {
    let sent = connection.stats().frame_tx;
    plane.counters.spread_over_window.add(sent.data_blocked + sent.stream_data_blocked);
    if matches!(reason, ConnectionError::TimedOut) {
        plane.counters.spread_silent.up();
    }
}

/// A SHA-256 pin, or another 32 bytes.
pub(crate) fn bytes32(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}
