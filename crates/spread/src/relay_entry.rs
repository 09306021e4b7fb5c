//! What a relay remembers of a session: derived keys, so that they are derived once, and the replay window. Losing an entry
//! loses nothing but time: whatever could be replayed is by then too old to be taken.

use crate::choice::Choice;
use crate::ids::{Micros, NodeId, SessionId};
use crate::keys::{self, Aead, Deriver, Key32};
use crate::packet::{BLOCK, Head, Rewrite, SEALED};
use crate::place::Destination;
use crate::relay::{Epoch, Refusal, RelayConfig};
use crate::window::Window;
use std::net::SocketAddr;

/// Blocks of a session that a relay remembers: 1 KiB.
const WINDOW: usize = 64;
/// How long what a session did not use of its rate stays usable, microseconds.
const BURST: u64 = 250_000;
/// Smallest burst, bytes: one run.
const LEAST_BURST: u64 = 65_536;

/// Who a packet is of, at this relay: direction, session, and grant or servlet.
pub(crate) type Key = (bool, SessionId, [u8; 8]);

/// One session's direction.
pub(crate) struct Entry {
    pub epoch: u8,
    pub epoch_ends: Micros,
    pub sealed: [u8; SEALED],
    pub mac: Aead,
    pub window: Window,
    pub used: Micros,
    /// Which configuration it was checked against.
    pub checked: u64,
    pub way: Way,
}

/// Direction.
pub(crate) enum Way {
    Out(Box<Out>),
    Back(Back),
}

/// From user to servlet.
pub(crate) struct Out {
    pub destination: Destination,
    pub choice: Choice,
    pub peer: Key32,
    pub returns: Aead,
    /// The servlet's address.
    pub to: SocketAddr,
    /// The last place looked up: block, version of the list, rank.
    pub place: Option<(u64, u8, Option<u8>)>,
    /// What stands over the head of packets from `from`.
    pub from: Option<(SocketAddr, Micros)>,
    pub rewrite: Rewrite,
    bucket: Bucket,
}

/// From servlet to user.
pub(crate) struct Back {
    pub to: SocketAddr,
    /// When the relay sealed the address, Unix seconds modulo 2³².
    pub sealed_at: u32,
}

impl Entry {
    /// Derives everything for a packet on its way out. It is not yet proved: the caller verifies it with `mac`.
    pub(crate) fn out(config: &RelayConfig, version: u64, epoch: &Epoch, head: &Head, now: Micros) -> Result<Entry, Refusal> {
        let grant = Deriver::new(&epoch.deriver.whole("polder grant", &[&head.party]));
        let mac = Aead::new(&grant.half("polder mac", &[&head.session.0])).ok_or(Refusal::Seal)?;
        let key = grant.half("polder destination", &[&head.session.0]);
        let destination = Destination::open(&key, head.session, head.sealed).ok_or(Refusal::Destination)?;
        let to = config.address(destination.servlet).ok_or(Refusal::Destination)?;
        let choice = Choice::new(&destination.choice).ok_or(Refusal::Destination)?;
        let peer = epoch.peer(destination.servlet);
        let returns = epoch.returns(head.session).ok_or(Refusal::Seal)?;
        let rewrite = Rewrite { seal: [0; 16], leg: crate::Leg::Onward, party: config.me.0.to_be_bytes(), sealed: [0; SEALED] };
        let bucket = Bucket::full(destination.rate, now);
        let out = Out { destination, choice, peer, returns, to, place: None, from: None, rewrite, bucket };
        Ok(Entry::new(version, epoch, head, now, mac, Way::Out(Box::new(out))))
    }

    /// Derives everything for a packet on its way back: only where the relay itself sealed the return address.
    pub(crate) fn back(version: u64, epoch: &Epoch, head: &Head, now: Micros) -> Result<Entry, Refusal> {
        let servlet = NodeId(u64::from_be_bytes(head.party));
        let returns = epoch.returns(head.session).ok_or(Refusal::Seal)?;
        let (to, sealed_at) =
            crate::place::ReturnAddress::open(&returns, head.session, servlet, head.sealed).ok_or(Refusal::Return)?;
        let mac = Aead::new(&keys::return_key(&epoch.peer(servlet), head.session)).ok_or(Refusal::Seal)?;
        Ok(Entry::new(version, epoch, head, now, mac, Way::Back(Back { to, sealed_at })))
    }

    fn new(checked: u64, epoch: &Epoch, head: &Head, used: Micros, mac: Aead, way: Way) -> Entry {
        let window = Window::new(WINDOW);
        Entry { epoch: head.epoch, epoch_ends: epoch.ends, sealed: head.sealed, mac, window, used, checked, way }
    }

    /// Takes over what the same session's former entry has seen.
    pub(crate) fn inherit(&mut self, former: Entry) {
        self.window = former.window;
        if let (Way::Out(new), Way::Out(old)) = (&mut self.way, former.way) {
            new.bucket = old.bucket;
        }
    }
}

impl Out {
    /// Whether the session may send this now: its life, its budget of blocks, its place in the order. Then its rate is used.
    pub(crate) fn admit(&mut self, config: &RelayConfig, head: &Head, bytes: usize, now: Micros) -> Result<(), Refusal> {
        let terms = self.destination.terms();
        if now + config.span < terms.begins() || now > terms.ends() {
            return Err(Refusal::Expired);
        }
        let block = head.number / BLOCK;
        // the sender counts a second more than has passed, on a clock that may be wrong by as much as the span
        if block > terms.budget(now + config.span) {
            return Err(Refusal::Pace);
        }
        if self.rank(config, head, block)? != Some(head.rank) {
            return Err(Refusal::Place);
        }
        if self.bucket.take(self.destination.rate, bytes as u64, now) { Ok(()) } else { Err(Refusal::Rate) }
    }

    /// Our place in the order of `block`, looked up once per run.
    fn rank(&mut self, config: &RelayConfig, head: &Head, block: u64) -> Result<Option<u8>, Refusal> {
        if let Some((known, members, rank)) = self.place
            && known == block
            && members == head.members
        {
            return Ok(rank);
        }
        let members = config.list(head.members).ok_or(Refusal::Members)?;
        let me = members.index(config.me).ok_or(Refusal::Members)?;
        let places = self.choice.places(block, members);
        let rank = places.as_slice().iter().position(|&index| usize::from(index) == me).map(|rank| rank as u8);
        self.place = Some((block, head.members, rank));
        Ok(rank)
    }
}

/// Bytes that a session may still send, filled with its rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Bytes times 2²⁰.
    level: u128,
    at: Micros,
}

impl Bucket {
    fn brim(rate: u8) -> u128 {
        let burst = (u128::from(BURST) << (u32::from(rate.min(40)) + 10)) / 1_000_000;
        burst.max(u128::from(LEAST_BURST)) << 20
    }

    fn full(rate: u8, now: Micros) -> Self {
        Bucket { level: Self::brim(rate), at: now }
    }

    fn take(&mut self, rate: u8, bytes: u64, now: Micros) -> bool {
        let gained = (u128::from(now.0.saturating_sub(self.at.0)) << (u32::from(rate.min(40)) + 30)) / 1_000_000;
        self.level = (self.level + gained).min(Self::brim(rate));
        self.at = self.at.max(now);
        let cost = u128::from(bytes) << 20;
        let enough = self.level >= cost;
        if enough {
            self.level -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rate_is_kept_over_any_time(
            rate in 0u8..20, steps in prop::collection::vec((0u64..100_000, 64u64..65_000), 1..200)
        ) {
            let mut bucket = Bucket::full(rate, Micros(0));
            let (mut now, mut sent) = (Micros(0), 0u128);
            for (wait, bytes) in steps {
                now.0 += wait;
                if bucket.take(rate, bytes, now) {
                    sent += u128::from(bytes);
                }
                let most = (Bucket::brim(rate) >> 20) + (u128::from(now.0) << (u32::from(rate) + 10)) / 1_000_000 + 1;
                prop_assert!(sent <= most, "{sent} of {most}");
            }
        }
    }
}
