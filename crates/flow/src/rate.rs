//! The slowest that a body may come.

use crate::Millis;

/// Watches that bytes keep coming at `floor` bytes a second, averaged over windows of [`MinRate::WINDOW`].
#[derive(Clone, Copy, Debug)]
pub struct MinRate {
    floor: u32,
    start: Millis,
    bytes: u64,
}

impl MinRate {
    /// Window and grace: a sender may pause that long. Long enough for a retransmission or two on a bad line.
    pub const WINDOW: Millis = 10_000;

    /// A watch that starts now. A floor of 0 means no bound.
    pub fn new(floor: u32, now: Millis) -> Self {
        MinRate { floor, start: now, bytes: 0 }
    }

    /// Counts bytes that came; false when the sender has been too slow in the window that ends.
    pub fn came(&mut self, bytes: usize, now: Millis) -> bool {
        self.bytes += bytes as u64;
        let elapsed = now.saturating_sub(self.start);
        if elapsed < Self::WINDOW {
            return true;
        }
        let enough = self.bytes.saturating_mul(1000) >= elapsed.saturating_mul(u64::from(self.floor));
        (self.start, self.bytes) = (now, 0);
        enough
    }

    /// The time at which [`MinRate::came`] must have been called again.
    pub fn deadline(&self) -> Millis {
        self.start.saturating_add(Self::WINDOW)
    }

    /// Time that the receiver itself made the sender wait does not count.
    pub fn excuse(&mut self, waited: Millis) {
        self.start = self.start.saturating_add(waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drips_are_caught_and_pauses_of_our_own_are_not() {
        let mut rate = MinRate::new(100, 0);
        assert!((1..=9).all(|s| rate.came(1, s * 1000)), "within the window anything goes");
        assert!(!rate.came(1, 10_000), "10 bytes in 10 s");
        let mut rate = MinRate::new(100, 0);
        assert!(rate.came(1000, 10_000) && !rate.came(999, 20_000));
        let mut rate = MinRate::new(100, 0);
        rate.excuse(60_000);
        assert!(rate.came(1, 69_999));
        assert_eq!(rate.deadline(), 70_000);
        assert!(MinRate::new(0, 0).came(0, 1 << 40));
    }
}
