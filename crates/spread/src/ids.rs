//! Time, nodes, sessions, and the list of relays that a choice is made from.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::ops::{Add, Sub};
use std::time::Duration;

/// The overlay's time: Unix microseconds. Each process keeps it from going back; a forwarder takes it from the answer that
/// brought its ticket, so that the user's own clock does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Micros(pub u64);

impl Micros {
    /// From whole Unix seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Micros(seconds.saturating_mul(1_000_000))
    }

    /// Whole Unix seconds.
    pub const fn secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long ago `earlier` was; nothing if it lies ahead.
    pub const fn since(self, earlier: Micros) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// As packets carry it.
    pub const fn tick(self) -> Tick {
        Tick((self.0 as u128 * 2 / 125) as u32)
    }
}

impl Add<Duration> for Micros {
    type Output = Micros;

    fn add(self, more: Duration) -> Micros {
        Micros(self.0.saturating_add(u64::try_from(more.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Micros {
    type Output = Micros;

    fn sub(self, less: Duration) -> Micros {
        Micros(self.0.saturating_sub(u64::try_from(less.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A time in packets: sixteenths of a millisecond, modulo 2³² (it comes round after 74 hours; keys live shorter).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(pub u32);

/// Microseconds in a [`Tick`], times two.
const TICK_HALVES: i64 = 125;

impl Tick {
    /// Microseconds from `earlier` to here, over the shorter way round.
    pub const fn micros_since(self, earlier: Tick) -> i64 {
        self.0.wrapping_sub(earlier.0) as i32 as i64 * TICK_HALVES / 2
    }
}

/// A node: the first eight bytes of its ring id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// A session under one set of keys: sixteen random bytes, never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(#[serde(with = "serde_bytes")] pub [u8; 16]);

/// A relay in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Who.
    pub id: NodeId,
    /// Where its datagrams go.
    pub address: SocketAddr,
}

/// Why a list is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// Two relays with one id.
    #[error("node {0:016x} is in the list twice")]
    Twice(u64),
    /// More than [`Members::MOST`].
    #[error("the list has {0} members; at most {most} may be", most = Members::MOST)]
    Many(usize),
}

/// The relays of one version of the overlay, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    version: u32,
    list: Vec<Member>,
}

impl Members {
    /// Most members of a list: the order of each block looks at all.
    pub const MOST: usize = 4096;

    /// A list; the order given does not matter.
    pub fn new(version: u32, mut list: Vec<Member>) -> Result<Self, MembersError> {
        if list.len() > Self::MOST {
            return Err(MembersError::Many(list.len()));
        }
        list.sort_by_key(|member| member.id);
        match list.windows(2).find(|pair| pair[0].id == pair[1].id) {
            Some(pair) => Err(MembersError::Twice(pair[0].id.0)),
            None => Ok(Members { version, list }),
        }
    }

    /// Its version: grows by one with each change.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All, by id.
    pub fn list(&self) -> &[Member] {
        &self.list
    }

    /// Place of a node in [`Members::list`].
    pub fn index(&self, id: NodeId) -> Option<usize> {
        self.list.binary_search_by_key(&id, |member| member.id).ok()
    }

    /// Where a node's datagrams go.
    pub fn address(&self, id: NodeId) -> Option<SocketAddr> {
        self.index(id).and_then(|index| self.list.get(index)).map(|member| member.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ticks_measure_the_shorter_way_round(at in 0u64..1 << 60, apart in -100_000_000_i64..100_000_000) {
            let (a, b) = (Micros(at + 200_000_000), Micros((at + 200_000_000).checked_add_signed(apart).unwrap()));
            prop_assert!((b.tick().micros_since(a.tick()) - apart).abs() <= 63);
        }
    }

    #[test]
    fn a_list_is_ordered_and_has_everybody_once() {
        let member = |id: u64| Member { id: NodeId(id), address: ([127, 0, 0, 1], id as u16).into() };
        let members = Members::new(3, vec![member(9), member(2), member(5)]).unwrap();
        assert_eq!(members.list().iter().map(|m| m.id.0).collect::<Vec<_>>(), [2, 5, 9]);
        assert_eq!((members.index(NodeId(5)), members.index(NodeId(6))), (Some(1), None));
        assert_eq!(members.address(NodeId(9)).unwrap().port(), 9);
        assert_eq!(Members::new(3, vec![member(9), member(2), member(9)]), Err(MembersError::Twice(9)));
        assert!(matches!(Members::new(0, (0..5000).map(member).collect()), Err(MembersError::Many(5000))));
    }
}
