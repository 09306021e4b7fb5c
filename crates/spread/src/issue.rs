//! Making tickets. The control plane does this in Python (`polder.overlay`); this is the same for programs and tests, and both
//! must agree with the vectors in `docs/design/spread-vectors.json`.

use crate::ids::{NodeId, SessionId};
use crate::keys::{self, Key32};
use crate::place::Destination;
use crate::ticket::{Terms, Ticket, TicketRelay};
use std::net::SocketAddr;

/// What an issuer holds of one relay, by its grant.
#[derive(Clone, Copy)]
pub struct Grant {
    /// Relay.
    pub relay: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Epoch of the grant.
    pub epoch: u32,
    /// Number that the relay drew.
    pub grant: [u8; 8],
    /// G.
    pub key: Key32,
}

/// A ticket for `session`, which must never have been used before; `None` if the library refuses a key.
pub fn issue(session: SessionId, key: Key32, servlet: NodeId, terms: Terms, members: u32, grants: &[Grant]) -> Option<Ticket> {
    let Terms { starts, lasts, pace, rate } = terms;
    let destination = Destination { servlet, choice: keys::choice_key(&key, session), starts, lasts, pace, rate };
    let relays = grants.iter().map(|grant| {
        Some(TicketRelay {
            id: grant.relay,
            address: grant.address,
            epoch: grant.epoch,
            grant: grant.grant,
            mac: keys::mac_key(&grant.key, session),
            destination: destination.seal(&keys::destination_key(&grant.key, session), session)?,
        })
    });
    Some(Ticket { session, key, terms, members, relays: relays.collect::<Option<_>>()? })
}
