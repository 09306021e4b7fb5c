//! How many new connections are let through to be looked at, while a flood of them lasts.
//!
//! Theory of operation. A connection that is refused has been made, accepted and reset by then. When
//! more are refused than a bound allows, whoever can drop them cheaply (the kernel) is told with what chance a new one may pass.
//! The chance is corrected at every look by how many were refused since the last one: down at once, up by doubling.

use crate::{Millis, SourceKey};
use std::collections::HashMap;

/// Between two looks, in milliseconds.
const LOOK: Millis = 100;
/// Every chance, of 2³².
const OPEN: u32 = u32::MAX;
/// Sources that have a chance of their own.
const LOUD: usize = 64;
/// Of so many refusals one is put down to its source.
const SAMPLE: u32 = 8;

/// One chance, corrected.
#[derive(Clone, Copy, Debug)]
struct Weir(u32);

impl Weir {
    /// `refused` since the last look, when `most` would have been all right. Never 0: somebody has to be refused to be counted.
    fn correct(&mut self, refused: u32, most: u32) {
        if refused > most {
            let less = u64::from(self.0) * u64::from(most) / u64::from(refused);
            self.0 = u32::try_from(less).unwrap_or(OPEN).max(OPEN >> 16);
        } else if refused <= most / 2 {
            self.0 = self.0.saturating_mul(2);
        }
    }
}

/// What passes, in between two looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Of sources that nobody knows.
    pub strangers: u32,
    /// Of sources that are refused much by themselves, whether somebody knows them or not.
    pub loud: Vec<(SourceKey, u32)>,
}

/// The refusals of one listener, and what follows from them.
#[derive(Debug)]
pub struct Sluice {
    due: Millis,
    refused: u32,
    sampled: HashMap<SourceKey, u32>,
    strangers: Weir,
    loud: HashMap<SourceKey, Weir>,
}

impl Sluice {
    /// Open; `now` starts the first look.
    pub fn new(now: Millis) -> Self {
        Sluice { due: now + LOOK, refused: 0, sampled: HashMap::new(), strangers: Weir(OPEN), loud: HashMap::new() }
    }

    /// A connection from `source` was refused before its handshake.
    pub fn refuse(&mut self, source: SourceKey) {
        self.refused += 1;
        if self.refused.is_multiple_of(SAMPLE) {
            let room = self.sampled.len() < 4 * LOUD;
            if let Some(count) = self.sampled.get_mut(&source) {
                *count += SAMPLE;
            } else if room {
                self.sampled.insert(source, SAMPLE);
            }
        }
    }

    /// When the next look is due, while there is something to look at.
    pub fn due(&self) -> Option<Millis> {
        (self.refused > 0 || !self.is_open()).then_some(self.due)
    }

    /// Whether everybody passes.
    pub fn is_open(&self) -> bool {
        self.strangers.0 == OPEN && self.loud.is_empty()
    }

    /// A look, when one is due: what passes from now on, if that is something else than before. `rate`: refusals a second that are all
    /// right, in all, and at a source that nobody minds; 0: any number.
    pub fn look(&mut self, rate: u32, rate_per_source: u32, now: Millis) -> Option<Passage> {
        if now < self.due {
            return None;
        }
        self.due = now + LOOK;
        let before = (self.strangers.0, self.is_open());
        let share = |rate: u32| (u64::from(rate) * LOOK / 1000).clamp(1, u64::from(u32::MAX)) as u32;
        let (most, of_one) = if rate == 0 { (u32::MAX, u32::MAX) } else { (share(rate), share(rate_per_source.max(1))) };
        let sampled = std::mem::take(&mut self.sampled);
        let (mut changed, mut theirs) = (false, 0_u32);
        for (source, count) in &sampled {
            // Among many sources that are alike, a sample says nothing about one.
            if *count > of_one.max(SAMPLE) && self.loud.len() < LOUD {
                self.loud.entry(*source).or_insert(Weir(OPEN));
            }
        }
        self.loud.retain(|source, weir| {
            let count = sampled.get(source).copied().unwrap_or(0);
            theirs = theirs.saturating_add(count);
            let chance = weir.0;
            weir.correct(count, of_one);
            changed |= weir.0 != chance || chance == OPEN;
            weir.0 != OPEN
        });
        self.strangers.correct(std::mem::take(&mut self.refused).saturating_sub(theirs), most);
        (changed || before != (self.strangers.0, self.is_open())).then(|| Passage {
            strangers: self.strangers.0,
            loud: self.loud.iter().map(|(source, weir)| (*source, weir.0)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn source(n: u32) -> SourceKey {
        IpAddr::from(n.to_be_bytes()).into()
    }

    /// A flood of `per_look` connections from `sources`, all of them refused, for forty looks; what came through in the last four.
    fn flood(sluice: &mut Sluice, sources: u32, per_look: u32, from: Millis) -> (u32, Passage) {
        let (mut passage, mut last) = (Passage { strangers: OPEN, loud: Vec::new() }, 0);
        for look in 1..=40 {
            for n in 0..per_look {
                let who = source(n % sources);
                let chance = passage.loud.iter().find(|(loud, _)| *loud == who).map_or(passage.strangers, |(_, chance)| *chance);
                // Dice without a die: evenly spread.
                if u64::from(n.wrapping_mul(0x9E37_79B1)) <= u64::from(chance) {
                    sluice.refuse(who);
                    last += u32::from(look > 36);
                }
            }
            if let Some(next) = sluice.look(1000, 100, from + look * LOOK) {
                passage = next;
            }
        }
        (last, passage)
    }

    #[test]
    fn a_flood_from_everywhere_is_held_to_the_rate_and_what_was_held_back_passes_when_it_is_over() {
        let mut sluice = Sluice::new(0);
        let (through, passage) = flood(&mut sluice, 60_000, 6000, 0);
        assert!((80..=800).contains(&through) && passage.loud.is_empty(), "{through} of 24,000");
        assert!(!sluice.is_open() && sluice.due().is_some());
        (41..=80).for_each(|look| _ = sluice.look(1000, 100, look * LOOK));
        assert!(sluice.is_open() && sluice.due().is_none());
    }

    #[test]
    fn a_flood_from_one_source_is_that_source_s_alone() {
        let mut sluice = Sluice::new(0);
        let (through, passage) = flood(&mut sluice, 1, 6000, 0);
        assert!(through <= 160, "{through}");
        assert_eq!((passage.strangers, passage.loud.len(), passage.loud[0].0), (OPEN, 1, source(0)));
        (41..=80).for_each(|look| _ = sluice.look(1000, 100, look * LOOK));
        assert!(sluice.is_open());
    }

    #[test]
    fn a_few_refusals_and_a_rate_of_0_change_nothing() {
        let mut sluice = Sluice::new(0);
        assert_eq!(sluice.due(), None);
        (0..100).for_each(|n| sluice.refuse(source(n)));
        assert_eq!((sluice.due(), sluice.look(1000, 100, LOOK - 1)), (Some(LOOK), None));
        assert_eq!(sluice.look(1000, 100, LOOK), None);
        (0..100_000).for_each(|n| sluice.refuse(source(n % 7)));
        assert_eq!(sluice.look(0, 100, 2 * LOOK), None);
        assert!(sluice.is_open());
    }

    proptest! {
        /// Whatever is refused, chances stay within bounds, tables too, and calm opens everything.
        #[test]
        fn calm_opens_everything(looks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 1..20)) {
            let (mut sluice, mut now) = (Sluice::new(0), 0);
            for refused in looks {
                refused.into_iter().for_each(|n| sluice.refuse(source(u32::from(n % 32))));
                now += LOOK;
                if let Some(passage) = sluice.look(100, 20, now) {
                    prop_assert!(passage.strangers > 0 && passage.loud.len() <= LOUD);
                    prop_assert!(passage.loud.iter().all(|(_, chance)| (1..OPEN).contains(chance)));
                }
            }
            for _ in 0..20 {
                now += LOOK;
                sluice.look(100, 20, now);
            }
            prop_assert!(sluice.is_open());
        }
    }
}
