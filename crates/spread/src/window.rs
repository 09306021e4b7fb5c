//! Replay windows.
//!
//! A relay sees few blocks of a session, with gaps anywhere, so its window remembers blocks, not a stretch of numbers: block b
//! lies at b mod N, and a newer block takes the place of an older one, after which all that is older there counts as seen. A
//! packet is never taken twice; one that comes later than N of its session's blocks may be refused, though new.

use crate::packet::BLOCK;

/// Seen numbers of one session, direction and key.
#[derive(Clone, Debug)]
pub struct Window {
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Block plus one; 0: none yet.
    block: u64,
    seen: u64,
}

impl Window {
    /// Memory: 16 bytes per block; `blocks` is rounded up to a power of two.
    pub fn new(blocks: usize) -> Self {
        Window { slots: vec![Slot::default(); blocks.max(1).next_power_of_two()] }
    }

    fn parts(number: u64) -> (u64, u64) {
        (number / BLOCK, 1 << (number % BLOCK))
    }

    fn at(&self, block: u64) -> usize {
        block as usize & (self.slots.len() - 1)
    }

    /// Whether `number` would be taken.
    pub fn is_new(&self, number: u64) -> bool {
        let (block, bit) = Self::parts(number);
        let slot = &self.slots[self.at(block)];
        slot.block <= block || (slot.block == block + 1 && slot.seen & bit == 0)
    }

    /// Takes `number`; false if it was seen, or is older than what the window remembers. Only after the packet was proved.
    pub fn take(&mut self, number: u64) -> bool {
        let (block, bit) = Self::parts(number);
        let at = self.at(block);
        let slot = &mut self.slots[at];
        if slot.block <= block {
            *slot = Slot { block: block + 1, seen: 0 };
        }
        let new = slot.block == block + 1 && slot.seen & bit == 0;
        if new {
            slot.seen |= bit;
        }
        new
    }

    /// Blocks it can remember.
    pub fn blocks(&self) -> usize {
        self.slots.len()
    }

    /// Remembers twice as many blocks from now on, and forgets none.
    pub fn double(&mut self) {
        let old = std::mem::take(&mut self.slots);
        // both places that a block can fall into inherit the old bound, so that nothing old looks new
        let length = old.len();
        self.slots = old.iter().chain(&old).copied().collect();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if slot.block > 0 && (slot.block - 1) as usize & (2 * length - 1) != at {
                *slot = Slot { block: slot.block, seen: u64::MAX };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn nothing_is_taken_twice(
            steps in prop::collection::vec((0u64..6000, prop::bool::weighted(0.02)), 1..400), blocks in 1usize..16, base in any::<u32>()
        ) {
            let mut window = Window::new(blocks);
            let mut taken = HashSet::new();
            for (offset, double) in steps {
                if double && window.blocks() < 256 {
                    window.double();
                }
                let number = u64::from(base) + offset;
                let new = window.is_new(number);
                prop_assert_eq!(window.take(number), new);
                if new {
                    prop_assert!(taken.insert(number));
                }
            }
        }

        #[test]
        fn what_comes_within_reach_is_taken_once(order in Just((0u64..64 * 64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut window = Window::new(64);
            prop_assert!(order.iter().all(|&number| window.take(number)));
            prop_assert!(!order.iter().any(|&number| window.take(number)));
        }
    }

    #[test]
    fn the_last_numbers_do_not_overflow() {
        let mut window = Window::new(4);
        assert!(window.take(u64::MAX) && !window.take(u64::MAX) && window.take(u64::MAX - 1));
    }
}
