//! How long something takes, from how long it took: smoothed mean and variation as TCP keeps them (RFC 6298 §2).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Shared by all who measure and ask. Mean and variation in microseconds, 32 bits each, change together; of two
/// measurements at one moment one may be lost.
#[derive(Debug, Default)]
pub(crate) struct Estimate(AtomicU64);

impl Estimate {
    /// Learns one measurement.
    pub(crate) fn note(&self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let (mean, variation) = self.read();
        let (mean, variation) = if mean == 0 {
            (took, took / 2)
        } else {
            (mean - mean / 8 + took / 8, variation - variation / 4 + mean.abs_diff(took) / 4)
        };
        self.0.store(u64::from(mean.max(1)) << 32 | u64::from(variation), Relaxed);
    }

    /// What is late by what was measured: the mean and four times the variation; `None` before the first measurement.
    pub(crate) fn late(&self) -> Option<Duration> {
        let (mean, variation) = self.read();
        (mean > 0).then(|| Duration::from_micros(u64::from(mean) + 4 * u64::from(variation)))
    }

    /// Begins anew.
    pub(crate) fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    /// The smoothed mean; `None` before the first measurement.
    pub(crate) fn mean(&self) -> Option<Duration> {
        let (mean, _) = self.read();
        (mean > 0).then(|| Duration::from_micros(mean.into()))
    }

    fn read(&self) -> (u32, u32) {
        let both = self.0.load(Relaxed);
        ((both >> 32) as u32, both as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn begins_as_rfc_6298_does_and_settles() {
        let estimate = Estimate::default();
        assert_eq!((estimate.late(), estimate.mean()), (None, None));
        estimate.note(Duration::from_millis(100));
        assert_eq!(estimate.late(), Some(Duration::from_millis(300)));
        (0..60).for_each(|_| estimate.note(Duration::from_millis(100)));
        let late = estimate.late().expect("measured");
        assert!((Duration::from_millis(99)..Duration::from_millis(102)).contains(&late), "{late:?}");
    }

    proptest! {
        #[test]
        fn stays_near_what_was_measured(times in prop::collection::vec(1u64..10_000_000_000, 1..200)) {
            let estimate = Estimate::default();
            times.iter().for_each(|us| estimate.note(Duration::from_micros(*us)));
            let most = Duration::from_micros(*times.iter().max().expect("one"));
            let late = estimate.late().expect("measured");
            prop_assert!(late <= 5 * most + Duration::from_micros(10) && late > Duration::ZERO);
        }
    }
}
