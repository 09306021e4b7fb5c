//! The bounded queue of events, and the descriptor that wakes asyncio.

use polder_http::plane::Events;
use polder_types::{Event, Kind, encode};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// The method of ring maintenance.
const RING: &str = "ring";

/// Events on their way to Python. One byte waits in the descriptor while the queue is not empty; no native thread ever
/// touches the interpreter.
pub struct Queue {
    inner: Mutex<Inner>,
    most: usize,
    ring: UnixStream,
    wake: UnixStream,
}

#[derive(Default)]
struct Inner {
    /// Answers, and calls of the ring: taken first, so that no flood of other calls and events makes a node look dead.
    urgent: VecDeque<Event>,
    events: VecDeque<Event>,
    armed: bool,
    lost: u64,
    dropped: u64,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.events.is_empty()
    }
}

fn is_urgent(event: &Event) -> bool {
    match event {
        Event::Answer { .. } => true,
        Event::Call { kind, method, .. } => *kind == Kind::Node && method == RING,
        _ => false,
    }
}

impl Queue {
    /// A queue of at most `most` events.
    pub fn new(most: usize) -> io::Result<Self> {
        let (ring, wake) = UnixStream::pair()?;
        ring.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        Ok(Queue { inner: Mutex::default(), most, ring, wake })
    }

    /// Readable while events wait.
    pub fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Takes up to `max` events, encoded.
    pub fn drain(&self, max: usize) -> Vec<Vec<u8>> {
        let mut inner = self.lock();
        let mut batch = Vec::new();
        if inner.lost > 0 && max > 0 {
            batch.push(encode(&Event::Lost { count: std::mem::take(&mut inner.lost) }));
        }
        while batch.len() < max {
            let Some(event) = inner.urgent.pop_front() else { break };
            batch.push(encode(&event));
        }
        while batch.len() < max {
            let Some(event) = inner.events.pop_front() else { break };
            batch.push(encode(&event));
        }
        if inner.is_empty() && inner.armed {
            inner.armed = false;
            let _ = (&self.wake).read(&mut [0; 8]);
        }
        batch
    }

    /// Events dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Events that wait now.
    pub fn waiting(&self) -> u64 {
        self.lock().events.len() as u64
    }

    fn push(&self, event: Event, most: usize) -> bool {
        let mut inner = self.lock();
        if inner.urgent.len() + inner.events.len() >= most {
            return false;
        }
        match is_urgent(&event) {
            true => inner.urgent.push_back(event),
            false => inner.events.push_back(event),
        }
        if !inner.armed {
            inner.armed = true;
            let _ = (&self.ring).write(&[1]);
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events for Queue {
    fn emit(&self, event: Event) {
        let most = match event {
            // It ends a wait in Python, which itself bounds how many there are: never dropped.
            Event::Answer { .. } => usize::MAX,
            // Strangers can cause these: they leave half of the places to calls.
            Event::Refused { .. } | Event::Log { .. } => self.most / 2,
            _ => self.most,
        };
        if !self.push(event, most) {
            let mut inner = self.lock();
            inner.lost += 1;
            inner.dropped += 1;
        }
    }

    /// An eighth of the places is the ring's; traces are the least that may be lost.
    fn offer(&self, event: Event) -> bool {
        let most = match &event {
            Event::Span { .. } => self.most / 4,
            urgent if is_urgent(urgent) => self.most,
            _ => self.most - self.most / 8,
        };
        self.push(event, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polder_types::decode;

    fn log(text: usize) -> Event {
        Event::Log { level: "info".into(), target: "t".into(), text: text.to_string() }
    }

    fn readable(queue: &Queue) -> bool {
        let mut peek = [0; 1];
        // A byte is taken only by `drain`: look at it through a clone that is put back.
        match (&queue.wake).read(&mut peek) {
            Ok(1) => (&queue.ring).write(&peek).is_ok(),
            _ => false,
        }
    }

    #[test]
    fn wakes_once_per_batch_and_sleeps_when_empty() {
        let queue = Queue::new(20).unwrap();
        assert!(!readable(&queue));
        (0..5).for_each(|n| queue.emit(log(n)));
        assert!(readable(&queue));
        assert_eq!(queue.drain(3).len(), 3);
        assert!(readable(&queue), "two events are left");
        assert_eq!(queue.drain(3).len(), 2);
        assert!(!readable(&queue));
        queue.emit(log(9));
        assert!(readable(&queue), "armed again");
    }

    #[test]
    fn a_full_queue_drops_counts_and_tells_but_never_an_answer() {
        let queue = Queue::new(4).unwrap();
        (0..5).for_each(|n| queue.emit(log(n)));
        assert!(queue.offer(log(6)) && queue.offer(log(6)), "what strangers cause leaves half to calls");
        assert!(!queue.offer(log(6)));
        queue.emit(Event::Answer { id: 7, status: 200, body: vec![] });
        let events: Vec<Event> = queue.drain(10).iter().map(|e| decode(e).unwrap()).collect();
        assert!(matches!(events[0], Event::Lost { count: 3 }));
        assert!(matches!(events[1], Event::Answer { id: 7, .. }), "who waits for it is told first");
        assert_eq!((events.len(), queue.dropped()), (6, 3));
    }

    fn call(kind: Kind, method: &str) -> Event {
        let (name, source, method) = ("n".into(), "127.0.0.1".into(), method.into());
        Event::Call { id: 1, kind, name, ring_id: None, source, method, body: vec![] }
    }

    #[test]
    fn a_flood_of_other_calls_does_not_delay_the_ring() {
        let queue = Queue::new(64).unwrap();
        let flood = (0..100).filter(|_| queue.offer(call(Kind::Site, "sync"))).count();
        assert_eq!(flood, 56, "an eighth is kept");
        assert!(!queue.offer(call(Kind::Admin, "ring")), "nodes alone maintain the ring");
        assert!(queue.offer(call(Kind::Node, "ring")));
        let first: Event = decode(&queue.drain(1)[0]).unwrap();
        assert!(matches!(first, Event::Call { kind: Kind::Node, .. }));
    }
}
