//! A token bucket in integers: no drift, no floats.

use crate::Millis;

/// Fills with `rate` tokens a second up to twice that. A rate of 0 means no bound.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Thousandths of a token.
    level: u64,
    at: Millis,
}

impl Bucket {
    /// A full bucket.
    pub fn full(rate: u32, now: Millis) -> Self {
        Bucket { level: brim(rate), at: now }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, rate: u32, now: Millis) -> bool {
        if rate == 0 {
            return true;
        }
        self.fill(rate, now);
        if self.level < 1000 {
            return false;
        }
        self.level -= 1000;
        true
    }

    /// Whether [`Bucket::take`] would find a token.
    pub fn has(&self, rate: u32, now: Millis) -> bool {
        Bucket::clone(self).take(rate, now)
    }

    /// Takes `count` tokens, on credit if need be; milliseconds until the debt is paid.
    pub fn spend(&mut self, count: u32, rate: u32, now: Millis) -> Millis {
        if rate == 0 {
            return 0;
        }
        self.fill(rate, now);
        let cost = u64::from(count) * 1000;
        if self.level >= cost {
            self.level -= cost;
        } else {
            // Until then nothing is gained.
            self.at = self.at.saturating_add((cost - self.level).div_ceil(u64::from(rate)));
            self.level = 0;
        }
        self.at.saturating_sub(now)
    }

    /// Whether nothing would be lost by forgetting it.
    pub fn is_full(&mut self, rate: u32, now: Millis) -> bool {
        self.fill(rate, now);
        self.level >= brim(rate)
    }

    /// Milliseconds until a token is there.
    pub fn wait(&self, rate: u32) -> Millis {
        if rate == 0 { 0 } else { 1000_u64.saturating_sub(self.level).div_ceil(u64::from(rate)) }
    }

    fn fill(&mut self, rate: u32, now: Millis) {
        // A millisecond brings `rate` thousandths.
        let gained = now.saturating_sub(self.at).saturating_mul(u64::from(rate));
        self.level = self.level.saturating_add(gained).min(brim(rate));
        self.at = self.at.max(now);
    }
}

/// A burst of twice the rate, at least one token.
fn brim(rate: u32) -> u64 {
    2000 * u64::from(rate.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_gives_more_than_burst_and_rate(rate in 1u32..1000, steps in prop::collection::vec(0u64..200, 1..200)) {
            let mut bucket = Bucket::full(rate, 0);
            let (mut now, mut given) = (0, 0u64);
            for step in steps {
                now += step;
                given += u64::from(bucket.take(rate, now));
                prop_assert!(given * 1000 <= 2000 * u64::from(rate) + now * u64::from(rate));
            }
        }

        #[test]
        fn who_spends_and_waits_never_exceeds_burst_and_rate(rate in 1u32..1000, steps in prop::collection::vec((0u32..300, 0u64..50), 1..100)) {
            let mut bucket = Bucket::full(rate, 0);
            let (mut now, mut spent) = (0, 0u64);
            for (count, idle) in steps {
                let wait = bucket.spend(count, rate, now);
                spent += u64::from(count);
                now += wait;
                prop_assert!(spent * 1000 <= 2000 * u64::from(rate) + now * u64::from(rate));
                prop_assert_eq!(bucket.spend(0, rate, now), 0, "the debt is paid");
                now += idle;
            }
        }

        #[test]
        fn a_token_is_there_after_the_wait_and_not_before(rate in 1u32..5000) {
            let mut bucket = Bucket::full(rate, 0);
            while bucket.take(rate, 0) {}
            let wait = bucket.wait(rate);
            prop_assert!(!bucket.clone().take(rate, wait - 1));
            prop_assert!(bucket.take(rate, wait));
        }
    }

    #[test]
    fn a_clock_that_stands_or_steps_back_gives_nothing() {
        let mut bucket = Bucket::full(1, 1000);
        assert!(bucket.take(1, 1000) && bucket.take(1, 0));
        assert!(!bucket.take(1, 0) && !bucket.take(1, 1999));
        assert!(bucket.take(1, 2000));
    }
}
