//! What a user's connections cost the thread that serves everybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Work that nobody minds, however little of it is a user's share: it delays others by no more than this, once.
const BURST: u64 = 10_000;

/// The measured time of all connections and streams of one identity, less what its share has forgiven since.
pub(crate) struct Effort {
    /// Microseconds of work.
    spent: AtomicU64,
    /// Microseconds of the clock when work was forgiven last.
    at: AtomicU64,
    /// For which of its tasks waits for the turn of all, by [`Task`]: an identity with a hundred tasks gets no more turns than one
    /// with one; and that a connection has ended is seen before all its streams have had their turns.
    turns: [Semaphore; 2],
}

/// What is worked for.
#[derive(Clone, Copy)]
pub(super) enum Task {
    Connection,
    Stream,
}

impl Default for Effort {
    fn default() -> Self {
        Effort { spent: AtomicU64::new(0), at: AtomicU64::new(0), turns: [1, 1].map(Semaphore::new) }
    }
}

impl Effort {
    /// Tells it from all others that live.
    pub(super) fn id(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// The turn among tasks of one kind.
    pub(super) fn turn(&self, task: Task) -> &Semaphore {
        &self.turns[task as usize]
    }

    /// Counts work. Between threads a little of it may be lost: it is an estimate.
    pub(super) fn spend(&self, took: Duration) {
        self.spent.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX >> 16), Relaxed);
    }

    /// Whether more than `percent` of the thread was used lately; `clock` only grows. A share of 100 or more is never exceeded.
    pub(super) fn is_over(&self, percent: u32, clock: Duration) -> bool {
        if percent >= 100 {
            return false;
        }
        let now = u64::try_from(clock.as_micros()).unwrap_or(u64::MAX);
        let spent = self.spent.load(Relaxed);
        if spent <= BURST {
            return false;
        }
        let forgiven = now.saturating_sub(self.at.swap(now, Relaxed)).saturating_mul(u64::from(percent)) / 100;
        // Of what is old nothing is kept: who was busy a while ago and rested begins anew, and nobody owes for longer than a second.
        let left = spent.saturating_sub(forgiven).min(BURST + 10_000 * u64::from(percent));
        self.spent.store(left, Relaxed);
        left > BURST
    }
}

/// Nobody is alone for so long after a step of somebody else: turns cost a sixth more processor time in bulk.
pub(super) const COMPANY: Duration = Duration::from_secs(10);
/// Others are at work for so long after a step of theirs: turns are followed by rests.
pub(super) const AT_WORK: Duration = Duration::from_millis(100);

/// The last two who worked within their shares, and when.
#[derive(Default)]
pub(super) struct Calm {
    last: (usize, Duration),
    before: (usize, Duration),
}

impl Calm {
    /// `who` works within his share; `clock` only grows.
    pub(super) fn works(&mut self, who: usize, clock: Duration) {
        if self.last.0 != who {
            self.before = self.last;
        }
        self.last = (who, clock);
    }

    /// Whether somebody else than `who` worked within his share in the time `lately`.
    pub(super) fn others(&self, who: usize, clock: Duration, lately: Duration) -> bool {
        let (other, at) = if self.last.0 == who { self.before } else { self.last };
        other != 0 && clock.saturating_sub(at) < lately
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: fn(u64) -> Duration = Duration::from_micros;

    #[test]
    fn a_burst_is_nothing_and_much_is_forgiven_in_time() {
        let effort = Effort::default();
        effort.spend(US(BURST));
        assert!(!effort.is_over(10, US(0)));
        effort.spend(US(5000));
        assert!(effort.is_over(10, US(1)));
        assert!(effort.is_over(10, US(40_000)), "4 ms of 5 are forgiven");
        assert!(!effort.is_over(10, US(51_000)));
        effort.spend(US(u64::MAX >> 20));
        assert!(effort.is_over(10, US(51_000)) && !effort.is_over(100, US(51_000)));
        assert!(!effort.is_over(10, US(1_051_000)), "nobody owes for longer than a second");
    }

    #[test]
    fn nobody_is_his_own_company() {
        let (mut calm, ms) = (Calm::default(), Duration::from_millis);
        calm.works(1, ms(0));
        calm.works(1, ms(50));
        assert!(!calm.others(1, ms(50), AT_WORK) && calm.others(2, ms(50), AT_WORK));
        calm.works(2, ms(60));
        calm.works(1, ms(70));
        calm.works(1, ms(150));
        assert!(calm.others(1, ms(159), AT_WORK) && !calm.others(1, ms(160), AT_WORK) && calm.others(1, ms(160), COMPANY));
    }

    proptest! {
        /// Who works for less than his share is never over it, whatever his steps are.
        #[test]
        fn who_stays_within_his_share_is_left_alone(percent in 1u32..100, steps in prop::collection::vec(1u64..5000, 1..300)) {
            let (effort, mut clock) = (Effort::default(), 0);
            for step in steps {
                effort.spend(US(step));
                clock += step * 100 / u64::from(percent) + 1;
                prop_assert!(!effort.is_over(percent, US(clock)));
            }
        }
    }
}
