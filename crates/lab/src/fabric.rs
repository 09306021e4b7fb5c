//! The wide area as a machine without clock or socket: packets go in with the time, and come out when their time has come.
//!
//! A packet from port A to port B waits in three places, as on the Internet:
//!
//! ```text
//!  A's uplink (rate, bounded queue) → the pair A,B (delay, jitter, loss, rate) → B's downlink (rate, bounded queue)
//! ```
//!
//! A queue is a number: the time at which its link is free again. A packet that would wait longer than the queue's bound is
//! dropped there and counted. Jitter never reorders the packets of a pair, because routers of one path do not either.

use crate::chance::Chance;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;

/// Nanoseconds since a start that the caller chose.
pub type Nanos = u64;

/// A host's attachment to the wide area. Rates in bit/s, 0: not limited.
#[derive(Clone, Debug)]
pub struct Port {
    /// Addresses behind it: network and prefix length.
    pub prefixes: Vec<(IpAddr, u8)>,
    /// Row and column in the matrix.
    pub place: usize,
    /// From the host.
    pub up_bit_s: u64,
    /// To the host.
    pub down_bit_s: u64,
    /// How long a packet may wait for either link.
    pub queue: Nanos,
    /// Whether the cable is in.
    pub plugged: bool,
}

/// What lies between two ports, one way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// One-way delay.
    pub delay: Nanos,
    /// Most that is added to it, evenly distributed.
    pub jitter: Nanos,
    /// Loss in parts per million.
    pub loss_ppm: u32,
    /// Rate in bit/s, 0: not limited.
    pub bit_s: u64,
}

/// Packets and drops by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Packets from the host.
    pub in_packets: u64,
    /// Their bytes.
    pub in_bytes: u64,
    /// Packets to the host.
    pub out_packets: u64,
    /// Their bytes.
    pub out_bytes: u64,
    /// Dropped: the uplink's queue was full.
    pub drop_up: u64,
    /// Dropped on the way: loss, or the path's rate.
    pub drop_path: u64,
    /// Dropped: the downlink's queue was full.
    pub drop_down: u64,
    /// Dropped: not IP, no port has the address, or a port is unplugged.
    pub drop_route: u64,
    /// Dropped: the switch holds as much as it may.
    pub drop_full: u64,
}

struct Held {
    to: usize,
    packet: Vec<u8>,
    /// Whether it has passed the downlink and only waits for its end.
    leaving: bool,
}

/// One ordered pair of ports in use.
struct Pair {
    path: Path,
    free: Nanos,
    last: Nanos,
}

/// The machine.
pub struct Fabric {
    ports: Vec<Port>,
    counts: Vec<Counts>,
    up_free: Vec<Nanos>,
    down_free: Vec<Nanos>,
    paths: Vec<Path>,
    places: usize,
    pairs: HashMap<(usize, usize), Pair>,
    hosts: HashMap<IpAddr, usize>,
    networks: Vec<(IpAddr, u8, usize)>,
    events: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    held: Vec<Option<Held>>,
    vacant: Vec<usize>,
    most: usize,
    sequence: u64,
    chance: Chance,
}

impl Fabric {
    /// A fabric of `ports`; `paths[a * places + b]` lies between the places a and b; at most `most` packets are held.
    /// Errors: the matrix has another size, a port's place is not in it, or a prefix is none.
    pub fn new(ports: Vec<Port>, places: usize, paths: Vec<Path>, most: usize, seed: u64) -> Result<Self, String> {
        if paths.len() != places * places {
            return Err(format!("{places} places need {} paths, and {} are given", places * places, paths.len()));
        }
        let (mut hosts, mut networks) = (HashMap::new(), Vec::new());
        for (index, port) in ports.iter().enumerate() {
            if port.place >= places {
                return Err(format!("port {index} is at place {} of {places}", port.place));
            }
            for &(address, length) in &port.prefixes {
                match length.cmp(&if address.is_ipv4() { 32 } else { 128 }) {
                    Ordering::Equal => drop(hosts.insert(address, index)),
                    Ordering::Less => networks.push((address, length, index)),
                    Ordering::Greater => return Err(format!("{address}/{length} is not a prefix")),
                }
            }
        }
        networks.sort_by_key(|&(_, length, _)| Reverse(length));
        let count = ports.len();
        Ok(Fabric {
            ports,
            counts: vec![Counts::default(); count],
            up_free: vec![0; count],
            down_free: vec![0; count],
            paths,
            places,
            pairs: HashMap::new(),
            hosts,
            networks,
            events: BinaryHeap::new(),
            held: Vec::new(),
            vacant: Vec::new(),
            most,
            sequence: 0,
            chance: Chance(seed),
        })
    }

    /// Counters by port.
    pub fn counts(&self) -> &[Counts] {
        &self.counts
    }

    /// A port, to change its rates or to unplug it.
    pub fn port(&mut self, index: usize) -> Option<&mut Port> {
        self.ports.get_mut(index)
    }

    /// Gives one ordered pair of ports a path of its own.
    pub fn set_path(&mut self, from: usize, to: usize, path: Path) {
        self.pairs.insert((from, to), Pair { path, free: 0, last: 0 });
    }

    /// How many packets are on their way.
    pub fn held(&self) -> usize {
        self.held.len() - self.vacant.len()
    }

    /// Takes a packet from a port. Hands the buffer back when the packet was dropped.
    pub fn input(&mut self, now: Nanos, from: usize, packet: Vec<u8>) -> Option<Vec<u8>> {
        let Some(count) = self.counts.get_mut(from) else { return Some(packet) };
        count.in_packets += 1;
        count.in_bytes += packet.len() as u64;
        let target = destination(&packet).and_then(|address| self.route(address));
        let Some(to) = target.filter(|&to| to != from && self.ports[from].plugged && self.ports[to].plugged) else {
            self.counts[from].drop_route += 1;
            return Some(packet);
        };
        let (bits, port) = (packet.len() as u64 * 8, &self.ports[from]);
        let Some(sent) = pass(&mut self.up_free[from], now, bits, port.up_bit_s, port.queue) else {
            self.counts[from].drop_up += 1;
            return Some(packet);
        };
        let Some(arrives) = self.cross(sent, from, to, bits) else {
            self.counts[from].drop_path += 1;
            return Some(packet);
        };
        if self.held() >= self.most {
            self.counts[from].drop_full += 1;
            return Some(packet);
        }
        self.schedule(arrives, Held { to, packet, leaving: false });
        None
    }

    /// When [`Fabric::poll`] will have something to do next.
    pub fn next(&self) -> Option<Nanos> {
        self.events.peek().map(|Reverse((due, _, _))| *due)
    }

    /// A packet whose time has come, and the port that it leaves by: `(due, port, packet)`.
    pub fn poll(&mut self, now: Nanos) -> Option<(Nanos, usize, Vec<u8>)> {
        while self.next().is_some_and(|due| due <= now) {
            let Some(Reverse((due, _, slot))) = self.events.pop() else { break };
            self.vacant.push(slot);
            let Some(held) = self.held.get_mut(slot).and_then(Option::take) else { continue };
            let (to, bits) = (held.to, held.packet.len() as u64 * 8);
            let port = &self.ports[to];
            if held.leaving || port.down_bit_s == 0 {
                let count = &mut self.counts[to];
                count.out_packets += 1;
                count.out_bytes += held.packet.len() as u64;
                return Some((due, to, held.packet));
            }
            match pass(&mut self.down_free[to], due, bits, port.down_bit_s, port.queue) {
                Some(leaves) => self.schedule(leaves, Held { leaving: true, ..held }),
                None => self.counts[held.to].drop_down += 1,
            }
        }
        None
    }

    /// The path between two ports: when a packet sent at `sent` arrives; `None` when it is lost on the way.
    fn cross(&mut self, sent: Nanos, from: usize, to: usize, bits: u64) -> Option<Nanos> {
        let chances = (self.chance.draw(), self.chance.draw());
        let (row, column) = (self.ports[from].place, self.ports[to].place);
        let (paths, places) = (&self.paths, self.places);
        let pair = self.pairs.entry((from, to)).or_insert_with(|| Pair { path: paths[row * places + column], free: 0, last: 0 });
        if chances.0 % 1_000_000 < u64::from(pair.path.loss_ppm) {
            return None;
        }
        let sent = pass(&mut pair.free, sent, bits, pair.path.bit_s, self.ports[from].queue)?;
        let jitter = if pair.path.jitter == 0 { 0 } else { chances.1 % pair.path.jitter };
        pair.last = pair.last.max(sent + pair.path.delay + jitter);
        Some(pair.last)
    }

    fn schedule(&mut self, due: Nanos, held: Held) {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() - 1
        });
        self.held[slot] = Some(held);
        self.sequence += 1;
        self.events.push(Reverse((due, self.sequence, slot)));
    }

    fn route(&self, address: IpAddr) -> Option<usize> {
        self.hosts.get(&address).copied().or_else(|| {
            self.networks.iter().find(|&&(network, length, _)| covers(network, length, address)).map(|&(_, _, port)| port)
        })
    }
}

/// Puts `bits` through a link of `rate` that is free at `free`; when the last bit is through, or `None` when it would wait too long.
fn pass(free: &mut Nanos, now: Nanos, bits: u64, rate: u64, queue: Nanos) -> Option<Nanos> {
    if rate == 0 {
        return Some(now);
    }
    let start = (*free).max(now);
    if start - now > queue {
        return None;
    }
    *free = start + bits * 1_000_000_000 / rate;
    Some(*free)
}

/// The destination in an IP header of either version.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from),
        6 => packet.get(24..40).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from),
        _ => None,
    }
}

/// Whether `network/length` covers `address`.
pub fn covers(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let differ = match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(u32::from(a) ^ u32::from(b)) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a) ^ u128::from(b),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Nanos = 1_000_000;

    fn packet(to: [u8; 4], length: usize) -> Vec<u8> {
        let mut packet = vec![0; length.max(20)];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&to);
        packet
    }

    fn port(last: u8, place: usize) -> Port {
        let prefixes = vec![(IpAddr::from([198, 18, 0, last]), 32)];
        Port { prefixes, place, up_bit_s: 0, down_bit_s: 0, queue: 50 * MS, plugged: true }
    }

    fn two(path: Path) -> Fabric {
        Fabric::new(vec![port(1, 0), port(2, 1)], 2, vec![path; 4], 1000, 7).unwrap()
    }

    fn drain(fabric: &mut Fabric) -> Vec<(Nanos, usize)> {
        std::iter::from_fn(|| fabric.poll(Nanos::MAX)).map(|(due, port, _)| (due, port)).collect()
    }

    #[test]
    fn delays_a_packet_by_its_path() {
        let mut fabric = two(Path { delay: 30 * MS, ..Path::default() });
        assert_eq!(fabric.input(5, 0, packet([198, 18, 0, 2], 100)), None);
        assert_eq!(fabric.next(), Some(30 * MS + 5));
        assert!(fabric.poll(30 * MS + 4).is_none());
        assert_eq!(fabric.poll(30 * MS + 5).map(|(_, port, p)| (port, p.len())), Some((1, 100)));
        assert_eq!((fabric.held(), fabric.next()), (0, None));
    }

    #[test]
    fn serialises_by_rate_and_drops_beyond_the_queue() {
        let mut fabric = two(Path::default());
        fabric.port(1).unwrap().down_bit_s = 1_000_000;
        for _ in 0..100 {
            assert_eq!(fabric.input(0, 0, packet([198, 18, 0, 2], 1250)), None);
        }
        // 1250 bytes take 10 ms; a wait of 0 … 50 ms is allowed: six packets.
        assert_eq!(drain(&mut fabric), (1..=6).map(|n| (n * 10 * MS, 1)).collect::<Vec<_>>());
        assert_eq!(fabric.counts()[1].drop_down, 94);
    }

    #[test]
    fn drops_what_has_no_way() {
        let mut fabric = two(Path::default());
        for bad in [vec![], vec![0x45; 3], packet([9, 9, 9, 9], 20), packet([198, 18, 0, 1], 20)] {
            assert_eq!(fabric.input(0, 0, bad.clone()), Some(bad));
        }
        fabric.port(1).unwrap().plugged = false;
        assert!(fabric.input(0, 0, packet([198, 18, 0, 2], 20)).is_some());
        assert_eq!(fabric.counts()[0].drop_route, 5);
        assert!(fabric.input(0, 17, vec![]).is_some());
    }

    #[test]
    fn loses_the_share_that_the_path_says_and_bounds_what_it_holds() {
        let mut fabric = two(Path { loss_ppm: 250_000, ..Path::default() });
        let lost = (0..10_000).filter(|&n| {
            let lost = fabric.input(n, 0, packet([198, 18, 0, 2], 20)).is_some();
            fabric.poll(n);
            lost
        });
        assert!((2_300..2_700).contains(&lost.count()));
        let mut fabric = two(Path { delay: MS, ..Path::default() });
        let refused = (0..1500).filter(|_| fabric.input(0, 0, packet([198, 18, 0, 2], 20)).is_some()).count();
        assert_eq!((refused, fabric.counts()[0].drop_full, drain(&mut fabric).len()), (500, 500, 1000));
    }

    #[test]
    fn the_longest_prefix_wins_in_both_families() {
        let mut ports = vec![port(1, 0), port(2, 0), port(3, 0)];
        ports[1].prefixes.push(("2001:db8::".parse().unwrap(), 32));
        ports[2].prefixes.push(("2001:db8:7::".parse().unwrap(), 48));
        let fabric = Fabric::new(ports, 1, vec![Path::default()], 10, 1).unwrap();
        assert_eq!(fabric.route("2001:db8:7::5".parse().unwrap()), Some(2));
        assert_eq!(fabric.route("2001:db8:8::5".parse().unwrap()), Some(1));
        assert_eq!(fabric.route("2001:db9::5".parse().unwrap()), None);
        assert_eq!(fabric.route(IpAddr::from([198, 18, 0, 3])), Some(2));
    }

    #[test]
    fn a_matrix_that_does_not_fit_is_refused() {
        assert!(Fabric::new(vec![port(1, 0)], 2, vec![Path::default()], 1, 1).is_err());
        assert!(Fabric::new(vec![port(1, 3)], 1, vec![Path::default()], 1, 1).is_err());
        let mut wide = port(1, 0);
        wide.prefixes[0].1 = 33;
        assert!(Fabric::new(vec![wide], 1, vec![Path::default()], 1, 1).is_err());
    }

    proptest! {
        /// Packets are neither invented nor lost without a count, and those of one pair keep their order, whatever the parameters.
        #[test]
        fn accounts_for_every_packet_in_order(
            delay in 0..100 * MS, jitter in 0..50 * MS, loss_ppm in 0..500_000u32,
            rates in prop::array::uniform3(prop_oneof![Just(0u64), 10_000..10_000_000u64]),
            sizes in prop::collection::vec((20usize..1500, 0..5 * MS), 1..80),
        ) {
            let mut fabric = two(Path { delay, jitter, loss_ppm, bit_s: rates[0] });
            fabric.port(0).unwrap().up_bit_s = rates[1];
            fabric.port(1).unwrap().down_bit_s = rates[2];
            let mut now = 0;
            for (index, &(size, gap)) in sizes.iter().enumerate() {
                now += gap;
                let mut sent = packet([198, 18, 0, 2], size);
                sent[4..6].copy_from_slice(&(index as u16).to_be_bytes());
                fabric.input(now, 0, sent);
            }
            let out: Vec<_> = std::iter::from_fn(|| fabric.poll(Nanos::MAX)).collect();
            prop_assert!(out.iter().all(|(due, port, _)| *due >= delay && *port == 1));
            prop_assert!(out.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].2[4..6] < w[1].2[4..6]));
            let (from, to) = (fabric.counts()[0], fabric.counts()[1]);
            let dropped = from.drop_up + from.drop_path + from.drop_full + to.drop_down;
            prop_assert_eq!(out.len() as u64 + dropped, sizes.len() as u64);
            prop_assert_eq!((fabric.held(), to.out_packets), (0, out.len() as u64));
        }
    }
}
