//! What the two ends of a session are given: by the issuer, over the tunnel plane's links.

use crate::ids::{Micros, NodeId, SessionId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// A session may use a second's blocks at once, when it begins. Relays grant it by their tolerance for wrong clocks.
const HEAD_START: Duration = Duration::from_secs(1);

/// What a session may: relays enforce it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Begin, Unix seconds.
    pub starts: u32,
    /// Life, seconds.
    pub lasts: u16,
    /// A session may open 2^`pace` blocks of numbers a second.
    pub pace: u8,
    /// It may send 2^`rate` KiB a second over one relay, in each direction.
    pub rate: u8,
}

impl Terms {
    /// Begin of the session.
    pub fn begins(&self) -> Micros {
        Micros::from_secs(u64::from(self.starts))
    }

    /// End of the session.
    pub fn ends(&self) -> Micros {
        self.begins() + Duration::from_secs(u64::from(self.lasts))
    }

    /// Blocks that may be open by `now`, but for a relay's tolerance.
    pub fn budget(&self, now: Micros) -> u64 {
        let open = now.since(self.begins()) + HEAD_START;
        u64::try_from((open.as_micros() << self.pace.min(40)) / 1_000_000).unwrap_or(u64::MAX)
    }
}

/// The user's half.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// Session.
    pub session: SessionId,
    /// K: shared with the servlet.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
    /// What relays enforce.
    pub terms: Terms,
    /// Version of the member list that it was made for.
    pub members: u32,
    /// Relays that know the issuer's grant.
    pub relays: Vec<TicketRelay>,
}

/// What a user needs for one relay.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketRelay {
    /// Which.
    pub id: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Epoch of the grant.
    pub epoch: u32,
    /// Grant.
    #[serde(with = "serde_bytes")]
    pub grant: [u8; 8],
    /// M: authenticates packets to this relay.
    #[serde(with = "serde_bytes")]
    pub mac: [u8; 16],
    /// Where the session goes: for this relay's eyes.
    #[serde(with = "serde_bytes")]
    pub destination: [u8; 48],
}

/// The servlet's half.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosted {
    /// Session.
    pub session: SessionId,
    /// K: shared with the user.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
    /// What relays enforce.
    pub terms: Terms,
    /// The servlet itself.
    pub me: NodeId,
    /// Its keys at the relays.
    pub relays: Vec<PeerKey>,
}

/// A node's key at one relay.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerKey {
    /// Relay.
    pub relay: NodeId,
    /// Epoch.
    pub epoch: u32,
    /// P.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
}

/// Why a session cannot begin or go on. The issuer's fault, or a ticket that is too old; a new one helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It ended, or begins in the future.
    #[error("the ticket is not valid now; ask for a new one")]
    Time,
    /// It names no relay of the member list.
    #[error("the ticket names no relay that is a member; ask for a new one")]
    Relays,
    /// The cryptographic library refused a key.
    #[error("a key of the ticket is unusable")]
    Key,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({} relays, {:?}, keys withheld)", self.relays.len(), self.terms)
    }
}

impl fmt::Debug for TicketRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketRelay({}, keys withheld)", self.address)
    }
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hosted({} relays, {:?}, keys withheld)", self.relays.len(), self.terms)
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({:016x}, epoch {}, key withheld)", self.relay.0, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_shows_in_debug_output() {
        let relay = TicketRelay {
            id: NodeId(1),
            address: ([127, 0, 0, 1], 1).into(),
            epoch: 1,
            grant: [0xEE; 8],
            mac: [0xEE; 16],
            destination: [0xEE; 48],
        };
        let terms = Terms { starts: 1, lasts: 1, pace: 1, rate: 1 };
        let ticket = Ticket { session: SessionId([0xEE; 16]), key: [0xEE; 32], terms, members: 1, relays: vec![relay.clone()] };
        let peer = PeerKey { relay: NodeId(1), epoch: 1, key: [0xEE; 32] };
        let hosted = Hosted { session: ticket.session, key: ticket.key, terms, me: NodeId(1), relays: vec![peer.clone()] };
        let shown = format!("{ticket:?}{relay:?}{hosted:?}{peer:?}");
        assert!(!shown.contains("238") && !shown.to_lowercase().contains("ee, "), "{shown}");
    }
}
