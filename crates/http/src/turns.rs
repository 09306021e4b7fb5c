//! One step at a time for those who would take too much, and everybody else's work in between.
//!
//! A step of a handshake keeps the thread for up to a millisecond, and a flood makes hundreds of them ready at once; so do the
//! connections and streams of a user who asks for as much as they can. Whoever takes
//! turns is polled alone, and the next only when the runtime has looked at its sockets and has run what was ready. Then
//! all of them rest for a multiple of the time that the step took: with twice, a third of a thread is theirs at most.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::sleep;

/// Rests shorter than this are saved up: timers count milliseconds.
const NAP: Duration = Duration::from_millis(2);

/// The turn, which one has at a time.
pub struct Turns {
    turn: Semaphore,
    /// Rest that is due, in microseconds. Only who has the turn writes it.
    tired: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { turn: Semaphore::new(1), tired: AtomicU64::new(0) }
    }
}

/// Remembers that a step is due, also while its task waits for something else.
pub(crate) struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Bell {
    /// Waits until the step is due.
    pub(crate) async fn rings(&self) {
        poll_fn(|_| if self.rung.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

impl Turns {
    /// Runs `work`, each step in a turn of its own, after which all of them rest `rest` times as long. Those who wait are served in
    /// order.
    pub async fn take<T>(&self, rest: u32, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let (step, bell, _) = self.step(rest, work.as_mut()).await;
            match step {
                Poll::Ready(done) => return done,
                Poll::Pending => bell.rings().await,
            }
        }
    }

    /// Runs one step of `work` in a turn; how long it took, and what rings when the next is due.
    pub(crate) async fn step<F: Future>(&self, rest: u32, mut work: Pin<&mut F>) -> (Poll<F::Output>, Arc<Bell>, Duration) {
        let turn = self.turn.acquire().await;
        let began = Instant::now();
        let (step, bell) = poll_fn(|cx| {
            let bell = Arc::new(Bell { rung: AtomicBool::new(false), task: cx.waker().clone() });
            let step = work.as_mut().poll(&mut Context::from_waker(&Waker::from(bell.clone())));
            Poll::Ready((step, bell))
        })
        .await;
        let took = began.elapsed();
        self.rest(rest * took).await;
        drop(turn);
        (step, bell, took)
    }

    async fn rest(&self, due: Duration) {
        let tired = Duration::from_micros(self.tired.load(Relaxed)) + due;
        if tired < NAP {
            self.tired.store(u64::try_from(tired.as_micros()).unwrap_or(0), Relaxed);
            yield_now().await;
        } else {
            self.tired.store(0, Relaxed);
            sleep(tired).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A hundred who are ready at once do not delay somebody else by a hundred steps, and none of them is forgotten.
    #[tokio::test]
    async fn others_work_between_two_steps() {
        let (turns, order) = (Arc::new(Turns::default()), Arc::new(Mutex::new(Vec::new())));
        let mut all = tokio::task::JoinSet::new();
        for number in 0..100 {
            let (turns, order) = (turns.clone(), order.clone());
            all.spawn(async move {
                turns
                    .take(2, async {
                        order.lock().expect("order").push(number);
                        sleep(Duration::from_millis(number % 7)).await;
                    })
                    .await;
            });
        }
        let other = order.clone();
        all.spawn(async move {
            for _ in 0..50 {
                yield_now().await;
                other.lock().expect("order").push(1000);
            }
        });
        while let Some(done) = all.join_next().await {
            done.expect("a task");
        }
        let order = order.lock().expect("order");
        assert_eq!(order.len(), 150);
        let last = order.iter().rposition(|who| *who == 1000).expect("the other");
        assert!(order[..last].iter().filter(|who| **who < 1000).count() <= 60, "they went in turns: {order:?}");
    }
}
