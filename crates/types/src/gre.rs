//! What a GRE endpoint carries, and for whom. Python's half: `polder.engine.gre`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::IpAddr;

/// Everything that a GRE endpoint must know; replaced whole while packets flow.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GreConfig {
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// Largest inner packet, bytes; TCP is told so in its SYN.
    pub mtu: u16,
    /// Far ends.
    pub peers: Vec<GrePeer>,
    /// Inner destinations that may come in: our own addresses. Empty: any, for a gateway that forwards.
    #[serde(default)]
    pub accept: Vec<Prefix>,
}

/// The far end of a tunnel.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrePeer {
    /// Its outer address.
    pub outer: IpAddr,
    /// Key that we send.
    pub send_key: u32,
    /// Keys that we take from it: two while one is rotated.
    pub accept_keys: Vec<u32>,
    /// Inner addresses that are behind it: what we send there, and the only sources that it may use.
    pub inner: Vec<Prefix>,
}

impl std::fmt::Debug for GrePeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrePeer({} behind {}, keys withheld)", self.inner.len(), self.outer)
    }
}

/// A network in CIDR form; as text `address/length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// A network; `None` if `length` is too long for the family or bits beyond it are set.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let prefix = Prefix { address, length };
        let width = if address.is_ipv4() { 32 } else { 128 };
        (length <= width && prefix.masked(address) == bits(address)).then_some(prefix)
    }

    /// Whether `address` lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.masked(address) == bits(self.address)
    }

    /// The one address of a network that has one.
    pub fn host(&self) -> Option<IpAddr> {
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        (self.length == width).then_some(self.address)
    }

    /// Length of the network part in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    fn masked(&self, address: IpAddr) -> u128 {
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let host_bits = width - u32::from(self.length).min(width);
        let mask = if host_bits >= 128 { 0 } else { u128::MAX << host_bits };
        bits(address) & mask
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl std::str::FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        Prefix::new(address.parse().map_err(|_| wrong())?, length.parse().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let net: Prefix = "198.18.4.0/22".parse().unwrap();
        assert!(net.contains("198.18.7.255".parse().unwrap()) && !net.contains("198.18.8.0".parse().unwrap()));
        let all: Prefix = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()) && !all.contains("198.18.0.1".parse().unwrap()));
        let one: Prefix = "fd00::1/128".parse().unwrap();
        assert_eq!(one.host(), Some("fd00::1".parse().unwrap()));
        assert!(one.contains("fd00::1".parse().unwrap()) && !one.contains("fd00::2".parse().unwrap()));
        for bad in ["198.18.4.1/22", "198.18.0.0/33", "fd00::/129", "fd00::", "x/8", "::ffff/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
