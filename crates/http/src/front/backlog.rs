//! Streams of an HTTP/2 connection that have been accepted and have yet to begin.
//!
//! Who takes more than his share of the thread has his streams begin in turns, while his heads could be read as fast as they come: each of
//! a few bytes, and kilobytes once decoded. So his connection is not read while a crowd of them waits.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// So many wait before a connection is read no more. Who is within his share never has more than what one read brings.
const CROWD: usize = 32;

/// The count, and the connection's task where it waits for room.
#[derive(Default)]
pub(super) struct Backlog {
    streams: AtomicUsize,
    reader: Mutex<Option<Waker>>,
}

/// One stream that has yet to begin; dropped when it does.
pub(super) struct Unbegun(Arc<Backlog>);

impl Backlog {
    /// One stream more.
    pub(super) fn enter(self: &Arc<Self>) -> Unbegun {
        self.streams.fetch_add(1, SeqCst);
        Unbegun(self.clone())
    }

    /// Ready when there is no crowd.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.streams.load(SeqCst) < CROWD {
            return Poll::Ready(());
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        // One may have begun before it could see whom to wake.
        if self.streams.load(SeqCst) < CROWD { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Unbegun {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, SeqCst) == CROWD
            && let Some(reader) = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    #[test]
    fn a_crowd_stops_the_reader_until_one_of_it_begins() {
        let (backlog, woken) = (Arc::new(Backlog::default()), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        let mut crowd: Vec<_> = (1..CROWD).map(|_| backlog.enter()).collect();
        assert!(backlog.poll_room(&cx).is_ready());
        crowd.extend([backlog.enter(), backlog.enter()]);
        assert!(backlog.poll_room(&cx).is_pending());
        crowd.pop();
        assert!(!woken.0.load(SeqCst) && backlog.poll_room(&cx).is_pending(), "there is still a crowd");
        crowd.pop();
        assert!(woken.0.load(SeqCst) && backlog.poll_room(&cx).is_ready());
    }
}
