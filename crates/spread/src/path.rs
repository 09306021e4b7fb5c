//! A session's paths: one per relay, with the keys of each generation.

use crate::health::{Band, Health, State, Tally};
use crate::ids::{Members, Micros, NodeId};
use crate::keys::{Aead, Key32, voucher};
use crate::packet::{BLOCK, SEALED};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A path as users see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// Relay.
    pub relay: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// How it stands.
    pub state: State,
    /// Share of the traffic that goes there, 0 to 1.
    pub weight: f64,
    /// Part of our packets that does not arrive, of late.
    pub loss: f64,
    /// How much longer than over the fastest path a packet takes, µs.
    pub delay_us: Option<u32>,
    /// Packets that we sent.
    pub sent: u32,
    /// Packets that came in.
    pub received: u32,
    /// Of these, had come over another relay before.
    pub duplicates: u32,
    /// Longest packet that is known to pass, bytes.
    pub mtu: u16,
}

/// One relay.
pub(crate) struct Path {
    pub id: NodeId,
    pub address: SocketAddr,
    pub health: Health,
    pub tally: Tally,
    pub probe: MtuProbe,
}

impl Path {
    fn new(id: NodeId, address: SocketAddr) -> Self {
        Path { id, address, health: Health::default(), tally: Tally::default(), probe: MtuProbe::default() }
    }
}

/// The search for the longest packet that passes a path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MtuProbe {
    /// Steps of [`LADDER`] given up, from the top.
    down: u8,
    tries: u8,
    next: Micros,
}

/// Least that every path must carry: a QUIC packet of 1,200 bytes (RFC 9000 §14), also as part of a repair.
pub(crate) const LEAST: u16 = 1200 + (crate::OVERHEAD + crate::fec::LENGTH) as u16;
/// Lengths tried below the largest: what common links leave of their MTU.
const LADDER: [u16; 5] = [1472, 1452, 1432, 1412, 1372];
/// Between two tries, and how many of one length.
const TRY: (Duration, u8) = (Duration::from_millis(300), 3);

impl MtuProbe {
    fn candidate(&self, largest: u16) -> Option<u16> {
        std::iter::once(largest).chain(LADDER.into_iter().filter(|&size| size < largest)).nth(usize::from(self.down))
    }

    /// The length to try now, if any; `confirmed` passes already.
    pub(crate) fn due(&mut self, confirmed: u16, largest: u16, now: Micros) -> Option<u16> {
        let size = self.candidate(largest).filter(|&size| size > confirmed.max(LEAST))?;
        if now < self.next {
            return None;
        }
        self.next = now + TRY.0;
        self.tries += 1;
        if self.tries > TRY.1 {
            (self.tries, self.down) = (0, self.down + 1);
            return None;
        }
        Some(size)
    }

    /// When it wants to be asked again, if ever.
    pub(crate) fn next(&self, confirmed: u16, largest: u16) -> Option<Micros> {
        self.candidate(largest).filter(|&size| size > confirmed.max(LEAST)).map(|_| self.next)
    }
}

/// What one generation's packets to one relay need.
pub(crate) enum PathKeys {
    /// At the user's end.
    User { epoch: u8, mac: Aead, grant: [u8; 8], destination: [u8; SEALED] },
    /// At the servlet: keys of each epoch, and the way back.
    Servlet { keys: Vec<Epoch>, back: Option<Back> },
}

pub(crate) struct Epoch {
    pub epoch: u8,
    pub peer: Key32,
}

/// A return address that a relay vouched for.
pub(crate) struct Back {
    pub epoch: u8,
    pub mac: Aead,
    pub sealed: [u8; SEALED],
    pub voucher: [u8; 16],
    pub heard: Micros,
}

impl PathKeys {
    /// Whether packets can go this way now.
    pub(crate) fn usable(&self, now: Micros, age: Duration) -> bool {
        match self {
            PathKeys::User { .. } => true,
            PathKeys::Servlet { back, .. } => back.as_ref().is_some_and(|back| now.since(back.heard) < age),
        }
    }

    /// Takes a relay's word about the way back; false if it is not that relay's.
    pub(crate) fn vouch(
        &mut self,
        generation: &crate::ids::SessionId,
        relay: NodeId,
        head: &crate::packet::Head,
        now: Micros,
    ) -> bool {
        let PathKeys::Servlet { keys, back } = self else { return false };
        if let Some(known) = back
            && known.epoch == head.epoch
            && known.sealed == head.sealed
            && known.voucher == head.seal
        {
            known.heard = now;
            return true;
        }
        let Some(key) = keys.iter().find(|key| key.epoch == head.epoch) else { return false };
        let right = voucher(&key.peer, *generation, relay, &head.sealed);
        if aws_lc_rs::constant_time::verify_slices_are_equal(&right, &head.seal).is_err() {
            return false;
        }
        // an older word than the one in use does not replace it
        let made = |sealed: &[u8; SEALED]| u32::from_be_bytes([sealed[0], sealed[1], sealed[2], sealed[3]]);
        if back.as_ref().is_some_and(|known| (made(&head.sealed).wrapping_sub(made(&known.sealed)) as i32) < 0) {
            return true;
        }
        let Some(mac) = Aead::new(&crate::keys::return_key(&key.peer, *generation)) else { return false };
        *back = Some(Back { epoch: head.epoch, mac, sealed: head.sealed, voucher: head.seal, heard: now });
        true
    }
}

/// A member list, and which path is which of its relays.
pub(crate) struct List {
    pub members: Arc<Members>,
    pub paths: Vec<u16>,
    /// From when it is used to send.
    pub from: Micros,
}

/// All paths and lists of a session.
pub(crate) struct Paths {
    pub all: Vec<Path>,
    index: HashMap<NodeId, usize>,
    /// Newest first.
    pub lists: Vec<List>,
}

/// Paths that stay in use however much slower than the best they are: one dead relay must not leave a session without.
const FEW: usize = 3;
/// Least scale of delays, µs: clocks of relays and ends see no finer.
const SHARP: f64 = 500.0;
/// Lists that a packet may name.
const LISTS: usize = 3;
/// How long relays have to learn of a new list before we use it: they take the previous one as well.
const SETTLE: Duration = Duration::from_secs(5);

impl Paths {
    pub(crate) fn new(members: Arc<Members>, now: Micros) -> Self {
        let mut paths = Paths { all: Vec::new(), index: HashMap::new(), lists: Vec::new() };
        paths.add(members, now);
        paths
    }

    fn add(&mut self, members: Arc<Members>, from: Micros) {
        let mut paths = Vec::with_capacity(members.list().len());
        for member in members.list() {
            let all = &mut self.all;
            let at = *self.index.entry(member.id).or_insert_with(|| {
                all.push(Path::new(member.id, member.address));
                all.len() - 1
            });
            all[at].address = member.address;
            paths.push(at as u16);
        }
        self.lists.insert(0, List { members, paths, from });
        self.lists.truncate(LISTS);
    }

    /// Another list; used when relays have had time to learn of it.
    pub(crate) fn set(&mut self, members: Arc<Members>, now: Micros) {
        if self.lists.first().is_none_or(|list| list.members.version() != members.version()) {
            self.add(members, now + SETTLE);
        }
    }

    /// The list that packets are sent by.
    pub(crate) fn current(&self, now: Micros) -> &List {
        let settled = self.lists.iter().find(|list| list.from <= now);
        settled.unwrap_or(&self.lists[self.lists.len() - 1])
    }

    /// The path of a relay.
    pub(crate) fn find(&self, id: NodeId) -> Option<usize> {
        self.index.get(&id).copied()
    }

    /// Delays that are fit: near the least, but so that [`FEW`] live paths are among them.
    pub(crate) fn band(&self, rtt: f64, share: f64) -> Band {
        let live = self.all.iter().filter(|path| path.health.state == State::Live);
        let mut delays: Vec<i32> = live.filter_map(|path| path.health.delay).collect();
        delays.sort_unstable();
        let best = delays.first().copied().unwrap_or_default();
        let few = delays.get(FEW - 1).or(delays.last()).copied().unwrap_or_default();
        let wide = (rtt / 4.0).max(12_000.0) as i32;
        Band { best, scale: (rtt * share).max(SHARP), last: few.max(best.saturating_add(wide)) }
    }
}

/// Where a packet may go: rank and path.
pub(crate) type Pick = (u8, u16);

/// Packets in a row with one block, and so with one choice of relays.
#[derive(Debug)]
pub(crate) struct OpenRun {
    block: u64,
    offset: u64,
    limit: u64,
    /// The relay of each packet, then those of copies.
    pub picks: Vec<Pick>,
    /// A path that gets a copy of the next packet, to try it.
    pub probe: Option<Pick>,
}

impl OpenRun {
    pub(crate) fn new(block: u64, limit: u8, picks: Vec<Pick>, probe: Option<Pick>) -> Self {
        OpenRun { block, offset: 0, limit: u64::from(limit).clamp(1, BLOCK), picks, probe }
    }

    /// The next number; `None` when the run is over.
    pub(crate) fn next(&mut self) -> Option<u64> {
        let number = self.block * BLOCK + self.offset;
        self.offset += 1;
        (self.offset <= self.limit).then_some(number)
    }
}
