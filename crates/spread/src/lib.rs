//! The spread plane without I/O: a session's packets over many relays, half of which may die (`docs/design/spread.md`).
//!
//! Theory of operation. A user's forwarder and a servlet hold a [`Session`] each. It seals datagrams end to end, gives each a
//! number, and sends runs of them to relays that the session's choice key and the number decide ([`order`]), some in several
//! copies. A [`Relay`] proves packet by packet, with keys that it derives from its own secret and the packet's head, that an
//! issuer allowed the session, that it is one of the relays meant, and that it has not seen the packet; then it rewrites the
//! head in place and passes the packet on. Both ends tell each other what came in over which relay; that moves weight from
//! relays that lose or delay.
//!
//! Nothing here reads a clock or a socket: every call takes `now`, chance comes from a seed.

mod carrier;
pub mod chance;
mod choice;
mod config;
mod control;
mod end;
mod fec;
mod health;
mod here;
mod ids;
pub mod issue;
mod keys;
mod outbox;
mod packet;
mod path;
mod place;
mod queue;
mod receive;
mod relay;
mod relay_entry;
mod rounds;
mod send;
mod session;
mod silence;
mod ticket;
mod window;

pub use carrier::{Carriage, Carrier, Orders, Seen};
pub use choice::{Choice, Places, REACH, order};
pub use config::{Fec, RunLength, SpreadConfig};
pub use health::State;
pub use here::Here;
pub use ids::{Member, Members, MembersError, Micros, NodeId, SessionId, Tick};
pub use keys::{detour_proof, epoch_key, grant_key, peer_key, proves_detour};
pub use outbox::{Outbox, RUN_BYTES, RUN_PACKETS, Run};
pub use packet::{BLOCK, HEAD, INNER, Leg, OVERHEAD, peek};
pub use path::PathReport;
pub use receive::Inbound;
pub use relay::{Counters, Epoch, Forward, Refusal, Relay, RelayConfig, To};
pub use session::{Session, Tallies};
pub use ticket::{Hosted, PeerKey, Terms, Ticket, TicketError, TicketRelay};
