//! The receiving half of a session: proves, drops what came before, hands out datagrams, learns from feedback.

use crate::control::{Control, Entry};
use crate::end::Kind;
use crate::health::State;
use crate::ids::{Micros, NodeId, Tick};
use crate::packet::{Head, Leg};
use crate::path::{Path, PathKeys};
use crate::relay::Refusal;
use crate::session::{Role, Session};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

/// Datagrams that one or more calls of [`Session::receive`] brought.
#[derive(Debug, Default)]
pub struct Inbound {
    bytes: Vec<u8>,
    /// With when each was sent, and its number.
    ranges: Vec<(Tick, u64, Range<usize>)>,
}

impl Inbound {
    /// Each once, in the order in which they came, or were sent once they are [`Inbound::sort`]ed.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.ranges.iter().map(|(.., range)| &self.bytes[range.clone()])
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Puts them in the order in which they were sent: relays overtake each other by whole queues.
    pub fn sort(&mut self) {
        let Some((first, ..)) = self.ranges.first() else { return };
        let first = *first;
        self.ranges.sort_by_key(|(sent, number, _)| (sent.micros_since(first), *number));
    }

    /// Forgets them; memory is used again.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
    }

    fn add(&mut self, head: &Head, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend(datagram);
        self.ranges.push((head.time, head.number, start..self.bytes.len()));
    }
}

/// Less than this apart, packets of different relays may overtake each other without one being lost, at the least.
pub(crate) const JITTER: Duration = Duration::from_millis(2);

impl Session {
    /// Takes one packet that came from `from`; its datagrams are added to `into` (none for duplicates and feedback). It is
    /// decrypted where it lies.
    pub fn receive(&mut self, now: Micros, from: SocketAddr, packet: &mut [u8], into: &mut Inbound) -> Result<(), Refusal> {
        let taken = self.take(now, from, packet, into);
        if taken.is_err() {
            self.tallies.refused += 1;
        }
        taken
    }

    fn take(&mut self, now: Micros, from: SocketAddr, packet: &mut [u8], into: &mut Inbound) -> Result<(), Refusal> {
        let head = Head::read(packet).ok_or(Refusal::Form)?;
        let wanted = if self.role == Role::User { Leg::Home } else { Leg::Onward };
        if head.leg != wanted {
            return Err(Refusal::Form);
        }
        if now.tick().micros_since(head.time).unsigned_abs() > self.config.span.as_micros() as u64 {
            return Err(Refusal::Time);
        }
        let at = self.path_of(&head, from, now)?;
        let length = packet.len();
        let generation = self.generations.iter_mut().find(|known| known.session == head.session).ok_or(Refusal::Destination)?;
        let (inner, payload) = generation.end.open(head.number, head.time, packet).ok_or(Refusal::Seal)?;
        // a relay's word counts only for a packet that the other end made
        if let Some(keys) = generation.keys.get_mut(at).and_then(Option::as_mut)
            && matches!(keys, PathKeys::Servlet { .. })
            && !keys.vouch(&head.session, self.paths.all[at].id, &head, now)
        {
            return Err(Refusal::Return);
        }
        let new = generation.take(head.number, now);
        self.came_under(head.session);
        self.paths.all[at].tally.note(head.time, now, length, !new);
        self.tallies.received += 1;
        self.tallies.duplicates += u64::from(!new);
        self.note(head.time, now, inner.kind != Kind::Control || wants_answer(payload));
        self.silence.broken(inner.kind != Kind::Control, now);
        if !new {
            return Ok(());
        }
        match inner.kind {
            Kind::Control => {
                let control = Control::decode(payload).ok_or(Refusal::Form)?;
                match control {
                    Control::Deaf if self.role != Role::User => self.deafened(at),
                    control => self.learn(control, now),
                }
            }
            Kind::Data => {
                into.add(&head, payload);
                if inner.sources > 0 {
                    self.regain(&head, &inner, payload, into);
                }
            }
            Kind::Repair => self.regain(&head, &inner, payload, into),
        }
        Ok(())
    }

    fn regain(&mut self, head: &Head, inner: &crate::end::Inner, payload: &[u8], into: &mut Inbound) {
        for datagram in self.decoder.take(inner, payload) {
            self.tallies.recovered += 1;
            into.add(head, &datagram);
        }
    }

    /// The path that a packet says it came by.
    fn path_of(&self, head: &Head, from: SocketAddr, now: Micros) -> Result<usize, Refusal> {
        let relay = NodeId(u64::from_be_bytes(head.party));
        let at = self.paths.find(relay).ok_or(Refusal::Members)?;
        let generation = self.generations.iter().find(|known| known.session == head.session).ok_or(Refusal::Destination)?;
        if now > generation.terms.ends() + self.config.span {
            return Err(Refusal::Expired);
        }
        match generation.keys.get(at).and_then(Option::as_ref) {
            // to the user only a relay that it sends to itself can answer
            Some(PathKeys::User { .. }) if self.paths.all[at].address != from => Err(Refusal::Place),
            Some(_) => Ok(at),
            None => Err(Refusal::Members),
        }
    }

    /// Something came: when to tell the other end.
    fn note(&mut self, sent: Tick, now: Micros, counts: bool) {
        if self.feedback.newest.is_none_or(|(newest, _)| sent.micros_since(newest) > 0) {
            self.feedback.newest = Some((sent, now));
        }
        if counts && self.feedback.due.is_none() {
            let quarter = Duration::from_micros((self.feedback.rtt.unwrap_or(0.0) / 4.0) as u64);
            let due = self.feedback.told + self.config.feedback.max(quarter.min(Duration::from_millis(50)));
            self.feedback.due = Some(due.max(now));
        }
    }

    /// The other end's word about our packets.
    fn learn(&mut self, control: Control, now: Micros) {
        let Control::Feedback { members, newest, held, entries } = control else { return };
        let trip = now.tick().micros_since(newest) - i64::from(held);
        if trip >= 0 {
            let sample = trip as f64;
            self.feedback.rtt = Some(self.feedback.rtt.map_or(sample, |rtt| rtt + (sample - rtt) / 8.0));
        }
        self.feedback.heard = Some(now);
        self.feedback.unheard = None;
        if self.config.naive {
            return;
        }
        let Some(list) = self.paths.lists.iter().find(|list| list.members.version() as u8 == members) else { return };
        let mut told = vec![None; self.paths.all.len()];
        for entry in &entries {
            if let Some(&path) = list.paths.get(usize::from(entry.relay)) {
                told[usize::from(path)] = Some(entry);
            }
        }
        let fresh: Vec<(usize, i32)> = self.fresh(&told).collect();
        self.queue.note(now, fresh.iter().copied());
        let common = self.common_delay(&fresh);
        let full = entries.len() >= crate::control::MOST;
        let best = self.band().best;
        let unknown = Duration::from_micros((self.feedback.rtt.unwrap_or(0.0) / 2.0) as u64);
        self.rounds.turn(now, 2 * unknown);
        let shared = self.shared_loss.unwrap_or_default();
        for (at, (path, entry)) in self.paths.all.iter_mut().zip(told).enumerate() {
            if entry.is_none() && full {
                path.health.fade(0, now);
                continue; // there was no room for it
            }
            let later = match path.health.delay {
                Some(delay) => Duration::from_micros(delay.saturating_sub(best).max(0) as u64),
                None => unknown,
            };
            let patience = later + JITTER + unknown / 4;
            let ticks = (patience.as_micros() * 2 / 125) as u32;
            let was = path.health.state;
            let entry = entry.map(|entry| Entry { delay: entry.delay.saturating_sub(common), ..*entry });
            let (went, came) = path.health.report(entry.as_ref(), Tick(newest.0.wrapping_sub(ticks)), shared, now);
            if path.health.delay.is_some() {
                // of others we do not know when to give a packet up
                self.rounds.note(at, went, came);
            }
            path.health.fade(0, now);
            if was != State::Suspect && path.health.state == State::Suspect {
                // perhaps only long packets stopped coming through
                (path.health.largest, path.probe) = (0, Default::default());
                self.run = None;
            }
            if was != State::Live && path.health.state == State::Live {
                self.lengths_at = now;
            }
        }
        self.shared_loss = self.rounds.shared_loss();
        self.measure_lengths(now);
    }

    /// Paths by which something came since the last message, and how long it took.
    fn fresh(&self, told: &[Option<&Entry>]) -> impl Iterator<Item = (usize, i32)> {
        let of = |(path, entry): (&Path, &Option<&Entry>)| {
            entry.filter(|entry| entry.received != path.health.received).map(|entry| entry.delay)
        };
        self.paths.all.iter().zip(told).map(of).enumerate().filter_map(|(at, delay)| Some((at, delay?)))
    }

    /// How much later than before everything comes: a queue at the ends' own line fills and empties for all paths, while most of them
    /// carry nothing. Paths are compared by what is left of their delay.
    fn common_delay(&self, fresh: &[(usize, i32)]) -> i32 {
        let before = |at: usize| self.paths.all[at].health.delay;
        let more = fresh.iter().filter_map(|&(at, now)| Some(now.saturating_sub(before(at)?)));
        let mut more: Vec<i32> = more.collect();
        more.sort_unstable();
        let least = || fresh.iter().map(|(_, now)| *now).min().unwrap_or_default();
        more.get(more.len().saturating_sub(1) / 2).copied().unwrap_or_else(least)
    }
}

fn wants_answer(payload: &[u8]) -> bool {
    matches!(Control::decode(payload), Some(Control::Probe | Control::Deaf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;
    use crate::packet::{SEAL, SEALED};
    use proptest::prelude::*;

    fn head(number: u64, time: Tick) -> Head {
        let session = SessionId([0; 16]);
        let (seal, sealed) = ([0; SEAL], [0; SEALED]);
        Head { seal, leg: Leg::Home, rank: 0, epoch: 0, members: 0, session, number, time, party: [0; 8], sealed }
    }

    proptest! {
        /// Also where the clock in packets begins anew, and under a new ticket, whose numbers do.
        #[test]
        fn what_came_in_any_order_is_put_in_the_order_in_which_it_was_sent(
            begin in any::<u32>(), order in Just((0u32..200).collect::<Vec<_>>()).prop_shuffle(), renewed in 0u32..200
        ) {
            let mut inbound = Inbound::default();
            for at in order {
                let number = u64::from(if at / 4 < renewed / 4 { 1000 + at } else { at });
                inbound.add(&head(number, Tick(begin.wrapping_add(at / 4))), &at.to_be_bytes());
            }
            inbound.sort();
            let sent: Vec<_> = (0..200).map(u32::to_be_bytes).collect();
            prop_assert!(inbound.datagrams().eq(sent.iter().map(|bytes| &bytes[..])));
            prop_assert_eq!(inbound.count(), 200);
        }
    }
}
