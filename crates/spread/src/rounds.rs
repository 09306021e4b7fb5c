//! Whether losses are everybody's or somebody's: what all paths have in common is the ends' own lines.
//!
//! A full line loses packets of all paths alike; a flooded or dead relay loses its own. So of the packets whose fate became known
//! within the last two round trips, the luckier half is looked at, path by path: what even these paths lose, all lose. A path counts for
//! no more than the mean of all, however much it carries.

use crate::ids::Micros;
use std::time::Duration;

/// Below so many packets nothing is known.
const FEW: u32 = 16;
/// A share of loss that lasts: for so many rounds. A line without a queue shows itself by nothing else.
const LASTS: (f64, u32) = (0.05, 6);
/// A round is as long as a round trip, but at least this.
const ROUND: Duration = Duration::from_millis(20);

/// Packets of one path: those whose fate is known, and those that came.
type Count = (u32, u32);

/// Fates of the round that runs and of the one before, by path.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    began: Micros,
    counts: Vec<[Count; 2]>,
    /// Rounds in a row that ended with a shared loss.
    lossy: u32,
}

impl Rounds {
    /// Begins another round if it is time.
    pub(crate) fn turn(&mut self, now: Micros, rtt: Duration) {
        if now.since(self.began) >= rtt.max(ROUND) {
            self.began = now;
            let lost = self.shared_loss().is_some_and(|share| share > LASTS.0);
            self.lossy = if lost { self.lossy.saturating_add(1) } else { 0 };
            self.counts.iter_mut().for_each(|[running, before]| *before = std::mem::take(running));
        }
    }

    /// Whether all paths alike have been losing packets for long.
    pub(crate) fn lasting(&self) -> bool {
        self.lossy >= LASTS.1
    }

    /// So many packets of a path had their time, and so many came.
    pub(crate) fn note(&mut self, path: usize, went: u32, came: u32) {
        if self.counts.len() <= path {
            self.counts.resize(path + 1, Default::default());
        }
        let running = &mut self.counts[path][0];
        *running = (running.0.saturating_add(went), running.1.saturating_add(came));
    }

    /// Share of its packets that the luckier half of the traffic lost, 0 to 1; `None`: too little is known.
    pub(crate) fn shared_loss(&self) -> Option<f64> {
        // the other end may say that more came than ever went
        let of = |[running, before]: &[Count; 2]| (running.0.saturating_add(before.0), running.1.saturating_add(before.1));
        let mut paths: Vec<Count> = self.counts.iter().map(of).filter(|(went, _)| *went > 0).collect();
        let all: u32 = paths.iter().fold(0, |all, (went, _)| all.saturating_add(*went));
        if all < FEW {
            return None;
        }
        // what came may have gone in an earlier round
        let share = |&(went, came): &Count| f64::from(went.saturating_sub(came)) / f64::from(went);
        paths.sort_by(|a, b| share(a).total_cmp(&share(b)));
        // a few paths that carry most of the traffic must not be taken for all
        let most = all.div_ceil(paths.len() as u32);
        let half: u32 = paths.iter().map(|(went, _)| went.min(&most)).sum::<u32>().div_ceil(2);
        let (mut seen, mut missed) = (0, 0.0);
        for path in paths {
            let part = path.0.min(most).min(half - seen);
            (seen, missed) = (seen + part, missed + share(&path) * f64::from(part));
        }
        Some(missed / f64::from(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rounds(counts: &[Count]) -> Rounds {
        let mut rounds = Rounds::default();
        counts.iter().enumerate().for_each(|(path, &(went, came))| rounds.note(path, went, came));
        rounds
    }

    #[test]
    fn a_flood_on_a_minority_is_nobody_elses() {
        let flooded = [[(20, 5); 8].as_slice(), &[(20, 20); 32]].concat();
        assert_eq!(rounds(&flooded).shared_loss(), Some(0.0));
    }

    #[test]
    fn a_full_line_is_everybodys() {
        assert_eq!(rounds(&[(20, 16); 40]).shared_loss(), Some(0.2));
        assert_eq!(rounds(&[(100, 90)]).shared_loss(), Some(0.1), "one path is all there is");
    }

    #[test]
    fn nothing_is_known_at_first_and_old_rounds_are_forgotten() {
        let mut rounds = rounds(&[(5, 0); 3]);
        assert_eq!(rounds.shared_loss(), None);
        rounds.note(0, 5, 0);
        assert_eq!(rounds.shared_loss(), Some(1.0));
        let second = Duration::from_secs(1);
        rounds.turn(Micros(0) + second, second);
        assert_eq!(rounds.shared_loss(), Some(1.0));
        rounds.turn(Micros(0) + 2 * second, second);
        assert_eq!(rounds.shared_loss(), None);
    }

    #[test]
    fn losses_last_when_every_round_has_them() {
        let (mut rounds, second) = (Rounds::default(), Duration::from_secs(1));
        let mut round = |n: u32, came: u32| {
            rounds.note(0, 100, came);
            rounds.turn(Micros(0) + n * second, second);
            rounds.lasting()
        };
        assert_eq!((1..=6).map(|n| round(n, 80)).collect::<Vec<_>>(), [false, false, false, false, false, true]);
        assert!(round(7, 100), "this round and the one before count");
        assert!(!round(8, 100));
    }

    #[test]
    fn an_end_that_lies_only_hides_its_losses() {
        let mut rounds = rounds(&[(20, u32::MAX); 2]);
        rounds.turn(Micros(1_000_000), Duration::ZERO);
        rounds.note(0, 20, u32::MAX);
        assert_eq!(rounds.shared_loss(), Some(0.0));
    }

    proptest! {
        /// Whatever a minority of the traffic loses.
        #[test]
        fn no_minority_makes_a_common_loss(lost in prop::collection::vec(0u32..=10, 1..20)) {
            let few: Vec<Count> = lost.iter().map(|&lost| (10, 10 - lost)).collect();
            let all = [few.clone(), vec![(10, 10); few.len() + 2]].concat();
            prop_assert_eq!(rounds(&all).shared_loss(), Some(0.0));
        }

        /// It lies between the least and the mean of all.
        #[test]
        fn it_is_a_share(counts in prop::collection::vec((1u32..50, 0u32..60), 16..40)) {
            let shared = rounds(&counts).shared_loss().unwrap();
            let (went, missed) = counts.iter().fold((0, 0), |(w, m), &(went, came)| (w + went, m + went.saturating_sub(came)));
            prop_assert!(shared >= 0.0 && shared <= f64::from(missed) / f64::from(went) + 1e-9);
        }
    }
}
