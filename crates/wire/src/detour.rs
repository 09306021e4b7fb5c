//! A detour: a session of the spread plane carries on over the tunnel plane while no relay answers.
//!
//! ```text
//! CONNECT wiki.example:443      polder-detour: <claim, 80 hexadecimal digits>
//! claim    session 16 ‖ time 8 (Unix µs of the overlay) ‖ proof 16
//! stream   frames, both ways:   length 2 ‖ datagram (1 to 2,048 bytes)
//!                               0 ‖ word 1
//! ```
//!
//! The claim says which session's end the stream is for; its proof needs the session's key, and its time must be later than that
//! of any claim before, so that neither another user nor a node that saw one can use it. What the datagrams hold is QUIC's own.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The field of a request that carries a claim.
pub const FIELD: &str = "polder-detour";
/// Longest datagram: what an Ethernet carries, with room to spare.
pub const LONGEST: usize = 2048;

const CLAIM: usize = 40;

/// Whose end a stream is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The session's name.
    pub session: [u8; 16],
    /// When it was made, Unix microseconds of the overlay.
    pub at: u64,
    /// That its maker holds the session's key.
    pub proof: [u8; 16],
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Claim(withheld)")
    }
}

impl Claim {
    /// As a field's value.
    pub fn encode(&self) -> String {
        let parts: [&[u8]; 3] = [&self.session, &self.at.to_be_bytes(), &self.proof];
        let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
        parts.concat().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// Reads a field's value; `None` for anything but what [`Claim::encode`] writes.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        if text.len() != 2 * CLAIM {
            return None;
        }
        let pairs = text.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?));
        let bytes: Vec<u8> = pairs.collect::<Option<_>>()?;
        let (session, rest) = bytes.split_first_chunk::<16>()?;
        let (at, proof) = rest.split_first_chunk::<8>()?;
        Some(Claim { session: *session, at: u64::from_be_bytes(*at), proof: proof.try_into().ok()? })
    }
}

/// What is said beside datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Servlet: the session's end is here.
    Here,
    /// User: send your datagrams on this stream.
    Stream,
    /// User: send them over relays again.
    Relays,
}

const WORDS: [Word; 3] = [Word::Here, Word::Stream, Word::Relays];

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A QUIC datagram.
    Datagram(Bytes),
    /// A word.
    Word(Word),
}

/// The peer's fault: what comes is no frame. The stream is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Frames of datagrams that lie one behind the other, `segment` bytes each, the last may be shorter. Longer ones are left out.
pub fn put_datagrams(datagrams: &[u8], segment: usize, out: &mut BytesMut) {
    for datagram in datagrams.chunks(segment.max(1)) {
        if let (Ok(length), true) = (u16::try_from(datagram.len()), datagram.len() <= LONGEST) {
            out.put_u16(length);
            out.put_slice(datagram);
        }
    }
}

/// The frame of a word.
pub fn word(word: Word) -> Bytes {
    let number = WORDS.iter().position(|known| *known == word).unwrap_or_default();
    Bytes::copy_from_slice(&[0, 0, u8::try_from(number).unwrap_or_default()])
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub struct Frames {
    /// Never more than one frame that is not whole, and what came with its end.
    kept: BytesMut,
}

impl Frames {
    /// What came next.
    pub fn push(&mut self, chunk: &[u8]) {
        self.kept.extend_from_slice(chunk);
    }

    /// The next whole frame, until `None`.
    pub fn take(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(head) = self.kept.first_chunk::<2>() else { return Ok(None) };
        match usize::from(u16::from_be_bytes(*head)) {
            0 => {
                let Some(number) = self.kept.get(2).copied() else { return Ok(None) };
                self.kept.advance(3);
                WORDS.get(usize::from(number)).map(|word| Some(Frame::Word(*word))).ok_or(Malformed)
            }
            length if length > LONGEST => Err(Malformed),
            length if self.kept.len() < 2 + length => Ok(None),
            length => {
                self.kept.advance(2);
                Ok(Some(Frame::Datagram(self.kept.split_to(length).freeze())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn claims_come_back_and_have_one_spelling(session: [u8; 16], at: u64, proof: [u8; 16], text in "[0-9a-fA-F]{78,82}") {
            let claim = Claim { session, at, proof };
            prop_assert_eq!(Claim::parse(claim.encode().as_bytes()), Some(claim));
            if let Some(claim) = Claim::parse(text.as_bytes()) {
                prop_assert_eq!(claim.encode(), text);
            }
        }

        #[test]
        fn frames_come_back_however_they_are_cut(
            sent in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 1..LONGEST).prop_map(|bytes| Frame::Datagram(bytes.into())),
                prop::sample::select(&WORDS).prop_map(Frame::Word),
            ], 0..12),
            cuts in prop::collection::vec(1usize..700, 1..50),
        ) {
            let mut stream = BytesMut::new();
            for frame in &sent {
                match frame {
                    Frame::Datagram(bytes) => put_datagrams(bytes, bytes.len(), &mut stream),
                    Frame::Word(said) => stream.extend_from_slice(&word(*said)),
                }
            }
            let (mut frames, mut heard, mut rest) = (Frames::default(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                frames.push(now);
                while let Some(frame) = frames.take().unwrap() {
                    heard.push(frame);
                }
                rest = later;
            }
            prop_assert_eq!(heard, sent);
        }

        #[test]
        fn junk_is_refused_or_waited_for(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            while let Ok(Some(frame)) = frames.take() {
                prop_assert!(!matches!(frame, Frame::Datagram(bytes) if bytes.is_empty() || bytes.len() > LONGEST));
            }
        }
    }

    #[test]
    fn a_run_becomes_frames_and_what_is_too_long_is_left_out() {
        let mut out = BytesMut::new();
        put_datagrams(&[7; 25], 10, &mut out);
        assert_eq!(out.len(), 25 + 3 * 2);
        put_datagrams(&[7; LONGEST + 1], LONGEST + 1, &mut out);
        assert_eq!(out.len(), 25 + 3 * 2);
    }
}
