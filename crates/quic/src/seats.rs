//! The sessions of one end, by what packets carry and by the address that stands for them in quinn.

use crate::clock::Clock;
use crate::congestion::SharedLoss;
use crate::timer::Timer;
use crate::wire::Wire;
use polder_spread::{Inbound, Members, Micros, Outbox, PathReport, Session, SessionId};
use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
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
    pub(crate) shared: Arc<SharedLoss>,
    inner: Mutex<Inner>,
}

struct Inner {
    session: Session,
    out: Outbox,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({})", self.address)
    }
}

/// All of one end.
#[derive(Debug)]
pub(crate) struct Seats {
    pub(crate) clock: Clock,
    pub(crate) wire: Arc<dyn Wire>,
    pub(crate) counters: Arc<Counters>,
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
        Arc::new(Seats { clock, wire, counters, most, tables: RwLock::default(), timer: Timer::default() })
    }

    /// Adds a session; its stand-in address. What it has to say at once is said.
    pub(crate) fn add(&self, session: Session) -> Result<SocketAddr, Full> {
        let ids: Vec<_> = session.sessions().collect();
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(first) = ids.first().filter(|_| tables.by_address.len() < self.most) else { return Err(Full) };
        let seat = Arc::new(Seat {
            address: stand_in(*first),
            shared: Arc::default(),
            inner: Mutex::new(Inner { session, out: Outbox::default() }),
        });
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

    /// Forgets a session.
    pub(crate) fn remove(&self, address: SocketAddr) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if tables.by_address.remove(&address).is_some() {
            tables.by_id.retain(|_, seat| seat.address != address);
            self.counters.sessions_open.drop_by(1);
        }
        drop(tables);
        self.timer.set(address, None);
    }

    /// Changes a session, then brings its names up to date and sends what it has to say.
    pub(crate) fn with<T>(&self, address: SocketAddr, change: impl FnOnce(&mut Session, Micros) -> T) -> Option<T> {
        let seat = self.at(address)?;
        let (told, ids) = {
            let mut inner = seat.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let told = change(&mut inner.session, self.clock.now());
            (told, inner.session.sessions().collect::<Vec<_>>())
        };
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.by_id.retain(|id, of| of.address != address || ids.contains(id));
        ids.iter().for_each(|id| drop(tables.by_id.insert(*id, seat.clone())));
        drop(tables);
        self.look(&seat);
        Some(told)
    }

    /// Every session takes another member list.
    pub(crate) fn set_members(&self, members: &Arc<Members>) {
        let now = self.clock.now();
        for seat in self.all() {
            seat.inner.lock().unwrap_or_else(PoisonError::into_inner).session.set_members(members.clone(), now);
        }
    }

    /// Paths of a session, as users see them.
    pub(crate) fn paths(&self, address: SocketAddr) -> Vec<PathReport> {
        let now = self.clock.now();
        let report = |seat: Arc<Seat>| seat.inner.lock().unwrap_or_else(PoisonError::into_inner).session.paths(now);
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
        let mut inner = seat.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { session, out } = &mut *inner;
        if segment > session.max_datagram() {
            return self.counters.dropped_long.up();
        }
        let now = self.clock.now();
        self.counters.datagrams_out.add(datagrams.len().div_ceil(segment.max(1)) as u64);
        session.send(now, datagrams, segment, out);
        self.flush(seat, session, out, now);
    }

    /// Takes one packet; its datagrams go into `into`.
    pub(crate) fn receive(&self, seat: &Seat, from: SocketAddr, packet: &mut [u8], into: &mut Inbound) {
        let mut inner = seat.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.session.receive(self.clock.now(), from, packet, into).is_err() {
            self.counters.refused_packets.up();
        }
    }

    /// Does what is due.
    pub(crate) fn look(&self, seat: &Seat) {
        let mut inner = seat.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { session, out } = &mut *inner;
        self.flush(seat, session, out, self.clock.now());
    }

    fn flush(&self, seat: &Seat, session: &mut Session, out: &mut Outbox, now: Micros) {
        let due = session.poll(now, out);
        out.runs().for_each(|run| self.wire.send(run));
        out.clear();
        seat.shared.set(session.shared_loss());
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
