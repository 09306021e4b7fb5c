//! A budget of repeated work: a share of what is done at all, so that failure does not multiply load.

use crate::Millis;

/// Repetitions that may still be made. `percent` of all work comes back as repetitions, and a tenth of `burst` each second, so
/// that somebody who asks rarely can be helped too. Never more than `burst` wait.
#[derive(Clone, Copy, Debug)]
pub struct RetryBudget {
    /// Thousandths of a repetition.
    level: u64,
    at: Millis,
}

impl RetryBudget {
    /// A full one.
    pub fn full(burst: u32, now: Millis) -> Self {
        RetryBudget { level: brim(burst), at: now }
    }

    /// One piece of work was begun for the first time.
    pub fn work(&mut self, percent: u32, burst: u32) {
        self.level = self.level.saturating_add(u64::from(percent) * 10).min(brim(burst));
    }

    /// Takes one repetition if there is one.
    pub fn take(&mut self, burst: u32, now: Millis) -> bool {
        let gained = now.saturating_sub(self.at).saturating_mul(u64::from(burst)) / 10;
        // The clock moves on only with what it gave: else many small steps would round a slow rate down to nothing.
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(brim(burst));
            self.at = now;
        }
        if self.level < 1000 {
            return false;
        }
        self.level -= 1000;
        true
    }
}

fn brim(burst: u32) -> u64 {
    1000 * u64::from(burst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_gives_more_than_burst_share_and_rate(
            percent in 0u32..=100, burst in 0u32..200,
            steps in prop::collection::vec((0u64..300, any::<bool>()), 1..300),
        ) {
            let mut budget = RetryBudget::full(burst, 0);
            let (mut now, mut work, mut given) = (0, 0u64, 0u64);
            for (step, repeat) in steps {
                now += step;
                if repeat {
                    given += u64::from(budget.take(burst, now));
                } else {
                    budget.work(percent, burst);
                    work += 1;
                }
                let bound = 1000 * u64::from(burst) + work * u64::from(percent) * 10 + now * u64::from(burst) / 10;
                prop_assert!(given * 1000 <= bound);
            }
        }
    }

    #[test]
    fn a_slow_rate_asked_often_still_fills() {
        let mut budget = RetryBudget::full(1, 0);
        assert!(budget.take(1, 0));
        let given = (1..=20_000).filter(|now| budget.take(1, *now)).count();
        assert_eq!(given, 2, "one in ten seconds");
    }

    #[test]
    fn work_brings_its_share() {
        let mut budget = RetryBudget::full(10, 0);
        while budget.take(10, 0) {}
        (0..5).for_each(|_| budget.work(20, 10));
        assert!(budget.take(10, 0) && !budget.take(10, 0));
    }
}
