//! IPv4 and IPv6 packets with UDP or TCP inside, with any source address: what floods are made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const UDP: u8 = 17;
const TCP: u8 = 6;
const HOPS: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// From where to where: addresses of one family, and ports.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Source address, true or not.
    pub source: IpAddr,
    /// Destination.
    pub target: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub target_port: u16,
}

/// A UDP packet of `payload` bytes of content.
pub fn udp(flow: Flow, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut body = Vec::with_capacity(8 + payload.len());
    for word in [flow.source_port, flow.target_port, length, 0] {
        body.extend(word.to_be_bytes());
    }
    body.extend(payload);
    // RFC 768: a sum of zero is sent as all ones.
    let sum = match transport_sum(flow.source, flow.target, UDP, &body) {
        0 => u16::MAX,
        sum => sum,
    };
    body[6..8].copy_from_slice(&sum.to_be_bytes());
    ip(flow.source, flow.target, UDP, &body)
}

/// A TCP segment that asks for a connection: SYN, with the usual maximum segment size.
pub fn syn(flow: Flow, sequence: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(24);
    body.extend(flow.source_port.to_be_bytes());
    body.extend(flow.target_port.to_be_bytes());
    body.extend(sequence.to_be_bytes());
    body.extend(0u32.to_be_bytes());
    body.extend([0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0]); // 24-byte header, SYN, window 65535
    body.extend([2, 4, 0x05, 0xb4]); // maximum segment size 1460
    let sum = transport_sum(flow.source, flow.target, TCP, &body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(flow.source, flow.target, TCP, &body)
}

/// An IP packet around `body`; both addresses must be of one family (else it is an IPv6 packet with mapped addresses).
pub fn ip(source: IpAddr, target: IpAddr, protocol: u8, body: &[u8]) -> Vec<u8> {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => ipv4(source, target, protocol, body),
        _ => ipv6(mapped(source), mapped(target), protocol, body),
    }
}

fn ipv4(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    ipv4_packet(source, target, &[], DONT_FRAGMENT, protocol, body)
}

/// An IPv4 packet with `options` (a multiple of 4 bytes, at most 40) and any fragment field; empty for IPv6 addresses.
pub fn ipv4_with(source: IpAddr, target: IpAddr, options: &[u8], fragment: u16, protocol: u8, body: &[u8]) -> Vec<u8> {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => ipv4_packet(source, target, options, fragment, protocol, body),
        _ => Vec::new(),
    }
}

fn ipv4_packet(source: Ipv4Addr, target: Ipv4Addr, options: &[u8], fragment: u16, protocol: u8, body: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let length = u16::try_from(header + body.len()).unwrap_or(u16::MAX);
    let mut packet = Vec::with_capacity(header + body.len());
    packet.extend([0x40 | (header / 4) as u8, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([HOPS, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(options);
    let sum = finish(add(0, &packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

fn ipv6(source: Ipv6Addr, target: Ipv6Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut packet = Vec::with_capacity(40 + body.len());
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([protocol, HOPS]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(body);
    packet
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// RFC 1071 over the pseudo-header (RFC 768, RFC 9293 §3.1, RFC 8200 §8.1) and `body`, whose own checksum field is zero.
fn transport_sum(source: IpAddr, target: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut sum = u32::from(protocol) + body.len() as u32;
    for address in [source, target] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    finish(add(sum, body))
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, pair| sum + u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |&low| u32::from(low)))
}

fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §3, the numerical example: the sum of these words is ddf2.
    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(finish(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), !0xddf2);
    }

    fn sums_to_nothing(packet: &[u8]) -> bool {
        let (protocol, addresses, body) = match packet[0] >> 4 {
            4 => (packet[9], &packet[12..20], &packet[20..]),
            _ => (packet[6], &packet[8..40], &packet[40..]),
        };
        let pseudo = add(u32::from(protocol) + body.len() as u32, addresses);
        finish(add(pseudo, body)) == 0 && (packet[0] >> 4 == 6 || finish(add(0, &packet[..20])) == 0)
    }

    proptest! {
        /// A receiver's check (RFC 1071 §1: the sum over everything is all ones) accepts every packet.
        #[test]
        fn receivers_accept_the_checksums(
            a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), ports in any::<(u16, u16)>(), sequence: u32, six: bool,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let address = |bytes: [u8; 16]| if six { IpAddr::from(bytes) } else { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) };
            let flow = Flow { source: address(a), target: address(b), source_port: ports.0, target_port: ports.1 };
            prop_assert!(sums_to_nothing(&udp(flow, &payload)));
            prop_assert!(sums_to_nothing(&syn(flow, sequence)));
        }
    }
}
