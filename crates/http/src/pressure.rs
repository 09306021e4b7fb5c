//! How near memory is to its end, and who has to go first.
//!
//! From 80 % of the limit on, strangers are turned away and nothing idle is kept for later; from 95 % on, new connections and tunnels are
//! refused and open ones are closed, the idlest first: with every look the silence that is forgiven is halved.

use polder_flow::Watermark;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(250);
/// Silence, in looks, that is forgiven at first (ten minutes) and at last (a second).
const SILENCE: (u32, u32) = (2400, 4);

/// Shared by all tunnels of a process.
#[derive(Debug, Default)]
pub struct Pressure {
    level: AtomicU8,
    looks: AtomicU32,
    forgiven: AtomicU32,
    shed: Notify,
}

impl Pressure {
    /// A look at `resident` of `limit` bytes (0: no limit); to be taken every [`LOOK`]. Returns the level, and whether it is new.
    pub fn look(&self, resident: u64, limit: u64) -> (Watermark, bool) {
        self.looks.fetch_add(1, Relaxed);
        let level = Watermark::of(resident, limit);
        let before = self.level.swap(level as u8, Relaxed);
        if level == Watermark::Full {
            let forgiven = if before == level as u8 { self.forgiven.load(Relaxed) / 2 } else { SILENCE.0 };
            self.forgiven.store(forgiven.max(SILENCE.1), Relaxed);
            self.shed.notify_waiters();
        }
        (level, before != level as u8)
    }

    /// Whether only known guests are let in, and nothing idle is kept.
    pub fn is_high(&self) -> bool {
        self.level.load(Relaxed) >= Watermark::High as u8
    }

    /// Whether no new tunnels are opened.
    pub fn is_full(&self) -> bool {
        self.level.load(Relaxed) >= Watermark::Full as u8
    }

    /// The time, in looks.
    pub(crate) fn time(&self) -> u32 {
        self.looks.load(Relaxed)
    }

    /// Ends when somebody who has been silent since `last` has to go.
    pub(crate) async fn dismisses(&self, last: &AtomicU32) {
        loop {
            self.shed.notified().await;
            if self.is_full() && self.time().saturating_sub(last.load(Relaxed)) >= self.forgiven.load(Relaxed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn the_idlest_go_first_and_the_busy_stay() {
        let pressure = Pressure::default();
        (0..3000).for_each(|_| _ = pressure.look(10, 100));
        let (oldest, younger, busy) = (AtomicU32::new(0), AtomicU32::new(2000), AtomicU32::new(3000));
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = pin!(pressure.dismisses(&oldest));
        let mut second = pin!(pressure.dismisses(&younger));
        let mut third = pin!(pressure.dismisses(&busy));
        let mut gone = |ask: bool| {
            let first = ask && first.as_mut().poll(&mut cx).is_ready();
            [first, second.as_mut().poll(&mut cx).is_ready(), third.as_mut().poll(&mut cx).is_ready()]
        };
        assert_eq!(gone(true), [false; 3]);
        assert_eq!(pressure.look(96, 100), (Watermark::Full, true));
        assert!(pressure.is_full() && pressure.is_high());
        assert_eq!(gone(true), [true, false, false]);
        pressure.look(96, 100);
        assert_eq!(gone(false), [false; 3], "1200 looks are forgiven");
        pressure.look(96, 100);
        assert_eq!(gone(false), [false, true, false]);
        assert_eq!(pressure.look(85, 100), (Watermark::High, true));
        assert!(pressure.is_high() && !pressure.is_full());
        assert_eq!(pressure.look(u64::MAX, 0), (Watermark::Calm, true), "no limit");
    }
}
