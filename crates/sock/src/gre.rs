//! Our own GRE endpoint: packets between a TUN device and raw sockets, for kernels without a GRE device and with a stricter door.
//!
//! Outward: the inner destination chooses the peer; its key goes in front. Inward, cheapest check first: header as we speak
//! it, {outer source, key} known, inner source one of that peer's, inner destination one of ours. One thread, no allocation per packet but the batch lists;
//! peers are swapped whole between batches. What cannot be sent is dropped and counted, as on any link.

use crate::{Inbox, Interest, Ready, send_batch};
use polder_types::{GreConfig, Prefix};
use polder_wire::gre::{GRE_HEADER, clamp_mss, decode, encode, endpoints, strip_ipv4};
use socket2::SockAddr;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Packets per direction before the other one has its turn.
const BATCH: usize = 64;
/// Bytes of the largest packet: jumbo frames with headers.
const PACKET: usize = 9216;
const TUN: u64 = 0;
const RAW4: u64 = 1;
const RAW6: u64 = 2;
const WAKE: u64 = 3;

/// Why an endpoint cannot be.
#[derive(Debug, thiserror::Error)]
pub enum GreError {
    /// The configuration contradicts itself: whose fault, and how to mend it.
    #[error("{0}")]
    Config(String),
    /// The system said no.
    #[error("GRE endpoint: {0}")]
    System(#[from] io::Error),
}

polder_meter::counts! {
    /// Plain counters of an endpoint since its birth.
    pub struct GreCounters, prefix "";
    /// Packets sent to peers.
    gre_sent_packets,
    /// Inner bytes sent to peers.
    gre_sent_bytes,
    /// Packets taken from peers.
    gre_received_packets,
    /// Inner bytes taken from peers.
    gre_received_bytes,
    /// Packets for an inner address that is behind no peer.
    gre_no_peer,
    /// Packets that could not be sent: buffers full, no route.
    gre_send_failed,
    /// Packets refused: not GRE with a key and IP inside.
    gre_bad_header,
    /// Packets refused: {outer source, key} unknown.
    gre_unknown_pair,
    /// Packets refused: a known peer used an inner source that is not its own.
    gre_foreign_inner,
    /// Packets refused: a known peer sent to an inner destination that is not ours.
    gre_foreign_target,
    /// Packets that the device did not take.
    gre_write_failed,
    /// SYNs whose MSS was lowered.
    gre_mss_clamped,
}

/// Peers compiled for lookup.
struct Table {
    mtu: u16,
    peers: Vec<(SockAddr, bool, u32, Vec<Prefix>)>,
    inward: HashMap<(IpAddr, u32), usize>,
    hosts: HashMap<IpAddr, usize>,
    networks: Vec<(Prefix, usize)>,
    accept: Vec<Prefix>,
}

impl Table {
    fn new(config: &GreConfig) -> Result<Self, GreError> {
        let wrong = |text: String| Err(GreError::Config(text));
        if config.schema != polder_types::SCHEMA || !(1280..=9000).contains(&config.mtu) {
            return wrong(format!("GRE endpoint: schema {} or MTU {} out of range (1280 to 9000)", config.schema, config.mtu));
        }
        let mut table = Table {
            mtu: config.mtu,
            peers: vec![],
            inward: HashMap::new(),
            hosts: HashMap::new(),
            networks: vec![],
            accept: config.accept.clone(),
        };
        for (index, peer) in config.peers.iter().enumerate() {
            for key in &peer.accept_keys {
                if table.inward.insert((peer.outer, *key), index).is_some() {
                    return wrong(format!("two tunnels come from {} with the same key: give them different keys", peer.outer));
                }
            }
            for prefix in &peer.inner {
                let taken = match prefix.host() {
                    Some(host) => table.hosts.insert(host, index).is_some(),
                    None => {
                        let taken = table.networks.iter().any(|(other, _)| other == prefix);
                        table.networks.push((*prefix, index));
                        taken
                    }
                };
                if taken {
                    return wrong(format!("inner network {prefix} stands behind two peers: it can be behind one"));
                }
            }
            let to = SockAddr::from(SocketAddr::new(peer.outer, 0));
            table.peers.push((to, peer.outer.is_ipv4(), peer.send_key, peer.inner.clone()));
        }
        table.networks.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.length()));
        Ok(table)
    }

    fn behind(&self, inner: IpAddr) -> Option<usize> {
        let network = || self.networks.iter().find(|(prefix, _)| prefix.contains(inner)).map(|(_, index)| *index);
        self.hosts.get(&inner).copied().or_else(network)
    }
}

/// A running endpoint. Dropping it stops it.
pub struct GreEndpoint {
    table: Arc<Mutex<Arc<Table>>>,
    counters: Arc<GreCounters>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl GreEndpoint {
    /// Starts carrying between `tun` (no packet information) and the raw GRE sockets, which it owns from now on.
    pub fn start(tun: OwnedFd, raw4: Option<OwnedFd>, raw6: Option<OwnedFd>, config: &GreConfig) -> Result<Self, GreError> {
        let table = Arc::new(Mutex::new(Arc::new(Table::new(config)?)));
        let counters = Arc::new(GreCounters::default());
        let (wake, woken) = UnixStream::pair()?;
        let ready = Ready::new()?;
        ready.add(tun.as_fd(), TUN, Interest::Read)?;
        ready.add(woken.as_fd(), WAKE, Interest::Read)?;
        for (socket, token) in [(&raw4, RAW4), (&raw6, RAW6)] {
            if let Some(socket) = socket {
                ready.add(socket.as_fd(), token, Interest::Read)?;
            }
        }
        let mut pump = Pump {
            tun: File::from(tun),
            raw4,
            raw6,
            table: table.clone(),
            counters: counters.clone(),
            scratch: vec![0; BATCH * PACKET],
        };
        let thread = std::thread::Builder::new().name("polder-gre".to_owned()).spawn(move || {
            pump.run(&ready);
            drop(woken);
        })?;
        Ok(GreEndpoint { table, counters, wake, thread: Some(thread) })
    }

    /// Puts other peers in force from the next batch on. Errors: the configuration; the old one stays.
    pub fn update(&self, config: &GreConfig) -> Result<(), GreError> {
        let fresh = Arc::new(Table::new(config)?);
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Counters since birth.
    pub fn counters(&self) -> &GreCounters {
        &self.counters
    }

    /// Whether it still carries: false after `stop`, or when its device went away.
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops carrying and closes the descriptors; returns when the thread has ended.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Either the byte or the shutdown wakes the thread; an error means that it has gone already.
            let _ = self.wake.shutdown(std::net::Shutdown::Both);
            let _ = thread.join();
        }
    }
}

impl Drop for GreEndpoint {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Pump {
    tun: File,
    raw4: Option<OwnedFd>,
    raw6: Option<OwnedFd>,
    table: Arc<Mutex<Arc<Table>>>,
    counters: Arc<GreCounters>,
    scratch: Vec<u8>,
}

impl Pump {
    fn run(&mut self, ready: &Ready) {
        let mut inbox = Inbox::new(BATCH, PACKET);
        let mut tokens = Vec::new();
        while ready.wait(&mut tokens, None).is_ok() {
            let table = self.table.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for token in &tokens {
                match *token {
                    TUN if self.outward(&table).is_err() => return, // the device is gone for good: `alive` tells
                    TUN => {}
                    RAW4 => self.inward(&table, &mut inbox, true),
                    RAW6 => self.inward(&table, &mut inbox, false),
                    _ => return,
                }
            }
        }
    }

    /// From the device to the peers: read a batch, put headers in front, send per family.
    fn outward(&mut self, table: &Table) -> io::Result<()> {
        let mut packets: [Vec<(usize, usize, usize)>; 2] = [Vec::new(), Vec::new()];
        for slot in 0..BATCH {
            let at = slot * PACKET;
            let Some(room) = self.scratch.get_mut(at..at + PACKET) else { break };
            let length = match self.tun.read(&mut room[GRE_HEADER..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()), // a device never says so; a socket in its place does
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let Some((index, family)) = self.frame(table, at, length) else { continue };
            packets[family].push((index, at, GRE_HEADER + length));
        }
        let [four, six] = &packets;
        self.send(table, self.raw4.as_ref().map(AsFd::as_fd), four);
        self.send(table, self.raw6.as_ref().map(AsFd::as_fd), six);
        Ok(())
    }

    /// Puts the header in front of the packet at `at`; returns its peer and the family (0: IPv4, 1: IPv6) of the socket.
    fn frame(&mut self, table: &Table, at: usize, length: usize) -> Option<(usize, usize)> {
        let (header, inside) = self.scratch.get_mut(at..at + GRE_HEADER + length)?.split_first_chunk_mut::<GRE_HEADER>()?;
        let peer = endpoints(inside).and_then(|(_, to)| table.behind(to));
        let Some(index) = peer else {
            self.counters.gre_no_peer.up();
            return None;
        };
        let (_, is_v4, key, _) = table.peers.get(index)?;
        *header = encode(*key, inside).ok()?;
        if clamp_mss(inside, table.mtu) {
            self.counters.gre_mss_clamped.up();
        }
        Some((index, usize::from(!is_v4)))
    }

    fn send(&self, table: &Table, socket: Option<BorrowedFd<'_>>, packets: &[(usize, usize, usize)]) {
        let ready: Vec<(&[u8], &SockAddr)> = packets
            .iter()
            .filter_map(|(index, at, length)| Some((self.scratch.get(*at..at + length)?, &table.peers.get(*index)?.0)))
            .collect();
        let mut rest = ready.as_slice();
        while let (Some(socket), false) = (socket, rest.is_empty()) {
            // One packet that cannot go (no route, buffer full) must not hold up those behind it.
            let gone = send_batch(socket, rest).unwrap_or(0);
            let bytes: usize = rest.iter().take(gone).map(|(packet, _)| packet.len() - GRE_HEADER).sum();
            self.counters.gre_sent_packets.add(gone as u64);
            self.counters.gre_sent_bytes.add(bytes as u64);
            if gone == 0 {
                self.counters.gre_send_failed.up();
            }
            rest = rest.get(gone.max(1)..).unwrap_or_default();
        }
        if socket.is_none() {
            self.counters.gre_send_failed.add(packets.len() as u64);
        }
    }

    /// From the peers to the device.
    fn inward(&self, table: &Table, inbox: &mut Inbox, is_v4: bool) {
        let Some(socket) = (if is_v4 { &self.raw4 } else { &self.raw6 }) else { return };
        // An error here is about one datagram or a passing state of a link (ENETDOWN): the socket lives on.
        let count = inbox.receive(socket.as_fd()).unwrap_or(0);
        for index in 0..count {
            let Some((packet, from)) = inbox.datagram(index) else { break };
            if let Some(inside) = self.admit(table, packet, from, is_v4) {
                let length = inside.len() as u64;
                match (&self.tun).write_all(inside) {
                    Ok(()) => {
                        self.counters.gre_received_packets.up();
                        self.counters.gre_received_bytes.add(length);
                    }
                    Err(_) => self.counters.gre_write_failed.up(),
                }
            }
        }
    }

    fn admit<'a>(&self, table: &Table, packet: &'a mut [u8], from: IpAddr, is_v4: bool) -> Option<&'a [u8]> {
        let counters = &self.counters;
        // A raw IPv4 socket hands over the outer header, a raw IPv6 socket does not (raw(7), RFC 3542 §3).
        let gre = if is_v4 { strip_ipv4(packet) } else { Ok(packet) };
        let Ok((key, inside)) = gre.and_then(decode) else {
            counters.gre_bad_header.up();
            return None;
        };
        let Some((_, _, _, inner)) = table.inward.get(&(from, key)).and_then(|index| table.peers.get(*index)) else {
            counters.gre_unknown_pair.up();
            return None;
        };
        let (source, target) = endpoints(inside)?; // `decode` saw a whole header, so there are addresses
        if !inner.iter().any(|prefix| prefix.contains(source)) {
            counters.gre_foreign_inner.up();
            return None;
        }
        if !table.accept.is_empty() && !table.accept.iter().any(|prefix| prefix.contains(target)) {
            counters.gre_foreign_target.up();
            return None;
        }
        if clamp_mss(inside, table.mtu) {
            counters.gre_mss_clamped.up();
        }
        Some(inside)
    }
}
