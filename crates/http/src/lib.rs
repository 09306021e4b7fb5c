//! Links, tunnels and the access point's front.

pub mod tunnel;
