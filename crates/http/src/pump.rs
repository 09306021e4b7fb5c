//! Carries bytes both ways until both directions have ended, one breaks, or nothing moves.
//!
//! A receiver that takes nothing holds up to a stream window of its link, and enough of them would hold the whole link's
//! window and stop the tunnels of others. Waiting receivers are normal (a paused film); they are cut only when so many wait
//! that half of a link's window could be theirs, and then those that have waited longer than `stall`.

use crate::counters::{Count, Measures};
use crate::front::Client;
use crate::pressure::Pressure;
use crate::tunnel::{Sink, Source, Tunnel, h2_error};
use bytes::Bytes;
use h2::Reason;
use polder_types::Limits;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
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
    /// Others needed its memory more; both were reset.
    Dismissed,
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
#[derive(Clone, Copy)]
pub struct Meter<'a> {
    /// Bytes away from the user.
    pub up: &'a Count,
    /// Bytes to the user.
    pub down: &'a Count,
    /// Receivers that take nothing now.
    pub waiting: &'a Count,
    /// Tunnels closed for want of memory.
    pub dismissed: &'a Count,
    /// Memory's.
    pub pressure: &'a Pressure,
    /// At a front: whose receivers these are, who may have so many that take nothing.
    pub stalls: Option<&'a Client>,
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
    /// When the last byte moved, in looks at memory.
    last: AtomicU32,
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
        self.last.store(self.meter.pressure.time(), Relaxed);
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
    let last = AtomicU32::new(meter.pressure.time());
    let shared = Shared { terms, meter, began: Instant::now(), moved: AtomicBool::new(true), last, carried: AtomicU64::new(0) };
    let (end, reason) = {
        let both = async {
            // Whose fault: who reads from the site, or writes to it, met the site's side.
            let outward = async {
                let ended = carry(&mut near.source, &mut far.sink, Way::Up, &shared).await;
                ended.map_err(|Broke { source, why }| (!source).then(|| blame(&why)).flatten())
            };
            let homeward = async {
                let ended = carry(&mut far.source, &mut near.sink, Way::Down, &shared).await;
                ended.map_err(|Broke { source, why }| source.then(|| blame(&why)).flatten())
            };
            match tokio::try_join!(outward, homeward) {
                Ok(_) => (End::Finished, None),
                Err(reason) => (End::Broken, reason),
            }
        };
        let silence = async {
            while shared.moved.swap(false, Relaxed) {
                tokio::time::sleep(terms.idle).await;
            }
            (End::Idle, None)
        };
        let dismissed = async {
            meter.pressure.dismisses(&shared.last).await;
            meter.dismissed.up();
            (End::Dismissed, None)
        };
        tokio::select! { biased; end = both => end, end = silence => end, end = dismissed => end }
    };
    if end != End::Finished {
        near.sink.reset_with(reason.unwrap_or(Reason::CANCEL));
        far.sink.reset();
    }
    meter.measures.tunnel_duration_seconds.took(shared.began.elapsed());
    meter.measures.tunnel_size_bytes.observe(shared.carried.load(Relaxed));
    end
}

/// Why a direction broke.
struct Broke {
    /// Reading, not writing.
    source: bool,
    why: io::Error,
}

/// `CONNECT_ERROR` when it was the site itself that broke the connection (RFC 9113 §8.5): no other path would change that.
fn blame(why: &io::Error) -> Option<Reason> {
    let own = match h2_error(why) {
        Some(error) => error.reason() == Some(Reason::CONNECT_ERROR),
        None => matches!(why.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) && why.raw_os_error().is_some(),
    };
    own.then_some(Reason::CONNECT_ERROR)
}

/// One direction. Flushes only when the source has nothing more at once, so that a run of chunks leaves as one.
async fn carry(source: &mut Source, sink: &mut Sink, way: Way, shared: &Shared<'_>) -> Result<(), Broke> {
    let read = |why| Broke { source: true, why };
    let wrote = |why| Broke { source: false, why };
    let (mut first, mut unflushed) = (true, false);
    loop {
        let next = poll_fn(|cx| match source.poll_next(cx) {
            Poll::Ready(chunk) => Poll::Ready(Ok(Some(chunk))),
            Poll::Pending if unflushed => Poll::Ready(Ok(None)),
            // The peer may give up on what it is sent while it has nothing to say itself.
            Poll::Pending => sink.poll_reset(cx).map(|reset| Err(wrote(reset))),
        });
        match next.await? {
            None => {
                patiently(sink.flush(), way, shared).await.map_err(wrote)?;
                unflushed = false;
            }
            Some(Some(chunk)) => {
                let chunk: Bytes = chunk.map_err(read)?;
                shared.count(way, chunk.len() as u64, first);
                first = false;
                patiently(sink.feed(chunk), way, shared).await.map_err(wrote)?;
                unflushed = sink.buffers();
            }
            Some(None) => return sink.finish().await.map_err(wrote),
        }
    }
}

/// Waits for a receiver, but not for ever while too many others wait too.
async fn patiently(work: impl Future<Output = io::Result<()>>, way: Way, shared: &Shared<'_>) -> io::Result<()> {
    let mut work = pin!(work);
    // Most often there is room: no timer then.
    match at_once(work.as_mut()).await {
        Some(done) => done,
        // Boxed: timers are large, and few tunnels ever need them.
        None => Box::pin(wait(work, way, shared)).await,
    }
}

/// What `work` yields without waiting.
pub(crate) async fn at_once<F: Future>(mut work: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Pending => Poll::Ready(None),
        Poll::Ready(done) => Poll::Ready(Some(done)),
    })
    .await
}

async fn wait(
    mut work: Pin<&mut impl Future<Output = io::Result<()>>>,
    way: Way,
    Shared { terms, meter, .. }: &Shared<'_>,
) -> io::Result<()> {
    // What a site does not take is not its user's fault.
    let client = meter.stalls.filter(|_| way == Way::Down);
    let _waits = client.map(Client::waits);
    if let Ok(done) = timeout(WAITING, work.as_mut()).await {
        return done;
    }
    let _waiting = meter.waiting.hold();
    let _stalled = match client {
        Some(client) => Some(client.stalls().ok_or(io::ErrorKind::TimedOut)?),
        None => None,
    };
    loop {
        match timeout(terms.stall, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) if meter.waiting.get() > terms.waiting => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}
