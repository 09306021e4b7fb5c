//! The sessions of one end, by what packets carry and by the address that stands for them in quinn.

use crate::clock::Clock;
use crate::congestion::Losses;
use crate::detour::{Arrivals, Attached, Lane};
use crate::timer::Timer;
use crate::wire::Wire;
use polder_spread::{Inbound, Members, Micros, Outbox, PathReport, Seen, Session, SessionId, peek};
use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::time::sleep_until;

polder_meter::counts! {
    /// What the ends of spread sessions count.
    pub struct Counters, prefix "spread_end_";
    /// Sessions open at this end.
    sessions_open,
    /// Packets of sessions that are unknown here.
    unknown_packets,
    /// Packets of known sessions that were refused.
    refused_packets,
    /// Datagrams handed to QUIC.
    datagrams_in,
    /// Datagrams taken from QUIC.
    datagrams_out,
    /// Datagrams dropped: longer than the relays in use are known to carry.
    dropped_long,
    /// Datagrams that went over a detour.
    detoured_out,
    /// Datagrams that came over a detour.
    detoured_in,
    /// Datagrams lost at a detour: its stream, or QUIC, did not take them in time.
    detoured_lost,
}

/// No room for another session. A retry helps when others have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has as many spread sessions as it may; try again later or at another")]
pub struct Full;

/// One session with its outgoing packets.
pub(crate) struct Seat {
    /// What quinn takes for the peer's address.
    pub(crate) address: SocketAddr,
    /// For the connection's congestion control.
    pub(crate) losses: Arc<Losses>,
    inner: Mutex<Inner>,
}

struct Inner {
    session: Session,
    out: Outbox,
    /// Since when something has been sent over relays and no feedback has come.
    unheard: Option<Micros>,
    /// The newest datagram, to ask relays with, and to begin on another carrier with.
    last: Vec<u8>,
    lane: Option<Lane>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({})", self.address)
    }
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the detour numbered `lane` carries what is sent; on a change the newest datagram goes at once, so that the peer's
    /// answer shows QUIC what was lost.
    pub(crate) fn carry(&self, lane: u64, carries: bool, counters: &Counters) {
        let inner = &mut *self.lock();
        let Some(now) = inner.lane.as_mut().filter(|now| now.number == lane && now.carries != carries) else { return };
        now.carries = carries;
        if carries && !inner.last.is_empty() {
            now.send(&inner.last, inner.last.len(), counters);
        }
    }

    /// Takes the detour numbered `lane` away, unless another has taken its place.
    pub(crate) fn detach(&self, lane: u64) {
        let mut inner = self.lock();
        if inner.lane.as_ref().is_some_and(|now| now.number == lane) {
            inner.lane = None;
        }
    }
}

/// Times that relays are asked at once, by chance over different ones.
const ASKED: usize = 3;

/// All of one end.
#[derive(Debug)]
pub(crate) struct Seats {
    pub(crate) clock: Clock,
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) counters: Arc<Counters>,
    /// What came over detours.
    pub(crate) arrivals: Arrivals,
    most: usize,
    tables: RwLock<Tables>,
    timer: Timer,
}

#[derive(Debug, Default)]
struct Tables {
    by_id: HashMap<SessionId, Arc<Seat>>,
    by_address: HashMap<SocketAddr, Arc<Seat>>,
}

/// Unique local addresses (RFC 4193) stand for sessions: nobody is reached by them.
fn stand_in(session: SessionId) -> SocketAddr {
    let mut bytes = session.0;
    bytes[0] = 0xFD;
    SocketAddr::new(Ipv6Addr::from(bytes).into(), 1)
}

impl Seats {
    pub(crate) fn new(wire: Arc<dyn Wire>, clock: Clock, counters: Arc<Counters>, most: usize) -> Arc<Self> {
        let (arrivals, tables, timer) = (Arrivals::default(), RwLock::default(), Timer::default());
        Arc::new(Seats { clock, wire, counters, arrivals, most, tables, timer })
    }

    /// Adds a session; its stand-in address. What it has to say at once is said.
    pub(crate) fn add(&self, session: Session) -> Result<SocketAddr, Full> {
        let ids: Vec<_> = session.sessions().collect();
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = ids.first().filter(|_| tables.by_address.len() < self.most) else { return Err(Full) };
        let inner = Inner { session, out: Outbox::default(), unheard: None, last: Vec::new(), lane: None };
        let seat = Arc::new(Seat { address: stand_in(*first), losses: Arc::default(), inner: Mutex::new(inner) });
        if tables.by_address.contains_key(&seat.address) {
            return Err(Full);
        }
        ids.iter().for_each(|id| drop(tables.by_id.insert(*id, seat.clone())));
        tables.by_address.insert(seat.address, seat.clone());
        drop(tables);
        self.counters.sessions_open.up();
        self.look(&seat);
        Ok(seat.address)
    }

    /// Forgets a session; a detour of it ends.
    pub(crate) fn remove(&self, address: SocketAddr) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = tables.by_address.remove(&address) {
            tables.by_id.retain(|_, seat| seat.address != address);
            self.counters.sessions_open.drop_by(1);
            // The stream's half holds the seat: as long as this half stood in it, neither would go.
            seat.lock().lane = None;
        }
        drop(tables);
        self.timer.set(address, None);
    }

    /// What is known of a session.
    pub(crate) fn read<T>(&self, address: SocketAddr, of: impl FnOnce(&Session) -> T) -> Option<T> {
        self.at(address).map(|seat| of(&seat.lock().session))
    }

    /// Changes a session, then brings its names up to date and sends what it has to say.
    pub(crate) fn with<T>(&self, address: SocketAddr, change: impl FnOnce(&mut Session, Micros) -> T) -> Option<T> {
        let seat = self.at(address)?;
        let (told, ids) = {
            let mut inner = seat.lock();
            let told = change(&mut inner.session, self.clock.now());
            (told, inner.session.sessions().collect::<Vec<_>>())
        };
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.by_id.retain(|id, of| of.address != address || ids.contains(id));
        // Not when it was removed meanwhile: nobody would take these names away.
        if tables.by_address.contains_key(&address) {
            ids.iter().for_each(|id| drop(tables.by_id.insert(*id, seat.clone())));
        }
        drop(tables);
        self.look(&seat);
        Some(told)
    }

    /// Every session takes another member list.
    pub(crate) fn set_members(&self, members: &Arc<Members>) {
        let now = self.clock.now();
        for seat in self.all() {
            seat.lock().session.set_members(members.clone(), now);
        }
    }

    /// Paths of a session, as users see them.
    pub(crate) fn paths(&self, address: SocketAddr) -> Vec<PathReport> {
        let now = self.clock.now();
        let report = |seat: Arc<Seat>| seat.lock().session.paths(now);
        self.at(address).map(report).unwrap_or_default()
    }

    pub(crate) fn at(&self, address: SocketAddr) -> Option<Arc<Seat>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).by_address.get(&address).cloned()
    }

    pub(crate) fn of(&self, session: SessionId) -> Option<Arc<Seat>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&session).cloned()
    }

    fn all(&self) -> Vec<Arc<Seat>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).by_address.values().cloned().collect()
    }

    /// Sends datagrams of `segment` bytes, the last may be shorter; what relays are not known to carry is dropped, which is
    /// how QUIC's own probing of the path's MTU finds what they do.
    pub(crate) fn send(&self, seat: &Seat, datagrams: &[u8], segment: usize) {
        let mut inner = seat.lock();
        if segment > inner.session.max_datagram() {
            return self.counters.dropped_long.up();
        }
        let count = datagrams.len().div_ceil(segment.max(1)) as u64;
        self.counters.datagrams_out.add(count);
        if let Some(last) = datagrams.chunks(segment.max(1)).next_back() {
            inner.last.clear();
            inner.last.extend_from_slice(last);
        }
        match inner.lane.as_ref().filter(|lane| lane.carries) {
            Some(lane) => lane.send(datagrams, segment, &self.counters),
            None => self.over_relays(seat, &mut inner, datagrams, segment),
        }
    }

    fn over_relays(&self, seat: &Seat, inner: &mut Inner, datagrams: &[u8], segment: usize) {
        let now = self.clock.now();
        inner.unheard.get_or_insert(now);
        inner.session.sends_again(seat.losses.take_again());
        inner.session.send(now, datagrams, segment, &mut inner.out);
        self.flush(seat, inner, now);
    }

    /// Asks the relays whether they are there, by the newest datagram: QUIC knows it when it comes twice.
    pub(crate) fn ask_relays(&self, address: SocketAddr) {
        let Some(seat) = self.at(address) else { return };
        let mut inner = seat.lock();
        let last = inner.last.clone();
        if last.is_empty() {
            return;
        }
        // Each call draws its relays anew.
        (0..ASKED).for_each(|_| self.over_relays(&seat, &mut inner, &last, last.len()));
    }

    /// Takes packets of `segment` bytes, the last may be shorter, as far as they are those of `name`, and does what is due then; how
    /// many bytes that were. Their datagrams go into `into`.
    pub(crate) fn receive(
        &self,
        seat: &Seat,
        name: SessionId,
        from: SocketAddr,
        packets: &mut [u8],
        segment: usize,
        into: &mut Inbound,
    ) -> usize {
        let (mut inner, now) = (seat.lock(), self.clock.now());
        let mut taken = 0;
        for packet in packets.chunks_mut(segment) {
            if peek(packet).is_none_or(|(_, other)| other != name) {
                break;
            }
            taken += packet.len();
            if inner.session.receive(now, from, packet, into).is_err() {
                self.counters.refused_packets.up();
            }
        }
        if inner.session.heard() > inner.unheard {
            inner.unheard = None;
        }
        self.flush(seat, &mut inner, now);
        taken
    }

    /// What a user's end knows of its relays, and whether a detour stands.
    pub(crate) fn seen(&self, address: SocketAddr) -> Seen {
        let Some(seat) = self.at(address) else { return Seen::default() };
        let inner = seat.lock();
        let (heard, rtt) = (inner.session.heard(), inner.session.rtt());
        Seen { unheard: inner.unheard, heard, rtt, attached: inner.lane.as_ref().is_some_and(Lane::stands) }
    }

    /// A detour for a session; it takes the place of an older one.
    pub(crate) fn attach(self: &Arc<Self>, address: SocketAddr) -> Option<Attached> {
        // Held until the lane is in its place: who removes the session meanwhile finds it there.
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let seat = tables.by_address.get(&address)?;
        let (lane, attached) = crate::detour::pair(self.clone(), seat.clone());
        seat.lock().lane = Some(lane);
        Some(attached)
    }

    /// Does what is due.
    pub(crate) fn look(&self, seat: &Seat) {
        let mut inner = seat.lock();
        self.flush(seat, &mut inner, self.clock.now());
    }

    fn flush(&self, seat: &Seat, inner: &mut Inner, now: Micros) {
        let Inner { session, out, .. } = inner;
        let due = session.poll(now, out);
        out.runs().for_each(|run| self.wire.send(run));
        out.clear();
        seat.losses.set_line(session.line_loss());
        self.timer.set(seat.address, due);
    }

    /// Looks after deadlines for as long as somebody else holds `self`.
    pub(crate) async fn keep_time(this: std::sync::Weak<Self>) {
        /// At the least so often, to see whether anybody is left.
        const LOOK: std::time::Duration = std::time::Duration::from_secs(1);
        loop {
            let Some(seats) = this.upgrade() else { return };
            for address in seats.timer.due(seats.clock.now()) {
                if let Some(seat) = seats.at(address) {
                    seats.look(&seat);
                }
            }
            let latest = std::time::Instant::now() + LOOK;
            let next = seats.timer.first().map_or(latest, |due| seats.clock.instant(due).min(latest));
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = seats.timer.sooner.notified() => {}
            }
        }
    }
}
