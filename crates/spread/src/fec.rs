//! Forward error correction: Reed-Solomon over groups of datagrams, so that any `sources` packets of a group bring all of it.
//!
//! A shard is a datagram behind its length (2 bytes), filled up with zeros to the longest of the group (an even number of
//! bytes, as the code wants). Sources travel as they are; only repairs travel as shards.

use crate::config::Fec;
use crate::end::{Inner, Kind};
use std::collections::{BTreeMap, VecDeque};

/// Most datagrams and most repairs of a group.
pub(crate) const MOST: u8 = 64;
/// Bytes that a shard has more than its datagram.
pub(crate) const LENGTH: usize = 2;
/// Groups that a receiver keeps open: 64 × 128 shards at the most, in truth what came in.
const GROUPS: usize = 64;

/// The sender's side.
#[derive(Debug)]
pub(crate) struct Encoder {
    fec: Fec,
    group: u32,
    sources: Vec<Vec<u8>>,
}

impl Encoder {
    /// Its groups count from `first`.
    pub(crate) fn new(fec: Fec, first: u32) -> Self {
        let fec = Fec { sources: fec.sources.clamp(1, MOST), repairs: fec.repairs.clamp(1, MOST) };
        Encoder { fec, group: first, sources: Vec::new() }
    }

    /// The head of the next datagram.
    pub(crate) fn head(&self) -> Inner {
        let index = self.sources.len() as u8;
        Inner { kind: Kind::Data, index, sources: self.fec.sources, repairs: self.fec.repairs, group: self.group }
    }

    /// The datagram that [`Encoder::head`] was for. True when the group is complete.
    pub(crate) fn add(&mut self, datagram: &[u8]) -> bool {
        self.sources.push(datagram.to_vec());
        self.sources.len() >= usize::from(self.fec.sources)
    }

    /// Ends the group: its repairs, in proportion if it is not complete.
    pub(crate) fn repairs(&mut self) -> Vec<(Inner, Vec<u8>)> {
        let sources = std::mem::take(&mut self.sources);
        let group = self.group;
        self.group = self.group.wrapping_add(1);
        let Some(longest) = sources.iter().map(Vec::len).max() else { return Vec::new() };
        let count = sources.len();
        let wanted = (usize::from(self.fec.repairs) * count).div_ceil(usize::from(self.fec.sources)).max(1);
        let size = (longest + LENGTH).next_multiple_of(2);
        let shards = sources.iter().map(|source| shard(source, size));
        let Ok(repairs) = reed_solomon_simd::encode(count, wanted, shards) else { return Vec::new() };
        let head =
            |index: usize| Inner { kind: Kind::Repair, index: index as u8, sources: count as u8, repairs: wanted as u8, group };
        repairs.into_iter().enumerate().map(|(index, repair)| (head(index), repair)).collect()
    }
}

fn shard(datagram: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    out.extend((datagram.len() as u16).to_be_bytes());
    out.extend(datagram);
    out.resize(size, 0);
    out
}

#[derive(Debug, Default)]
struct Group {
    sources: BTreeMap<u8, Vec<u8>>,
    repairs: BTreeMap<u8, Vec<u8>>,
    /// Datagrams and repairs, as a repair tells.
    size: Option<(u8, u8)>,
    done: bool,
}

/// The receiver's side.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    groups: BTreeMap<u32, Group>,
    order: VecDeque<u32>,
}

impl Decoder {
    fn group(&mut self, number: u32) -> &mut Group {
        if !self.groups.contains_key(&number) {
            if self.order.len() >= GROUPS
                && let Some(oldest) = self.order.pop_front()
            {
                self.groups.remove(&oldest);
            }
            self.order.push_back(number);
        }
        self.groups.entry(number).or_default()
    }

    /// A packet of a group came in; the datagrams that can be had now and have not come themselves.
    pub(crate) fn take(&mut self, inner: &Inner, payload: &[u8]) -> Vec<Vec<u8>> {
        if inner.sources == 0 || inner.sources > MOST || inner.repairs > MOST {
            return Vec::new();
        }
        let group = self.group(inner.group);
        if group.done {
            return Vec::new();
        }
        match inner.kind {
            Kind::Data => {
                group.sources.insert(inner.index, payload.to_vec());
            }
            Kind::Repair => {
                group.size = Some((inner.sources, inner.repairs));
                group.repairs.insert(inner.index, payload.to_vec());
            }
            Kind::Control => return Vec::new(),
        }
        group.recover()
    }
}

impl Group {
    fn recover(&mut self) -> Vec<Vec<u8>> {
        let Some((sources, repairs)) = self.size else { return Vec::new() };
        if self.sources.len() >= usize::from(sources) {
            self.finish();
            return Vec::new();
        }
        if self.sources.len() + self.repairs.len() < usize::from(sources) {
            return Vec::new();
        }
        let size = self.repairs.values().map(Vec::len).max().unwrap_or_default();
        let originals = self.sources.iter().map(|(&index, source)| (usize::from(index), shard(source, size)));
        let recovered = reed_solomon_simd::decode(
            usize::from(sources),
            usize::from(repairs),
            originals,
            self.repairs.iter().map(|(&index, repair)| (usize::from(index), repair)),
        );
        self.finish();
        let read = |shard: &[u8]| {
            let (length, rest) = shard.split_first_chunk::<2>()?;
            rest.get(..usize::from(u16::from_be_bytes(*length))).map(<[u8]>::to_vec)
        };
        recovered.map(|shards| shards.values().filter_map(|shard| read(shard)).collect()).unwrap_or_default()
    }

    fn finish(&mut self) {
        self.done = true;
        self.sources.clear();
        self.repairs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(datagrams: &[Vec<u8>], fec: Fec) -> Vec<(Inner, Vec<u8>)> {
        let mut encoder = Encoder::new(fec, u32::MAX);
        let mut packets = Vec::new();
        for datagram in datagrams {
            packets.push((encoder.head(), datagram.clone()));
            if encoder.add(datagram) {
                packets.extend(encoder.repairs());
            }
        }
        packets.extend(encoder.repairs()); // none if the last group was complete
        packets
    }

    proptest! {
        #[test]
        fn any_enough_packets_bring_the_whole_group(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..12),
            repairs in 1u8..8, order in any::<u64>()
        ) {
            let fec = Fec { sources: 12, repairs };
            let mut packets = group(&datagrams, fec);
            // partial groups get repairs in proportion
            prop_assert_eq!(packets.len() - datagrams.len(), (usize::from(repairs) * datagrams.len()).div_ceil(12));
            let mut chance = crate::chance::Chance(order);
            packets.sort_by_cached_key(|_| chance.draw());
            let mut decoder = Decoder::default();
            let mut had: Vec<Vec<u8>> = Vec::new();
            for (inner, payload) in packets.iter().take(datagrams.len()) {
                if inner.kind == Kind::Data {
                    had.push(payload.clone());
                }
                had.extend(decoder.take(inner, payload));
            }
            let mut want = datagrams.clone();
            had.sort();
            want.sort();
            prop_assert_eq!(had, want);
        }

        #[test]
        fn any_heads_and_bytes_are_survived(
            heads in prop::collection::vec((any::<bool>(), any::<u8>(), 0u8..70, 0u8..70, 0u32..4,
                prop::collection::vec(any::<u8>(), 0..60)), 0..200)
        ) {
            let mut decoder = Decoder::default();
            for (data, index, sources, repairs, group, payload) in heads {
                let kind = if data { Kind::Data } else { Kind::Repair };
                decoder.take(&Inner { kind, index, sources, repairs, group }, &payload);
            }
            prop_assert!(decoder.groups.len() <= GROUPS);
        }
    }

    #[test]
    fn old_groups_are_forgotten() {
        let mut decoder = Decoder::default();
        for group in 0..1000 {
            decoder.take(&Inner { kind: Kind::Data, index: 0, sources: 2, repairs: 1, group }, b"x");
        }
        assert_eq!((decoder.groups.len(), decoder.order.len()), (GROUPS, GROUPS));
    }
}
