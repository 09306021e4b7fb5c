//! What an operator or user may turn.

use std::time::Duration;

/// How many packets in a row go to one relay. Runs are what the kernel carries in one piece (UDP segmentation offload): runs of
/// 16 cost a quarter of single packets. Short runs lose less at once when a relay dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunLength {
    /// Always so many, 1 to 64.
    Fixed(u8),
    /// As many as came in one call, at most so many: single packets stay single, bulk travels in runs.
    UpTo(u8),
}

/// Forward error correction: of `sources` + `repairs` packets any `sources` suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fec {
    /// Datagrams of a group, 1 to 64.
    pub sources: u8,
    /// Packets added, 1 to 64.
    pub repairs: u8,
}

/// How an end spreads.
#[derive(Clone, Debug)]
pub struct SpreadConfig {
    /// Extra copies per packet: 0.5 sends every second packet twice; 2.0 sends each three times ("200 %"). At most 4.
    pub copies: f64,
    /// Repairs instead of, or beside, copies.
    pub fec: Option<Fec>,
    /// Length of runs.
    pub run: RunLength,
    /// As in the paper: no feedback, every relay alike. For comparison.
    pub naive: bool,
    /// Least time between two feedback messages.
    pub feedback: Duration,
    /// A path's weight falls by 1/e for so much delay more than the best, as a part of the round trip.
    pub delay_share: f64,
    /// How long a reply may use an address after it was heard of. Relays refuse at twice that.
    pub return_age: Duration,
    /// Most that a packet's time may differ from ours.
    pub span: Duration,
    /// Largest datagram tried on a path, with its head: loopback and jumbo frames carry more than Ethernet.
    pub largest: u16,
}

impl Default for SpreadConfig {
    fn default() -> Self {
        SpreadConfig {
            copies: 0.0,
            fec: None,
            run: RunLength::UpTo(16),
            naive: false,
            feedback: Duration::from_millis(5),
            delay_share: 0.1,
            return_age: Duration::from_secs(15),
            span: Duration::from_secs(3),
            largest: 1472,
        }
    }
}
