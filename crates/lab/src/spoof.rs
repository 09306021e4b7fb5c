//! Packets that pretend to come from a servlet: what the perimeter filter exists to refuse.
//!
//! The attacker is strong: he knows every servlet's address, and all kinds but the guessing ones even carry a right key. Only
//! a form that the filter admits is never sent: {right source, right key, plain GRE, no options, no extension headers, whole}.

use crate::chance::Chance;
use crate::pace::Pace;
use crate::packet::{ip, ipv4_with};
use crate::{LabError, guard};
use polder_sock::{BURST, Burst};
use polder_wire::gre::GRE_PROTOCOL;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// An admitted pair.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Servlet's outer address.
    pub source: IpAddr,
    /// Its key.
    pub key: u32,
}

/// A spoofing run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the filter admits: per family at least one.
    pub pairs: Vec<Pair>,
    /// The gateway's outer addresses.
    pub targets: Vec<IpAddr>,
    /// Packets in all.
    pub count: u64,
    /// Packets a second.
    pub rate: u64,
    /// Seed of guesses.
    pub seed: u64,
}

/// What was sent.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Packets by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Packets in all.
    pub packets: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    GuessedKey,
    NearKey,
    WrongSource,
    BadFlags,
    BadInside,
    CutShort,
    NoGre,
    FirstFragment,
    LaterFragment,
    Options,
    HopByHop,
    DestinationOptions,
    FragmentHeader,
    NestedHeaders,
}

const V4: [Kind; 10] = [
    Kind::GuessedKey,
    Kind::NearKey,
    Kind::WrongSource,
    Kind::BadFlags,
    Kind::BadInside,
    Kind::CutShort,
    Kind::NoGre,
    Kind::FirstFragment,
    Kind::LaterFragment,
    Kind::Options,
];
const V6: [Kind; 11] = [
    Kind::GuessedKey,
    Kind::NearKey,
    Kind::WrongSource,
    Kind::BadFlags,
    Kind::BadInside,
    Kind::CutShort,
    Kind::NoGre,
    Kind::HopByHop,
    Kind::DestinationOptions,
    Kind::FragmentHeader,
    Kind::NestedHeaders,
];

impl Kind {
    const fn name(self, six: bool) -> &'static str {
        match (self, six) {
            (Kind::GuessedKey, false) => "guessed key, IPv4",
            (Kind::GuessedKey, true) => "guessed key, IPv6",
            (Kind::NearKey, false) => "key with one wrong bit, IPv4",
            (Kind::NearKey, true) => "key with one wrong bit, IPv6",
            (Kind::WrongSource, false) => "wrong source, right key, IPv4",
            (Kind::WrongSource, true) => "wrong source, right key, IPv6",
            (Kind::BadFlags, false) => "right key, other GRE flags, IPv4",
            (Kind::BadFlags, true) => "right key, other GRE flags, IPv6",
            (Kind::BadInside, false) => "right key, no IP inside, IPv4",
            (Kind::BadInside, true) => "right key, no IP inside, IPv6",
            (Kind::CutShort, false) => "GRE header cut short, IPv4",
            (Kind::CutShort, true) => "GRE header cut short, IPv6",
            (Kind::NoGre, false) => "another protocol, IPv4",
            (Kind::NoGre, true) => "another protocol, IPv6",
            (Kind::FirstFragment, _) => "right key, first fragment, IPv4",
            (Kind::LaterFragment, _) => "right key, later fragment, IPv4",
            (Kind::Options, _) => "right key, IPv4 options",
            (Kind::HopByHop, _) => "right key, hop-by-hop header, IPv6",
            (Kind::DestinationOptions, _) => "right key, destination options, IPv6",
            (Kind::FragmentHeader, _) => "right key, fragment header, IPv6",
            (Kind::NestedHeaders, _) => "right key, nested extension headers, IPv6",
        }
    }
}

/// Sends the packets. Errors: refused by the guard, nothing to imitate, or no raw socket here.
pub fn run(config: &Config) -> Result<Report, LabError> {
    let time = Duration::from_millis(config.count.saturating_mul(2000) / config.rate.max(1) + 10_000);
    guard::check(&config.targets, config.rate, time)?;
    let mut lines = Vec::new();
    for target in &config.targets {
        let pairs: Vec<Pair> = config.pairs.iter().filter(|pair| pair.source.is_ipv4() == target.is_ipv4()).cloned().collect();
        if pairs.is_empty() {
            return Err(LabError::Config(format!("no pair of the family of {target} to imitate")));
        }
        lines.push((*target, pairs, Burst::open(target.is_ipv6())?));
    }
    let (mut report, started, mut pace) = (Report::default(), Instant::now(), Pace::new(config.rate, time));
    let mut chance = Chance(config.seed);
    while report.packets < config.count && !lines.is_empty() {
        let Some(due) = pace.due() else { break };
        let mut due = due.min(config.count - report.packets);
        while due > 0 {
            let (target, pairs, socket) = &lines[(chance.draw() % lines.len() as u64) as usize];
            let batch: Vec<_> = (0..due.min(BURST as u64)).map(|_| packet(*target, pairs, &mut chance)).collect();
            due -= batch.len() as u64;
            send(socket, *target, batch, &mut report)?;
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Sends all of them, whatever the queue says: the experiment counts every one.
fn send(socket: &Burst, target: IpAddr, batch: Vec<(&'static str, Vec<u8>)>, report: &mut Report) -> Result<(), LabError> {
    let (names, packets): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let mut rest = packets.as_slice();
    while !rest.is_empty() {
        match socket.send(rest, SocketAddr::new(target, 0)) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS) => {
                std::thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
    for name in names {
        *report.kinds.entry(name).or_default() += 1;
        report.packets += 1;
    }
    Ok(())
}

fn packet(target: IpAddr, pairs: &[Pair], chance: &mut Chance) -> (&'static str, Vec<u8>) {
    let kinds: &[Kind] = if target.is_ipv4() { &V4 } else { &V6 };
    let kind = kinds[(chance.draw() % kinds.len() as u64) as usize];
    let pair = &pairs[(chance.draw() % pairs.len() as u64) as usize];
    (kind.name(target.is_ipv6()), spoil(kind, target, pair, pairs, chance))
}

fn spoil(kind: Kind, target: IpAddr, pair: &Pair, pairs: &[Pair], chance: &mut Chance) -> Vec<u8> {
    let random = chance.draw();
    let right = gre(0x2000, 0x0800, pair.key);
    match kind {
        Kind::GuessedKey => ip(pair.source, target, GRE_PROTOCOL, &gre(0x2000, 0x0800, guess(pair, pairs, random))),
        Kind::NearKey => {
            let near = pair.key ^ 1 << (random % 32);
            let key = if known(pair, pairs, near) { guess(pair, pairs, random) } else { near };
            ip(pair.source, target, GRE_PROTOCOL, &gre(0x2000, 0x86dd, key))
        }
        Kind::WrongSource => ip(stranger(target, random), target, GRE_PROTOCOL, &right),
        Kind::BadFlags => {
            let flags = random as u16;
            let flags = if flags == 0x2000 { 0xb000 } else { flags };
            ip(pair.source, target, GRE_PROTOCOL, &gre(flags, 0x0800, pair.key))
        }
        Kind::BadInside => {
            let inside = random as u16;
            let inside = if matches!(inside, 0x0800 | 0x86dd) { 0x6558 } else { inside };
            ip(pair.source, target, GRE_PROTOCOL, &gre(0x2000, inside, pair.key))
        }
        Kind::CutShort => ip(pair.source, target, GRE_PROTOCOL, &right[..(random % 8) as usize]),
        Kind::NoGre => {
            let protocol = [4, 6, 17, 41, 50, 115, 132, 137][(random % 8) as usize];
            ip(pair.source, target, protocol, &right)
        }
        Kind::FirstFragment => ipv4_with(pair.source, target, &[], 0x2000, GRE_PROTOCOL, &right),
        Kind::LaterFragment => ipv4_with(pair.source, target, &[], 1 + (random % 180) as u16, GRE_PROTOCOL, &right),
        Kind::Options => ipv4_with(pair.source, target, &vec![1; 4 * (1 + (random % 10) as usize)], 0, GRE_PROTOCOL, &right),
        Kind::HopByHop => chained(pair.source, target, &[0], random, &right),
        Kind::DestinationOptions => chained(pair.source, target, &[60], random, &right),
        Kind::FragmentHeader => chained(pair.source, target, &[44], random, &right),
        Kind::NestedHeaders => chained(pair.source, target, &[0, 60, 44], random, &right),
    }
}

/// A GRE header with a key and a small IPv4 packet.
fn gre(flags: u16, inside: u16, key: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend(flags.to_be_bytes());
    bytes.extend(inside.to_be_bytes());
    bytes.extend(key.to_be_bytes());
    bytes.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2]);
    bytes
}

fn known(pair: &Pair, pairs: &[Pair], key: u32) -> bool {
    pairs.iter().any(|other| other.source == pair.source && other.key == key)
}

fn guess(pair: &Pair, pairs: &[Pair], random: u64) -> u32 {
    let mut key = random as u32;
    while known(pair, pairs, key) {
        key = key.wrapping_add(1);
    }
    key
}

/// An address of the laboratory's that no host has: 198.18.128.0/17, 2001:db8:ffff::/48.
fn stranger(target: IpAddr, random: u64) -> IpAddr {
    match target {
        IpAddr::V4(_) => IpAddr::from([198, 18, 128 | (random >> 8) as u8, random as u8]),
        IpAddr::V6(_) => IpAddr::from(((0x2001_0db8_ffff_u128 << 80) | u128::from(random)).to_be_bytes()),
    }
}

/// Extension headers `chain` (0, 60: eight bytes of padding; 44: a fragment header) in front of GRE (RFC 8200 §4).
fn chained(source: IpAddr, target: IpAddr, chain: &[u8], random: u64, gre: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(8 * chain.len() + gre.len());
    for (index, header) in chain.iter().enumerate() {
        let next = chain.get(index + 1).copied().unwrap_or(GRE_PROTOCOL);
        match header {
            44 => {
                // An atomic fragment, a first one, or a later one.
                let field: u16 = [0, 1, 185 << 3][(random % 3) as usize];
                body.extend([next, 0]);
                body.extend(field.to_be_bytes());
                body.extend((random as u32).to_be_bytes());
            }
            _ => body.extend([next, 0, 1, 4, 0, 0, 0, 0]),
        }
    }
    body.extend(gre);
    ip(source, target, chain.first().copied().unwrap_or(GRE_PROTOCOL), &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(six: bool) -> Vec<Pair> {
        let source = if six { "2001:db8:18:5::7" } else { "198.18.5.7" };
        vec![Pair { source: source.parse().unwrap(), key: 0x1234_abcd }]
    }

    /// What the filter admits, read from the bytes alone.
    fn admitted(packet: &[u8], pairs: &[Pair]) -> bool {
        let (direct, source, gre) = match packet[0] >> 4 {
            4 => {
                let plain = packet[0] == 0x45 && (u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff) == 0 && packet[9] == 47;
                (plain, IpAddr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap()), &packet[20..])
            }
            _ => (packet[6] == 47, IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap()), &packet[40..]),
        };
        direct
            && gre.len() >= 8
            && gre[..2] == [0x20, 0]
            && [[8, 0], [0x86, 0xdd]].contains(&[gre[2], gre[3]])
            && pairs.iter().any(|pair| pair.source == source && pair.key.to_be_bytes() == gre[4..8])
    }

    #[test]
    fn nothing_is_spoofed_outside_the_laboratory() {
        let config = Config { pairs: pairs(false), targets: vec!["198.19.1.2".parse().unwrap()], count: 1, rate: 1, seed: 1 };
        assert!(matches!(run(&config), Err(LabError::Refused(_))));
        let config = Config { targets: vec!["192.0.2.1".parse().unwrap()], ..config };
        assert!(matches!(run(&config), Err(LabError::Refused(why)) if why.contains("192.0.2.1")));
    }

    #[test]
    fn no_packet_is_one_that_a_servlet_could_send_and_every_kind_is_sent() {
        for (six, target) in [(false, "198.19.1.2"), (true, "2001:db8:19:1::2")] {
            let (target, pairs, mut chance) = (target.parse().unwrap(), pairs(six), Chance(5));
            let drawn: Vec<_> = (0..20_000).map(|_| packet(target, &pairs, &mut chance)).collect();
            assert!(drawn.iter().all(|(_, packet)| !admitted(packet, &pairs)));
            let names: std::collections::HashSet<_> = drawn.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), if six { V6.len() } else { V4.len() });
            assert!(drawn.iter().all(|(_, packet)| crate::fabric::destination(packet) == Some(target)));
        }
        let right = ip(pairs(false)[0].source, "198.19.1.2".parse().unwrap(), 47, &gre(0x2000, 0x0800, 0x1234_abcd));
        assert!(admitted(&right, &pairs(false)));
    }
}
