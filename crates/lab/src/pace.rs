//! A steady rate for a bounded time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Shortest nap: what the scheduler gives anyway.
const NAP: Duration = Duration::from_micros(500);

/// Says how many units are due. Units missed by more than a tenth of a second of falling behind are forgone, not made up in a
/// burst: a flood that the machine cannot produce shows as a lower rate in its report.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    end: Instant,
    last: Instant,
    owed: f64,
}

impl Pace {
    /// `rate` a second for `time` from now.
    pub fn new(rate: u64, time: Duration) -> Self {
        let now = Instant::now();
        Pace { rate, end: now + time, last: now, owed: 0.0 }
    }

    /// Units due now, at least one, after a nap if needed; `None` when the time is over.
    pub fn due(&mut self) -> Option<u64> {
        loop {
            let now = Instant::now();
            if now >= self.end || self.rate == 0 {
                return None;
            }
            let most = (self.rate as f64 / 10.0).max(1.0);
            self.owed = (self.owed + now.duration_since(self.last).as_secs_f64() * self.rate as f64).min(most);
            self.last = now;
            if self.owed >= 1.0 {
                let whole = self.owed.floor();
                self.owed -= whole;
                return Some(whole as u64);
            }
            sleep(NAP.max(Duration::from_secs_f64((1.0 - self.owed) / self.rate as f64)).min(self.end - now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_at_most_the_rate_and_comes_to_an_end() {
        let start = Instant::now();
        let mut pace = Pace::new(20_000, Duration::from_millis(100));
        let total: u64 = std::iter::from_fn(|| pace.due()).sum();
        let bound = 20_000.0 * start.elapsed().as_secs_f64();
        assert!(total > 0 && total as f64 <= bound, "{total} > {bound}");
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert_eq!(Pace::new(0, Duration::from_secs(9)).due(), None);
    }
}
