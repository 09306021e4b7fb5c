//! Counts HTTP/2 frames in a byte stream, without understanding them (RFC 9113 §4.1).
//!
//! Whoever sends PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty or tiny DATA makes the receiver work for next to no bytes. An
//! HTTP/2 library answers them all; this counts them before it sees them, so that somebody can say how many are enough.

/// DATA of at least so many bytes is worth its cost.
pub const SMALL_DATA: u32 = 512;

/// The client's preface (RFC 9113 §3.4).
const PREFACE: u8 = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;

/// Where in the stream a client's bytes have come to.
#[derive(Clone, Debug)]
pub struct FrameCounter {
    preface: u8,
    head: [u8; HEAD],
    have: usize,
    payload: u32,
}

impl Default for FrameCounter {
    /// At the start of a client's connection.
    fn default() -> Self {
        FrameCounter { preface: PREFACE, head: [0; HEAD], have: 0, payload: 0 }
    }
}

impl FrameCounter {
    /// Costly frames whose head ends in `bytes`, the next of the stream: all but DATA of [`SMALL_DATA`] bytes or more.
    pub fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let mut costly = 0;
        let skip = usize::from(self.preface).min(bytes.len());
        self.preface -= skip as u8;
        bytes = &bytes[skip..];
        while !bytes.is_empty() {
            let inside = (self.payload as usize).min(bytes.len());
            self.payload -= inside as u32;
            bytes = &bytes[inside..];
            let more = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
            self.have += more;
            bytes = &bytes[more..];
            if self.have == HEAD {
                self.have = 0;
                self.payload = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]);
                costly += u32::from(self.head[3] != DATA || self.payload < SMALL_DATA);
            }
        }
        costly
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(frames: &[(u8, usize)]) -> Vec<u8> {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, length) in frames {
            out.extend_from_slice(&(*length as u32).to_be_bytes()[1..]);
            out.extend_from_slice(&[*kind, 0, 0, 0, 0, 1]);
            out.extend(vec![*kind; *length]);
        }
        out
    }

    #[test]
    fn what_carries_much_is_free() {
        let mut counter = FrameCounter::default();
        assert_eq!(counter.count(&stream(&[(4, 0), (6, 8), (0, 0), (0, 511), (0, 512), (0, 16384), (9, 600), (0xfe, 0)])), 6);
    }

    proptest! {
        /// However the bytes are cut, the frames are the same.
        #[test]
        fn pieces_change_nothing(
            frames in prop::collection::vec((0u8..12, 0usize..1200), 0..40),
            cuts in prop::collection::vec(1usize..700, 1..60),
        ) {
            let bytes = stream(&frames);
            let costly = frames.iter().filter(|(kind, length)| *kind != 0 || *length < 512).count() as u32;
            let (mut counter, mut rest, mut seen) = (FrameCounter::default(), bytes.as_slice(), 0);
            for cut in cuts.iter().cycle() {
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                seen += counter.count(piece);
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, costly);
        }
    }
}
