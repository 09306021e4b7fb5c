//! A load of spread-plane packets for one relay: sealed beforehand, sent as fast as the kernel takes them, counted where they come
//! out. The same packets measure a bare forwarder.

use crate::{LabError, guard};
use polder_sock::{Interest, Ready, RunInbox, RunOutbox, ToSend, bind_runs};
use polder_spread::issue::{Grant, issue};
use polder_spread::{Member, Members, Micros, NodeId, Outbox, RunLength, Session, SessionId, SpreadConfig, Terms};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Packets of one burst: sealed in well under the time that relays allow.
const BURST: u64 = 40_000;
/// A burst is over when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(100);
/// Longest load.
const LONGEST: f64 = 120.0;

/// What to send.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the packets go: the relay, or the bare forwarder.
    pub to: SocketAddr,
    /// Where they come out: we listen there.
    pub sink: SocketAddr,
    /// The relay's node, epoch and key of the epoch (32 bytes), and the node at the sink.
    pub relay: u64,
    /// See `relay`.
    pub epoch: u32,
    /// See `relay`.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
    /// See `relay`.
    pub servlet: u64,
    /// Bytes of each datagram.
    pub size: usize,
    /// Packets of each run.
    pub run: u8,
    /// Seconds of bursts.
    pub seconds: f64,
    /// Packets a second; 0: as fast as they go.
    pub rate: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Packets that came out.
    pub received: u64,
    /// Runs in which they came out.
    pub received_runs: u64,
    /// Seconds from the first packet of each burst to its last at the sink, summed.
    pub busy_s: f64,
}

#[derive(Default)]
struct Sink {
    packets: AtomicU64,
    runs: AtomicU64,
    stop: AtomicBool,
}

/// Sends bursts until the time is over. Errors: an address outside the laboratory, a load too long; the system.
pub fn run(config: &Config) -> Result<Report, LabError> {
    guard::here([config.to, config.sink])?;
    if config.seconds > LONGEST {
        return Err(LabError::Refused(format!("a load is bounded to {LONGEST} seconds")));
    }
    let sink = Arc::new(Sink::default());
    let thread = {
        let (sink, socket) = (sink.clone(), bind_runs(config.sink, 64 << 20, false)?);
        std::thread::spawn(move || drain(&sink, &socket))
    };
    let report = bursts(config, &sink);
    sink.stop.store(true, Relaxed);
    let drained = thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the sink's thread panicked")));
    drained.map_err(LabError::from).and(report)
}

fn drain(sink: &Sink, socket: &UdpSocket) -> std::io::Result<()> {
    let ready = Ready::new()?;
    ready.add(socket.as_fd(), 0, Interest::Read)?;
    let (mut inbox, mut tokens) = (RunInbox::new(32), Vec::new());
    while !sink.stop.load(Relaxed) {
        ready.wait(&mut tokens, Some(QUIET / 4))?;
        if tokens.is_empty() {
            continue;
        }
        let runs = inbox.receive(socket.as_fd())?;
        let packets: usize = inbox.runs().map(|run| run.bytes.len().div_ceil(run.segment)).sum();
        sink.runs.fetch_add(runs as u64, Relaxed);
        sink.packets.fetch_add(packets as u64, Relaxed);
    }
    Ok(())
}

fn now() -> Micros {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

/// A session whose only relay is the one under load.
fn session(config: &Config, number: u64) -> Result<Session, LabError> {
    fn wrong(error: impl ToString) -> LabError {
        LabError::Config(error.to_string())
    }
    let relay = Member { id: NodeId(config.relay), address: config.to };
    let servlet = Member { id: NodeId(config.servlet), address: config.sink };
    let members = Arc::new(Members::new(1, vec![relay, servlet]).map_err(wrong)?);
    let grant = [7; 8];
    let key = polder_spread::grant_key(&config.key, grant);
    let grants = [Grant { relay: relay.id, address: relay.address, epoch: config.epoch, grant, key }];
    let begin = now();
    let terms = Terms { starts: begin.secs() as u32, lasts: 600, pace: 30, rate: 40 };
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id[8..].copy_from_slice(&begin.0.to_be_bytes());
    let ticket = issue(SessionId(id), [1; 32], servlet.id, terms, 1, &grants)
        .ok_or_else(|| LabError::Config("the library refuses a key".into()))?;
    let spread = SpreadConfig { run: RunLength::Fixed(config.run), largest: u16::MAX, ..SpreadConfig::default() };
    Session::forwarder(&ticket, members, spread, begin, number).map_err(wrong)
}

fn bursts(config: &Config, sink: &Sink) -> Result<Report, LabError> {
    let socket = bind_runs(SocketAddr::new(config.to.ip(), 0), 4 << 20, false)?;
    let mut session = session(config, u64::from(std::process::id()))?;
    let run = usize::from(config.run.clamp(1, 64));
    let datagrams = vec![0x5A; run * config.size];
    let mut boxes: Vec<Outbox> = (0..BURST / run as u64).map(|_| Outbox::default()).collect();
    let mut report = Report { sent: 0, received: 0, received_runs: 0, busy_s: 0.0 };
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < config.seconds {
        for outbox in &mut boxes {
            outbox.clear();
            session.send(now(), &datagrams, config.size, outbox);
        }
        let before = sink.packets.load(Relaxed);
        let start = Instant::now();
        report.sent += blast(&socket, &boxes, config.rate, start);
        let last = settle(sink);
        report.busy_s += last.saturating_duration_since(start).as_secs_f64();
        report.received += sink.packets.load(Relaxed) - before;
    }
    report.received_runs = sink.runs.load(Relaxed);
    Ok(report)
}

/// Sends everything; returns the packets that went.
fn blast(socket: &UdpSocket, boxes: &[Outbox], rate: u64, start: Instant) -> u64 {
    let mut outbox = RunOutbox::default();
    let mut sent = 0;
    for some in boxes.chunks(8) {
        let runs: Vec<ToSend<'_>> =
            some.iter().flat_map(Outbox::runs).map(|run| ToSend { to: run.to, segment: run.segment, bytes: run.bytes }).collect();
        while rate > 0 && start.elapsed().as_secs_f64() * (rate as f64) < sent as f64 {
            std::hint::spin_loop();
        }
        let mut rest = &runs[..];
        while !rest.is_empty() {
            let (gone, error) = outbox.send(socket.as_fd(), rest, false);
            sent += rest[..gone].iter().map(|run| run.bytes.len().div_ceil(run.segment) as u64).sum::<u64>();
            rest = &rest[gone..];
            if error.is_some() {
                std::thread::yield_now();
            }
        }
    }
    sent
}

/// Waits until nothing more comes; when the last came.
fn settle(sink: &Sink) -> Instant {
    let (mut seen, mut last) = (sink.packets.load(Relaxed), Instant::now());
    while last.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(1));
        let packets = sink.packets.load(Relaxed);
        if packets != seen {
            (seen, last) = (packets, Instant::now());
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let here = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Config {
            to: here,
            sink: here,
            relay: 1,
            epoch: 1,
            key: [1; 32],
            servlet: 2,
            size: 1200,
            run: 16,
            seconds: 0.01,
            rate: 100_000,
        }
    }

    #[test]
    fn what_goes_to_the_sink_itself_is_counted() {
        let report = run(&config()).unwrap();
        assert_eq!(report.sent, BURST);
        assert!(report.received > 0 && report.received_runs <= report.received, "{report:?}");
    }

    #[test]
    fn addresses_of_others_and_long_loads_are_refused() {
        let far = Config { to: "192.0.2.1:1".parse().unwrap(), ..config() };
        assert!(matches!(run(&far), Err(LabError::Refused(_))));
        assert!(matches!(run(&Config { seconds: 1e6, ..config() }), Err(LabError::Refused(_))));
    }
}
