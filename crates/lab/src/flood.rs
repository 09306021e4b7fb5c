//! Floods of single packets: UDP with true or forged sources, and TCP SYN with forged ones.

use crate::chance::Chance;
use crate::pace::Pace;
use crate::packet::{Flow, syn, udp};
use crate::{LabError, guard};
use polder_sock::{BURST, Burst};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UDP packets of `size` bytes with the IP header.
    Udp,
    /// SYN segments.
    Syn,
}

/// A flood.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What to send.
    pub kind: Kind,
    /// At which address.
    pub target: IpAddr,
    /// At which port; 0: another one for every packet (UDP).
    pub port: u16,
    /// From which address; `None`: forged, another one of the laboratory's network for every packet.
    pub source: Option<IpAddr>,
    /// Packets a second.
    pub rate: u64,
    /// Bytes of a UDP packet, header included.
    pub size: usize,
    /// For so long.
    pub milliseconds: u64,
    /// Seed of forged sources and ports.
    pub seed: u64,
}

/// What was sent.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
    /// Packets that the sender's own kernel refused (its queue was full).
    pub refused: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Sends the flood. Errors: refused by the guard, or no raw socket here.
pub fn run(config: &Config) -> Result<Report, LabError> {
    let time = Duration::from_millis(config.milliseconds);
    guard::check(&[config.target], config.rate, time)?;
    if config.source.is_some_and(|source| source.is_ipv4() != config.target.is_ipv4()) {
        return Err(LabError::Config("source and target are of different address families".into()));
    }
    let socket = Burst::open(config.target.is_ipv6())?;
    let mut chance = Chance(config.seed);
    let (mut report, started, mut pace) = (Report::default(), Instant::now(), Pace::new(config.rate, time));
    while let Some(mut due) = pace.due() {
        while due > 0 {
            let count = due.min(BURST as u64) as usize;
            let packets: Vec<Vec<u8>> = (0..count).map(|_| packet(config, &mut chance)).collect();
            send(&socket, &packets, config.target, &mut report)?;
            due -= count as u64;
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn send(socket: &Burst, packets: &[Vec<u8>], target: IpAddr, report: &mut Report) -> Result<(), LabError> {
    match socket.send(packets, SocketAddr::new(target, 0)) {
        Ok(sent) => {
            report.packets += sent as u64;
            report.bytes += packets[..sent].iter().map(|packet| packet.len() as u64).sum::<u64>();
            report.refused += (packets.len() - sent) as u64;
        }
        // A full queue on the way out is what a flood meets.
        Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS) => {
            report.refused += packets.len() as u64;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn packet(config: &Config, chance: &mut Chance) -> Vec<u8> {
    let random = chance.draw();
    let source = config.source.unwrap_or_else(|| forged(config.target, random));
    let source_port = 1024 + (random >> 40) as u16 % 60_000;
    let target_port = if config.port == 0 { 1024 + (random >> 24) as u16 % 60_000 } else { config.port };
    let flow = Flow { source, target: config.target, source_port, target_port };
    match config.kind {
        Kind::Udp => {
            let header = if config.target.is_ipv4() { 28 } else { 48 };
            udp(flow, &vec![0x5a; config.size.clamp(header, 1500) - header])
        }
        Kind::Syn => syn(flow, random as u32),
    }
}

/// An address of the laboratory's networks that no host has: 198.18.128.0/17, 2001:db8:ffff::/48.
fn forged(target: IpAddr, random: u64) -> IpAddr {
    match target {
        IpAddr::V4(_) => IpAddr::from([198, 18, 128 | (random >> 8) as u8, random as u8]),
        IpAddr::V6(_) => IpAddr::from(((0x2001_0db8_ffff_u128 << 80) | u128::from(random)).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::destination;

    fn config(kind: Kind, target: &str) -> Config {
        let target = target.parse().unwrap();
        Config { kind, target, port: 0, source: None, rate: 10, size: 1200, milliseconds: 100, seed: 1 }
    }

    #[test]
    fn packets_have_the_size_asked_for_and_forged_sources_of_the_laboratory() {
        for target in ["198.19.2.10", "2001:db8:19:2::10"] {
            let config = config(Kind::Udp, target);
            let mut chance = Chance(3);
            let packets: Vec<_> = (0..100).map(|_| packet(&config, &mut chance)).collect();
            assert!(packets.iter().all(|packet| packet.len() == 1200 && destination(packet) == Some(config.target)));
            let sources: std::collections::HashSet<_> =
                packets.iter().map(|p| if config.target.is_ipv4() { p[12..16].to_vec() } else { p[8..24].to_vec() }).collect();
            assert!(sources.len() > 90);
            assert!((0..100).all(|_| guard::in_lab(forged(config.target, chance.draw()))));
        }
    }

    #[test]
    fn a_flood_outside_the_laboratory_is_refused_before_its_first_packet() {
        assert!(matches!(run(&config(Kind::Syn, "198.19.2.10")), Err(LabError::Refused(_))));
        assert!(matches!(run(&config(Kind::Udp, "192.0.2.1")), Err(LabError::Refused(_))));
    }
}
