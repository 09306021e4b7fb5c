//! Carries bytes both ways until both directions have ended, one breaks, or nothing moves.
//!
//! A receiver that takes nothing holds up to a stream window of its link, and enough of them would hold the whole link's
//! window and stop the tunnels of others. Waiting receivers are normal (a paused film); they are cut only when so many wait
//! that half of a link's window could be theirs, and then those that have waited longer than `stall`.

use crate::counters::{Count, Measures};
use crate::tunnel::{Sink, Source, Tunnel};
use bytes::Bytes;
use polder_types::Limits;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A receiver that takes nothing for so long counts as waiting.
const WAITING: Duration = Duration::from_secs(1);

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions in good order.
    Finished,
    /// One direction broke; both were reset.
    Broken,
    /// Nothing moved; both were reset.
    Idle,
}

/// How long a tunnel may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// With a receiver that takes nothing, when too many do.
    pub stall: Duration,
    /// How many receivers may wait at once without being cut.
    pub waiting: u64,
}

impl From<&Limits> for Terms {
    fn from(limits: &Limits) -> Self {
        let windows = u64::from(limits.link_window / limits.stream_window.max(1));
        Terms {
            idle: Duration::from_millis(u64::from(limits.idle_timeout_ms)),
            stall: Duration::from_millis(u64::from(limits.stall_timeout_ms)),
            waiting: (windows / 2).max(4),
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub struct Meter<'a> {
    /// Bytes away from the user.
    pub up: &'a Count,
    /// Bytes to the user.
    pub down: &'a Count,
    /// Receivers that take nothing now.
    pub waiting: &'a Count,
    /// Lives and sizes of tunnels.
    pub measures: &'a Measures,
}

/// What both directions of one tunnel share.
struct Shared<'a> {
    terms: Terms,
    meter: Meter<'a>,
    began: Instant,
    /// Whether a byte has moved since the last look.
    moved: AtomicBool,
    carried: AtomicU64,
}

/// One direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Shared<'_> {
    fn count(&self, way: Way, bytes: u64, first: bool) {
        self.moved.store(true, Relaxed);
        self.carried.fetch_add(bytes, Relaxed);
        match way {
            Way::Up => self.meter.up.add(bytes),
            Way::Down => self.meter.down.add(bytes),
        }
        if first && way == Way::Down {
            self.meter.measures.tunnel_first_byte_seconds.took(self.began.elapsed());
        }
    }
}

/// Carries between `near` (towards the user) and `far` (towards the site). The tunnel is closed between one and two times
/// `idle` after its last byte: looking at a flag then is cheaper than a timer per chunk.
pub async fn pump(mut near: Tunnel, mut far: Tunnel, terms: Terms, meter: Meter<'_>) -> End {
    let shared = Shared { terms, meter, began: Instant::now(), moved: AtomicBool::new(true), carried: AtomicU64::new(0) };
    let end = {
        let both = async {
            let outward = carry(&mut near.source, &mut far.sink, Way::Up, &shared);
            let homeward = carry(&mut far.source, &mut near.sink, Way::Down, &shared);
            if tokio::try_join!(outward, homeward).is_ok() { End::Finished } else { End::Broken }
        };
        let silence = async {
            while shared.moved.swap(false, Relaxed) {
                tokio::time::sleep(terms.idle).await;
            }
            End::Idle
        };
        tokio::select! { biased; end = both => end, end = silence => end }
    };
    if end != End::Finished {
        near.sink.reset();
        far.sink.reset();
    }
    meter.measures.tunnel_duration_seconds.took(shared.began.elapsed());
    meter.measures.tunnel_size_bytes.observe(shared.carried.load(Relaxed));
    end
}

/// One direction. Flushes only when the source has nothing more at once, so that a run of chunks leaves as one.
async fn carry(source: &mut Source, sink: &mut Sink, way: Way, shared: &Shared<'_>) -> io::Result<()> {
    let (terms, waiting) = (&shared.terms, shared.meter.waiting);
    let mut first = true;
    loop {
        let chunk = poll_fn(|cx| match source.poll_next(cx) {
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(chunk) => Poll::Ready(Some(chunk)),
        });
        let chunk = match chunk.await {
            Some(chunk) => chunk,
            None => {
                patiently(sink.flush(), terms, waiting).await?;
                // The peer may give up on what it is sent while it has nothing to say itself.
                poll_fn(|cx| match source.poll_next(cx) {
                    Poll::Pending => sink.poll_reset(cx).map(|reset| Some(Err(reset))),
                    ready => ready,
                })
                .await
            }
        };
        match chunk {
            Some(chunk) => {
                let chunk: Bytes = chunk?;
                shared.count(way, chunk.len() as u64, first);
                first = false;
                patiently(sink.feed(chunk), terms, waiting).await?;
            }
            None => return sink.finish().await,
        }
    }
}

/// Waits for a receiver, but not for ever while too many others wait too.
async fn patiently(work: impl Future<Output = io::Result<()>>, terms: &Terms, waiting: &Count) -> io::Result<()> {
    let mut work = pin!(work);
    // Most often there is room: no timer then.
    let at_once = poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Pending => Poll::Ready(None),
        Poll::Ready(done) => Poll::Ready(Some(done)),
    });
    if let Some(done) = at_once.await {
        return done;
    }
    if let Ok(done) = timeout(WAITING, work.as_mut()).await {
        return done;
    }
    let _waiting = waiting.hold();
    loop {
        match timeout(terms.stall, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) if waiting.get() > terms.waiting => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}
