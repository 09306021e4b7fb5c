//! What an engine is born with and keeps for life.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What kind of process the engine serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Overlay node: mutual TLS listeners; access point, hop, beacon and servlet as the snapshot says.
    Node,
    /// User's forwarder: plain proxy on loopback, links to access points.
    Forwarder,
    /// Site's agent: relays from the inner address or from dial-out links to the origin.
    Site,
}

/// Frozen configuration of one engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Role.
    pub role: Role,
    /// Addresses to listen on; a port of 0 is chosen by the kernel (`Engine.addresses()` tells).
    pub listen: Vec<SocketAddr>,
    /// Runtime threads; 1 runs everything on one.
    pub workers: u16,
    /// Most events that wait for Python; beyond it calls are answered 503 and the rest is dropped and counted.
    pub event_queue: u32,
    /// Milliseconds that Python has to answer a call before the engine answers 504.
    pub call_timeout_ms: u32,
    /// Site role only: asked port → origin address.
    pub origins: Vec<(u16, SocketAddr)>,
    /// Sockets that listen already, from a supervisor or from the process before this one: address as in `listen`,
    /// descriptor. They are duplicated; the caller closes its own.
    pub inherit: Vec<(SocketAddr, i32)>,
    /// Node role only: UDP addresses of the spread plane's relay. None: this node relays no datagrams.
    #[serde(default)]
    pub spread_listen: Vec<SocketAddr>,
    /// Bytes of room that each of these sockets asks for, each way.
    #[serde(default)]
    pub spread_buffer: u32,
}
