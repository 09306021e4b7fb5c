//! The overlay's time in one process.

use polder_spread::Micros;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Unix microseconds that never go back: read once, then advanced by the machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at: Micros,
    since: Instant,
}

impl Clock {
    /// By the machine's own clock.
    pub fn system() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { at: Micros(u64::try_from(unix.as_micros()).unwrap_or(u64::MAX)), since: Instant::now() }
    }

    /// By somebody else's, which said `at` just now: a user's machine may be wrong by hours.
    pub fn told(at: Micros) -> Self {
        Clock { at, since: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Micros {
        self.at + self.since.elapsed()
    }

    /// The instant at which this clock shows `then`; now, where that is past.
    pub fn instant(&self, then: Micros) -> Instant {
        Instant::now() + then.since(self.now())
    }
}
