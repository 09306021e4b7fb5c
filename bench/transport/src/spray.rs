//! The sprayed socket: quinn sees one path, its datagrams leave over all relays in turn, some twice.
//!
//! Header of 26 bytes: number (8), relay (1), then about one of the sender's own receiving relays: which (1), how many came (8),
//! how much later than over the quickest relay, µs (4); the sender's clock, µs (4).

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::collections::HashSet;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

const HEADER: usize = 26;

/// A relay whose packets come so much later than the quickest one's is left out, µs.
const LATE: u32 = 12_000;

/// A silence that ends a run.
const PAUSE: Duration = Duration::from_millis(2);

/// What quinn takes for its peer's address.
pub const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 1);

#[derive(Debug, Clone)]
struct Way {
    address: SocketAddr,
    /// Sent and not yet judged: when the count of sent stood at what.
    sent: u64,
    mark: Option<(Instant, u64, u64)>,
    /// What the other end says that it had of us.
    delivered: u64,
    /// What we had of it.
    received: u64,
    /// One-way time of what came, smoothed, on a clock of unknown offset; µs.
    transit: Option<i64>,
    /// What the other end says of ours.
    late: u32,
    /// Nothing comes through: tried again then.
    out: Option<Instant>,
}

#[derive(Debug)]
struct State {
    ways: Vec<Way>,
    next: usize,
    in_run: usize,
    last: Instant,
    number: u64,
    owed: f64,
    told: usize,
    seen: HashSet<u64>,
    oldest: u64,
}

/// How packets are spread.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Extra copies per packet.
    pub copies: f64,
    /// Packets in a row over one relay.
    pub run: usize,
    /// Leave relays through which nothing arrives.
    pub feedback: bool,
}

/// One end.
#[derive(Debug)]
pub struct Spray {
    io: UdpSocket,
    how: Spread,
    /// Whether the relays' addresses are learnt from what comes.
    learns: bool,
    born: Instant,
    state: Mutex<State>,
}

impl Spray {
    /// `relays`: where to send; empty at the server, which answers where packets come from.
    pub fn new(io: UdpSocket, relays: &[SocketAddr], how: Spread) -> Arc<Self> {
        let way = |address: &SocketAddr| Way {
            address: *address,
            sent: 0,
            mark: None,
            delivered: 0,
            received: 0,
            transit: None,
            late: 0,
            out: None,
        };
        let ways: Vec<_> = relays.iter().map(way).collect();
        let state = State {
            ways,
            next: 0,
            in_run: 0,
            last: Instant::now(),
            number: 0,
            owed: 0.0,
            told: 0,
            seen: HashSet::new(),
            oldest: 0,
        };
        Arc::new(Spray { io, how, learns: relays.is_empty(), born: Instant::now(), state: Mutex::new(state) })
    }

    fn datagram(&self, state: &mut State, contents: &[u8]) {
        state.number += 1;
        state.owed += self.how.copies;
        let copies = 1 + state.owed as usize;
        state.owed -= (copies - 1) as f64;
        let mut packet = vec![0; HEADER + contents.len()];
        packet[..8].copy_from_slice(&state.number.to_be_bytes());
        packet[HEADER..].copy_from_slice(contents);
        let now = Instant::now();
        let Some(first) = self.choose(state) else { return };
        let count = state.ways.len();
        let others: Vec<_> = (1..count).map(|step| (first + step) % count).collect();
        let live = others.into_iter().filter(|index| !self.how.feedback || state.ways[*index].out.is_none());
        let mut over: Vec<_> = std::iter::once(first).chain(live).take(copies).collect();
        // Relays that are left out are tried with copies, never with the only instance of a packet.
        over.extend(state.ways.iter_mut().position(|way| self.how.feedback && on_trial(way, now)));
        for index in over {
            state.told = (state.told + 1) % state.ways.len();
            packet[8] = index as u8;
            packet[9] = state.told as u8;
            let best = state.ways.iter().filter_map(|way| way.transit).min().unwrap_or(0);
            let told = &state.ways[state.told];
            packet[10..18].copy_from_slice(&told.received.to_be_bytes());
            let late = told.transit.map_or(0, |transit| u32::try_from(transit - best).unwrap_or(0));
            packet[18..22].copy_from_slice(&late.to_be_bytes());
            packet[22..26].copy_from_slice(&(self.born.elapsed().as_micros() as u32).to_be_bytes());
            let way = &mut state.ways[index];
            way.sent += 1;
            let _ = self.io.try_send_to(&packet, way.address);
        }
    }

    fn choose(&self, state: &mut State) -> Option<usize> {
        let count = state.ways.len();
        if count == 0 {
            return None;
        }
        let now = Instant::now();
        // After a pause another relay: else all of QUIC's probes, which come two at a time, fall into one that is dead.
        if now - state.last > PAUSE {
            state.in_run = self.how.run;
        }
        state.last = now;
        for _ in 0..count {
            state.in_run += 1;
            if state.in_run > self.how.run {
                state.in_run = 1;
                state.next = (state.next + 1) % count;
            }
            let way = &mut state.ways[state.next];
            if !self.how.feedback || usable(way, now) {
                return Some(state.next);
            }
            state.in_run = self.how.run;
        }
        state.next = (state.next + 1) % count;
        Some(state.next)
    }

    fn take(&self, state: &mut State, from: SocketAddr, packet: &[u8]) -> bool {
        let (Some(number), Some(about)) = (word(packet, 0), word(packet, 10)) else { return false };
        let index = usize::from(packet[8]);
        if self.learns {
            while state.ways.len() <= index {
                state.ways.push(Way {
                    address: from,
                    sent: 0,
                    mark: None,
                    delivered: 0,
                    received: 0,
                    transit: None,
                    late: 0,
                    out: None,
                });
            }
            state.ways[index].address = from;
        }
        if let Some(way) = state.ways.get_mut(index) {
            way.received += 1;
            let stamp = i64::from(u32::from_be_bytes([packet[22], packet[23], packet[24], packet[25]]));
            let transit = self.born.elapsed().as_micros() as i64 - stamp;
            way.transit = Some(way.transit.map_or(transit, |old| old + (transit - old) / 8));
        }
        if let Some(way) = state.ways.get_mut(usize::from(packet[9])) {
            way.delivered = way.delivered.max(about);
            way.late = u32::from_be_bytes([packet[18], packet[19], packet[20], packet[21]]);
        }
        if number + 100_000 < state.oldest || !state.seen.insert(number) {
            return false;
        }
        if number > state.oldest {
            state.oldest = number;
            if state.seen.len() > 200_000 {
                let floor = number.saturating_sub(100_000);
                state.seen.retain(|seen| *seen >= floor);
            }
        }
        true
    }
}

/// Judged over spans of 200 ms: six packets sent and none arrived, or too late, takes a relay out.
fn usable(way: &mut Way, now: Instant) -> bool {
    if way.out.is_some() {
        return false;
    }
    if way.late > LATE {
        way.out = Some(now);
        return false;
    }
    match way.mark {
        None => way.mark = Some((now, way.sent, way.delivered)),
        Some((since, sent, delivered)) if now - since > Duration::from_millis(200) && way.sent >= sent + 6 => {
            way.mark = None;
            if way.delivered == delivered {
                way.out = Some(now);
                return false;
            }
        }
        Some(_) => {}
    }
    true
}

/// Whether a relay that is out gets a copy now: every 100 ms. It comes back when what was tried arrived in time.
fn on_trial(way: &mut Way, now: Instant) -> bool {
    match way.out {
        Some(since) if now - since > Duration::from_millis(100) => {
            let tried = way.mark.replace((now, way.sent, way.delivered));
            let arrived = tried.is_some_and(|(_, _, delivered)| way.delivered > delivered);
            way.out = if arrived && way.late <= LATE { None } else { Some(now) };
            way.out.is_some()
        }
        _ => false,
    }
}

fn word(packet: &[u8], at: usize) -> Option<u64> {
    packet.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
}

#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Spray {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = self.state.lock().expect("no panic inside");
        for contents in transmit.contents.chunks(transmit.segment_size.unwrap_or(transmit.contents.len()).max(1)) {
            self.datagram(&mut state, contents);
        }
        Ok(())
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let mut buffer = [0; 2048];
        loop {
            let mut read = ReadBuf::new(&mut buffer);
            let from = ready!(self.io.poll_recv_from(cx, &mut read))?;
            let packet = read.filled();
            if !self.take(&mut self.state.lock().expect("no panic inside"), from, packet) {
                continue;
            }
            let length = packet.len() - HEADER;
            bufs[0][..length].copy_from_slice(&packet[HEADER..]);
            meta[0] = RecvMeta { addr: PEER, len: length, stride: length, ecn: None, dst_ip: None };
            return Poll::Ready(Ok(1));
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
