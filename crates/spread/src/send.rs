//! The sending half of a session: numbers, runs, copies, repairs, probes, feedback.

use crate::choice::REACH;
use crate::config::RunLength;
use crate::control::{Control, MOST};
use crate::end::{Inner, Kind};
use crate::health::State;
use crate::ids::Micros;
use crate::outbox::Outbox;
use crate::packet::{HEAD, Head, Leg, OVERHEAD, SEAL, covered, put_seal};
use crate::path::{OpenRun, PathKeys, Pick};
use crate::session::{Generation, Role, Session};
use std::time::Duration;

/// Blocks that are looked at for one with a fit relay: of 80 relays a given one is within reach of one block in ten.
const TRIES: u64 = 64;
/// Blocks that are looked at for one with a fit relay for each copy as well.
const GENEROUS: u64 = 8;
/// One run leaves out at most this part of the blocks that the pace still allows.
const THRIFT: u64 = 64;
/// A path is fit whose weight is this part of the greatest one: a lone packet that takes it is late by little.
const FIT: f64 = 0.05;
/// A path that carried nothing for so long gets a copy, to keep its delay and its way back known.
const TOUCH: Duration = Duration::from_secs(2);
/// How long a group waits to fill up before its repairs go.
const GROUP_WAIT: Duration = Duration::from_millis(3);
/// So many copies may be given before they are owed.
const AGAIN: u32 = 64;
/// Copies beyond which more do not help.
const MOST_COPIES: f64 = 4.0;

impl Session {
    /// The transport has taken so many datagrams for lost, and sends them again next: each is to have a copy, at the expense of those that follow.
    pub fn sends_again(&mut self, count: u32) {
        self.again = self.again.saturating_add(count).min(AGAIN);
    }

    /// Sends datagrams: `segment` bytes each, the last may be shorter. What leaves stands in `out`.
    pub fn send(&mut self, now: Micros, datagrams: &[u8], segment: usize, out: &mut Outbox) {
        self.run = None;
        for datagram in datagrams.chunks(segment.max(1)) {
            self.tallies.datagrams += 1;
            let inner = self.encoder.as_ref().map_or(Inner::plain(Kind::Data), |encoder| encoder.head());
            self.owed += self.config.copies.clamp(0.0, MOST_COPIES);
            let extra = self.owed.floor().max(self.early());
            self.owed -= extra;
            self.packet(now, &inner, &[datagram], extra as usize, out);
            if let Some(encoder) = &mut self.encoder {
                self.group_since.get_or_insert(now);
                if encoder.add(datagram) {
                    self.repair(now, out);
                }
            }
        }
    }

    /// Copies that the next datagram gets whether they are owed or not.
    fn early(&mut self) -> f64 {
        let lost = self.again > 0 && self.config.copies > 0.0;
        self.again = self.again.saturating_sub(1);
        f64::from(u8::from(lost && self.owed > -f64::from(AGAIN)))
    }

    /// Does what is due by `now`; the time at which something will be due next.
    pub fn poll(&mut self, now: Micros, out: &mut Outbox) -> Option<Micros> {
        if self.group_since.is_some_and(|since| since + GROUP_WAIT <= now) {
            self.repair(now, out);
        }
        if self.feedback.due.is_some_and(|due| due <= now) {
            self.tell(now, out);
        }
        self.doubt(now);
        let probe = self.probe_lengths(now, out);
        let silence = self.listen(now, out);
        [self.group_since.map(|since| since + GROUP_WAIT), self.feedback.due, probe, silence].into_iter().flatten().min()
    }

    /// The repairs of the open group, each run of them over other relays.
    fn repair(&mut self, now: Micros, out: &mut Outbox) {
        self.group_since = None;
        let repairs = self.encoder.as_mut().map(|encoder| encoder.repairs()).unwrap_or_default();
        self.run = None;
        for (inner, shard) in repairs {
            self.tallies.repairs += 1;
            self.packet(now, &inner, &[&shard], 0, out);
        }
        self.run = None;
    }

    /// Seals one packet and puts its copies into the outbox.
    pub(crate) fn packet(&mut self, now: Micros, inner: &Inner, payload: &[&[u8]], extra: usize, out: &mut Outbox) {
        let length = OVERHEAD + payload.iter().map(|part| part.len()).sum::<usize>();
        let Some(number) = self.number(now, length) else {
            self.tallies.dropped += 1;
            return;
        };
        let Some(run) = &mut self.run else { return };
        let mut picks = std::mem::take(&mut self.picked);
        picks.clear();
        picks.extend(run.picks.iter().copied().take(1 + extra));
        if inner.kind == Kind::Control {
            self.tallies.control += picks.len() as u64;
        } else {
            self.tallies.copies += (picks.len() - 1) as u64;
        }
        if let Some(probe) = run.probe.take() {
            self.tallies.probes += 1;
            picks.push(probe);
        }
        self.copies(now, number, inner, payload, &picks, out);
        self.picked = picks;
    }

    pub(crate) fn copies(
        &mut self,
        now: Micros,
        number: u64,
        inner: &Inner,
        payload: &[&[u8]],
        picks: &[Pick],
        out: &mut Outbox,
    ) {
        let Some(generation) = self.generations.first() else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        if generation.end.seal(number, now.tick(), inner, payload, &mut scratch).is_some() {
            let members = self.paths.current(now).members.version() as u8;
            for &(rank, path) in picks {
                let at = usize::from(path);
                let Some(keys) = generation.keys.get(at).and_then(Option::as_ref) else { continue };
                let Some((mac, mut head)) = head_of(self.role, keys) else { continue };
                (head.rank, head.members, head.session, head.number) = (rank, members, generation.session, number);
                head.time = now.tick();
                let path = &mut self.paths.all[at];
                let packet = out.packet(path.address, HEAD + scratch.len());
                packet[..HEAD].copy_from_slice(&head.bytes());
                packet[HEAD..].copy_from_slice(&scratch);
                if let Some(seal) = mac.tag(head.nonce(), covered(packet)) {
                    put_seal(packet, seal);
                }
                path.health.sent(now);
                self.tallies.packets += 1;
            }
        }
        self.scratch = scratch;
        if inner.kind != Kind::Control {
            self.feedback.unheard.get_or_insert(now);
        }
    }

    /// The next number for a packet of `length` bytes; opens another run where that is needed.
    fn number(&mut self, now: Micros, length: usize) -> Option<u64> {
        if let Some(number) = self.run.as_mut().and_then(OpenRun::next) {
            return Some(number);
        }
        let limit = self.limit();
        self.run = Some(self.open(now, limit, length)?);
        self.run.as_mut().and_then(OpenRun::next)
    }

    fn limit(&self) -> u8 {
        let (RunLength::Fixed(limit) | RunLength::UpTo(limit)) = self.config.run;
        // a relay that dies must not take more than the repairs bring back
        let repairs = self.config.fec.map_or(u8::MAX, |fec| fec.repairs.div_ceil(2));
        limit.min(repairs).max(1)
    }

    /// The next block within whose reach are a fit relay, and one for each copy if so many are fit; and the relays for it.
    fn open(&mut self, now: Micros, limit: u8, length: usize) -> Option<OpenRun> {
        let generation = self.generations.first()?;
        let (first, budget) = (generation.next_block, generation.terms.budget(now));
        let weights = self.weights(now, length);
        let fit = FIT * weights.iter().copied().fold(0.0, f64::max);
        let is_fit = |weight: f64| weight > 0.0 && weight >= fit;
        let known = weights.iter().filter(|&&weight| is_fit(weight)).count();
        let wanted = (1 + self.extra_at_most()).min(known);
        // a servlet's relays do not depend on the block; what is left of the pace lasts for many more runs
        let tries = if self.role == Role::User { (budget.saturating_sub(first) / THRIFT).clamp(1, TRIES) } else { 1 };
        let mut best: Option<(usize, f64, u64, Vec<Pick>)> = None;
        for (tried, block) in (first..first.saturating_add(tries).min(budget)).enumerate() {
            if tried as u64 >= GENEROUS && best.as_ref().is_some_and(|(count, ..)| *count > 0) {
                break;
            }
            let candidates = self.candidates(now, block, length);
            let weight = |pick: &Pick| weights.get(usize::from(pick.1)).copied().unwrap_or_default();
            let count = candidates.iter().filter(|pick| is_fit(weight(pick))).count().min(wanted);
            let most = candidates.iter().map(weight).fold(0.0, f64::max);
            if !candidates.is_empty() && best.as_ref().is_none_or(|(others, than, ..)| (count, most) > (*others, *than)) {
                best = Some((count, most, block, candidates));
            }
            if count == wanted && wanted > 0 {
                break;
            }
        }
        let (_, most, block, candidates) = best?;
        let weight = |pick: &Pick| weights.get(usize::from(pick.1)).copied().unwrap_or_default();
        // nobody is fit: whoever there is
        let weights = candidates.iter().map(|pick| if most > 0.0 { weight(pick) } else { 1.0 }).collect();
        self.tallies.skipped += block - first;
        self.generations.first_mut()?.next_block = block + 1;
        Some(self.start(now, block, limit, &candidates, weights))
    }

    /// Copies beyond the first of the packet that gets most of them.
    fn extra_at_most(&self) -> usize {
        self.config.copies.clamp(0.0, MOST_COPIES).ceil() as usize
    }

    fn start(&mut self, now: Micros, block: u64, limit: u8, candidates: &[Pick], mut weights: Vec<f64>) -> OpenRun {
        // feedback goes twice, however many copies there are
        let wanted = 2 + self.extra_at_most();
        let mut picks = Vec::with_capacity(wanted);
        while picks.len() < wanted.min(candidates.len()) {
            let at = if self.config.naive && self.role == Role::User { picks.len() } else { self.draw(&weights) };
            weights[at] = 0.0;
            picks.push(candidates[at]);
            if weights.iter().sum::<f64>() <= 0.0 && !self.config.naive {
                break;
            }
        }
        let probe = if self.config.naive { None } else { self.due_probe(now, candidates, &picks) };
        if let Some((_, path)) = probe {
            self.paths.all[usize::from(path)].health.probing(now);
        }
        OpenRun::new(block, limit, picks, probe)
    }

    /// A place among `weights`, by chance; the first if all are zero.
    fn draw(&mut self, weights: &[f64]) -> usize {
        let mut at = self.chance.unit() * weights.iter().sum::<f64>();
        for (index, weight) in weights.iter().enumerate() {
            at -= weight;
            if at < 0.0 && *weight > 0.0 {
                return index;
            }
        }
        weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
    }

    /// A suspect whose time has come, or a path long unused.
    fn due_probe(&self, now: Micros, candidates: &[Pick], picks: &[Pick]) -> Option<Pick> {
        let due = |pick: &&Pick| {
            let health = &self.paths.all[usize::from(pick.1)].health;
            match health.state {
                State::Suspect => health.probe_at <= now,
                _ => health.last_sent.is_none_or(|sent| sent + TOUCH <= now),
            }
        };
        candidates.iter().filter(|pick| !picks.contains(pick)).find(due).copied()
    }

    /// Whether a packet of `length` bytes can go over a path now.
    fn usable(&self, generation: &Generation, path: usize, now: Micros, length: usize) -> bool {
        let keys = generation.keys.get(path).and_then(Option::as_ref);
        keys.is_some_and(|keys| keys.usable(now, self.config.return_age))
            && length <= usize::from(self.paths.all[path].health.largest.max(crate::path::LEAST))
    }

    /// Relays that `block` may take and that we have keys for.
    pub(crate) fn candidates(&self, now: Micros, block: u64, length: usize) -> Vec<Pick> {
        let Some(generation) = self.generations.first() else { return Vec::new() };
        let usable = |path: u16| self.usable(generation, usize::from(path), now, length);
        let list = self.paths.current(now);
        if self.role == Role::User {
            let places = generation.choice.places(block, &list.members);
            let ranked = places
                .as_slice()
                .iter()
                .enumerate()
                .filter_map(|(rank, &index)| list.paths.get(usize::from(index)).map(|&path| (rank as u8, path)));
            return ranked.filter(|&(_, path)| usable(path)).collect();
        }
        let live = (0..self.paths.all.len() as u16).filter(|&path| usable(path));
        live.map(|path| (0, path)).collect()
    }

    /// By path: its weight for a packet of `length` bytes; suspect and unusable ones, and relays that left the list, weigh nothing.
    pub(crate) fn weights(&self, now: Micros, length: usize) -> Vec<f64> {
        let Some(generation) = self.generations.first() else { return Vec::new() };
        let mut weights = vec![0.0; self.paths.all.len()];
        let band = self.band();
        for &path in &self.paths.current(now).paths {
            let at = usize::from(path);
            if self.usable(generation, at, now, length) {
                weights[at] = if self.config.naive { 1.0 } else { self.paths.all[at].health.weight(&band) };
            }
        }
        weights
    }

    /// Tells what came in since the last time; over two relays, as a lost word costs a round trip.
    fn tell(&mut self, now: Micros, out: &mut Outbox) {
        self.feedback.due = None;
        self.feedback.told = now;
        let Some((newest, came)) = self.feedback.newest else { return };
        let list = self.paths.current(now);
        let news = list.paths.iter().enumerate();
        let news = news.filter(|&(_, &path)| self.paths.all[usize::from(path)].tally.has_news());
        let chosen: Vec<(u16, u16)> = news.map(|(index, &path)| (index as u16, path)).take(MOST).collect();
        let members = list.members.version() as u8;
        let entries = chosen.iter().map(|&(index, path)| self.paths.all[usize::from(path)].tally.tell(index)).collect();
        let held = now.since(came).as_micros() as u32;
        let message = Control::Feedback { members, newest, held, entries }.encode();
        self.run = None;
        self.packet(now, &Inner::plain(Kind::Control), &[&message], 1, out);
        self.run = None;
    }

    /// Nobody tells us anything: what we know may be wrong.
    fn doubt(&mut self, now: Micros) {
        let patience = Duration::from_micros((self.feedback.rtt.unwrap_or(0.0) * 4.0) as u64).max(Duration::from_secs(1));
        if self.feedback.unheard.is_some_and(|since| now.since(since) > patience) {
            self.feedback.unheard = None;
            self.paths.all.iter_mut().for_each(|path| path.health.doubt());
        }
    }

    /// Tries longer packets, on one path at a time; when to be asked again.
    fn probe_lengths(&mut self, now: Micros, out: &mut Outbox) -> Option<Micros> {
        if self.config.naive || self.tallies.received == 0 {
            return None;
        }
        if now < self.lengths_at {
            return Some(self.lengths_at);
        }
        let largest = self.config.largest;
        let mut wanted = None;
        let mut next: Option<Micros> = None;
        for (at, path) in self.paths.all.iter_mut().enumerate() {
            if path.health.state != State::Live {
                continue;
            }
            if wanted.is_none() {
                wanted = path.probe.due(path.health.largest, largest, now).map(|size| (at, size));
            }
            next = [next, path.probe.next(path.health.largest, largest)].into_iter().flatten().min();
        }
        if let Some((at, size)) = wanted {
            self.probe(now, at as u16, usize::from(size), out);
        }
        // a path that becomes suspect is seen within the second
        self.lengths_at =
            next.unwrap_or(now + Duration::from_secs(1)).clamp(now + Duration::from_millis(5), now + Duration::from_secs(1));
        next.map(|_| self.lengths_at)
    }

    /// A packet of `length` bytes over one path, in a block where that is allowed.
    fn probe(&mut self, now: Micros, path: u16, length: usize, out: &mut Outbox) {
        let Some(first) = self.generations.first().map(|generation| generation.next_block) else { return };
        let budget = self.generations.first().map_or(0, |generation| generation.terms.budget(now));
        for block in first..first.saturating_add(4 * TRIES).min(budget) {
            let found = self.candidates(now, block, 0).into_iter().find(|pick| pick.1 == path);
            if let Some(pick) = found {
                if let Some(generation) = self.generations.first_mut() {
                    generation.next_block = block + 1;
                }
                let padding = vec![0; length.saturating_sub(OVERHEAD + 1)];
                let probe = Control::Probe.encode();
                let inner = Inner::plain(Kind::Control);
                self.tallies.probes += 1;
                self.copies(now, block * crate::BLOCK, &inner, &[&probe, &padding], &[pick], out);
                return;
            }
            if self.role != Role::User {
                return;
            }
        }
    }
}

/// The fields that depend on the relay alone, and the key of its seal.
fn head_of(role: Role, keys: &PathKeys) -> Option<(&crate::keys::Aead, Head)> {
    let head = Head {
        seal: [0; SEAL],
        leg: Leg::Out,
        rank: 0,
        epoch: 0,
        members: 0,
        session: Default::default(),
        number: 0,
        time: Default::default(),
        party: [0; 8],
        sealed: [0; 48],
    };
    match (role, keys) {
        (Role::User, PathKeys::User { epoch, mac, grant, destination }) => {
            Some((mac, Head { epoch: *epoch, party: *grant, sealed: *destination, ..head }))
        }
        (Role::Servlet(me), PathKeys::Servlet { back: Some(back), .. }) => {
            let party = me.0.to_be_bytes();
            Some((&back.mac, Head { leg: Leg::Back, epoch: back.epoch, party, sealed: back.sealed, ..head }))
        }
        _ => None,
    }
}

const _: () = assert!(REACH <= u8::MAX as usize);
