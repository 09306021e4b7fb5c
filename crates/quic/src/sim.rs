//! Whole sessions in virtual time: QUIC over both ends and relays in memory. No machine is too slow for these tests.
#![allow(clippy::unwrap_used)]

#[path = "../../spread/tests/net/mod.rs"]
mod net;

use crate::congestion::Losses;
use crate::ends::{Limits, server};
use bytes::BytesMut;
use net::Net;
use polder_spread::{Micros, SpreadConfig};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, StreamId, TransportConfig,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks of the ends.
const STEP: Duration = Duration::from_micros(250);
const LARGEST: u16 = 1472;

struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    losses: Arc<Losses>,
}

pub struct Sim {
    pub net: Net,
    base: Instant,
    user: End,
    servlet: End,
    /// By stream: what the servlet still owes, and whether the user has all.
    owed: HashMap<StreamId, usize>,
    pub done: HashMap<StreamId, bool>,
    /// Bytes with the time at which the user's application had them.
    pub read: Vec<(Micros, usize)>,
}

fn tls() -> (rustls::ClientConfig, rustls::ServerConfig) {
    let made = rcgen::generate_simple_self_signed(vec!["servlet".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut roots = rustls::RootCertStore::empty();
    let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
    roots.add(chain[0].clone()).unwrap();
    let versions = &[&rustls::version::TLS13];
    let client = rustls::ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let server = server.with_no_client_auth().with_single_cert(chain, key.into()).unwrap();
    (client.with_root_certificates(roots).with_no_client_auth(), server)
}

impl Sim {
    /// A session over relays with these delays (one way, ms), connected.
    pub fn new(delays: &[f64], config: &SpreadConfig, limits: &Limits, seed: u64) -> Sim {
        let mut net = Net::new(delays.len(), config, seed);
        net.ways.iter_mut().zip(delays).for_each(|(way, ms)| way.delay = Duration::from_secs_f64(ms / 1000.0));
        let (client, serving) = tls();
        let base = Instant::now();
        let transport = |losses: &Arc<Losses>| -> Arc<TransportConfig> {
            let mut transport = limits.transport(LARGEST, losses.clone());
            transport.max_idle_timeout(None);
            Arc::new(transport)
        };
        let end = |server| {
            let mut config = EndpointConfig::default();
            config.max_udp_payload_size(LARGEST).unwrap();
            Endpoint::new(Arc::new(config), server, true, Some([seed as u8; 32]))
        };
        let losses: [Arc<Losses>; 2] = Default::default();
        let mut server = server(serving).unwrap();
        server.transport_config(transport(&losses[1]));
        let mut user = End { endpoint: end(None), connection: None, losses: losses[0].clone() };
        let servlet = End { endpoint: end(Some(Arc::new(server))), connection: None, losses: losses[1].clone() };
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
        config.transport_config(transport(&losses[0]));
        user.connection = Some(user.endpoint.connect(base, config, net::address(60_000), "servlet").unwrap());
        let (owed, done) = Default::default();
        let mut sim = Sim { net, base, user, servlet, owed, done, read: Vec::new() };
        while sim.user.connection.as_ref().unwrap().1.is_handshaking() || sim.servlet.connection.is_none() {
            sim.step();
            assert!(sim.net.now.since(net::BEGIN) < Duration::from_secs(20), "no handshake");
        }
        sim
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.net.now + time;
        while self.net.now < until {
            self.step();
        }
    }

    /// Asks for so many bytes on a stream of its own.
    pub fn ask(&mut self, bytes: usize) -> StreamId {
        let connection = &mut self.user.connection.as_mut().unwrap().1;
        let id = connection.streams().open(Dir::Bi).unwrap();
        let mut stream = connection.send_stream(id);
        assert_eq!(stream.write(&(bytes as u64).to_be_bytes()), Ok(8));
        stream.finish().unwrap();
        self.done.insert(id, false);
        id
    }

    /// What the servlet's connection counted.
    pub fn sender(&self) -> quinn_proto::PathStats {
        self.servlet.connection.as_ref().unwrap().1.stats().path
    }

    fn step(&mut self) {
        self.net.run(self.net.now + STEP);
        let now = self.base + self.net.now.since(net::BEGIN);
        let (up, down) = (std::mem::take(&mut self.net.at_servlet), std::mem::take(&mut self.net.at_user));
        self.servlet.take(now, net::address(1), up);
        self.user.take(now, net::address(60_000), down);
        self.serve();
        self.consume();
        for (end, of_user) in [(&mut self.user, true), (&mut self.servlet, false)] {
            let session = if of_user { &mut self.net.user } else { &mut self.net.servlet };
            end.losses.set_line(session.line_loss());
            session.sends_again(end.losses.take_again());
            let largest = session.max_datagram();
            while let Some((bytes, segment)) = end.transmit(now) {
                if segment > largest {
                    continue; // as `Seats::send` does
                }
                if of_user {
                    self.net.user_sends(&bytes, segment);
                } else {
                    self.net.servlet_sends(&bytes, segment);
                }
            }
        }
    }

    /// The servlet answers.
    fn serve(&mut self) {
        let Some((_, connection)) = &mut self.servlet.connection else { return };
        while let Some(event) = connection.poll() {
            assert!(!matches!(event, Event::ConnectionLost { .. }), "{event:?}");
        }
        while let Some(id) = connection.streams().accept(Dir::Bi) {
            self.owed.insert(id, usize::MAX);
        }
        self.owed.retain(|&id, owed| {
            if *owed == usize::MAX {
                let mut stream = connection.recv_stream(id);
                let mut chunks = stream.read(true).unwrap();
                // the eight bytes are in one packet, with the end
                let asked = chunks.next(8).ok().flatten();
                let ended = asked.is_some() && matches!(chunks.next(1), Ok(None));
                let _ = chunks.finalize();
                let Some(asked) = asked else { return true };
                assert!(ended);
                *owed = u64::from_be_bytes(asked.bytes[..].try_into().unwrap()) as usize;
            }
            let mut stream = connection.send_stream(id);
            while *owed > 0 {
                match stream.write(&[0x5A; 4096][..(*owed).min(4096)]) {
                    Ok(written) => *owed -= written,
                    Err(_) => return true,
                }
            }
            stream.finish().unwrap();
            false
        });
    }

    /// The user's application reads.
    fn consume(&mut self) {
        let now = self.net.now;
        let connection = &mut self.user.connection.as_mut().unwrap().1;
        while let Some(event) = connection.poll() {
            assert!(!matches!(event, Event::ConnectionLost { .. }), "{event:?}");
        }
        for (&id, done) in self.done.iter_mut().filter(|(_, done)| !**done) {
            let mut stream = connection.recv_stream(id);
            let Ok(mut chunks) = stream.read(true) else { continue };
            let ended = loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => self.read.push((now, chunk.bytes.len())),
                    other => break other.is_ok(),
                }
            };
            let _ = chunks.finalize();
            if ended {
                *done = true;
            }
        }
    }
}

impl End {
    fn take(&mut self, now: Instant, from: std::net::SocketAddr, datagrams: Vec<(Micros, Vec<u8>)>) {
        let mut answer = Vec::new();
        for (_, datagram) in datagrams {
            match self.endpoint.handle(now, from, None, None, BytesMut::from(&datagram[..]), &mut answer) {
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    if let Some((_, connection)) = &mut self.connection {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    self.connection = self.endpoint.accept(incoming, now, &mut answer, None).ok();
                }
                _ => {}
            }
        }
        let Some((handle, connection)) = &mut self.connection else { return };
        if connection.poll_timeout().is_some_and(|due| due <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<(Vec<u8>, usize)> {
        let (_, connection) = self.connection.as_mut()?;
        let mut bytes = Vec::new();
        let sent = connection.poll_transmit(now, crate::socket::SEGMENTS, &mut bytes)?;
        bytes.truncate(sent.size);
        Some((bytes, sent.segment_size.unwrap_or(sent.size)))
    }
}

fn far(relays: usize) -> Vec<f64> {
    // as the detours of a placement of PlanetLab's hosts: 145 to 400 ms there and back
    (0..relays).map(|n| 73.0 + 35.0 * (n as f64 / relays as f64) * 2.0).collect()
}

/// A download over `relays` of them for `quiet` and then again as long, behind a line of 12 Mbit/s, the relays' have 10; what `trouble` does every half second
/// of the second part. Mbit/s of both parts, and the longest pause of the second.
fn download(relays: usize, quiet: Duration, seed: u64, mut trouble: impl FnMut(&mut Net, usize)) -> (f64, f64, Duration) {
    let config = SpreadConfig { copies: 0.5, ..SpreadConfig::default() };
    let mut sim = Sim::new(&far(relays), &config, &Limits::default(), seed);
    sim.net.line = Some(net::Line::new(12_000_000, Duration::from_millis(100)));
    sim.net.ways.iter_mut().for_each(|way| way.line = Some(net::Line::new(10_000_000, Duration::from_millis(100))));
    sim.ask(1 << 30);
    sim.run(Duration::from_secs(4)); // slow start, and what follows it
    let begin = sim.net.now;
    sim.run(quiet);
    let then = sim.net.now;
    for step in 0..(quiet.as_millis() / 500) as usize {
        trouble(&mut sim.net, step);
        sim.run(Duration::from_millis(500));
    }
    let rate = |from: Micros, to: Micros| {
        let some = sim.read.iter().filter(|(at, _)| (from..to).contains(at));
        some.map(|(_, bytes)| bytes).sum::<usize>() as f64 * 8e-6 / to.since(from).as_secs_f64()
    };
    let times: Vec<Micros> = sim.read.iter().map(|(at, _)| *at).filter(|at| *at >= then).collect();
    let pause = times.windows(2).map(|two| two[1].since(two[0])).max();
    (rate(begin, then), rate(then, sim.net.now), pause.unwrap_or(Duration::MAX))
}

#[test]
fn a_flood_that_moves_over_all_relays_does_not_stop_a_download() {
    let flood = |net: &mut Net, step: usize| {
        net.ways.iter_mut().enumerate().for_each(|(n, way)| way.loss = if n % 5 == step % 5 { 0.9 } else { 0.0 });
    };
    let mut shares = Vec::new();
    for seed in 0..7 {
        let (quiet, flooded, pause) = download(40, Duration::from_secs(8), seed, flood);
        assert!(quiet > 5.0, "of 12 Mbit/s, a third of them copies: {quiet}");
        assert!(flooded > 0.5 * quiet, "{flooded} of {quiet} Mbit/s");
        assert!(pause < Duration::from_millis(2500), "{pause:?}");
        shares.push(flooded / quiet);
    }
    shares.sort_by(f64::total_cmp);
    assert!(shares[3] > 0.85, "of the quiet rate: {shares:?}");
}

/// Nine downloads while the lines of the relays that are chosen for each step are flooded three times over: what is left of the quiet rates, and
/// the longest pauses, in order. `choose` gets the step, and what the servlet sent over each relay during the last one.
fn flooded(choose: impl Fn(usize, &[u32]) -> Vec<usize>) -> (Vec<f64>, Vec<Duration>) {
    let session = |seed| {
        let mut before = vec![0; 40];
        let (quiet, flooded, pause) = download(40, Duration::from_secs(10), seed, |net, step| {
            let paths = net.servlet.paths(net.now);
            let of = |n: usize| paths.iter().find(|path| path.relay == net::relay_id(n)).map_or(0, |path| path.sent);
            let sent: Vec<u32> = (0..40).map(of).collect();
            let targets = choose(step, &sent.iter().zip(&before).map(|(now, then)| now - then).collect::<Vec<u32>>());
            before = sent;
            net.ways.iter_mut().enumerate().for_each(|(n, way)| {
                way.line.as_mut().unwrap().flood = if targets.contains(&n) { 30_000_000 } else { 0 };
            });
        });
        (flooded / quiet, pause)
    };
    let (mut shares, mut pauses): (Vec<f64>, Vec<Duration>) = (0..9).map(session).unzip();
    shares.sort_by(f64::total_cmp);
    pauses.sort();
    (shares, pauses)
}

#[test]
fn a_flood_that_fills_relays_lines_in_turn_costs_little() {
    let (shares, pauses) = flooded(|step, _| (0..40).filter(|n| n % 5 == step % 5).collect());
    assert!(shares[4] > 0.85, "of the quiet rate: {shares:?}");
    assert!(pauses[4] < Duration::from_secs(1), "{pauses:?}");
}

#[test]
fn a_flood_that_follows_the_user_costs_little() {
    let (shares, pauses) = flooded(|step, sent| {
        let mut order: Vec<usize> = (0..40).collect();
        order.sort_by_key(|&n| std::cmp::Reverse(sent[n]));
        // of half of them, by chance, it knows what they carry
        let known = |n: &usize| polder_spread::chance::mix((step * 40 + n) as u64).is_multiple_of(2);
        order.into_iter().filter(known).take(8).collect()
    });
    assert!(shares[4] > 0.85, "of the quiet rate: {shares:?}");
    assert!(pauses[4] < Duration::from_secs(1), "{pauses:?}");
}

#[test]
fn a_line_that_is_full_slows_the_sender() {
    let config = SpreadConfig { copies: 0.5, ..SpreadConfig::default() };
    let mut sim = Sim::new(&far(8), &config, &Limits::default(), 3);
    let line = |rate| Some(net::Line::new(rate, Duration::from_millis(100)));
    sim.net.line = line(12_000_000);
    sim.ask(1 << 30);
    sim.run(Duration::from_secs(4));
    sim.net.line = line(6_000_000);
    sim.run(Duration::from_secs(4));
    let before = sim.sender();
    sim.run(Duration::from_secs(6));
    let (sent, lost) = (sim.sender().sent_packets - before.sent_packets, sim.sender().lost_packets - before.lost_packets);
    assert!(sent > 1500, "{sent} of 3,000 that fit");
    assert!(lost * 8 < sent, "it overloads the line: {lost} of {sent} lost");
}

/// Time for a page as browsers load it: TLS, the page, then its parts over six connections.
fn page(sim: &mut Sim, parts: usize, bytes: usize) -> Duration {
    let begin = sim.net.now;
    let wait = |sim: &mut Sim, id: StreamId| {
        while !sim.done[&id] {
            sim.step();
            assert!(sim.net.now.since(begin) < Duration::from_secs(120), "a page takes too long");
        }
    };
    for size in [4000, bytes] {
        let id = sim.ask(size);
        wait(sim, id);
    }
    // the first connection is open; the others shake hands first
    let mut queue: Vec<usize> = vec![bytes; parts];
    let mut busy: Vec<Option<StreamId>> = vec![None; 6];
    for slot in &mut busy[1..] {
        *slot = Some(sim.ask(4000));
    }
    loop {
        for slot in &mut busy {
            if slot.is_none_or(|id| sim.done[&id]) {
                *slot = queue.pop().map(|size| sim.ask(size));
            }
        }
        if busy.iter().all(Option::is_none) {
            return sim.net.now.since(begin);
        }
        sim.step();
        assert!(sim.net.now.since(begin) < Duration::from_secs(120), "a page takes too long");
    }
}

/// Median of eight pages, in round trips over the nearest relay.
fn pages(sim: &mut Sim, nearest: Duration) -> f64 {
    let mut times: Vec<f64> = (0..8).map(|_| page(sim, 54, 34_000).as_secs_f64() / (2.0 * nearest.as_secs_f64())).collect();
    times.sort_by(f64::total_cmp);
    times[4]
}

#[test]
fn far_relays_slow_nothing_where_some_are_near() {
    let near = vec![2.9, 4.3, 7.1, 8.0, 10.5, 11.4];
    // which relays the first flights take is chance: the median of some sessions
    let over = |delays: Vec<f64>| {
        let session = |seed| {
            let config = SpreadConfig { copies: 0.5, ..SpreadConfig::default() };
            let mut sim = Sim::new(&delays, &config, &Limits::default(), seed);
            page(&mut sim, 54, 34_000);
            pages(&mut sim, Duration::from_micros(2900))
        };
        let mut sessions: Vec<f64> = (0..9).map(session).collect();
        sessions.sort_by(f64::total_cmp);
        sessions
    };
    let (alone, among) = (over(near.clone()), over([near, far(34)].concat()));
    assert!(among[4] < 1.15 * alone[4], "round trips: {among:?}, without the far ones {alone:?}");
    assert!(among[6] < 1.25 * alone[4], "not by luck alone: {among:?}, {alone:?}");
}

#[test]
fn half_of_the_relays_may_die() {
    let config = SpreadConfig { copies: 0.5, ..SpreadConfig::default() };
    let mut sim = Sim::new(&far(40), &config, &Limits::default(), 5);
    page(&mut sim, 54, 34_000);
    let nearest = Duration::from_millis(73);
    let quiet = pages(&mut sim, nearest);
    sim.net.ways.iter_mut().step_by(2).for_each(|way| way.dead = true);
    let after = pages(&mut sim, nearest);
    assert!(after < 1.25 * quiet, "{quiet}, then {after} round trips");
}
