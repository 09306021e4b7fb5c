//! A session's datagrams beside the relays: what QUIC sends is handed to a stream of the tunnel plane, and what comes there to QUIC.
//!
//! QUIC notices nothing but other delays: its packets are the same, and it knows those that come twice.

use crate::seats::{Counters, Seat, Seats};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use tokio::sync::mpsc;

/// Sends of QUIC that may wait for a stream, of at most 16 datagrams each: more would only grow old.
const WAITING: usize = 32;
/// Bytes that may wait for QUIC, of all sessions of an end, and of one: who pours in more than QUIC takes loses his own.
const ARRIVED: (usize, usize) = (4 << 20, 1 << 20);
/// What a datagram counts for at the least: one of a few bytes takes no less memory.
const LEAST: usize = 128;

/// Datagrams one behind the other, `segment` bytes each, the last may be shorter.
#[derive(Clone, Debug)]
pub struct Datagrams {
    /// All of them.
    pub bytes: Vec<u8>,
    /// Bytes of each.
    pub segment: usize,
}

/// The seat's half.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) number: u64,
    /// Whether it carries what is sent.
    pub(crate) carries: bool,
    out: mpsc::Sender<Datagrams>,
}

impl Lane {
    pub(crate) fn stands(&self) -> bool {
        !self.out.is_closed()
    }

    pub(crate) fn send(&self, datagrams: &[u8], segment: usize, counters: &Counters) {
        let count = datagrams.len().div_ceil(segment.max(1)) as u64;
        let kept = self.out.try_send(Datagrams { bytes: datagrams.to_vec(), segment });
        if kept.is_ok() { counters.detoured_out.add(count) } else { counters.detoured_lost.add(count) }
    }
}

/// The stream's half. Dropped, datagrams go over relays again.
#[derive(Debug)]
pub struct Attached {
    number: u64,
    seats: Arc<Seats>,
    seat: Arc<Seat>,
    waiting: mpsc::Receiver<Datagrams>,
}

/// Both halves.
pub(crate) fn pair(seats: Arc<Seats>, seat: Arc<Seat>) -> (Lane, Attached) {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let number = NUMBERS.fetch_add(1, Relaxed);
    let (out, waiting) = mpsc::channel(WAITING);
    (Lane { number, carries: false, out }, Attached { number, seats, seat, waiting })
}

impl Attached {
    /// What is to be sent next; `None` when another detour took its place, or the session is over.
    pub async fn next(&mut self) -> Option<Datagrams> {
        self.waiting.recv().await
    }

    /// What takes what comes, and orders.
    pub fn inlet(&self) -> DetourInlet {
        DetourInlet { seats: self.seats.clone(), seat: self.seat.clone(), number: self.number }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.seat.detach(self.number);
    }
}

/// Takes what comes over a detour, and who is to carry what goes.
#[derive(Clone, Debug)]
pub struct DetourInlet {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
    number: u64,
}

impl DetourInlet {
    /// One datagram for QUIC.
    pub fn hand(&self, datagram: &[u8]) {
        if self.seats.arrivals.push(self.seat.address, datagram) {
            self.seats.counters.detoured_in.up();
        } else {
            self.seats.counters.detoured_lost.up();
        }
    }

    /// Whether this detour carries what the session sends.
    pub fn carry(&self, carries: bool) {
        self.seat.carry(self.number, carries, &self.seats.counters);
    }
}

/// Datagrams that wait for QUIC.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    /// What they count for.
    bytes: usize,
    /// The same of each session that has some.
    by_session: HashMap<SocketAddr, usize>,
    waker: Option<Waker>,
}

impl Arrivals {
    pub(crate) fn push(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = datagram.len().max(LEAST);
        let theirs = queue.by_session.get(&from).copied().unwrap_or_default() + counts;
        if queue.bytes + counts > ARRIVED.0 || theirs > ARRIVED.1 {
            return false;
        }
        queue.bytes += counts;
        queue.by_session.insert(from, theirs);
        queue.waiting.push_back((from, datagram.to_vec()));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        true
    }

    /// The next one; without any `cx` is woken by it.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Option<(SocketAddr, Vec<u8>)> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((from, datagram)) = queue.waiting.pop_front() else {
            match &mut queue.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return None;
        };
        let counts = datagram.len().max(LEAST);
        queue.bytes -= counts;
        if let Some(theirs) = queue.by_session.get_mut(&from) {
            *theirs -= counts;
            if *theirs == 0 {
                queue.by_session.remove(&from);
            }
        }
        Some((from, datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_session_leaves_room_for_others() {
        let (arrivals, cx) = (Arrivals::default(), Context::from_waker(Waker::noop()));
        let of = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let pour = |from, length: usize| (0..20_000).filter(|_| arrivals.push(from, &[7; 1024][..length])).count();
        assert_eq!([pour(of(1), 1024), pour(of(2), 1024), pour(of(1), 1024)], [1024, 1024, 0]);
        assert_eq!(pour(of(3), 1), 8192, "short ones are not many more");
        assert_eq!([pour(of(4), 1024), pour(of(5), 1)], [1024, 0], "and all together have a bound");
        let came = std::iter::from_fn(|| arrivals.poll(&cx)).map(|(from, datagram)| (from.port(), datagram.len()));
        assert_eq!(came.last(), Some((4, 1024)));
        let queue = arrivals.0.lock().unwrap();
        assert_eq!((queue.bytes, queue.by_session.len()), (0, 0));
    }
}
