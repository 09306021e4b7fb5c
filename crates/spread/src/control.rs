//! What the ends tell each other beside the datagrams; it travels encrypted, like these.
//!
//! ```text
//! 1 feedback | members 1 | count 2 | newest 4 | held 4 | count × ( relay 2 | received 4 | duplicates 4 | last 4 | delay 4 | largest 2 )
//! 2 probe    | zeros
//! 3 deaf
//! ```

use crate::ids::Tick;

const FEEDBACK: u8 = 1;
const PROBE: u8 = 2;
const DEAF: u8 = 3;
const FIXED: usize = 12;
const ENTRY: usize = 20;
/// Most entries of one message: it fits where a QUIC datagram fits.
pub(crate) const MOST: usize = 56;

/// What one end received over one relay, since the session's keys were new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Index in the member list.
    pub relay: u16,
    /// Packets, with duplicates.
    pub received: u32,
    /// Packets that another relay had brought before.
    pub duplicates: u32,
    /// When the newest of them was sent.
    pub last: Tick,
    /// How long a packet takes, µs: least of late, from an unknown zero that all relays share.
    pub delay: i32,
    /// Longest of them, bytes.
    pub largest: u16,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// How packets come in.
    Feedback {
        /// Version of the member list modulo 256.
        members: u8,
        /// When the newest packet was sent, over whatever relay.
        newest: Tick,
        /// Microseconds from its arrival to this message.
        held: u32,
        entries: Vec<Entry>,
    },
    /// Tries a path: no answer but the next feedback.
    Probe,
    /// Nothing comes any more: ways back are good for nothing but those that bring this.
    Deaf,
}

impl Control {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (members, newest, held, entries) = match self {
            Control::Feedback { members, newest, held, entries } => (members, newest, held, entries),
            Control::Probe => return vec![PROBE],
            Control::Deaf => return vec![DEAF],
        };
        let mut out = vec![FEEDBACK, *members];
        out.extend((entries.len().min(MOST) as u16).to_be_bytes());
        out.extend(newest.0.to_be_bytes());
        out.extend(held.to_be_bytes());
        for entry in entries.iter().take(MOST) {
            out.extend(entry.relay.to_be_bytes());
            out.extend(entry.received.to_be_bytes());
            out.extend(entry.duplicates.to_be_bytes());
            out.extend(entry.last.0.to_be_bytes());
            out.extend(entry.delay.to_be_bytes());
            out.extend(entry.largest.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Control> {
        match *bytes.first()? {
            PROBE => bytes[1..].iter().all(|&byte| byte == 0).then_some(Control::Probe),
            DEAF => (bytes.len() == 1).then_some(Control::Deaf),
            FEEDBACK if bytes.len() >= FIXED => {
                let number = |at: usize| bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four));
                let count = usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?));
                let body = bytes.get(FIXED..)?;
                if count > MOST || body.len() != count * ENTRY {
                    return None;
                }
                let entries = body.chunks_exact(ENTRY).map(Self::entry).collect::<Option<_>>()?;
                Some(Control::Feedback { members: bytes[1], newest: Tick(number(4)?), held: number(8)?, entries })
            }
            _ => None,
        }
    }

    fn entry(bytes: &[u8]) -> Option<Entry> {
        let four = |at: usize| bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four));
        let two = |at: usize| bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two));
        Some(Entry {
            relay: two(0)?,
            received: four(2)?,
            duplicates: four(6)?,
            last: Tick(four(10)?),
            delay: four(14)? as i32,
            largest: two(18)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        (any::<u16>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<i32>(), any::<u16>()).prop_map(
            |(relay, received, duplicates, last, delay, largest)| Entry {
                relay,
                received,
                duplicates,
                last: Tick(last),
                delay,
                largest,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(
            members in any::<u8>(), newest in any::<u32>(), held in any::<u32>(), entries in prop::collection::vec(entry(), 0..=MOST)
        ) {
            let said = Control::Feedback { members, newest: Tick(newest), held, entries };
            let mut bytes = said.encode();
            prop_assert!(bytes.len() <= 1200);
            prop_assert_eq!(Control::decode(&bytes), Some(said));
            bytes.push(0);
            prop_assert_eq!(Control::decode(&bytes), None);
        }

        #[test]
        fn any_bytes_are_one_message_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(control) = Control::decode(&bytes) {
                prop_assert!(control == Control::Probe || control.encode() == bytes);
            }
        }
    }
}
