//! GRE with a key (RFC 2784, RFC 2890), and what must be known of the IP packet inside.
//!
//! The codec is narrow on purpose: K bit alone, version 0, IPv4 or IPv6 inside. The perimeter filter admits nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a GRE header with a key.
pub const GRE_HEADER: usize = 8;
/// IP protocol number of GRE.
pub const GRE_PROTOCOL: u8 = 47;
const FLAG_KEY: u16 = 0x2000;
const SYN: u8 = 0x02;

/// Why a packet is not GRE as we speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreError {
    /// Cut short.
    #[error("cut short")]
    Short,
    /// Flags other than K, or another version.
    #[error("flags other than the key's")]
    Flags,
    /// Something other than IP inside, or an IP version that the header does not announce.
    #[error("not IP inside")]
    Inside,
    /// The outer IPv4 header has options or is part of a fragmented packet.
    #[error("options or fragment outside")]
    Outside,
}

/// The outer IPv4 header removed: what a raw IPv4 socket hands over, which starts with that header.
pub fn strip_ipv4(packet: &mut [u8]) -> Result<&mut [u8], GreError> {
    if packet.len() < 20 {
        return Err(GreError::Short);
    }
    if packet[0] != 0x45 || u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0 {
        return Err(GreError::Outside);
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    packet.get_mut(20..total).ok_or(GreError::Short)
}

/// Splits a GRE packet into its key and the IP packet inside.
pub fn decode(packet: &mut [u8]) -> Result<(u32, &mut [u8]), GreError> {
    let Some((header, inside)) = packet.split_first_chunk_mut::<GRE_HEADER>() else { return Err(GreError::Short) };
    if u16::from_be_bytes([header[0], header[1]]) != FLAG_KEY {
        return Err(GreError::Flags);
    }
    let announced = u16::from_be_bytes([header[2], header[3]]);
    if ether_type(inside) != Some(announced) {
        return Err(GreError::Inside);
    }
    Ok((u32::from_be_bytes([header[4], header[5], header[6], header[7]]), inside))
}

/// The header to put in front of an IP packet.
pub fn encode(key: u32, inside: &[u8]) -> Result<[u8; GRE_HEADER], GreError> {
    let [f0, f1] = FLAG_KEY.to_be_bytes();
    let [p0, p1] = ether_type(inside).ok_or(GreError::Inside)?.to_be_bytes();
    let [k0, k1, k2, k3] = key.to_be_bytes();
    Ok([f0, f1, p0, p1, k0, k1, k2, k3])
}

fn ether_type(inside: &[u8]) -> Option<u16> {
    match inside.first()? >> 4 {
        4 if inside.len() >= 20 => Some(0x0800),
        6 if inside.len() >= 40 => Some(0x86dd),
        _ => None,
    }
}

/// Source and destination of an IP packet; `None` if its header is cut short or of another version.
pub fn endpoints(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match ether_type(packet)? {
        0x0800 => {
            let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
            Some((address(12).into(), address(16).into()))
        }
        _ => {
            let address = |at: usize| packet[at..at + 16].try_into().map(|bytes: [u8; 16]| Ipv6Addr::from(bytes)).ok();
            Some((address(8)?.into(), address(24)?.into()))
        }
    }
}

/// Lowers the MSS that a TCP SYN offers to what fits `mtu` (RFC 9293 §3.7.1), and mends the checksum. Returns whether it did.
///
/// End points that route through the tunnel know its MTU; this helps those behind them.
pub fn clamp_mss(packet: &mut [u8], mtu: u16) -> bool {
    let Some((tcp_at, headers)) = tcp_start(packet) else { return false };
    let Some(tcp) = packet.get_mut(tcp_at..) else { return false };
    if tcp.len() < 20 || tcp[13] & SYN == 0 {
        return false;
    }
    let end = usize::from(tcp[12] >> 4) * 4;
    let Some(at) = mss_option(tcp, end) else { return false };
    let (old, new) = (u16::from_be_bytes([tcp[at], tcp[at + 1]]), mtu.saturating_sub(headers + 20));
    if old <= new {
        return false;
    }
    // An option may start at an odd byte; then each half of the value sits in another word of the checksum, swapped.
    let (was, is) = if at % 2 == 0 { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
    let sum = u16::from_be_bytes([tcp[16], tcp[17]]);
    let mended = update_checksum(sum, was, is);
    tcp[at..at + 2].copy_from_slice(&new.to_be_bytes());
    tcp[16..18].copy_from_slice(&mended.to_be_bytes());
    true
}

/// Where TCP begins and how long the IP header without options or extensions is, if TCP follows directly and whole.
fn tcp_start(packet: &[u8]) -> Option<(usize, u16)> {
    match ether_type(packet)? {
        0x0800 if packet[9] == 6 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0 => {
            Some((usize::from(packet[0] & 0xf) * 4, 20))
        }
        0x86dd if packet[6] == 6 => Some((40, 40)),
        _ => None,
    }
}

/// Offset of the MSS option's value within the TCP header, walking options as RFC 9293 §3.2 lays them.
fn mss_option(tcp: &[u8], end: usize) -> Option<usize> {
    let mut at = 20;
    while at < end.min(tcp.len()) {
        match tcp[at] {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = usize::from(*tcp.get(at + 1)?);
                if length < 2 || at + length > end.min(tcp.len()) {
                    return None;
                }
                if kind == 2 && length == 4 {
                    return Some(at + 2);
                }
                at += length;
            }
        }
    }
    None
}

/// RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m').
fn update_checksum(sum: u16, old: u16, new: u16) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checksum(parts: &[&[u8]]) -> u16 {
        let mut total = 0u32;
        for part in parts {
            for pair in part.chunks(2) {
                total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            }
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    /// A TCP segment in IPv6 with `options`, its checksum right.
    fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0u8; 20];
        tcp[0..2].copy_from_slice(&4242u16.to_be_bytes());
        tcp[12] = ((20 + options.len()) * 4) as u8;
        tcp[13] = flags;
        tcp.extend_from_slice(options);
        let mut packet = vec![0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64];
        packet.extend_from_slice(&[0xfd; 16]);
        packet.extend_from_slice(&[0xfc; 16]);
        let sum = checksum(&[&packet[8..40], &[0, 0, 0, tcp.len() as u8, 0, 0, 0, 6], &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(&tcp);
        packet
    }

    fn sound(packet: &[u8]) -> bool {
        checksum(&[&packet[8..40], &[0, 0, 0, (packet.len() - 40) as u8, 0, 0, 0, 6], &packet[40..]]) == 0
    }

    #[test]
    fn refuses_every_flag_but_the_key_and_every_protocol_but_ip() {
        let inside = segment(SYN, &[]);
        let mut good = encode(7, &inside).unwrap().to_vec();
        good.extend_from_slice(&inside);
        assert_eq!(decode(&mut good.clone()).unwrap().0, 7);
        for bit in 0..16 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&mut bad), Err(GreError::Flags));
            let mut bad = good.clone();
            bad[2 + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&mut bad), Err(GreError::Inside));
        }
    }

    #[test]
    fn refuses_outer_options_and_fragments() {
        let header = |first: u8, fragment: u16| {
            let mut packet = vec![0u8; 28];
            (packet[0], packet[3]) = (first, 28);
            packet[6..8].copy_from_slice(&fragment.to_be_bytes());
            packet
        };
        assert_eq!(strip_ipv4(&mut header(0x45, 0x4000)).map(|rest| rest.len()), Ok(8));
        for (first, fragment) in [(0x46, 0), (0x45, 0x2000), (0x45, 1), (0x55, 0)] {
            assert_eq!(strip_ipv4(&mut header(first, fragment)), Err(GreError::Outside));
        }
    }

    #[test]
    fn lowers_the_mss_of_a_syn_wherever_the_option_stands() {
        for pad in 0..4 {
            let mut options = vec![1; pad];
            options.extend_from_slice(&[2, 4, 0x05, 0xb4]);
            options.resize(8, 0);
            let mut packet = segment(SYN, &options);
            assert!(sound(&packet));
            assert!(clamp_mss(&mut packet, 1400));
            assert_eq!(packet[62 + pad..64 + pad], 1340u16.to_be_bytes());
            assert!(sound(&packet), "pad {pad}");
            assert!(!clamp_mss(&mut packet, 1400));
        }
        assert!(!clamp_mss(&mut segment(0x10, &[2, 4, 5, 0xb4]), 1400));
    }

    proptest! {
        /// What is encoded comes back, whatever the key and the content.
        #[test]
        fn round_trip(key: u32, tail in proptest::collection::vec(any::<u8>(), 0..200), six: bool) {
            let mut inside = vec![0u8; if six { 40 } else { 20 }];
            inside[0] = if six { 0x60 } else { 0x45 };
            inside.extend_from_slice(&tail);
            let mut packet = encode(key, &inside).unwrap().to_vec();
            packet.extend_from_slice(&inside);
            let (found, rest) = decode(&mut packet).unwrap();
            prop_assert_eq!((found, &*rest), (key, &*inside));
        }

        /// Nothing that a stranger sends panics, and nothing but the MSS and the checksum of a SYN changes.
        #[test]
        fn takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..120), mtu: u16) {
            let mut copy = bytes.clone();
            let _ = strip_ipv4(&mut copy).map(|inside| decode(inside).map(|_| ()));
            let _ = endpoints(&copy);
            let changed = clamp_mss(&mut copy, mtu);
            prop_assert_eq!(copy.len(), bytes.len());
            let differing = copy.iter().zip(&bytes).filter(|(a, b)| a != b).count();
            let allowed = if changed { 4 } else { 0 };
            prop_assert!(differing <= allowed, "{} bytes changed", differing);
        }

        /// A mended checksum is right, whatever stands around.
        #[test]
        fn checksum_stays_right(mss: u16, mtu in 1280u16..9000, pad in 0usize..4) {
            let mut options = vec![1; pad];
            options.extend_from_slice(&[2, 4]);
            options.extend_from_slice(&mss.to_be_bytes());
            options.resize(8, 0);
            let mut packet = segment(SYN, &options);
            prop_assert_eq!(clamp_mss(&mut packet, mtu), mss > mtu - 60);
            prop_assert!(sound(&packet));
        }
    }
}
