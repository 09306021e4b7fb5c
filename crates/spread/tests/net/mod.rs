//! A network in memory: relays, one user, one servlet, a virtual clock; paths with delay, jitter, loss, death, and a record.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use polder_spread::chance::Chance;
use polder_spread::issue::{Grant, issue};
use polder_spread::*;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub const BEGIN: Micros = Micros(1_800_000_000_000_000);
pub const EPOCH: u32 = 500_000;
pub const SERVLET: NodeId = NodeId(0x5e);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn address(n: u16) -> SocketAddr {
    ([198, 18, (n >> 8) as u8, n as u8], 443).into()
}

/// What happens to packets between a relay and both ends.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub delay: Duration,
    pub jitter: Duration,
    pub loss: f64,
    pub dead: bool,
    pub mtu: usize,
    /// What packets to this relay cross.
    pub line: Option<Line>,
}

impl Default for Way {
    fn default() -> Self {
        Way { delay: ms(10), jitter: Duration::ZERO, loss: 0.0, dead: false, mtu: 1500, line: None }
    }
}

/// Who a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    User,
    Servlet,
    Relay(usize),
}

/// A line: bits a second, and how much later than at once a packet may leave it.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub rate: u64,
    pub most: Duration,
    /// Bits a second of somebody else who does not slow down.
    pub flood: u64,
    free: Micros,
    seen: Micros,
}

impl Line {
    pub fn new(rate: u64, most: Duration) -> Line {
        Line { rate, most, flood: 0, free: BEGIN, seen: BEGIN }
    }

    /// When a packet that comes at `at` has crossed it; `None`: it is full.
    fn cross(&mut self, at: Micros, bytes: usize, chance: &mut Chance) -> Option<Micros> {
        if self.flood > 0 {
            let more = at.since(self.seen).mul_f64(self.flood as f64 / self.rate as f64);
            self.free = (self.free.max(self.seen) + more).min(self.free.max(at + self.most));
        }
        self.seen = self.seen.max(at);
        let start = self.free.max(at);
        if self.flood > self.rate && start.since(at) >= self.most {
            // whoever comes when there is room again: by chance, as much as of the flood
            return (chance.unit() < self.rate as f64 / self.flood as f64).then_some(start);
        }
        if start.since(at) > self.most {
            return None;
        }
        self.free = start + Duration::from_micros(bytes as u64 * 8_000_000 / self.rate);
        Some(self.free)
    }
}

type Flying = Reverse<(Micros, u64, Host, SocketAddr, Vec<u8>)>;

pub struct Net {
    pub now: Micros,
    pub relays: Vec<Relay>,
    pub counters: Vec<Arc<Counters>>,
    pub ways: Vec<Way>,
    pub user: Session,
    pub servlet: Session,
    pub user_address: SocketAddr,
    pub members: Arc<Members>,
    pub secrets: Vec<[u8; 32]>,
    queue: BinaryHeap<Flying>,
    serial: u64,
    chance: Chance,
    /// Every packet that was put on a wire, with who it was for.
    pub wire: Option<Vec<(Host, SocketAddr, Vec<u8>)>>,
    /// Datagrams with the time of their arrival, at the servlet and at the user.
    pub at_servlet: Vec<(Micros, Vec<u8>)>,
    pub at_user: Vec<(Micros, Vec<u8>)>,
    pub refused: HashMap<Refusal, usize>,
    /// An end looks at what came only so often: a busy machine.
    pub stall: Duration,
    /// What packets to the user cross.
    pub line: Option<Line>,
}

pub fn terms(begin: Micros) -> Terms {
    Terms { starts: begin.secs() as u32, lasts: 3600, pace: 17, rate: 17 }
}

/// The relay list: relay n has id 1000 n + 7; the servlet is a member too.
pub fn members(version: u32, relays: usize) -> Arc<Members> {
    let relay = |n: usize| Member { id: relay_id(n), address: address(n as u16) };
    let servlet = Member { id: SERVLET, address: address(60_000) };
    Arc::new(Members::new(version, (0..relays).map(relay).chain([servlet]).collect()).unwrap())
}

pub fn relay_id(n: usize) -> NodeId {
    NodeId(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n as u64 + 1))
}

pub fn secret(n: usize) -> [u8; 32] {
    let mut secret = [n as u8; 32];
    secret[1] = (n >> 8) as u8;
    secret
}

pub fn relay_config(n: usize, epochs: &[u32], lists: Vec<Arc<Members>>) -> RelayConfig {
    let day = Duration::from_secs(86_400);
    let epoch = |&e: &u32| Epoch::new(e, &epoch_key(&secret(n), e), BEGIN - day, BEGIN + day);
    RelayConfig {
        me: relay_id(n),
        epochs: epochs.iter().map(epoch).collect(),
        members: lists,
        sessions: 64,
        span: Duration::from_secs(3),
        return_age: Duration::from_secs(30),
    }
}

pub fn grants(relays: usize, epoch: u32, members: &Members) -> Vec<Grant> {
    let grant = |n: usize| {
        let grant = [n as u8 ^ 0x55; 8];
        let key = grant_key(&epoch_key(&secret(n), epoch), grant);
        members.address(relay_id(n)).map(|address| Grant { relay: relay_id(n), address, epoch, grant, key })
    };
    (0..relays).filter_map(grant).collect()
}

pub fn ticket(session: u8, relays: usize, epoch: u32, members: &Members, now: Micros) -> Ticket {
    let session = SessionId([session; 16]);
    issue(session, [0xAB; 32], SERVLET, terms(now), members.version(), &grants(relays, epoch, members)).unwrap()
}

pub fn hosted(ticket: &Ticket, relays: usize, epochs: &[u32]) -> Hosted {
    let peer =
        |n: usize, epoch: u32| PeerKey { relay: relay_id(n), epoch, key: peer_key(&epoch_key(&secret(n), epoch), SERVLET) };
    let keys = epochs.iter().flat_map(|&epoch| (0..relays).map(move |n| peer(n, epoch))).collect();
    Hosted { session: ticket.session, key: ticket.key, terms: ticket.terms, me: SERVLET, relays: keys }
}

impl Net {
    pub fn new(relays: usize, config: &SpreadConfig, seed: u64) -> Net {
        let members = members(1, relays);
        let counters: Vec<Arc<Counters>> = (0..relays).map(|_| Arc::default()).collect();
        // relays run for long: none is deaf
        let start = |n: usize| {
            let config = relay_config(n, &[EPOCH], vec![members.clone()]);
            Relay::new(config, n as u32, BEGIN - Duration::from_secs(60), counters[n].clone())
        };
        let ticket = ticket(1, relays, EPOCH, &members, BEGIN);
        let user = Session::forwarder(&ticket, members.clone(), config.clone(), BEGIN, seed).unwrap();
        let servlet =
            Session::servlet(&hosted(&ticket, relays, &[EPOCH]), members.clone(), config.clone(), BEGIN, seed + 1).unwrap();
        Net {
            now: BEGIN,
            relays: (0..relays).map(start).collect(),
            counters,
            ways: vec![Way::default(); relays],
            user,
            servlet,
            user_address: ([203, 0, 113, 5], 40_000).into(),
            members,
            secrets: (0..relays).map(secret).collect(),
            queue: BinaryHeap::new(),
            serial: 0,
            chance: Chance(seed ^ 0xF00D),
            wire: None,
            at_servlet: Vec::new(),
            at_user: Vec::new(),
            refused: HashMap::new(),
            stall: Duration::ZERO,
            line: None,
        }
    }

    pub fn post(&mut self, at: Micros, to: Host, from: SocketAddr, packet: Vec<u8>) {
        self.serial += 1;
        let every = if matches!(to, Host::Relay(_)) { 1 } else { self.stall.as_micros().max(1) as u64 };
        let at = Micros(at.0.div_ceil(every) * every);
        self.queue.push(Reverse((at, self.serial, to, from, packet)));
    }

    /// A packet leaves an end or a relay; the way of the relay that it touches decides its fate.
    fn carry(&mut self, to: Host, relay: usize, from: SocketAddr, packet: Vec<u8>) {
        if let Some(wire) = &mut self.wire {
            wire.push((to, from, packet.clone()));
        }
        let way = self.ways[relay];
        if way.dead || packet.len() + 28 > way.mtu || self.chance.unit() < way.loss / 2.0 {
            return;
        }
        // half of the delay and half of the loss on either side of the relay
        let delay = way.delay.mul_f64(0.5) + way.jitter.mul_f64(self.chance.unit() * 0.5);
        let at = self.now + delay;
        let line = match to {
            Host::User => &mut self.line,
            Host::Relay(_) => &mut self.ways[relay].line,
            Host::Servlet => &mut None,
        };
        let at = match line {
            Some(line) => line.cross(at, packet.len() + 28, &mut self.chance),
            None => Some(at),
        };
        if let Some(at) = at {
            self.post(at, to, from, packet);
        }
    }

    fn flush(&mut self, from: Host, out: &Outbox) {
        let source = if from == Host::User { self.user_address } else { address(60_000) };
        let packets: Vec<(SocketAddr, Vec<u8>)> =
            out.runs().flat_map(|run| run.packets().map(|p| (run.to, p.to_vec())).collect::<Vec<_>>()).collect();
        for (to, packet) in packets {
            let relay = (0..self.relays.len()).find(|&n| address(n as u16) == to).expect("packets go to relays only");
            self.carry(Host::Relay(relay), relay, source, packet);
        }
    }

    pub fn user_sends(&mut self, datagrams: &[u8], segment: usize) {
        let mut out = Outbox::default();
        self.user.send(self.now, datagrams, segment, &mut out);
        self.flush(Host::User, &out);
    }

    pub fn servlet_sends(&mut self, datagrams: &[u8], segment: usize) {
        let mut out = Outbox::default();
        self.servlet.send(self.now, datagrams, segment, &mut out);
        self.flush(Host::Servlet, &out);
    }

    fn poll(&mut self) -> Option<Micros> {
        let mut out = Outbox::default();
        let user = self.user.poll(self.now, &mut out);
        self.flush(Host::User, &out);
        out.clear();
        let servlet = self.servlet.poll(self.now, &mut out);
        self.flush(Host::Servlet, &out);
        [user, servlet].into_iter().flatten().min()
    }

    fn arrive(&mut self, to: Host, from: SocketAddr, mut packet: Vec<u8>) {
        let mut inbound = Inbound::default();
        let outcome = match to {
            Host::Relay(n) => {
                if self.ways[n].dead {
                    return;
                }
                match self.relays[n].pass(self.now, from, &mut packet) {
                    Ok(To::Peer(next)) => {
                        let host = if next == address(60_000) { Host::Servlet } else { Host::User };
                        // a user who moved is not found at the old address
                        if host == Host::Servlet || next == self.user_address {
                            self.carry(host, n, address(n as u16), packet);
                        }
                        return;
                    }
                    Ok(To::Here) => return,
                    Err(refusal) => Err(refusal),
                }
            }
            Host::User => self.user.receive(self.now, from, &mut packet, &mut inbound),
            Host::Servlet => self.servlet.receive(self.now, from, &mut packet, &mut inbound),
        };
        let now = self.now;
        let log = if to == Host::User { &mut self.at_user } else { &mut self.at_servlet };
        log.extend(inbound.datagrams().map(|datagram| (now, datagram.to_vec())));
        if let Err(refusal) = outcome {
            *self.refused.entry(refusal).or_default() += 1;
        }
    }

    /// Lets time pass until `until`.
    pub fn run(&mut self, until: Micros) {
        loop {
            let due = self.poll();
            let next = self.queue.peek().map(|Reverse((at, ..))| *at);
            let Some(next) = [due, next].into_iter().flatten().min().filter(|&at| at <= until) else { break };
            self.now = self.now.max(next);
            while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
                if let Some(Reverse((_, _, to, from, packet))) = self.queue.pop() {
                    self.arrive(to, from, packet);
                }
            }
        }
        self.now = until;
    }

    /// The user sends `count` datagrams of `size` bytes, one every `gap`, and the servlet answers each with one as long; their
    /// first eight bytes are their number.
    pub fn talk(&mut self, first: u64, count: u64, gap: Duration, size: usize) {
        for n in first..first + count {
            let mut datagram = vec![0x5A; size.max(8)];
            datagram[..8].copy_from_slice(&n.to_be_bytes());
            self.user_sends(&datagram, size);
            let already = self.at_servlet.len();
            self.run(self.now + gap);
            let came: Vec<Vec<u8>> = self.at_servlet[already..].iter().map(|(_, datagram)| datagram.clone()).collect();
            for datagram in came {
                self.servlet_sends(&datagram, datagram.len());
            }
        }
    }

    pub fn numbers(log: &[(Micros, Vec<u8>)]) -> Vec<u64> {
        log.iter().map(|(_, datagram)| u64::from_be_bytes(datagram[..8].try_into().unwrap())).collect()
    }

    pub fn distinct(log: &[(Micros, Vec<u8>)]) -> usize {
        Self::numbers(log).into_iter().collect::<HashSet<_>>().len()
    }
}
