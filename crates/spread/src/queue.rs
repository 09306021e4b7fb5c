//! Whether a queue stands at the ends' own lines: then whatever comes takes longer than it did at best.
//!
//! A line that is full delays packets before it loses them, whichever relay they came by; a relay that is flooded delays and loses its own.
//! So the delay of every path is compared with the least that it had of late (as in RFC 6817): what even the luckiest paths of a message have more
//! is the line's. And a queue loses something when it is full: when it is nearly as long as at its longest.

use crate::ids::Micros;
use std::time::Duration;

/// For so long at least, and twice as long at most, delays are remembered: clocks drift, and ways change.
const MEMORY: Duration = Duration::from_secs(20);
/// Below so many paths, a message says nothing: all of them may be flooded.
const FEW: usize = 3;
/// One of so many paths may seem quicker than it is, as the least that is known of it was late.
const LUCKY: usize = 10;
/// Part of its longest from which on a queue is full.
const FULL: f64 = 0.75;
/// Less than this is jitter.
const JITTER: Duration = Duration::from_millis(5);

/// What is known of the line's queue. Delays are µs from a zero that all paths share.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    began: Micros,
    /// By path: the least delay of the span that runs and of the one before.
    least: Vec<[Option<i32>; 2]>,
    longest: [Duration; 2],
    noted: Option<Micros>,
    full: Option<Micros>,
}

impl Queue {
    /// A message told what the packets took that came since the last one, by path.
    pub(crate) fn note(&mut self, now: Micros, took: impl Iterator<Item = (usize, i32)>) {
        if now.since(self.began) >= MEMORY {
            self.began = now;
            self.least.iter_mut().for_each(|[running, before]| *before = running.take());
            self.longest = [Duration::ZERO, self.longest[0]];
        }
        let mut longer: Vec<i32> = took.filter_map(|(path, took)| self.longer(path, took)).collect();
        if longer.len() < FEW {
            return;
        }
        let lucky = longer.len() / LUCKY;
        let queue = Duration::from_micros((*longer.select_nth_unstable(lucky).1).max(0) as u64);
        self.longest[0] = self.longest[0].max(queue);
        self.noted = Some(now);
        if queue > JITTER && queue >= self.longest[0].max(self.longest[1]).mul_f64(FULL) {
            self.full = Some(now);
        }
    }

    /// Whether it was full since `then`, as far as anybody knows.
    pub(crate) fn full_since(&self, then: Micros) -> bool {
        self.noted.is_none_or(|noted| noted < then) || self.full.is_some_and(|full| full >= then)
    }

    /// How much longer than at best; `None` for a path that nothing was known of.
    fn longer(&mut self, path: usize, took: i32) -> Option<i32> {
        if self.least.len() <= path {
            self.least.resize(path + 1, Default::default());
        }
        let [running, before] = &mut self.least[path];
        let known = running.iter().chain(before.iter()).min().copied();
        *running = Some(running.map_or(took, |least| least.min(took)));
        known.map(|least| took.saturating_sub(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Micros {
        Micros(5_000_000 + ms * 1000)
    }

    /// Notes what six paths take, 20 to 45 ms and more; ms.
    fn note(queue: &mut Queue, ms: u64, more: [i32; 6]) {
        queue.note(at(ms), more.into_iter().enumerate().map(|(path, more)| (path, 20_000 + 5000 * path as i32 + 1000 * more)));
    }

    #[test]
    fn what_all_paths_have_more_is_the_lines() {
        let mut queue = Queue::default();
        assert!(queue.full_since(at(0)), "nothing is known");
        note(&mut queue, 0, [0; 6]);
        note(&mut queue, 10, [1; 6]);
        assert!(!queue.full_since(at(0)));
        note(&mut queue, 20, [80; 6]);
        assert!(queue.full_since(at(20)));
        note(&mut queue, 30, [50; 6]);
        assert!(queue.full_since(at(20)) && !queue.full_since(at(25)), "it has been longer");
        assert!(queue.full_since(at(31)), "nothing is known of the time since");
    }

    #[test]
    fn a_flood_at_most_of_the_relays_is_not_the_lines() {
        let mut queue = Queue::default();
        note(&mut queue, 0, [0; 6]);
        note(&mut queue, 10, [100, 100, 0, 100, 100, 100]);
        assert!(!queue.full_since(at(0)));
        queue.note(at(20), [(0, 120_000), (1, 125_000)].into_iter());
        assert!(!queue.full_since(at(0)), "two paths say nothing");
    }

    #[test]
    fn a_way_that_became_longer_is_no_queue_for_ever() {
        let mut queue = Queue::default();
        note(&mut queue, 0, [0; 6]);
        for ms in (10..60_000).step_by(10) {
            note(&mut queue, ms, [40; 6]);
        }
        assert!(!queue.full_since(at(59_000)));
    }

    proptest! {
        #[test]
        fn any_delays_are_borne(notes in prop::collection::vec((0u64..100_000, prop::collection::vec((0usize..9, any::<i32>()), 0..9)), 0..50)) {
            let (mut queue, mut now) = (Queue::default(), at(0));
            for (ms, took) in notes {
                now = now + Duration::from_millis(ms);
                queue.note(now, took.into_iter());
                queue.full_since(now);
            }
        }
    }
}
