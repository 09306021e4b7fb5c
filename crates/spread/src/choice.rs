//! Which relays a packet may take: an order that follows from the session's choice key and the packet's number.
//!
//! Rendezvous hashing (Thaler, Ravishankar 1998): each relay scores by itself, so that a list which changes by one relay
//! changes the order of no others. One draw of the PRF per block of 64 numbers makes 16 bytes that only who has the choice key
//! knows; scores mix these with the relays' ids. The mixing needs no strength of its own: whoever sees which relay took a
//! block learns something of that block's draw, and nothing of another's.

use crate::chance::mix;
use crate::ids::{Members, NodeId};
use crate::keys::{Aead, Key16};

/// Places of the order that a sender may take: its freedom to leave out relays that are dead or slow.
pub const REACH: usize = 8;

/// A session's choice key.
pub struct Choice(Aead);

impl Choice {
    /// `None`: the library refused the key.
    pub fn new(key: &Key16) -> Option<Self> {
        Aead::new(key).map(Choice)
    }

    /// The draw of a block: key stream of AES-128-GCM under the block's number (a PRF, as each block has its own nonce).
    fn draw(&self, block: u64) -> Option<(u64, u64)> {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&block.to_be_bytes());
        let mut stream = [0; 16];
        self.0.seal(nonce, &[], &mut stream)?;
        let stream = u128::from_be_bytes(stream);
        Some(((stream >> 64) as u64, stream as u64))
    }

    /// Indices of the first [`REACH`] relays for `block`, best first (fewer if the list has fewer).
    pub fn places(&self, block: u64, members: &Members) -> Places {
        let draw = self.draw(block).unwrap_or_default();
        order(draw, members.list().iter().map(|member| member.id))
    }
}

/// The first relays of an order, as indices into the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    indices: [u16; REACH],
    count: u8,
}

impl Places {
    /// Best first.
    pub fn as_slice(&self) -> &[u16] {
        &self.indices[..usize::from(self.count)]
    }

    /// Who is at `rank`.
    pub fn at(&self, rank: u8) -> Option<usize> {
        self.as_slice().get(usize::from(rank)).map(|&index| usize::from(index))
    }
}

/// The order of `ids` under one draw.
pub fn order(draw: (u64, u64), ids: impl Iterator<Item = NodeId>) -> Places {
    let mut best = [(0u64, 0u16); REACH];
    let mut count = 0usize;
    for (index, id) in ids.enumerate() {
        let score = mix(id.0 ^ draw.0).wrapping_mul(draw.1 | 1);
        if count == REACH && score <= best[REACH - 1].0 {
            continue;
        }
        // insertion from the end: the array stays sorted, the worst falls out
        let mut at = count.min(REACH - 1);
        while at > 0 && best[at - 1].0 < score {
            best[at] = best[at - 1];
            at -= 1;
        }
        best[at] = (score, index as u16); // a list has at most 4,096 members
        count = (count + 1).min(REACH);
    }
    let mut places = Places { count: count as u8, ..Places::default() };
    places.indices.iter_mut().zip(best).for_each(|(to, (_, index))| *to = index);
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Member;
    use proptest::prelude::*;

    fn members(ids: impl Iterator<Item = u64>) -> Members {
        let list = ids.map(|id| Member { id: NodeId(mix(id)), address: ([127, 0, 0, 1], 1).into() });
        Members::new(1, list.collect()).unwrap()
    }

    proptest! {
        #[test]
        fn an_order_is_the_sorted_scores(draw in any::<(u64, u64)>(), ids in prop::collection::hash_set(any::<u64>(), 0..40)) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let got = order(draw, ids.iter().map(|&id| NodeId(id)));
            let mut all: Vec<_> = ids.iter().enumerate()
                .map(|(i, &id)| (mix(id ^ draw.0).wrapping_mul(draw.1 | 1), i as u16)).collect();
            all.sort_by(|a, b| b.cmp(a));
            let want: Vec<u16> = all.iter().take(REACH).map(|&(_, i)| i).collect();
            prop_assert_eq!(got.as_slice(), &want[..]);
        }

        #[test]
        fn a_relay_that_leaves_changes_only_its_own_places(key in any::<[u8; 16]>(), gone in 0usize..20, block in any::<u64>()) {
            let all = members(0..20);
            let id = all.list()[gone].id;
            let fewer = Members::new(2, all.list().iter().copied().filter(|m| m.id != id).collect()).unwrap();
            let choice = Choice::new(&key).unwrap();
            let before = choice.places(block, &all);
            let after = choice.places(block, &fewer);
            let names = |members: &Members, places: Places| -> Vec<NodeId> {
                places.as_slice().iter().map(|&i| members.list()[usize::from(i)].id).collect()
            };
            let kept: Vec<NodeId> = names(&all, before).into_iter().filter(|&other| other != id).collect();
            prop_assert_eq!(&names(&fewer, after)[..kept.len()], &kept[..]);
        }
    }

    /// 80 relays, 80,000 blocks: each is first 1,000 ± 31 times; six deviations are allowed.
    #[test]
    fn every_relay_is_first_equally_often() {
        let all = members(0..80);
        let choice = Choice::new(&[9; 16]).unwrap();
        let mut first = [0u32; 80];
        (0..80_000).for_each(|block| first[choice.places(block, &all).at(0).unwrap()] += 1);
        assert!(first.iter().all(|&times| (810..1190).contains(&times)), "{first:?}");
    }

    #[test]
    fn another_key_gives_another_order() {
        let all = members(0..80);
        let (a, b) = (Choice::new(&[1; 16]).unwrap(), Choice::new(&[2; 16]).unwrap());
        let same = (0..8000).filter(|&block| a.places(block, &all).at(0) == b.places(block, &all).at(0)).count();
        assert!((30..200).contains(&same), "{same} of 8,000 blocks alike; chance gives 100");
    }
}
