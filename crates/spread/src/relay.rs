//! A relay: proves packets and passes them on, rewritten where they lie.
//!
//! Checks in the order of their cost; each refusal is counted and never answered. What a stranger sends costs a fixed number of
//! derivations; what carries a known session's name costs one authentication.

use crate::ids::{Members, Micros, NodeId, SessionId};
use crate::keys::{Aead, Deriver, Key32, voucher};
use crate::packet::{Head, Leg, Rewrite, SEALED, covered};
use crate::place::ReturnAddress;
use crate::relay_entry::{Entry, Key, Way};
use polder_meter::counts;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

counts! {
    /// What a relay has done.
    pub struct Counters, prefix "spread_";
    /// Datagrams passed on from users to servlets.
    out_packets,
    /// Bytes passed on from users to servlets.
    out_bytes,
    /// Datagrams passed on from servlets to users.
    back_packets,
    /// Bytes passed on from servlets to users.
    back_bytes,
    /// Datagrams of sessions that end at this node.
    here_packets,
    /// Datagrams refused: too short, or of no kind that relays know.
    refused_form,
    /// Datagrams refused: their time is too far from ours, or lies before this relay's start.
    refused_time,
    /// Datagrams refused: no key of that epoch is in force.
    refused_epoch,
    /// Datagrams refused: their seal is not right.
    refused_seal,
    /// Datagrams refused: their destination is not sealed by an issuer for this relay, or is no member.
    refused_destination,
    /// Datagrams refused: their member list is neither the current nor the previous one.
    refused_members,
    /// Datagrams refused: they were not meant for this relay.
    refused_place,
    /// Datagrams refused: the session's ticket has ended, or has not begun.
    refused_expired,
    /// Datagrams refused: the session uses numbers faster than its ticket allows.
    refused_pace,
    /// Datagrams refused: the session sends faster than its ticket allows.
    refused_rate,
    /// Datagrams refused: seen before, or older than the window remembers.
    refused_seen,
    /// Datagrams refused: their return address is not this relay's word, or too old.
    refused_return,
    /// Datagrams refused: no room for another session.
    refused_full,
    /// Sessions that the relay remembers now, each direction.
    sessions_open,
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Too short, or of no known kind.
    Form,
    /// Its time is too far from ours, or lies before our start.
    Time,
    /// No key of that epoch is in force.
    Epoch,
    /// Wrong seal.
    Seal,
    /// Its destination was not sealed for us, or is no member.
    Destination,
    /// Unknown member list.
    Members,
    /// Meant for another relay.
    Place,
    /// The ticket's time is over, or has not come.
    Expired,
    /// Numbers used too fast.
    Pace,
    /// Too many bytes.
    Rate,
    /// Seen before.
    Seen,
    /// Not our return address, or too old.
    Return,
    /// No room.
    Full,
}

/// A relay's key of one epoch, ready for use.
pub struct Epoch {
    /// Number; packets carry it modulo 256.
    pub number: u32,
    /// From when it is taken.
    pub begins: Micros,
    /// Until when: the end of the epoch and its grace.
    pub ends: Micros,
    pub(crate) deriver: Deriver,
}

impl Epoch {
    /// From the epoch key E.
    pub fn new(number: u32, key: &Key32, begins: Micros, ends: Micros) -> Self {
        Epoch { number, begins, ends, deriver: Deriver::new(key) }
    }

    pub(crate) fn peer(&self, node: NodeId) -> Key32 {
        self.deriver.whole("polder peer", &[&node.0.to_be_bytes()])
    }

    /// Seals a session's return addresses.
    pub(crate) fn returns(&self, session: SessionId) -> Option<Aead> {
        Aead::new(&self.deriver.half("polder address", &[&session.0]))
    }
}

/// Everything that a relay must know; replaced whole.
pub struct RelayConfig {
    /// This node.
    pub me: NodeId,
    /// Keys in force: current, previous within its grace, next.
    pub epochs: Vec<Epoch>,
    /// The current member list, then the previous one.
    pub members: Vec<Arc<Members>>,
    /// Most sessions, each direction counted. Memory: 1.5 KiB each.
    pub sessions: usize,
    /// Most that a packet's time may differ from ours.
    pub span: Duration,
    /// How long a reply may use the address that a user's packet came from.
    pub return_age: Duration,
}

impl RelayConfig {
    pub(crate) fn list(&self, version: u8) -> Option<&Members> {
        self.members.iter().find(|members| members.version() as u8 == version).map(Arc::as_ref)
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.members.iter().find_map(|members| members.address(node))
    }

    fn epoch(&self, number: u8, now: Micros) -> Option<&Epoch> {
        let live = |epoch: &&Epoch| epoch.number as u8 == number && epoch.begins <= now + self.span && now <= epoch.ends;
        self.epochs.iter().find(live)
    }
}

/// Where datagrams go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To that address.
    Peer(SocketAddr),
    /// To the servlet end in this process.
    Here,
}

/// Neighbouring datagrams of a buffer with one destination: `segment` bytes each, the last may be shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where to.
    pub to: To,
    /// Where they lie.
    pub range: Range<usize>,
    /// Bytes of each.
    pub segment: usize,
}

/// One relay.
pub struct Relay {
    config: RelayConfig,
    /// Counts configurations: entries checked against an older one are checked again.
    version: u64,
    born: Micros,
    sealed: u32,
    entries: Vec<Entry>,
    index: HashMap<Key, usize>,
    last: Option<(Key, usize)>,
    swept: Micros,
    counters: Arc<Counters>,
}

impl Relay {
    /// A relay that starts now. `salt` is drawn by chance: return addresses are counted from there, so that two processes of
    /// one relay do not count alike.
    pub fn new(config: RelayConfig, salt: u32, now: Micros, counters: Arc<Counters>) -> Self {
        Relay {
            config,
            version: 0,
            born: now,
            sealed: salt,
            entries: Vec::new(),
            index: HashMap::new(),
            last: None,
            swept: now,
            counters,
        }
    }

    /// Puts another configuration in force; windows stay.
    pub fn configure(&mut self, config: RelayConfig) {
        self.config = config;
        self.version += 1;
    }

    /// Proves the datagrams in `buffer` (`segment` bytes each, the last may be shorter), rewrites those that pass, and says in
    /// `out` where they go, in their order.
    pub fn handle(&mut self, now: Micros, from: SocketAddr, buffer: &mut [u8], segment: usize, out: &mut Vec<Forward>) {
        if buffer.is_empty() {
            self.count(Refusal::Form); // an empty datagram is one, too
        }
        let segment = segment.max(1);
        let mut start = 0;
        for packet in buffer.chunks_mut(segment) {
            let range = start..start + packet.len();
            start = range.end;
            match self.pass(now, from, packet) {
                Ok(to) => join(out, Forward { to, range, segment }),
                Err(refusal) => self.count(refusal),
            }
        }
    }

    /// Proves and rewrites one datagram.
    pub fn pass(&mut self, now: Micros, from: SocketAddr, packet: &mut [u8]) -> Result<To, Refusal> {
        let head = Head::read(packet).ok_or(Refusal::Form)?;
        let back = match head.leg {
            Leg::Out => false,
            Leg::Back => true,
            Leg::Onward => {
                self.counters.here_packets.up();
                return Ok(To::Here);
            }
            Leg::Home => return Err(Refusal::Form),
        };
        self.timely(&head, now)?;
        let key = (back, head.session, head.party);
        let at = match self.find(&key) {
            Some(at) if self.holds(at, &head, now) => {
                let entry = &self.entries[at];
                if !entry.window.is_new(head.number) {
                    return Err(Refusal::Seen);
                }
                if !entry.mac.verify(head.nonce(), covered(packet), head.seal) {
                    return Err(Refusal::Seal);
                }
                at
            }
            known => self.derive(key, known, &head, packet, now)?,
        };
        self.last = Some((key, at));
        self.go(at, &head, from, packet, now)
    }

    fn timely(&self, head: &Head, now: Micros) -> Result<(), Refusal> {
        let span = i64::try_from(self.config.span.as_micros()).unwrap_or(i64::MAX);
        let age = now.tick().micros_since(head.time);
        // what the process before this one has seen is not known here
        let deaf = now.since(self.born) < 2 * self.config.span && head.time.micros_since(self.born.tick()) < span;
        if age.abs() > span || deaf { Err(Refusal::Time) } else { Ok(()) }
    }

    fn find(&self, key: &Key) -> Option<usize> {
        match &self.last {
            Some((last, at)) if last == key => Some(*at),
            _ => self.index.get(key).copied(),
        }
    }

    /// Whether what the entry knows is what this packet says, and still in force.
    fn holds(&self, at: usize, head: &Head, now: Micros) -> bool {
        let entry = &self.entries[at];
        entry.sealed == head.sealed && entry.epoch == head.epoch && entry.checked == self.version && now <= entry.epoch_ends
    }

    /// Derives the keys anew and keeps them if they prove the packet.
    fn derive(&mut self, key: Key, known: Option<usize>, head: &Head, packet: &[u8], now: Micros) -> Result<usize, Refusal> {
        let epoch = self.config.epoch(head.epoch, now).ok_or(Refusal::Epoch)?;
        let mut entry = if key.0 {
            // a node that left the list is no servlet any more
            let servlet = NodeId(u64::from_be_bytes(head.party));
            self.config.address(servlet).ok_or(Refusal::Return)?;
            Entry::back(self.version, epoch, head, now)?
        } else {
            Entry::out(&self.config, self.version, epoch, head, now)?
        };
        if !entry.mac.verify(head.nonce(), covered(packet), head.seal) {
            return Err(Refusal::Seal);
        }
        if let Some(at) = known {
            std::mem::swap(&mut self.entries[at], &mut entry);
            self.entries[at].inherit(entry);
            return Ok(at);
        }
        if self.entries.len() >= self.config.sessions {
            self.sweep(now);
        }
        if self.entries.len() >= self.config.sessions {
            return Err(Refusal::Full);
        }
        self.counters.sessions_open.up();
        self.entries.push(entry);
        self.index.insert(key, self.entries.len() - 1);
        Ok(self.entries.len() - 1)
    }

    /// The packet is proved: may it go, and where to?
    fn go(&mut self, at: usize, head: &Head, from: SocketAddr, packet: &mut [u8], now: Micros) -> Result<To, Refusal> {
        let entry = &mut self.entries[at];
        let to = match &mut entry.way {
            Way::Out(out) => {
                if !entry.window.is_new(head.number) {
                    return Err(Refusal::Seen);
                }
                out.admit(&self.config, head, packet.len(), now)?;
                let fresh = out.from.is_some_and(|(known, at)| known == from && now.since(at) < self.config.return_age / 8);
                if !fresh {
                    let servlet = out.destination.servlet;
                    let sealed =
                        ReturnAddress::seal(&out.returns, head.session, servlet, from, now, self.sealed).ok_or(Refusal::Seal)?;
                    self.sealed = self.sealed.wrapping_add(1);
                    out.rewrite.seal = voucher(&out.peer, head.session, self.config.me, &sealed);
                    out.rewrite.sealed = sealed;
                    out.from = Some((from, now));
                }
                self.counters.out_packets.up();
                self.counters.out_bytes.add(packet.len() as u64);
                out.rewrite.over(packet);
                out.to
            }
            Way::Back(back) => {
                let age = (now.secs() as u32).wrapping_sub(back.sealed_at);
                if u64::from(age) > self.config.return_age.as_secs() {
                    return Err(Refusal::Return);
                }
                self.counters.back_packets.up();
                self.counters.back_bytes.add(packet.len() as u64);
                let party = self.config.me.0.to_be_bytes();
                Rewrite { seal: [0; 16], leg: Leg::Home, party, sealed: [0; SEALED] }.over(packet);
                back.to
            }
        };
        if !entry.window.take(head.number) {
            return Err(Refusal::Seen);
        }
        entry.used = now;
        Ok(To::Peer(to))
    }

    /// Forgets sessions that have been idle for so long that nothing of them could be replayed. At most once a second; called
    /// when the table is full, and now and then.
    pub fn sweep(&mut self, now: Micros) {
        if now.since(self.swept) < Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        self.last = None;
        let idle = 3 * self.config.span;
        let mut kept = Vec::with_capacity(self.entries.len());
        let mut places = vec![None; self.entries.len()];
        for (at, entry) in self.entries.drain(..).enumerate() {
            if now.since(entry.used) < idle {
                places[at] = Some(kept.len());
                kept.push(entry);
            }
        }
        self.entries = kept;
        self.index.retain(|_, at| match places.get(*at).copied().flatten() {
            Some(new) => {
                *at = new;
                true
            }
            None => false,
        });
        let gone = places.iter().filter(|place| place.is_none()).count();
        self.counters.sessions_open.drop_by(gone as u64);
    }

    fn count(&self, refusal: Refusal) {
        let counters = &self.counters;
        match refusal {
            Refusal::Form => &counters.refused_form,
            Refusal::Time => &counters.refused_time,
            Refusal::Epoch => &counters.refused_epoch,
            Refusal::Seal => &counters.refused_seal,
            Refusal::Destination => &counters.refused_destination,
            Refusal::Members => &counters.refused_members,
            Refusal::Place => &counters.refused_place,
            Refusal::Expired => &counters.refused_expired,
            Refusal::Pace => &counters.refused_pace,
            Refusal::Rate => &counters.refused_rate,
            Refusal::Seen => &counters.refused_seen,
            Refusal::Return => &counters.refused_return,
            Refusal::Full => &counters.refused_full,
        }
        .up();
    }
}

/// Lengthens the last run where the new datagram continues it.
fn join(out: &mut Vec<Forward>, new: Forward) {
    if let Some(last) = out.last_mut()
        && last.to == new.to
        && last.range.end == new.range.start
        && (last.range.end - last.range.start) % last.segment == 0
    {
        last.range.end = new.range.end;
        return;
    }
    out.push(new);
}
