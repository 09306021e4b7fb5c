//! QUIC between a user's forwarder and a servlet, over the relays of the spread plane.
//!
//! Theory of operation (`docs/design/spread.md`, "Transport"). quinn sees one path to one address that stands for the session;
//! below it [`socket::SpreadSocket`] gives each datagram to the session's [`polder_spread::Session`], which seals it, chooses
//! relays, makes copies, and on the way in removes duplicates. So relays may die, addresses change and keys be renewed without
//! QUIC noticing more than packets that overtake each other; its thresholds for loss are set for that.
//!
//! Each end has one [`wire::Wire`]: the forwarder a UDP socket of its own, the servlet the one of its node's relay.

mod clock;
mod congestion;
mod detour;
mod ends;
mod seats;
#[cfg(test)]
mod sim;
pub mod socket;
mod timer;
pub mod wire;

pub use clock::Clock;
pub use detour::{Attached, Datagrams, DetourInlet};
pub use ends::{ForwarderEnd, Limits, ServletEnd, Trouble};
pub use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream, VarInt};
pub use seats::{Counters, Full};
