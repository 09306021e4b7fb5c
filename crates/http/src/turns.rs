//! One step at a time for those who would take too much, and everybody else's work in between.
//!
//! A step of a handshake keeps the thread for up to a millisecond, and a flood makes hundreds of them ready at once; so do the
//! connections and streams of a user who asks for as much as they can. Whoever takes turns is polled alone, and the next only when the
//! runtime has looked at its sockets and has run what was ready. Each step is followed by a rest, a multiple of the time that it took: with
//! twice, a third of a thread is theirs in the long run. Rests are owed together and are due only once [`BURST`] of them has gathered, so
//! that whoever comes alone does not wait for his own second step (a generic cell rate of working time).

use polder_meter::Count;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::sleep;

/// Work and rests that may be owed: what a flood may take at once, and what comes alone never owes.
const BURST: Duration = Duration::from_millis(10);

/// The turn, which one has at a time.
pub struct Turns {
    turn: Semaphore,
    born: Instant,
    /// When all work so far and its rests would be over, one after the other, in microseconds since the birth. Only who has the turn
    /// writes it.
    over: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { turn: Semaphore::new(1), born: Instant::now(), over: AtomicU64::new(0) }
    }
}

/// Remembers that a step is due, also while its task waits for something else.
pub(crate) struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Bell {
    /// Rings for the task of `cx` when everybody else has had a turn. Other than `yield_now` it does not ring for being asked twice in
    /// one step.
    pub(crate) fn after_others(cx: &Context<'_>) -> Arc<Self> {
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), task: cx.waker().clone() });
        let _ = pin!(yield_now()).poll(&mut Context::from_waker(&Waker::from(bell.clone())));
        bell
    }

    pub(crate) fn has_rung(&self) -> bool {
        self.rung.load(SeqCst)
    }

    /// Whether it rings for the task of `cx`.
    pub(crate) fn is_for(&self, cx: &Context<'_>) -> bool {
        self.task.will_wake(cx.waker())
    }

    /// Waits until the step is due.
    pub(crate) async fn rings(&self) {
        poll_fn(|_| if self.has_rung() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, SeqCst);
        self.task.wake_by_ref();
    }
}

impl Turns {
    /// Runs `work`, each step in a turn of its own and followed by a rest `rest` times as long; rests that were waited for are counted. Those
    /// who wait are served in order.
    pub async fn take<T>(&self, rest: u32, rests: &Count, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let (step, bell, _) = self.step(rest, rests, work.as_mut()).await;
            match step {
                Poll::Ready(done) => return done,
                Poll::Pending => bell.rings().await,
            }
        }
    }

    /// Runs one step of `work` in a turn; how long it took, and what rings when the next is due.
    pub(crate) async fn step<F: Future>(
        &self,
        rest: u32,
        rests: &Count,
        mut work: Pin<&mut F>,
    ) -> (Poll<F::Output>, Arc<Bell>, Duration) {
        let turn = self.turn.acquire().await;
        let due = due(self.over(), self.born.elapsed());
        if due > Duration::ZERO {
            rests.up();
            sleep(due).await;
        }
        let began = Instant::now();
        let (step, bell) = poll_fn(|cx| {
            let bell = Arc::new(Bell { rung: AtomicBool::new(false), task: cx.waker().clone() });
            let step = work.as_mut().poll(&mut Context::from_waker(&Waker::from(bell.clone())));
            Poll::Ready((step, bell))
        })
        .await;
        let took = began.elapsed();
        let over = after(self.over(), began.duration_since(self.born), took, rest);
        self.over.store(u64::try_from(over.as_micros()).unwrap_or(u64::MAX), Relaxed);
        yield_now().await;
        drop(turn);
        (step, bell, took)
    }

    fn over(&self) -> Duration {
        Duration::from_micros(self.over.load(Relaxed))
    }
}

/// How long to wait now, if all so far would be over then.
fn due(over: Duration, now: Duration) -> Duration {
    over.saturating_sub(now).saturating_sub(BURST)
}

/// When all will be over, after a step that began `now`.
fn after(over: Duration, now: Duration, took: Duration, rest: u32) -> Duration {
    over.max(now) + took * rest.saturating_add(1)
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
                    .take(2, &Count::default(), async {
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

    #[tokio::test]
    async fn a_bell_rings_when_others_have_worked_however_often_it_is_asked() {
        let worked = Arc::new(AtomicBool::new(false));
        let other = worked.clone();
        tokio::spawn(async move { other.store(true, SeqCst) });
        let (mut bell, mut asked) = (None::<Arc<Bell>>, 0);
        poll_fn(|cx| {
            for _ in 0..10 {
                if bell.as_ref().is_some_and(|bell| bell.has_rung()) {
                    return Poll::Ready(());
                }
                asked += 1;
                bell = Some(Bell::after_others(cx));
            }
            Poll::Pending
        })
        .await;
        assert!(worked.load(SeqCst) && asked == 10, "{asked}");
    }

    #[test]
    fn a_flood_rests_and_who_comes_alone_does_not() {
        let ms = Duration::from_millis;
        let (mut now, mut over) = (ms(1000), ms(0));
        for _ in 0..2 {
            assert_eq!(due(over, now), ms(0), "the two steps of a handshake");
            (over, now) = (after(over, now, ms(1), 4), now + ms(1));
        }
        for _ in 0..100 {
            now += due(over, now);
            (over, now) = (after(over, now, ms(1), 4), now + ms(1));
        }
        assert!((ms(1490)..=ms(1510)).contains(&now), "102 steps of 1 ms at a fifth of the time: {now:?}");
        now += ms(60);
        assert_eq!(due(over, now), ms(0), "who comes later finds nothing owed");
    }
}
