//! Sends forged packets of one kind to a relay, and watches whether anything comes of it.

use crate::chance::Chance;
use crate::forge::{KINDS, World};
use crate::{LabError, guard};
use polder_spread::Micros;
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(300);
/// Most packets of one run.
const MOST: usize = 200_000;

/// What to send, and where.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One of [`KINDS`], or `good`.
    pub kind: String,
    /// Packets.
    pub count: usize,
    /// Packets a second.
    pub rate: u64,
    /// The relay under attack.
    pub relay: (u64, SocketAddr),
    /// Another relay of the list.
    pub other: (u64, SocketAddr),
    /// The servlet: we listen at its address.
    pub servlet: (u64, SocketAddr),
    /// Epoch in force.
    pub epoch: u32,
    /// The relay's key of it, 32 bytes.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
    /// The other relay's.
    #[serde(with = "serde_bytes")]
    pub other_key: [u8; 32],
    /// What chance starts from.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Packets sent that had to be refused (for `good`: that had to pass).
    pub sent: u64,
    /// Packets that came out at the servlet, beyond good ones sent first.
    pub passed: u64,
    /// Datagrams that came back to the sender.
    pub answered: u64,
}

/// Sends. Errors: a kind that is none, an address outside the laboratory, too many; the system.
pub fn run(config: &Config) -> Result<Report, LabError> {
    guard::here([config.relay, config.other, config.servlet].map(|(_, address)| address))?;
    if config.count > MOST {
        return Err(LabError::Refused(format!("a run is bounded to {MOST} packets")));
    }
    if config.kind != "good" && !KINDS.contains(&config.kind.as_str()) {
        return Err(LabError::Config(format!("there is no kind {:?}", config.kind)));
    }
    let world = World {
        relay: config.relay,
        other: config.other,
        servlet: config.servlet,
        epoch: config.epoch,
        key: config.key,
        other_key: config.other_key,
    };
    let sink = UdpSocket::bind(config.servlet.1)?;
    sink.set_nonblocking(true)?;
    let sender = UdpSocket::bind(SocketAddr::new(config.relay.1.ip(), 0))?;
    sender.set_nonblocking(true)?;
    let mut chance = Chance(config.seed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Micros(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
    let packets = match config.kind.as_str() {
        "good" => world.good(&mut chance, now, config.count),
        kind => world.forged(kind, &mut chance, now, config.count),
    };
    let mut report = Report::default();
    if config.kind == "replayed" {
        send(config, &sender, &sink, &packets, &mut Report::default())?;
    }
    send(config, &sender, &sink, &packets, &mut report)?;
    Ok(report)
}

fn send(config: &Config, sender: &UdpSocket, sink: &UdpSocket, packets: &[Vec<u8>], report: &mut Report) -> Result<(), LabError> {
    let start = Instant::now();
    for packet in packets {
        while start.elapsed().as_secs_f64() * (config.rate as f64) < report.sent as f64 {
            std::thread::yield_now();
        }
        while sender.send_to(packet, config.relay.1).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
            std::thread::yield_now();
        }
        report.sent += 1;
        drain(sender, sink, report);
    }
    let end = Instant::now();
    while end.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
        drain(sender, sink, report);
    }
    Ok(())
}

fn drain(sender: &UdpSocket, sink: &UdpSocket, report: &mut Report) {
    let mut byte = [0; 1];
    while sink.recv(&mut byte).is_ok() {
        report.passed += 1;
    }
    while sender.recv(&mut byte).is_ok() {
        report.answered += 1;
    }
}
