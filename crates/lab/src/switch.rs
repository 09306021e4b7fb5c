//! The wide-area switch: one process that holds the TUN devices of all hosts and lets the [`Fabric`](crate::fabric) decide.
//!
//! Devices carry IP packets (no Ethernet), so there is no ARP and no neighbour discovery to imitate: the switch is everything
//! between two hosts' default routes.

use crate::LabError;
use crate::fabric::{Counts, Fabric, Nanos, Path, Port};
use polder_sock::{Interest, Ready, adopt};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, RawFd};
use std::time::{Duration, Instant};

/// Packets that one device may hand over before the others get their turn.
const TURN: usize = 32;
/// Largest packet of a device with an MTU of 1500, with room for jumbo experiments.
const LARGEST: usize = 9216;
/// Buffers kept for reuse.
const POOL: usize = 4096;

/// What the switch is told at start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of loss and jitter.
    pub seed: u64,
    /// Most packets held at once.
    pub most: usize,
    /// One end of a `SOCK_SEQPACKET` pair: [`Order`]s come in, [`Report`]s go out, its end ends the switch.
    pub control: RawFd,
    /// Hosts.
    pub ports: Vec<PortConfig>,
    /// Rows of the matrix.
    pub places: usize,
    /// `places × places` paths, row by row.
    pub paths: Vec<PathConfig>,
}

/// A host's device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// Open, non-blocking TUN descriptor without packet information.
    pub fd: RawFd,
    /// Addresses behind it.
    pub prefixes: Vec<(IpAddr, u8)>,
    /// Row in the matrix.
    pub place: usize,
    /// bit/s from the host, 0: not limited.
    pub up_bit_s: u64,
    /// bit/s to the host.
    pub down_bit_s: u64,
    /// Longest wait for either, µs.
    pub queue_us: u64,
}

/// A path, one way: delay µs, jitter µs, loss in parts per million, bit/s.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct PathConfig(u64, u64, u32, u64);

impl From<PathConfig> for Path {
    fn from(PathConfig(delay, jitter, loss_ppm, bit_s): PathConfig) -> Path {
        Path { delay: delay * 1000, jitter: jitter * 1000, loss_ppm, bit_s }
    }
}

/// What the running switch can be asked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Counters.
    Report,
    /// Put a port's cable in or out.
    Plug(usize, bool),
    /// Change a port's rates: up, down, bit/s.
    Rate(usize, u64, u64),
    /// Give an ordered pair of ports a path of its own.
    Path(usize, usize, PathConfig),
}

/// The answer to every order.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// By port.
    pub ports: &'a [Counts],
    /// Packets on their way.
    pub held: usize,
    /// Packets delivered, and how late they were: sum and worst since the last report, µs.
    pub late: Lateness,
}

/// How late packets left: the measure of whether the machine keeps up.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Lateness {
    /// Packets.
    pub count: u64,
    /// Sum, µs.
    pub sum_us: u64,
    /// Worst, µs.
    pub worst_us: u64,
}

struct Switch {
    fabric: Fabric,
    devices: Vec<File>,
    control: File,
    ready: Ready,
    pool: Vec<Vec<u8>>,
    late: Lateness,
    born: Instant,
}

/// Runs until the control socket's other end closes. Errors: a descriptor or the matrix is unusable.
pub fn run(config: Config) -> Result<(), LabError> {
    let mut switch = Switch::new(config)?;
    let mut tokens = Vec::new();
    loop {
        let now = switch.now();
        let wait = switch.fabric.next().map(|due| Duration::from_nanos(due.saturating_sub(now)));
        switch.ready.wait(&mut tokens, wait)?;
        for &token in &tokens {
            match usize::try_from(token) {
                Ok(port) if port < switch.devices.len() => switch.take(port),
                _ if !switch.obey()? => return Ok(()),
                _ => {}
            }
        }
        switch.deliver();
    }
}

impl Switch {
    fn new(config: Config) -> Result<Self, LabError> {
        let ready = Ready::new()?;
        let control = File::from(adopt(config.control)?);
        let mut devices = Vec::new();
        for (index, port) in config.ports.iter().enumerate() {
            let device = File::from(adopt(port.fd)?);
            ready.add(device.as_fd(), index as u64, Interest::Read)?;
            devices.push(device);
        }
        ready.add(control.as_fd(), u64::MAX, Interest::Read)?;
        let ports = config.ports.into_iter().map(|port| Port {
            prefixes: port.prefixes,
            place: port.place,
            up_bit_s: port.up_bit_s,
            down_bit_s: port.down_bit_s,
            queue: port.queue_us * 1000,
            plugged: true,
        });
        let paths = config.paths.into_iter().map(Path::from).collect();
        let fabric = Fabric::new(ports.collect(), config.places, paths, config.most, config.seed).map_err(LabError::Config)?;
        Ok(Switch { fabric, devices, control, ready, pool: Vec::new(), late: Lateness::default(), born: Instant::now() })
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.born.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// Reads a turn of packets from one device.
    fn take(&mut self, port: usize) {
        let now = self.now();
        for _ in 0..TURN {
            let mut buffer = self.pool.pop().unwrap_or_default();
            buffer.resize(LARGEST, 0);
            // An error other than "nothing more" (a device that goes away at the end of a run) is that host's affair.
            let Ok(length) = (&self.devices[port]).read(&mut buffer) else {
                self.give_back(buffer);
                return;
            };
            buffer.truncate(length);
            if let Some(dropped) = self.fabric.input(now, port, buffer) {
                self.give_back(dropped);
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now();
        while let Some((due, port, packet)) = self.fabric.poll(now) {
            let late = (now - due) / 1000;
            self.late.count += 1;
            self.late.sum_us += late;
            self.late.worst_us = self.late.worst_us.max(late);
            // As above: a host whose device is down loses its packets, as it would anywhere.
            let _ = (&self.devices[port]).write(&packet);
            self.give_back(packet);
        }
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        if self.pool.len() < POOL {
            self.pool.push(buffer);
        }
    }

    /// Carries out one order; `false` when the other end has closed.
    fn obey(&mut self) -> Result<bool, LabError> {
        let mut buffer = [0; 1024];
        let length = match (&self.control).read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        match rmp_serde::from_slice(&buffer[..length]).map_err(|e| LabError::Config(e.to_string()))? {
            Order::Report => {}
            Order::Plug(port, plugged) => {
                if let Some(port) = self.fabric.port(port) {
                    port.plugged = plugged;
                }
            }
            Order::Rate(port, up, down) => {
                if let Some(port) = self.fabric.port(port) {
                    (port.up_bit_s, port.down_bit_s) = (up, down);
                }
            }
            Order::Path(from, to, path) => self.fabric.set_path(from, to, path.into()),
        }
        let report = Report { ports: self.fabric.counts(), held: self.fabric.held(), late: std::mem::take(&mut self.late) };
        let bytes = rmp_serde::to_vec_named(&report).map_err(|e| LabError::Config(e.to_string()))?;
        self.control.write_all(&bytes)?;
        Ok(true)
    }
}
