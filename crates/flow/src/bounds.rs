//! Whom a gate tells apart, its knobs, and which of them was hit.

use crate::Millis;
use std::net::IpAddr;

/// An IPv4 address, or the /64 of an IPv6 address: what one subscriber has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey(IpAddr);

impl From<SourceKey> for IpAddr {
    /// The address, or the first of the /64.
    fn from(key: SourceKey) -> Self {
        key.0
    }
}

impl From<IpAddr> for SourceKey {
    fn from(address: IpAddr) -> Self {
        SourceKey(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
            v4 => v4,
        })
    }
}

/// The knobs; 0 means no bound.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections in all.
    pub connections: u32,
    /// Connections per source.
    pub connections_per_source: u32,
    /// Handshakes per second per source.
    pub handshake_rate_per_source: u32,
    /// Open tunnels per identity.
    pub tunnels_per_identity: u32,
    /// New tunnels per second per identity.
    pub tunnel_rate_per_identity: u32,
    /// Connections per identity.
    pub connections_per_identity: u32,
    /// Costly frames and requests per second per identity.
    pub frame_rate_per_identity: u32,
    /// Receivers per identity that take nothing.
    pub stalled_per_identity: u32,
    /// Handshakes per second per identity that count as a guest's.
    pub handshake_rate_per_identity: u32,
    /// Sources that one identity makes guests', and identities that one source remembers: a user is at a few places, and a place has
    /// more users than that only behind a carrier's gateway. Who has more addresses than this cannot fill the table with them. 0 counts as 1.
    pub homes_per_identity: u32,
}

/// Which bound was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// [`Bounds::connections`].
    Connections,
    /// [`Bounds::connections_per_source`].
    PerSource,
    /// [`Bounds::handshake_rate_per_source`].
    HandshakeRate,
    /// [`Bounds::tunnels_per_identity`].
    Tunnels,
    /// [`Bounds::tunnel_rate_per_identity`]; milliseconds until the next is due.
    TunnelRate(Millis),
    /// [`Bounds::connections_per_identity`].
    PerIdentity,
}
