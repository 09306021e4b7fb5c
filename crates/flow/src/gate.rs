//! Who may come in, how often, and how much each may hold at once.
//!
//! Counts exist only while something is held, or while a bucket is not full; the table of sources is bounded, so that a
//! stranger with many addresses costs a constant.

use crate::{Bounds, Bucket, Millis, Over, SourceKey};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

#[derive(Debug)]
struct Held {
    count: u32,
    bucket: Bucket,
    /// Who proved an identity here lately, the latest last, and until when whoever comes from here counts as a guest for that.
    guests: Vec<(Arc<str>, Millis)>,
}

impl Held {
    fn is_remembered(&self, now: Millis) -> bool {
        self.guests.iter().any(|(_, until)| now < *until)
    }
}

#[derive(Debug)]
struct Share {
    connections: u32,
    tunnels: u32,
    waiting: u32,
    stalled: u32,
    opened: Bucket,
    frames: Bucket,
    shaken: Bucket,
    /// Where it made guests, the latest last, and until when the last of them is remembered.
    homes: VecDeque<SourceKey>,
    guest_until: Millis,
}

impl Share {
    fn is_idle(&mut self, bounds: &Bounds, now: Millis) -> bool {
        let full = |bucket: &mut Bucket, rate| rate == 0 || bucket.is_full(rate, now);
        self.tunnels == 0
            && self.connections == 0
            && full(&mut self.opened, bounds.tunnel_rate_per_identity)
            && full(&mut self.frames, bounds.frame_rate_per_identity)
            && full(&mut self.shaken, bounds.handshake_rate_per_identity)
            && now >= self.guest_until
    }
}

/// Counts and buckets of one process.
#[derive(Debug, Default)]
pub struct Gate {
    connections: u32,
    sources: HashMap<SourceKey, Held>,
    identities: HashMap<Arc<str>, Share>,
    swept: Option<Millis>,
}

impl Gate {
    /// Most sources remembered: some 100 bytes each, so 6 MB.
    pub const MAX_SOURCES: usize = 65_536;

    /// For how long a source is remembered as one of guests.
    pub const GUEST: Millis = 3_600_000;

    /// What a new tunnel costs, in tokens of [`Bounds::tunnel_rate_per_identity`], while [`Bounds::stalled_per_identity`] of the
    /// identity's receivers have yet to take what has come for them: the next would fetch more of it through everybody's links.
    pub const CROWDED: u32 = 20;

    /// For how long, and a little more, receivers that take nothing can cost new tunnels.
    pub const PENANCE: Millis = 10_000;

    /// A connection from `source` wants in, before its handshake; says whether it comes from where a guest has been who has not used
    /// up his handshakes: an enrolled user with a thousand addresses must not look like a thousand users. Every `Ok` is to be followed by one [`Gate::left`].
    pub fn enter(&mut self, source: SourceKey, bounds: &Bounds, now: Millis) -> Result<bool, Over> {
        if bounds.connections != 0 && self.connections >= bounds.connections {
            return Err(Over::Connections);
        }
        let rate = bounds.handshake_rate_per_source;
        if self.sources.len() >= Self::MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sweep(rate, now);
            if self.sources.len() >= Self::MAX_SOURCES {
                return Err(Over::HandshakeRate);
            }
        }
        let held =
            self.sources.entry(source).or_insert_with(|| Held { count: 0, bucket: Bucket::full(rate, now), guests: Vec::new() });
        if bounds.connections_per_source != 0 && held.count >= bounds.connections_per_source {
            return Err(Over::PerSource);
        }
        if !held.bucket.take(rate, now) {
            return Err(Over::HandshakeRate);
        }
        held.count += 1;
        self.connections += 1;
        let calm = |who: &Arc<str>| {
            self.identities.get(who).is_none_or(|share| share.shaken.has(bounds.handshake_rate_per_identity, now))
        };
        Ok(held.guests.iter().any(|(who, until)| now < *until && calm(who)))
    }

    /// `identity` has proved itself from `source`, and is still connected.
    pub fn proved(&mut self, source: SourceKey, identity: &Arc<str>, bounds: &Bounds, now: Millis) {
        let Some(held) = self.sources.get_mut(&source) else { return };
        let until = now.saturating_add(Self::GUEST);
        held.guests.retain(|(who, until)| who != identity && now < *until);
        let homes = bounds.homes_per_identity.max(1) as usize;
        if held.guests.len() >= homes {
            held.guests.remove(0);
        }
        held.guests.push((identity.clone(), until));
        let share = self.share(identity, bounds, now);
        share.shaken.take(bounds.handshake_rate_per_identity, now);
        share.guest_until = until;
        share.homes.retain(|home| *home != source);
        share.homes.push_back(source);
        let left = if share.homes.len() > homes { share.homes.pop_front() } else { None };
        if let Some(held) = left.and_then(|home| self.sources.get_mut(&home)) {
            held.guests.retain(|(who, _)| who != identity);
        }
    }

    /// `identity` has connected. Every `Ok` is to be followed by one [`Gate::parted`].
    pub fn join(&mut self, identity: &Arc<str>, bounds: &Bounds, now: Millis) -> Result<(), Over> {
        let share = self.share(identity, bounds, now);
        if bounds.connections_per_identity != 0 && share.connections >= bounds.connections_per_identity {
            return Err(Over::PerIdentity);
        }
        share.connections += 1;
        Ok(())
    }

    /// A connection of `identity` has ended.
    pub fn parted(&mut self, identity: &str) {
        if let Some(share) = self.identities.get_mut(identity) {
            share.connections = share.connections.saturating_sub(1);
        }
    }

    /// `identity` made us handle `count` costly frames or requests; milliseconds that it is to wait before more.
    pub fn spend(&mut self, identity: &Arc<str>, count: u32, bounds: &Bounds, now: Millis) -> Millis {
        self.share(identity, bounds, now).frames.spend(count, bounds.frame_rate_per_identity, now)
    }

    /// A receiver of `identity`'s has yet to take what has come for it. To be followed by one [`Gate::takes`].
    pub fn waits(&mut self, identity: &str) {
        if let Some(share) = self.identities.get_mut(identity) {
            share.waiting += 1;
        }
    }

    /// It has taken it, or has gone.
    pub fn takes(&mut self, identity: &str) {
        if let Some(share) = self.identities.get_mut(identity) {
            share.waiting = share.waiting.saturating_sub(1);
        }
    }

    /// A receiver of `identity`'s takes nothing. False: too many do already; else followed by one [`Gate::moves`]. One too many costs
    /// as many new tunnels as a second allows, up to [`Gate::PENANCE`]: what it holds was fetched through everybody's links, and the next
    /// would be too.
    pub fn stalls(&mut self, identity: &str, bounds: &Bounds, now: Millis) -> bool {
        let Some(share) = self.identities.get_mut(identity) else { return true };
        if bounds.stalled_per_identity != 0 && share.stalled >= bounds.stalled_per_identity {
            let rate = bounds.tunnel_rate_per_identity;
            if share.opened.spend(0, rate, now) < Self::PENANCE {
                share.opened.spend(2 * rate, rate, now);
            }
            return false;
        }
        share.stalled += 1;
        true
    }

    /// A receiver that took nothing takes again, or has gone.
    pub fn moves(&mut self, identity: &str) {
        if let Some(share) = self.identities.get_mut(identity) {
            share.stalled = share.stalled.saturating_sub(1);
        }
    }

    fn share(&mut self, identity: &Arc<str>, bounds: &Bounds, now: Millis) -> &mut Share {
        let fresh = || Share {
            connections: 0,
            tunnels: 0,
            waiting: 0,
            stalled: 0,
            opened: Bucket::full(bounds.tunnel_rate_per_identity, now),
            frames: Bucket::full(bounds.frame_rate_per_identity, now),
            shaken: Bucket::full(bounds.handshake_rate_per_identity, now),
            homes: VecDeque::new(),
            guest_until: 0,
        };
        self.identities.entry(identity.clone()).or_insert_with(fresh)
    }

    /// A connection that was let in has ended.
    pub fn left(&mut self, source: SourceKey) {
        self.connections = self.connections.saturating_sub(1);
        if let Some(held) = self.sources.get_mut(&source) {
            held.count = held.count.saturating_sub(1);
        }
    }

    /// `identity` wants a tunnel. Every `Ok` is to be followed by one [`Gate::closed`].
    pub fn open(&mut self, identity: &Arc<str>, bounds: &Bounds, now: Millis) -> Result<(), Over> {
        let rate = bounds.tunnel_rate_per_identity;
        let share = self.share(identity, bounds, now);
        if bounds.tunnels_per_identity != 0 && share.tunnels >= bounds.tunnels_per_identity {
            return Err(Over::Tunnels);
        }
        if !share.opened.take(rate, now) {
            return Err(Over::TunnelRate(share.opened.wait(rate)));
        }
        if bounds.stalled_per_identity != 0 && share.waiting >= bounds.stalled_per_identity {
            share.opened.spend(Self::CROWDED - 1, rate, now);
        }
        share.tunnels += 1;
        Ok(())
    }

    /// A tunnel that was let through has ended.
    pub fn closed(&mut self, identity: &str) {
        if let Some(share) = self.identities.get_mut(identity) {
            share.tunnels = share.tunnels.saturating_sub(1);
        }
    }

    /// Forgets whoever holds nothing, has a full bucket and is no guest. Looks at most once a second, for it looks at everybody.
    pub fn sweep(&mut self, handshake_rate: u32, now: Millis) {
        if self.swept.is_some_and(|at| now < at.saturating_add(1000)) {
            return;
        }
        self.swept = Some(now);
        self.sources.retain(|_, held| {
            held.count > 0 || held.is_remembered(now) || (handshake_rate != 0 && !held.bucket.is_full(handshake_rate, now))
        });
    }

    /// Forgets identities that hold nothing, have full buckets and were not here within the hour.
    pub fn sweep_identities(&mut self, bounds: &Bounds, now: Millis) {
        self.identities.retain(|_, share| !share.is_idle(bounds, now));
    }

    /// Up to `most` sources where somebody proved an identity within the hour, the latest first.
    pub fn guests(&self, most: usize, now: Millis) -> Vec<SourceKey> {
        let last = |held: &Held| held.guests.last().map(|(_, until)| *until).filter(|until| now < *until);
        let mut all: Vec<_> = self.sources.iter().filter_map(|(key, held)| Some((last(held)?, *key))).collect();
        if all.len() > most {
            all.select_nth_unstable_by_key(most, |(until, _)| std::cmp::Reverse(*until));
            all.truncate(most);
        }
        all.sort_unstable_by_key(|(until, _)| std::cmp::Reverse(*until));
        all.into_iter().map(|(_, key)| key).collect()
    }

    /// Connections let in and not ended.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    /// Sources remembered.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Tunnels that `identity` holds.
    pub fn tunnels(&self, identity: &str) -> u32 {
        self.identities.get(identity).map_or(0, |share| share.tunnels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    const BOUNDS: Bounds = Bounds {
        connections: 10,
        connections_per_source: 3,
        handshake_rate_per_source: 2,
        tunnels_per_identity: 4,
        tunnel_rate_per_identity: 3,
        connections_per_identity: 2,
        frame_rate_per_identity: 10,
        stalled_per_identity: 2,
        handshake_rate_per_identity: 1,
        homes_per_identity: 3,
    };

    fn source(n: u8) -> SourceKey {
        IpAddr::from([192, 0, 2, n]).into()
    }

    #[test]
    fn a_subscriber_is_an_ipv4_address_or_a_64() {
        let key = |text: &str| SourceKey::from(text.parse::<IpAddr>().expect(text));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn each_bound_is_hit_by_name() {
        let mut gate = Gate::default();
        assert!((0..3).all(|_| gate.enter(source(1), &BOUNDS, 0).is_ok()));
        assert_eq!(gate.enter(source(1), &BOUNDS, 0), Err(Over::PerSource));
        (0..3).for_each(|_| gate.left(source(1)));
        assert_eq!(gate.enter(source(1), &BOUNDS, 0), Ok(false));
        assert_eq!(gate.enter(source(1), &BOUNDS, 0), Err(Over::HandshakeRate), "four in the same millisecond");
        assert!((2..11).all(|n| gate.enter(source(n), &BOUNDS, 0).is_ok()));
        assert_eq!(gate.enter(source(11), &BOUNDS, 0), Err(Over::Connections));
        let ann: Arc<str> = "ann".into();
        assert!((0..4).all(|_| gate.open(&ann, &BOUNDS, 0).is_ok()));
        assert_eq!(gate.open(&ann, &BOUNDS, 0), Err(Over::Tunnels));
        (0..4).for_each(|_| gate.closed("ann"));
        assert!(gate.open(&ann, &BOUNDS, 0).is_ok() && gate.open(&ann, &BOUNDS, 0).is_ok());
        assert_eq!(gate.open(&ann, &BOUNDS, 0), Err(Over::TunnelRate(334)));
        assert_eq!(gate.open(&"bob".into(), &BOUNDS, 0), Ok(()), "one user's limit is not another's");
    }

    #[test]
    fn an_identity_shares_connections_and_frames_wherever_it_comes_from() {
        let (mut gate, ann, bob): (_, Arc<str>, Arc<str>) = (Gate::default(), "ann".into(), "bob".into());
        assert!(gate.join(&ann, &BOUNDS, 0).is_ok() && gate.join(&ann, &BOUNDS, 0).is_ok());
        assert_eq!(gate.join(&ann, &BOUNDS, 0), Err(Over::PerIdentity));
        assert_eq!(gate.join(&bob, &BOUNDS, 0), Ok(()));
        gate.parted("ann");
        assert_eq!(gate.join(&ann, &BOUNDS, 0), Ok(()));
        assert_eq!(gate.spend(&ann, 20, &BOUNDS, 0), 0, "a burst");
        assert_eq!(gate.spend(&ann, 5, &BOUNDS, 0), 500);
        assert_eq!(gate.spend(&ann, 1, &BOUNDS, 500), 100);
        assert_eq!(gate.spend(&bob, 1, &BOUNDS, 0), 0);
        assert!(gate.open(&ann, &BOUNDS, 500).is_ok());
        assert_eq!([(); 3].map(|()| gate.stalls("ann", &BOUNDS, 500)), [true, true, false]);
        assert!(matches!(gate.open(&ann, &BOUNDS, 500), Err(Over::TunnelRate(_))), "one too many costs new tunnels");
        (0..100).for_each(|_| assert!(!gate.stalls("ann", &BOUNDS, 500)));
        assert!(gate.open(&ann, &BOUNDS, 500 + Gate::PENANCE + 3000).is_ok(), "not for ever");
        (0..2).for_each(|_| gate.closed("ann"));
        gate.moves("ann");
        assert!(gate.stalls("ann", &BOUNDS, 500) && gate.stalls("bob", &BOUNDS, 500));
        gate.sweep_identities(&BOUNDS, 30_000);
        assert_eq!(gate.identities.len(), 2, "they are connected");
        (0..2).for_each(|_| gate.parted("ann"));
        gate.parted("bob");
        gate.sweep_identities(&BOUNDS, 30_000);
        assert!(gate.identities.is_empty(), "nobody proved anything from anywhere");
    }

    #[test]
    fn who_has_much_to_take_opens_few_tunnels() {
        let (mut gate, ann): (_, Arc<str>) = (Gate::default(), "ann".into());
        let bounds = Bounds { tunnels_per_identity: 0, tunnel_rate_per_identity: 100, ..BOUNDS };
        assert!(gate.join(&ann, &bounds, 0).is_ok());
        let opened = |gate: &mut Gate, now| (0..1000).take_while(|_| gate.open(&ann, &bounds, now).is_ok()).count();
        gate.waits("ann");
        assert_eq!(opened(&mut gate, 0), 200, "one waits, and two may");
        gate.waits("ann");
        assert_eq!(opened(&mut gate, 2000), 10);
        (0..2).for_each(|_| gate.takes("ann"));
        assert_eq!(opened(&mut gate, 4000), 200);
    }

    #[test]
    fn where_somebody_proved_who_he_is_guests_come_from() {
        let (mut gate, ann): (_, Arc<str>) = (Gate::default(), "ann".into());
        assert_eq!(gate.enter(source(1), &BOUNDS, 0), Ok(false));
        gate.proved(source(1), &ann, &BOUNDS, 0);
        gate.proved(source(2), &ann, &BOUNDS, 0);
        gate.left(source(1));
        gate.sweep(BOUNDS.handshake_rate_per_source, 60_000);
        assert_eq!(gate.enter(source(1), &BOUNDS, 60_000), Ok(true));
        assert_eq!(gate.enter(source(2), &BOUNDS, 60_000), Ok(false), "who was not here has proved nothing");
        gate.left(source(1));
        assert_eq!(gate.enter(source(1), &BOUNDS, Gate::GUEST), Ok(false));
    }

    #[test]
    fn who_shakes_hands_too_often_is_no_guest_for_a_while_and_harms_no_other() {
        let (mut gate, eve, ann): (_, Arc<str>, Arc<str>) = (Gate::default(), "eve".into(), "ann".into());
        for n in 1..=2 {
            assert!(gate.enter(source(n), &BOUNDS, 0).is_ok());
            gate.proved(source(n), &eve, &BOUNDS, 0);
            gate.left(source(n));
        }
        assert_eq!(gate.enter(source(1), &BOUNDS, 0), Ok(false), "two in a moment, one a second");
        gate.left(source(1));
        assert_eq!(gate.enter(source(3), &BOUNDS, 0), Ok(false));
        gate.proved(source(3), &ann, &BOUNDS, 0);
        assert_eq!(gate.enter(source(3), &BOUNDS, 0), Ok(true));
        assert_eq!(gate.enter(source(2), &BOUNDS, 1000), Ok(true), "her budget comes back");
        assert!(gate.enter(source(2), &BOUNDS, 1000).is_ok());
        gate.proved(source(2), &eve, &BOUNDS, 1000);
        (0..2).for_each(|_| gate.proved(source(2), &ann, &BOUNDS, 1000));
        gate.left(source(2));
        assert_eq!(gate.enter(source(2), &BOUNDS, 1000), Ok(false), "both have used theirs up");
        gate.left(source(2));
        assert_eq!(gate.enter(source(2), &BOUNDS, 2001), Ok(true), "where ann was too");
    }

    #[test]
    fn an_identity_is_remembered_at_a_few_places_only() {
        let (mut gate, eve): (_, Arc<str>) = (Gate::default(), "eve".into());
        let bounds = Bounds { connections: 0, ..BOUNDS };
        for n in 0..100 {
            assert!(gate.enter(source(n), &bounds, 0).is_ok());
            gate.proved(source(n), &eve, &bounds, 0);
            gate.left(source(n));
        }
        gate.sweep(bounds.handshake_rate_per_source, 60_000);
        assert_eq!(gate.sources(), bounds.homes_per_identity as usize);
        assert_eq!(gate.guests(2, 60_000).len(), 2);
        assert_eq!(gate.guests(9, 60_000).len(), 3);
        assert!(gate.guests(9, 60_000).contains(&source(99)) && gate.guests(9, Gate::GUEST).is_empty());
        assert_eq!(gate.enter(source(99), &bounds, 60_000), Ok(true));
        assert_eq!(gate.enter(source(9), &bounds, 60_000), Ok(false));
    }

    #[test]
    fn strangers_with_many_addresses_cost_a_constant() {
        let mut gate = Gate::default();
        let bounds = Bounds { connections: 0, ..BOUNDS };
        for n in 0..200_000_u32 {
            let key = IpAddr::from(n.to_be_bytes()).into();
            if gate.enter(key, &bounds, u64::from(n / 100)).is_ok() {
                gate.left(key);
            }
        }
        assert!(gate.sources() <= Gate::MAX_SOURCES);
        assert_eq!(gate.connections(), 0);
        assert_eq!(gate.enter(source(1), &bounds, 60_000), Ok(false), "and do not lock out others");
        gate.sweep(bounds.handshake_rate_per_source, 60_000);
        assert_eq!(gate.sources(), 1);
    }

    proptest! {
        /// Whatever comes and goes, what is held equals what was let in and not ended, within the bounds.
        #[test]
        fn counts_are_exact(steps in prop::collection::vec((0u8..4, 0u8..4, 0u64..500), 1..300)) {
            let mut gate = Gate::default();
            let mut held: HashMap<u8, u32> = HashMap::new();
            let mut now = 0;
            for (what, who, later) in steps {
                now += later;
                let count = held.entry(who).or_default();
                if what < 3 {
                    let free = *count < BOUNDS.connections_per_source;
                    let entered = gate.enter(source(who), &BOUNDS, now);
                    prop_assert_eq!(entered == Err(Over::PerSource), !free && gate.connections() < 10);
                    *count += u32::from(entered.is_ok());
                } else if *count > 0 {
                    *count -= 1;
                    gate.left(source(who));
                }
                prop_assert_eq!(gate.connections(), held.values().sum::<u32>());
                prop_assert!(gate.connections() <= BOUNDS.connections);
                gate.sweep(BOUNDS.handshake_rate_per_source, now);
            }
        }
    }
}
