//! Packets of the spread plane that no relay may pass, each made from good ones.

use crate::chance::Chance;
use polder_spread::issue::{Grant, issue};
use polder_spread::{Member, Members, Micros, NodeId, Outbox, RunLength, Session, SessionId, SpreadConfig, Terms};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Ways to forge.
pub const KINDS: [&str; 14] = [
    "fuzzed",
    "replayed",
    "truncated",
    "lengthened",
    "re-addressed",
    "turned",
    "re-ranked",
    "re-listed",
    "cross-relay",
    "cross-epoch",
    "stale",
    "expired",
    "keyless",
    "random",
];

/// Where the fields lie (`docs/design/spread.md`).
const KIND: usize = 16;
const RANK: usize = 17;
const EPOCH: usize = 18;
const MEMBERS: usize = 19;
const TIME: std::ops::Range<usize> = 44..48;
const PARTY: std::ops::Range<usize> = 48..56;
const SEALED: std::ops::Range<usize> = 56..104;

/// The overlay that packets are made for: two relays and a servlet.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The relay under attack.
    pub relay: (u64, SocketAddr),
    /// Another relay, and its epoch key.
    pub other: (u64, SocketAddr),
    /// The servlet.
    pub servlet: (u64, SocketAddr),
    /// Epoch in force.
    pub epoch: u32,
    /// The relay's key of it.
    pub key: [u8; 32],
    /// The other relay's.
    pub other_key: [u8; 32],
}

impl World {
    /// The member list, version 1.
    pub fn members(&self) -> Option<Arc<Members>> {
        let list = [self.relay, self.other, self.servlet].map(|(id, address)| Member { id: NodeId(id), address });
        Members::new(1, list.to_vec()).ok().map(Arc::new)
    }

    fn grant(&self, (id, address): (u64, SocketAddr), epoch: u32, key: &[u8; 32]) -> Grant {
        let grant = id.to_be_bytes();
        Grant { relay: NodeId(id), address, epoch, grant, key: polder_spread::grant_key(key, grant) }
    }

    /// `count` packets of a new session to each relay: those for the one under attack, then those for the other.
    fn packets(&self, chance: &mut Chance, now: Micros, grants: &[Grant], begins: Micros, count: usize) -> [Vec<Vec<u8>>; 2] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&chance.draw().to_be_bytes());
        id[8..].copy_from_slice(&chance.draw().to_be_bytes());
        let terms = Terms { starts: begins.secs() as u32, lasts: 600, pace: 30, rate: 40 };
        let mut found = [Vec::new(), Vec::new()];
        let Some(members) = self.members() else { return found };
        let Some(ticket) = issue(SessionId(id), [9; 32], NodeId(self.servlet.0), terms, 1, grants) else { return found };
        let config = SpreadConfig { run: RunLength::Fixed(1), ..SpreadConfig::default() };
        let Ok(mut session) = Session::forwarder(&ticket, members, config, begins, chance.draw()) else { return found };
        let mut out = Outbox::default();
        while grants.iter().zip(&found).any(|(_, some)| some.len() < count) {
            out.clear();
            session.send(now, &[0x5A; 600], 600, &mut out);
            for run in out.runs() {
                let mine = usize::from(run.to != self.relay.1);
                found[mine].extend(run.packets().map(<[u8]>::to_vec));
            }
        }
        found
    }

    /// Good packets for the relay under attack.
    pub fn good(&self, chance: &mut Chance, now: Micros, count: usize) -> Vec<Vec<u8>> {
        let grants = [self.grant(self.relay, self.epoch, &self.key)];
        let [mut mine, _] = self.packets(chance, now, &grants, now, count);
        mine.truncate(count);
        mine
    }

    /// `count` packets of a kind that must be refused. For `replayed` these are good the first time.
    pub fn forged(&self, kind: &str, chance: &mut Chance, now: Micros, count: usize) -> Vec<Vec<u8>> {
        let hour = Duration::from_secs(3600);
        let mine = self.grant(self.relay, self.epoch, &self.key);
        let mut packets = match kind {
            "cross-relay" => {
                let grants = [mine, self.grant(self.other, self.epoch, &self.other_key)];
                let [_, others] = self.packets(chance, now, &grants, now, count);
                others
            }
            // an epoch whose key is not in force, named as one that is
            "cross-epoch" => {
                let old = self.grant(self.relay, self.epoch, &polder_spread::epoch_key(&self.key, 0));
                let [packets, _] = self.packets(chance, now, &[old], now, count);
                packets
            }
            "stale" => {
                let [packets, _] =
                    self.packets(chance, now - Duration::from_secs(60), &[mine], now - Duration::from_secs(61), count);
                packets
            }
            "expired" => {
                let [packets, _] = self.packets(chance, now, &[mine], now - hour, count);
                packets
            }
            _ => self.good(chance, now, count),
        };
        packets.truncate(count);
        let swap = self.good(chance, now, 1).pop().unwrap_or_default();
        packets.iter_mut().for_each(|packet| alter(kind, packet, &swap, chance));
        packets
    }
}

fn alter(kind: &str, packet: &mut Vec<u8>, swap: &[u8], chance: &mut Chance) {
    let mut draw = |below: usize| (chance.draw() % below.max(1) as u64) as usize;
    match kind {
        "fuzzed" => {
            // one place in each of up to eight stretches: no two changes undo each other
            let stretches = 1 + draw(8);
            let length = packet.len() / stretches;
            for stretch in 0..stretches {
                packet[stretch * length + draw(length)] ^= (1 + draw(255)) as u8;
            }
        }
        "truncated" => packet.truncate(draw(packet.len())),
        "lengthened" => packet.extend((0..=draw(64)).map(|n| n as u8)),
        "re-addressed" => {
            packet[SEALED].copy_from_slice(&swap[SEALED]);
            if draw(2) == 0 {
                packet[PARTY].copy_from_slice(&(draw(1 << 30) as u64).to_be_bytes());
            }
        }
        "turned" => packet[KIND] = [0xA3, 0xA4, 0x00, 0xA5][draw(4)],
        "re-ranked" => packet[RANK] ^= (1 + draw(255)) as u8,
        "cross-epoch" if draw(2) == 0 => packet[EPOCH] ^= (1 + draw(255)) as u8,
        "re-listed" => packet[MEMBERS] ^= (1 + draw(255)) as u8,
        "keyless" => {
            packet[..16].iter_mut().for_each(|byte| *byte = draw(256) as u8);
            packet[20..36].iter_mut().for_each(|byte| *byte = draw(256) as u8);
        }
        "random" => {
            let (time, epoch, members) = (packet[TIME].to_vec(), packet[EPOCH], packet[MEMBERS]);
            packet.iter_mut().for_each(|byte| *byte = draw(256) as u8);
            if draw(2) == 0 {
                packet[TIME].copy_from_slice(&time);
                (packet[KIND], packet[EPOCH], packet[MEMBERS]) = ([0xA1, 0xA3][draw(2)], epoch, members);
            }
        }
        _ => {}
    }
    // a packet for the servlet's end is handed to it; the end refuses it
    if packet.get(KIND) == Some(&0xA2) {
        packet[KIND] = 0xA4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polder_spread::{Counters, Epoch, Refusal, Relay, RelayConfig, epoch_key};
    use std::collections::HashSet;

    const NOW: Micros = Micros(1_800_000_000_000_000);

    fn world() -> World {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (key, other_key) = (epoch_key(&[1; 32], 7), epoch_key(&[2; 32], 7));
        World { relay: (1, at(1)), other: (2, at(2)), servlet: (3, at(3)), epoch: 7, key, other_key }
    }

    fn relay(world: &World, counters: &Arc<Counters>) -> Relay {
        relay_at(world, NOW - Duration::from_secs(7200), counters)
    }

    fn relay_at(world: &World, start: Micros, counters: &Arc<Counters>) -> Relay {
        let (begin, end) = (NOW - Duration::from_secs(7200), NOW + Duration::from_secs(7200));
        let config = RelayConfig {
            me: NodeId(world.relay.0),
            epochs: vec![Epoch::new(world.epoch, &world.key, begin, end)],
            members: vec![world.members().unwrap()],
            sessions: 64,
            span: Duration::from_secs(3),
            return_age: Duration::from_secs(30),
        };
        Relay::new(config, 1, start, counters.clone())
    }

    #[test]
    fn nothing_forged_passes() {
        let (world, from) = (world(), SocketAddr::from(([192, 0, 2, 1], 9)));
        for (number, kind) in KINDS.into_iter().enumerate() {
            let counters = Arc::default();
            let mut relay = relay(&world, &counters);
            let mut chance = Chance(number as u64);
            for mut good in world.good(&mut chance, NOW, 50) {
                assert!(relay.pass(NOW, from, &mut good).is_ok(), "{kind}: the relay must know the session's kind");
            }
            let packets = world.forged(kind, &mut chance, NOW, 1000);
            assert_eq!(packets.len(), 1000);
            if kind == "replayed" {
                packets.iter().for_each(|one| assert!(relay.pass(NOW, from, &mut one.clone()).is_ok()));
            }
            let passed = counters.out_packets.get();
            let mut why: HashSet<Refusal> = HashSet::new();
            for mut packet in packets {
                why.insert(relay.pass(NOW, from, &mut packet).expect_err(kind));
            }
            assert_eq!((counters.out_packets.get(), counters.back_packets.get()), (passed, 0), "{kind}");
            let before: u64 = refused(&counters);
            let mut forwards = Vec::new();
            for mut packet in world.forged(kind, &mut chance, NOW, 100) {
                let length = packet.len();
                relay.handle(NOW, from, &mut packet, length, &mut forwards);
            }
            let again = if kind == "replayed" { 0 } else { 100 };
            assert_eq!(refused(&counters) - before, again, "{kind}: each is counted");
            let wanted = match kind {
                "replayed" => Some(Refusal::Seen),
                "cross-relay" | "keyless" => Some(Refusal::Destination),
                "stale" => Some(Refusal::Time),
                "expired" => Some(Refusal::Expired),
                "re-ranked" | "re-listed" | "lengthened" => Some(Refusal::Seal),
                _ => None,
            };
            assert!(wanted.is_none_or(|wanted| why == HashSet::from([wanted])), "{kind}: {why:?}");
        }
    }

    fn refused(counters: &Counters) -> u64 {
        counters.read().iter().filter(|(name, _)| name.starts_with("spread_refused_")).map(|(_, count)| count).sum()
    }

    /// A replay is refused by every relay, also by one that forgot the session, whose memory was full, or that restarted.
    #[test]
    fn what_was_forgotten_is_too_old_to_be_replayed() {
        let (world, from) = (world(), SocketAddr::from(([192, 0, 2, 1], 9)));
        let counters = Arc::default();
        let mut relay = relay(&world, &counters);
        let packets = world.good(&mut Chance(1), NOW, 100);
        packets.iter().for_each(|one| assert!(relay.pass(NOW, from, &mut one.clone()).is_ok()));
        let later = NOW + Duration::from_secs(10);
        relay.sweep(later);
        assert_eq!(counters.sessions_open.get(), 0);
        packets.iter().for_each(|one| assert_eq!(relay.pass(later, from, &mut one.clone()), Err(Refusal::Time)));
        // a process that starts within the span has not seen them, and takes nothing that another may have seen
        let mut fresh = relay_at(&world, NOW + Duration::from_secs(1), &counters);
        for wait in [1, 2, 3, 5, 6] {
            let now = NOW + Duration::from_secs(wait);
            packets.iter().for_each(|one| assert_eq!(fresh.pass(now, from, &mut one.clone()), Err(Refusal::Time)));
        }
    }
}
