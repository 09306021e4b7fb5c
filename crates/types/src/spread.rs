//! What the relay of the spread plane must know. Python's half: `polder.snapshot.schema`.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::fmt;
use std::net::SocketAddr;

/// A node's part in the spread plane; without it, its datagram port refuses everything.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// This node: the first eight bytes of its ring id.
    pub me: u64,
    /// Keys in force: current, previous within its grace, next.
    pub epochs: Vec<SpreadEpoch>,
    /// The current member list, then the previous one.
    pub members: Vec<SpreadMembers>,
    /// Most sessions that the relay remembers, each direction counted.
    pub sessions: u32,
    /// Milliseconds by which a packet's time may differ from ours.
    pub span_ms: u32,
    /// Seconds for which a reply may use the address that a user's packet came from.
    pub return_age: u32,
    /// P-256 key (PKCS #8) by which users know this process as the end of their sessions; empty: none end here.
    #[serde(default)]
    pub end_key: ByteBuf,
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spread({:016x}, {:?}, {:?}, end key withheld)", self.me, self.epochs, self.members)
    }
}

/// A relay's key of one epoch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpreadEpoch {
    /// Number.
    pub number: u32,
    /// 32 bytes.
    pub key: ByteBuf,
    /// From when it is taken, Unix seconds.
    pub not_before: u64,
    /// Until when, Unix seconds.
    pub not_after: u64,
}

impl fmt::Debug for SpreadEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpreadEpoch({}, key withheld)", self.number)
    }
}

/// The relays of one version of the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpreadMembers {
    /// Grows by one with each change.
    pub version: u32,
    /// Node and where its datagrams go.
    pub list: Vec<(u64, SocketAddr)>,
}
