//! Packets on their way to the socket, in runs that one call of the kernel carries.

use std::net::SocketAddr;

/// Most packets of a run: what the kernel takes (UDP_MAX_SEGMENTS).
pub const RUN_PACKETS: usize = 64;
/// Most bytes of a run: one UDP datagram before it is cut up.
pub const RUN_BYTES: usize = 65_000;

/// Packets to one address: `segment` bytes each, the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Bytes of each packet.
    pub segment: usize,
    /// All packets, one behind the other.
    pub bytes: &'a [u8],
}

impl<'a> Run<'a> {
    /// One by one.
    pub fn packets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.segment.max(1))
    }
}

#[derive(Debug)]
struct Open {
    to: SocketAddr,
    segment: usize,
    count: usize,
    bytes: Vec<u8>,
    closed: bool,
}

/// Where sealed packets gather. Its memory is used again after [`Outbox::clear`].
#[derive(Debug, Default)]
pub struct Outbox {
    runs: Vec<Open>,
    used: usize,
}

impl Outbox {
    /// The runs, in the order in which they began.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.runs.iter().take(self.used).map(|run| Run { to: run.to, segment: run.segment, bytes: &run.bytes })
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets what was sent.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Room for one packet of `length` bytes to `to`: continues a run where that is possible.
    pub(crate) fn packet(&mut self, to: SocketAddr, length: usize) -> &mut [u8] {
        let fits = |run: &Open| {
            run.to == to
                && !run.closed
                && length <= run.segment
                && run.count < RUN_PACKETS
                && run.bytes.len() + length <= RUN_BYTES
        };
        let at = match self.runs[..self.used].iter().rposition(|run| run.to == to) {
            Some(at) if fits(&self.runs[at]) => at,
            _ => self.open(to, length),
        };
        let run = &mut self.runs[at];
        run.closed = length < run.segment;
        run.count += 1;
        let start = run.bytes.len();
        run.bytes.resize(start + length, 0);
        &mut run.bytes[start..]
    }

    fn open(&mut self, to: SocketAddr, segment: usize) -> usize {
        if self.used == self.runs.len() {
            self.runs.push(Open { to, segment, count: 0, bytes: Vec::new(), closed: false });
        }
        let run = &mut self.runs[self.used];
        (run.to, run.segment, run.count, run.closed) = (to, segment, 0, false);
        run.bytes.clear();
        self.used += 1;
        self.used - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_hold_every_packet_in_order(
            packets in prop::collection::vec((0u16..3, prop::sample::select(vec![1usize, 500, 1328, 30_000])), 0..300)
        ) {
            let mut outbox = Outbox::default();
            for round in 0..2 {
                outbox.clear();
                for (n, &(port, length)) in packets.iter().enumerate() {
                    let room = outbox.packet(([127, 0, 0, 1], port).into(), length);
                    prop_assert!(room.len() == length && room.iter().all(|&byte| byte == 0));
                    room.fill(n as u8 ^ round);
                }
                for run in outbox.runs() {
                    prop_assert!(run.packets().count() <= RUN_PACKETS && run.bytes.len() <= RUN_BYTES);
                }
                for port in 0..3 {
                    let want: Vec<(usize, u8)> = packets.iter().enumerate().filter(|(_, p)| p.0 == port)
                        .map(|(n, p)| (p.1, n as u8 ^ round)).collect();
                    let got: Vec<(usize, u8)> = outbox.runs().filter(|run| run.to.port() == port)
                        .flat_map(|run| run.packets().map(|p| (p.len(), p[0])).collect::<Vec<_>>()).collect();
                    prop_assert_eq!(got, want);
                }
            }
        }
    }
}
