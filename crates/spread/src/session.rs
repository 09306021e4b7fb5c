//! One end of a session: the user's forwarder or the servlet.
//!
//! Theory of operation. [`Session::send`] seals a datagram under the session's key, gives it the next number of the open run, and
//! puts it into the outbox once for each relay that is to carry it. [`Session::receive`] proves what came, drops what another
//! relay brought before, and hands out datagrams. [`Session::poll`] does what is due: tells the other end what came over which
//! relay, tries longer packets, sends repairs of a group that did not fill up. Keys come in *generations* (a ticket each);
//! packets of the last one are taken until its ticket ends, the newest seals.

use crate::chance::Chance;
use crate::choice::Choice;
use crate::config::SpreadConfig;
use crate::end::EndKeys;
use crate::fec::{Decoder, Encoder};
use crate::health::{Band, State};
use crate::ids::{Members, Micros, NodeId, SessionId, Tick};
use crate::keys::{Aead, choice_key};
use crate::packet::{HEAD, OVERHEAD};
use crate::path::{Epoch, LEAST, OpenRun, PathKeys, PathReport, Paths, Pick};
use crate::queue::Queue;
use crate::receive::JITTER;
use crate::rounds::Rounds;
use crate::silence::Silence;
use crate::ticket::{Hosted, Terms, Ticket, TicketError};
use crate::window::Window;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Generations that are taken: the last and the one before.
const GENERATIONS: usize = 2;
/// Blocks that a window begins with and that it may grow to: 256 KiB for a fast session.
const WINDOW: (usize, usize) = (64, 16_384);
/// A window that comes round in less time than this doubles.
const LAP: Duration = Duration::from_secs(2);

/// What an end has done; in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tallies {
    /// Datagrams handed to [`Session::send`].
    pub datagrams: u64,
    /// Packets sent in all: datagrams, copies, repairs, control.
    pub packets: u64,
    /// Of these, copies of datagrams and repairs beyond the first.
    pub copies: u64,
    /// Of these, feedback.
    pub control: u64,
    /// Of these, copies and padding to try a path.
    pub probes: u64,
    /// Of these, repairs.
    pub repairs: u64,
    /// Packets received and proved.
    pub received: u64,
    /// Of these, had come before.
    pub duplicates: u64,
    /// Datagrams regained by repairs.
    pub recovered: u64,
    /// Packets refused.
    pub refused: u64,
    /// Blocks left out because none of their relays was fit.
    pub skipped: u64,
    /// Datagrams dropped: no relay could carry them.
    pub dropped: u64,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Servlet(NodeId),
}

/// One set of keys.
pub(crate) struct Generation {
    pub session: SessionId,
    pub terms: Terms,
    pub end: EndKeys,
    pub choice: Choice,
    /// By path.
    pub keys: Vec<Option<PathKeys>>,
    pub next_block: u64,
    /// Nothing has come under it: the user does not have its ticket yet, and no relay knows a way back.
    pub waiting: bool,
    window: Window,
    lap: (u64, Micros),
}

impl Generation {
    fn new(session: SessionId, key: &[u8; 32], terms: Terms, user: bool, now: Micros) -> Result<Self, TicketError> {
        if now > terms.ends() || now + LAP < terms.begins() {
            return Err(TicketError::Time);
        }
        let end = EndKeys::new(key, session, user).ok_or(TicketError::Key)?;
        let choice = Choice::new(&choice_key(key, session)).ok_or(TicketError::Key)?;
        let window = Window::new(WINDOW.0);
        Ok(Generation { session, terms, end, choice, keys: Vec::new(), next_block: 0, waiting: false, window, lap: (0, now) })
    }

    /// Notes a number; false if it had come. The window grows while it comes round too fast.
    pub(crate) fn take(&mut self, number: u64, now: Micros) -> bool {
        let lap = number / crate::BLOCK / self.window.blocks() as u64;
        if lap > self.lap.0 {
            if now.since(self.lap.1) < LAP && self.window.blocks() < WINDOW.1 {
                self.window.double();
            }
            self.lap = (number / crate::BLOCK / self.window.blocks() as u64, now);
        }
        self.window.take(number)
    }
}

/// How feedback stands.
#[derive(Debug, Default)]
pub(crate) struct Feedback {
    /// When the newest packet was sent, and when it came.
    pub newest: Option<(Tick, Micros)>,
    /// When to tell.
    pub due: Option<Micros>,
    pub told: Micros,
    /// When the other end was last heard to tell.
    pub heard: Option<Micros>,
    /// First packet sent since then.
    pub unheard: Option<Micros>,
    pub rtt: Option<f64>,
}

/// One end.
pub struct Session {
    pub(crate) role: Role,
    pub(crate) config: SpreadConfig,
    pub(crate) chance: Chance,
    pub(crate) paths: Paths,
    /// Newest first.
    pub(crate) generations: Vec<Generation>,
    pub(crate) run: Option<OpenRun>,
    /// Copies that are owed; below zero: that were given too early.
    pub(crate) owed: f64,
    /// Of the next datagrams, so many are what was lost before.
    pub(crate) again: u32,
    pub(crate) encoder: Option<Encoder>,
    pub(crate) group_since: Option<Micros>,
    pub(crate) decoder: Decoder,
    pub(crate) feedback: Feedback,
    pub(crate) rounds: Rounds,
    pub(crate) queue: Queue,
    /// Longest packet, with its head.
    longest: u16,
    pub(crate) shared_loss: Option<f64>,
    pub(crate) silence: Silence,
    /// When longer packets are tried next.
    pub(crate) lengths_at: Micros,
    pub(crate) scratch: Vec<u8>,
    /// Where the packet in hand goes; kept for its memory.
    pub(crate) picked: Vec<Pick>,
    pub(crate) tallies: Tallies,
}

impl Session {
    /// The user's end. `seed` decides which relay of several: it is no secret.
    pub fn forwarder(
        ticket: &Ticket,
        members: Arc<Members>,
        config: SpreadConfig,
        now: Micros,
        seed: u64,
    ) -> Result<Self, TicketError> {
        let mut session = Self::new(Role::User, members, config, now, seed);
        session.renew_forwarder(ticket, now)?;
        Ok(session)
    }

    /// The servlet's end.
    pub fn servlet(
        hosted: &Hosted,
        members: Arc<Members>,
        config: SpreadConfig,
        now: Micros,
        seed: u64,
    ) -> Result<Self, TicketError> {
        let mut session = Self::new(Role::Servlet(hosted.me), members, config, now, seed);
        session.renew_servlet(hosted, now)?;
        Ok(session)
    }

    fn new(role: Role, members: Arc<Members>, config: SpreadConfig, now: Micros, seed: u64) -> Self {
        Session {
            role,
            chance: Chance(seed),
            paths: Paths::new(members, now),
            generations: Vec::new(),
            run: None,
            owed: 0.0,
            again: 0,
            encoder: config.fec.map(|fec| Encoder::new(fec, 0)),
            group_since: None,
            decoder: Decoder::default(),
            feedback: Feedback::default(),
            rounds: Rounds::default(),
            queue: Queue::default(),
            longest: LEAST,
            shared_loss: None,
            silence: Silence::default(),
            lengths_at: now,
            scratch: Vec::new(),
            picked: Vec::new(),
            tallies: Tallies::default(),
            config,
        }
    }

    /// Another ticket: it seals from now on; what still comes under the former one is taken.
    pub fn renew_forwarder(&mut self, ticket: &Ticket, now: Micros) -> Result<(), TicketError> {
        let mut generation = Generation::new(ticket.session, &ticket.key, ticket.terms, true, now)?;
        generation.keys.resize_with(self.paths.all.len(), || None);
        let mut known = 0;
        for relay in &ticket.relays {
            let Some(at) = self.paths.find(relay.id) else { continue };
            let mac = Aead::new(&relay.mac).ok_or(TicketError::Key)?;
            let keys = PathKeys::User { epoch: relay.epoch as u8, mac, grant: relay.grant, destination: relay.destination };
            generation.keys[at] = Some(keys);
            known += 1;
        }
        if known == 0 {
            return Err(TicketError::Relays);
        }
        self.begin(generation);
        Ok(())
    }

    /// The servlet's half of another ticket, or of the same one with keys of more relays.
    pub fn renew_servlet(&mut self, hosted: &Hosted, now: Micros) -> Result<(), TicketError> {
        if let Some(known) = self.generations.iter_mut().find(|known| known.session == hosted.session) {
            known.keys.resize_with(self.paths.all.len(), || None);
            add_peers(&mut known.keys, &self.paths, hosted);
            return Ok(());
        }
        let mut generation = Generation::new(hosted.session, &hosted.key, hosted.terms, false, now)?;
        generation.keys.resize_with(self.paths.all.len(), || None);
        add_peers(&mut generation.keys, &self.paths, hosted);
        if self.generations.is_empty() {
            self.begin(generation);
        } else {
            // The servlet has its half before the user: it goes on as before until the first packet under the new ticket comes.
            generation.waiting = true;
            self.generations.truncate(GENERATIONS - 1);
            self.generations.push(generation);
        }
        Ok(())
    }

    fn begin(&mut self, generation: Generation) {
        self.run = None;
        self.generations.insert(0, generation);
        self.generations.truncate(GENERATIONS);
    }

    /// Another member list: taken at once, sent by when relays have had time to learn of it.
    pub fn set_members(&mut self, members: Arc<Members>, now: Micros) {
        self.paths.set(members, now);
        let count = self.paths.all.len();
        self.generations.iter_mut().for_each(|generation| generation.keys.resize_with(count, || None));
        self.run = None;
    }

    /// A packet came under a generation: if it waited for that, it seals from now on.
    pub(crate) fn came_under(&mut self, name: SessionId) {
        let Some(at) = self.generations.iter().position(|known| known.session == name && known.waiting) else { return };
        self.generations[at].waiting = false;
        self.generations.swap(0, at);
        self.run = None;
    }

    /// Sets the dial for redundancy. A group that is open goes on, or ends without repairs when those change.
    pub fn set_redundancy(&mut self, copies: f64, fec: Option<crate::config::Fec>) {
        (self.config.copies, self.run) = (copies, None);
        if self.config.fec != fec {
            // By chance: the other end remembers groups of before.
            let first = self.chance.draw() as u32;
            (self.config.fec, self.encoder) = (fec, fec.map(|fec| Encoder::new(fec, first)));
            self.group_since = None;
        }
    }

    /// Sessions under which packets for this end may come.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.generations.iter().map(|generation| generation.session)
    }

    /// When the other end was last heard to tell what came.
    pub fn heard(&self) -> Option<Micros> {
        self.feedback.heard
    }

    /// When the newest ticket ends: have another one before.
    pub fn ends(&self) -> Micros {
        self.generations.iter().map(|generation| generation.terms.ends()).max().unwrap_or_default()
    }

    /// Longest datagram that relays with at least half of the traffic are known to carry, bytes; at least 1,200. The others get shorter
    /// ones until they are known to carry more: one that is new must not cut short what all send.
    pub fn max_datagram(&self) -> usize {
        // an even number, as repairs are as long as the longest, and even
        (usize::from(self.longest) - OVERHEAD - crate::fec::LENGTH) & !1
    }

    /// Finds anew how long packets may be.
    pub(crate) fn measure_lengths(&mut self, now: Micros) {
        let live = self.paths.all.iter().zip(self.weights(now, 0)).filter(|(path, _)| path.health.state == State::Live);
        let mut lengths: Vec<(u16, f64)> = live.map(|(path, weight)| (path.health.largest.max(LEAST), weight)).collect();
        lengths.sort_unstable_by_key(|(length, _)| std::cmp::Reverse(*length));
        let mut rest = lengths.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
        let half = lengths.iter().find(|(_, weight)| {
            rest -= weight;
            rest <= 0.0
        });
        self.longest = half.map_or(LEAST, |(length, _)| *length);
    }

    /// What it has done.
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// Round trip as feedback shows it, once there was some.
    pub fn rtt(&self) -> Option<Duration> {
        self.feedback.rtt.map(|micros| Duration::from_micros(micros as u64))
    }

    /// Share of our packets that the ends' own lines have lost within the last two round trips, so that we should slow down: what all paths
    /// alike have lost, while a queue stood there or for as long as a line without a queue loses. `None`: too little is known. Naive sessions
    /// hear of nothing: any loss may be the lines'.
    pub fn line_loss(&self) -> Option<f64> {
        if self.config.naive {
            return Some(1.0);
        }
        let (shared, heard) = (self.shared_loss?, self.feedback.heard?);
        let trip = Duration::from_micros(self.feedback.rtt.unwrap_or(0.0) as u64);
        let then = Micros(heard.0.saturating_sub(trip.max(JITTER).as_micros() as u64));
        Some(if self.rounds.lasting() || self.queue.full_since(then) { shared } else { 0.0 })
    }

    /// Every path, as users see it.
    pub fn paths(&self, now: Micros) -> Vec<PathReport> {
        let Some(generation) = self.generations.first() else { return Vec::new() };
        let band = self.band();
        let usable = |at: usize| {
            let keys = generation.keys.get(at).and_then(Option::as_ref);
            keys.is_some_and(|keys| keys.usable(now, self.config.return_age))
        };
        let weight = |at: usize| if usable(at) { self.paths.all[at].health.weight(&band) } else { 0.0 };
        let total: f64 = (0..self.paths.all.len()).map(weight).sum();
        let report = |(at, path): (usize, &crate::path::Path)| PathReport {
            relay: path.id,
            address: path.address,
            state: if usable(at) { path.health.state } else { State::Unusable },
            weight: if total > 0.0 { weight(at) / total } else { 0.0 },
            loss: path.health.loss,
            delay_us: path.health.delay.map(|delay| delay.saturating_sub(band.best).max(0) as u32),
            sent: path.health.sent,
            received: path.tally.received,
            duplicates: path.tally.duplicates,
            mtu: path.health.largest,
        };
        self.paths.all.iter().enumerate().map(report).collect()
    }

    pub(crate) fn band(&self) -> Band {
        self.paths.band(self.feedback.rtt.unwrap_or(100_000.0), self.config.delay_share)
    }
}

fn add_peers(keys: &mut [Option<PathKeys>], paths: &Paths, hosted: &Hosted) {
    for peer in &hosted.relays {
        let Some(at) = paths.find(peer.relay) else { continue };
        let slot = keys[at].get_or_insert_with(|| PathKeys::Servlet { keys: Vec::new(), back: None });
        if let PathKeys::Servlet { keys, .. } = slot
            && keys.iter().all(|known| known.epoch != peer.epoch as u8)
        {
            keys.push(Epoch { epoch: peer.epoch as u8, peer: peer.key });
        }
    }
}

const _: () = assert!(HEAD < OVERHEAD);
