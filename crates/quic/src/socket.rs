//! The socket that quinn has: datagrams in and out of spread sessions.

use crate::seats::{Seat, Seats};
use crate::wire::Batch;
use polder_spread::{Inbound, peek};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

/// Datagrams that quinn may give or take in one piece.
pub(crate) const SEGMENTS: usize = 16;

/// Datagrams beyond which no more are gathered before they are put in order.
const GATHERED: usize = 512;

/// quinn's socket.
#[derive(Debug)]
pub struct SpreadSocket {
    seats: Arc<Seats>,
    inlet: Mutex<Incoming>,
    /// Whether relays are asked first this time: neither they nor detours keep the others waiting.
    relays_first: AtomicBool,
}

/// What came and waits for quinn.
#[derive(Debug, Default)]
struct Incoming {
    batch: Batch,
    /// Bytes of `batch` that were taken.
    taken: usize,
    inbound: Inbound,
    from: Option<SocketAddr>,
    /// Datagrams of `inbound` that were taken.
    given: usize,
}

impl SpreadSocket {
    pub(crate) fn new(seats: Arc<Seats>) -> Arc<Self> {
        Arc::new(SpreadSocket { seats, inlet: Mutex::default(), relays_first: AtomicBool::default() })
    }

    /// Fills quinn's buffers with what came over relays; how many were used.
    fn relayed(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let mut incoming = self.inlet.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut given = 0;
            let used = incoming.give(bufs, meta, &mut given);
            if used > 0 {
                self.seats.counters.datagrams_in.add(given);
                return Poll::Ready(Ok(used));
            }
            ready!(incoming.gather(cx, &self.seats))?;
        }
    }

    /// Fills quinn's buffers with what came over detours; how many were used.
    fn detoured(&self, cx: &Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let mut used = 0;
        while let Some((buf, meta)) = bufs.get_mut(used).zip(meta.get_mut(used)) {
            let Some((addr, datagram)) = self.seats.arrivals.poll(cx) else { break };
            let len = datagram.len();
            let Some(place) = buf.get_mut(..len) else { continue };
            place.copy_from_slice(&datagram);
            *meta = RecvMeta { addr, len, stride: len.max(1), ecn: None, dst_ip: None };
            used += 1;
        }
        self.seats.counters.datagrams_in.add(used as u64);
        if used > 0 { Poll::Ready(Ok(used)) } else { Poll::Pending }
    }
}

/// Packets may always be sent: those that do not fit are lost.
#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Incoming {
    /// Takes what has come, as far as it belongs to one session, and puts it in order: quinn drops a packet that comes more
    /// than 128 after a later one.
    fn gather(&mut self, cx: &mut Context<'_>, seats: &Seats) -> Poll<io::Result<()>> {
        self.inbound.clear();
        (self.given, self.from) = (0, None);
        let mut current = None;
        while self.inbound.count() < GATHERED {
            if self.taken >= self.batch.bytes.len() {
                let came = seats.wire.poll_receive(cx, &mut self.batch);
                if self.inbound.count() == 0 {
                    ready!(came)?;
                } else if !matches!(came, Poll::Ready(Ok(()))) {
                    break;
                }
                self.taken = 0;
            }
            if !self.unpack(seats, &mut current) {
                break;
            }
        }
        self.from = current.map(|seat| seat.address);
        self.inbound.sort();
        Poll::Ready(Ok(()))
    }

    /// Takes the batch's next packets, as far as they belong to the current session. Whether that is all of them.
    fn unpack(&mut self, seats: &Seats, current: &mut Option<Arc<Seat>>) -> bool {
        let Some(from) = self.batch.from else { return true };
        let segment = self.batch.segment.max(1);
        while self.taken < self.batch.bytes.len() {
            let rest = &mut self.batch.bytes[self.taken..];
            let first = segment.min(rest.len());
            let Some((name, seat)) = peek(&rest[..first]).and_then(|(_, name)| Some((name, seats.of(name)?))) else {
                seats.counters.unknown_packets.up();
                self.taken += first;
                continue;
            };
            if current.as_ref().is_some_and(|current| current.address != seat.address) {
                return false;
            }
            // All of a run is one session's, as a rule: it is looked for and locked once.
            self.taken += seats.receive(&seat, name, from, rest, segment, &mut self.inbound);
            *current = Some(seat);
        }
        true
    }

    /// Fills quinn's buffers with what was unpacked; how many were used.
    fn give(&mut self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta], given: &mut u64) -> usize {
        let Some(addr) = self.from else { return 0 };
        let mut waiting = self.inbound.datagrams().skip(self.given).peekable();
        let mut used = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(first) = waiting.next() else { break };
            self.given += 1;
            *given += 1;
            if first.len() > buf.len() {
                continue;
            }
            let stride = first.len().max(1);
            buf[..first.len()].copy_from_slice(first);
            let mut len = first.len();
            while let Some(next) =
                waiting.next_if(|next| next.len() <= stride && len % stride == 0 && len + next.len() <= buf.len())
            {
                buf[len..len + next.len()].copy_from_slice(next);
                len += next.len();
                self.given += 1;
                *given += 1;
            }
            *meta = RecvMeta { addr, len, stride, ecn: None, dst_ip: None };
            used += 1;
        }
        used
    }
}

impl AsyncUdpSocket for SpreadSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(seat) = self.seats.at(transmit.destination) {
            let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
            self.seats.send(&seat, transmit.contents, segment);
        }
        Ok(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        if self.relays_first.fetch_xor(true, Relaxed) {
            let relayed = self.relayed(cx, bufs, meta);
            return if relayed.is_ready() { relayed } else { self.detoured(cx, bufs, meta) };
        }
        let detoured = self.detoured(cx, bufs, meta);
        if detoured.is_ready() { detoured } else { self.relayed(cx, bufs, meta) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // Of the same family as the addresses that stand for sessions: quinn dials no other.
        let port = self.seats.wire.local_addr()?.port();
        Ok(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port))
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    fn max_receive_segments(&self) -> usize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;
    use crate::wire::Wire;
    use polder_spread::Run;
    use std::sync::atomic::AtomicU32;
    use std::task::Waker;

    /// Nothing comes; counts how often it was asked.
    #[derive(Debug, Default)]
    struct Quiet(AtomicU32);

    impl Wire for Quiet {
        fn send(&self, _: Run<'_>) {}

        fn poll_receive(&self, _: &mut Context<'_>, _: &mut Batch) -> Poll<io::Result<()>> {
            self.0.fetch_add(1, Relaxed);
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
        }
    }

    #[test]
    fn relays_have_their_turn_while_detours_bring_more_than_is_taken() {
        let wire = Arc::new(Quiet::default());
        let seats = Seats::new(wire.clone(), Clock::system(), Arc::default(), 1);
        let socket = SpreadSocket::new(seats.clone());
        let mut cx = Context::from_waker(Waker::noop());
        for turn in 0..10 {
            (0..8).for_each(|n| assert!(seats.arrivals.push(SocketAddr::from(([127, 0, 0, 1], n)), &[7; 100])));
            let (mut buffer, mut meta) = ([0; 200], [RecvMeta::default(); 1]);
            let came = socket.poll_recv(&mut cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta);
            assert!(matches!(came, Poll::Ready(Ok(1))) && meta[0].len == 100);
            assert_eq!(wire.0.load(Relaxed), u32::div_ceil(turn, 2), "every other time relays are asked first");
        }
    }
}
