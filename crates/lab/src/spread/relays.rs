//! Relays of many hosts in one process: the product's relay for each socket, one loop for all.

use super::{EPOCH, Overlay, fixed, say};
use crate::LabError;
use polder_quic::Clock;
use polder_sock::{Interest, Ready, RunInbox, RunOutbox, ToSend, adopt};
use polder_spread::{Counters, Epoch, Forward, Micros, NodeId, Relay, RelayConfig, To, epoch_key};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Runs that one turn takes from a socket.
const BATCH: usize = 16;
/// Between two lines about what relays have counted.
const SAY: Duration = Duration::from_secs(1);
/// As nodes have it by default.
const SPAN: Duration = Duration::from_secs(3);

/// Which relays run here.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The whole overlay.
    pub overlay: Overlay,
    /// Id of a member, and the open, non-blocking UDP socket at its address.
    pub sockets: Vec<(u64, RawFd)>,
}

struct Place {
    socket: OwnedFd,
    relay: Relay,
    counters: Arc<Counters>,
}

/// Relays until it is killed; every second a frame on stdout with what all have counted. Errors: the configuration, the system.
pub fn run(config: &Config) -> Result<(), LabError> {
    config.overlay.check()?;
    let clock = Clock::system();
    let mut places = config.sockets.iter().map(|one| place(&config.overlay, one, &clock)).collect::<Result<Vec<_>, _>>()?;
    let ready = Ready::new()?;
    for (token, place) in places.iter().enumerate() {
        ready.add(place.socket.as_fd(), token as u64, Interest::Read)?;
    }
    let (mut inbox, mut outbox, mut tokens) = (RunInbox::new(BATCH), RunOutbox::default(), Vec::new());
    let mut said = Micros(0);
    loop {
        ready.wait(&mut tokens, Some(SAY))?;
        let now = clock.now();
        for &token in &tokens {
            if let Some(place) = usize::try_from(token).ok().and_then(|at| places.get_mut(at)) {
                turn(place, now, &mut inbox, &mut outbox);
            }
        }
        if now.since(said) >= SAY {
            said = now;
            say(&count(now, &places));
        }
    }
}

fn place(overlay: &Overlay, (id, fd): &(u64, RawFd), clock: &Clock) -> Result<Place, LabError> {
    let node = overlay.members.iter().find(|node| node.id == *id);
    let node = node.ok_or_else(|| LabError::Config(format!("{id} is no member")))?;
    let key = epoch_key(&fixed(&node.secret, "a relay's secret")?, EPOCH);
    let ever = Micros::from_secs(u64::from(u32::MAX));
    let config = RelayConfig {
        me: NodeId(*id),
        epochs: vec![Epoch::new(EPOCH, &key, Micros(0), ever)],
        members: vec![overlay.list()?],
        sessions: 64,
        span: SPAN,
        return_age: Duration::from_secs(30),
    };
    let counters = Arc::new(Counters::default());
    // Born long ago: a relay that has just begun is deaf, as it does not know what it saw before. These keys are new.
    let born = clock.now() - 4 * SPAN;
    Ok(Place { socket: adopt(*fd)?, relay: Relay::new(config, *id as u32, born, counters.clone()), counters })
}

fn turn(place: &mut Place, now: Micros, inbox: &mut RunInbox, outbox: &mut RunOutbox) {
    // An error is one of a datagram that we sent (ICMP): the next call brings what waits.
    if inbox.receive(place.socket.as_fd()).is_err() {
        return;
    }
    let mut passed: Vec<(usize, Forward)> = Vec::new();
    let mut forwards = Vec::new();
    for (index, run) in inbox.runs().enumerate() {
        place.relay.handle(now, run.from, run.bytes, run.segment, &mut forwards);
        passed.extend(forwards.drain(..).map(|forward| (index, forward)));
    }
    let run = |(index, forward): &(usize, Forward)| match forward.to {
        To::Peer(to) => {
            let bytes = inbox.bytes(*index).get(forward.range.clone())?;
            Some(ToSend { to, segment: forward.segment, bytes })
        }
        To::Here => None,
    };
    let runs: Vec<_> = passed.iter().filter_map(run).collect();
    let mut rest = &runs[..];
    while !rest.is_empty() {
        let (gone, error) = outbox.send(place.socket.as_fd(), rest, false);
        rest = &rest[gone..];
        if let (Some(_), [_, others @ ..]) = (error, rest) {
            rest = others; // a full queue: a relay has none of its own
        }
    }
    place.relay.sweep(now);
}

#[derive(Serialize)]
struct Counted {
    at_us: u64,
    relays: BTreeMap<&'static str, u64>,
}

fn count(now: Micros, places: &[Place]) -> Counted {
    let mut relays = BTreeMap::new();
    for (name, value) in places.iter().flat_map(|place| place.counters.read()) {
        *relays.entry(name).or_default() += value;
    }
    Counted { at_us: now.0, relays }
}
