//! Where a relay hands over what ends at its own node.

use crate::ids::Micros;
use std::net::SocketAddr;

/// The servlet's end in the same process.
pub trait Here: Send + Sync {
    /// Datagrams of the kind *onward*, `segment` bytes each (the last may be shorter), as they came; nothing about them is proved.
    /// Called in the relay's thread: it must not wait.
    fn onward(&self, now: Micros, from: SocketAddr, bytes: &mut [u8], segment: usize);
}
