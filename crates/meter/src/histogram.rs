//! Observations counted by size, in buckets that double.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets with an upper bound; one more takes what is larger than all.
pub const BUCKETS: usize = 20;

/// Bucket `i` counts what is at most `FIRST << i`; `UNIT` of them make one base unit (second, byte). The bucket of a value comes
/// from the position of its highest bit: no search, no table.
#[derive(Debug, Default)]
pub struct Histogram<const FIRST: u64, const UNIT: u64> {
    counts: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

/// Durations of waits: 250 µs to 131 s.
pub type Times = Histogram<250, 1_000_000>;
/// Durations of what lives long: 100 ms to 14.6 h.
pub type Lives = Histogram<100_000, 1_000_000>;
/// Amounts: 1 KiB to 512 MiB.
pub type Bytes = Histogram<1024, 1>;

/// The contents of a histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// Upper bounds in base units, growing.
    pub bounds: Vec<f64>,
    /// Observations in each bucket alone; the last is for what is above all bounds.
    pub counts: Vec<u64>,
    /// Sum of all observations in base units.
    pub sum: f64,
}

impl Read {
    /// Takes in another of the same kind.
    pub fn add(&mut self, more: &Read) {
        self.counts.iter_mut().zip(&more.counts).for_each(|(count, more)| *count += more);
        self.sum += more.sum;
    }
}

impl<const FIRST: u64, const UNIT: u64> Histogram<FIRST, UNIT> {
    /// Takes in one value (microseconds, bytes).
    pub fn observe(&self, value: u64) {
        self.counts[Self::bucket(value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Takes in a duration; its resolution is a microsecond.
    pub fn took(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX >> 16));
    }

    /// The contents now. Observations that happen meanwhile may be in the counts and not yet in the sum.
    pub fn read(&self) -> Read {
        Read {
            bounds: (0..BUCKETS).map(|bucket| (FIRST << bucket) as f64 / UNIT as f64).collect(),
            counts: self.counts.iter().map(|count| count.load(Relaxed)).collect(),
            sum: self.sum.load(Relaxed) as f64 / UNIT as f64,
        }
    }

    fn bucket(value: u64) -> usize {
        let firsts = value.saturating_sub(1) / FIRST;
        ((u64::BITS - firsts.leading_zeros()) as usize).min(BUCKETS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_is_in_the_first_bucket_that_holds_it(value: u64) {
            let histogram = Times::default();
            histogram.observe(value);
            let read = histogram.read();
            let searched = (0..BUCKETS).find(|bucket| value <= 250 << bucket).unwrap_or(BUCKETS);
            prop_assert_eq!(read.counts[searched], 1);
            prop_assert_eq!(read.counts.iter().sum::<u64>(), 1);
        }
    }

    #[test]
    fn bounds_are_in_base_units_and_belong_to_their_bucket() {
        let histogram = Bytes::default();
        for value in [0, 1, 1024, 1025, 2048, 2049, u64::MAX >> 1] {
            histogram.observe(value);
        }
        let read = histogram.read();
        assert_eq!((read.bounds[0], read.bounds[19]), (1024.0, 512.0 * 1024.0 * 1024.0));
        assert_eq!((read.counts[0], read.counts[1], read.counts[2], read.counts[20]), (3, 2, 1, 1));
        let times = Times::default();
        times.took(Duration::from_millis(1));
        assert_eq!((times.read().bounds[2], times.read().counts[2], times.read().sum), (0.001, 1, 0.001));
    }
}
