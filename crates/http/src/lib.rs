//! Links, tunnels and the access point's front.
//!
//! Theory of operation (`docs/design/tunnels.md`). A [`plane::Plane`] holds what one process shares: the snapshot in force,
//! links to nodes, live connections by identity, counters. Nodes keep links to each other: mutual TLS 1.3 with HTTP/2 inside.
//! A tunnel is one CONNECT stream per hop; at every hop [`path`] takes the next candidates from the snapshot's tables, `race`
//! opens the first that answers while the client's first bytes travel along, `mend` replaces a path that breaks before the
//! site's first byte, and [`pump`] carries until the end.

pub mod carried;
pub mod control;
pub mod counters;
mod crowd;
pub mod deliver;
mod dial;
pub mod dialout;
mod early;
mod estimate;
pub mod forwarder;
pub mod front;
mod hearing;
pub mod hop;
mod keeper;
pub mod link;
mod memory;
mod mend;
mod origin;
pub mod overlay;
pub mod path;
pub mod peer;
pub mod plane;
pub mod pressure;
pub mod pump;
mod race;
pub mod registry;
pub mod relay;
pub mod spread;
mod tell;
pub mod told;
pub mod trace;
pub mod tunnel;
pub mod turns;
mod way;
mod word;
