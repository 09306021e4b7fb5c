//! How many datagrams survive when relays are dead and nobody has noticed yet: copies beside forward error correction.
//!
//! Both ends and the relays are the real ones, in memory and without delays; feedback is off. So this measures what redundancy is
//! worth in the moment before feedback can act, as a function of the share of dead relays.

use crate::LabError;
use polder_spread::issue::{Grant, issue};
use polder_spread::{
    Counters, Epoch, Fec, Hosted, Inbound, Member, Members, Micros, NodeId, Outbox, PeerKey, Relay, RelayConfig, RunLength,
    Session, SessionId, SpreadConfig, Terms, To, epoch_key, grant_key, peer_key,
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const EPOCH: u32 = 1;
const SERVLET: NodeId = NodeId(0xFFFF);
const BEGIN: Micros = Micros(1_800_000_000_000_000);
/// Bytes of a datagram.
const SIZE: usize = 1200;
/// Most datagrams of one run, and most relays.
const MOST: (u64, u16) = (1_000_000, 1000);

/// What is tried.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Relays.
    pub relays: u16,
    /// Of these, dead.
    pub dead: u16,
    /// Extra copies per datagram.
    pub copies: f64,
    /// Datagrams and repairs of a group.
    pub fec: Option<(u8, u8)>,
    /// Packets of a run.
    pub run: u8,
    /// Datagrams that are sent at once.
    pub burst: u16,
    /// Datagrams in all.
    pub datagrams: u64,
    /// What chance starts from.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Report {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Of these, delivered.
    pub delivered: u64,
    /// Packets that carried them.
    pub packets: u64,
}

/// Sends all datagrams. Errors: a configuration that makes no sense.
pub fn run(config: &Config) -> Result<Report, LabError> {
    if config.datagrams > MOST.0 || config.relays > MOST.1 || config.dead > config.relays || config.burst == 0 {
        return Err(LabError::Config("too many datagrams or relays, more dead than there are, or an empty burst".into()));
    }
    let mut world = World::new(config)?;
    let mut report = Report::default();
    let mut out = Outbox::default();
    let mut now = BEGIN;
    while report.datagrams < config.datagrams {
        let burst: Vec<u8> = (0..u64::from(config.burst)).flat_map(|n| datagram(report.datagrams + n)).collect();
        report.datagrams += u64::from(config.burst);
        out.clear();
        world.user.send(now, &burst, SIZE, &mut out);
        now = now + Duration::from_millis(5); // an open group's repairs are due
        world.user.poll(now, &mut out);
        report.packets += world.carry(now, &out);
    }
    report.delivered = world.delivered.len() as u64;
    Ok(report)
}

fn datagram(number: u64) -> Vec<u8> {
    let mut datagram = vec![0x5A; SIZE];
    datagram[..8].copy_from_slice(&number.to_be_bytes());
    datagram
}

struct World {
    relays: Vec<Option<Relay>>,
    user: Session,
    servlet: Session,
    delivered: HashSet<u64>,
}

fn id(relay: u16) -> NodeId {
    NodeId(polder_spread::chance::mix(u64::from(relay) + 1))
}

fn address(relay: u16) -> SocketAddr {
    ([198, 18, 0, 1], relay).into()
}

fn key(relay: u16) -> [u8; 32] {
    epoch_key(&[relay as u8; 32], EPOCH + u32::from(relay))
}

impl World {
    fn new(config: &Config) -> Result<World, LabError> {
        fn wrong(error: impl ToString) -> LabError {
            LabError::Config(error.to_string())
        }
        let all = 0..config.relays;
        let mut list: Vec<Member> = all.clone().map(|n| Member { id: id(n), address: address(n) }).collect();
        list.push(Member { id: SERVLET, address: address(u16::MAX) });
        let members = Arc::new(Members::new(1, list).map_err(wrong)?);
        let hour = Duration::from_secs(3600);
        let relay = |n: u16| {
            let config = RelayConfig {
                me: id(n),
                epochs: vec![Epoch::new(EPOCH, &key(n), BEGIN - hour, BEGIN + 24 * hour)],
                members: vec![members.clone()],
                sessions: 16,
                span: hour,
                return_age: hour,
            };
            Relay::new(config, 1, BEGIN - 3 * hour, Arc::new(Counters::default()))
        };
        let grant = |n: u16| {
            let grant = n.to_be_bytes().repeat(4).try_into().unwrap_or([0; 8]);
            Grant { relay: id(n), address: address(n), epoch: EPOCH, grant, key: grant_key(&key(n), grant) }
        };
        let grants: Vec<Grant> = all.clone().map(grant).collect();
        let terms = Terms { starts: BEGIN.secs() as u32, lasts: u16::MAX, pace: 40, rate: 40 };
        let ticket = issue(SessionId([7; 16]), [8; 32], SERVLET, terms, 1, &grants);
        let ticket = ticket.ok_or_else(|| LabError::Config("the library refuses a key".into()))?;
        let relays = all.clone().map(|n| PeerKey { relay: id(n), epoch: EPOCH, key: peer_key(&key(n), SERVLET) }).collect();
        let hosted = Hosted { session: ticket.session, key: ticket.key, terms, me: SERVLET, relays };
        let spread = SpreadConfig {
            copies: config.copies,
            fec: config.fec.map(|(sources, repairs)| Fec { sources, repairs }),
            run: RunLength::Fixed(config.run),
            naive: true,
            span: hour,
            ..SpreadConfig::default()
        };
        Ok(World {
            // the list's order is that of ids: which numbers are dead is chance
            relays: all.map(|n| (n >= config.dead).then(|| relay(n))).collect(),
            user: Session::forwarder(&ticket, members.clone(), spread.clone(), BEGIN, config.seed).map_err(wrong)?,
            servlet: Session::servlet(&hosted, members, spread, BEGIN, config.seed).map_err(wrong)?,
            delivered: HashSet::new(),
        })
    }

    /// Over the relays that live, to the servlet; how many packets there were.
    fn carry(&mut self, now: Micros, out: &Outbox) -> u64 {
        let (mut packets, mut inbound) = (0, Inbound::default());
        for run in out.runs() {
            for packet in run.packets() {
                packets += 1;
                let Some(Some(relay)) = self.relays.get_mut(usize::from(run.to.port())) else { continue };
                let mut packet = packet.to_vec();
                if matches!(relay.pass(now, address(u16::MAX - 1), &mut packet), Ok(To::Peer(_))) {
                    let _ = self.servlet.receive(now, run.to, &mut packet, &mut inbound); // duplicates bring nothing
                }
            }
        }
        let numbers = inbound.datagrams().filter_map(|datagram| datagram.first_chunk().map(|eight| u64::from_be_bytes(*eight)));
        self.delivered.extend(numbers);
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { relays: 40, dead: 10, copies: 0.0, fec: None, run: 1, burst: 20, datagrams: 4000, seed: 1 };

    fn lost(config: &Config) -> f64 {
        let report = run(config).unwrap();
        1.0 - report.delivered as f64 / report.datagrams as f64
    }

    #[test]
    fn losses_are_those_of_chance() {
        // ten of forty relays are dead, and copies take different ones
        let f = |dead: f64| dead / (dead + 30.0);
        for (copies, want) in [(0.0, f(10.0)), (1.0, f(10.0) * f(9.0)), (2.0, f(10.0) * f(9.0) * f(8.0))] {
            let got = lost(&Config { copies, ..CONFIG });
            assert!((got - want).abs() < want * 0.3, "{copies} copies: {got}");
        }
        assert_eq!(lost(&Config { dead: 0, ..CONFIG }), 0.0);
        let half = run(&Config { copies: 0.5, ..CONFIG }).unwrap();
        assert_eq!(half.packets, 6000);
    }

    #[test]
    fn repairs_cost_what_they_say() {
        let report = run(&Config { fec: Some((20, 10)), dead: 0, ..CONFIG }).unwrap();
        assert_eq!((report.packets, report.delivered), (6000, 4000));
        assert!(run(&Config { dead: 41, ..CONFIG }).is_err());
    }
}
