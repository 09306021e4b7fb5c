//! Links to nodes: dialled on demand or kept warm, one connection per lane.
//!
//! Theory of operation. A *slot* is one wanted connection: (node, address, lane). Its *keeper* task dials when somebody wants
//! a stream, or always when the snapshot calls the peer warm; it measures the round trip, notices death, and dials again with
//! backoff and jitter. Openers wait at the slot's state. A link counts as up only after the peer has answered a first PING:
//! in TLS 1.3 a client learns only then that its own certificate was accepted.
//!
//! Tunnels and control calls use lanes of their own, that is, TCP connections of their own: a full send queue, an exhausted
//! HTTP/2 window or the stream limit of the bulk lane never delays ring maintenance (trap 49).

use crate::crowd::Crowd;
use crate::estimate::Estimate;
use crate::keeper::{BACKOFF_MAX, keep};
use crate::plane::{Plane, World};
use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use polder_flow::Millis;
use polder_plan::Stage;
use polder_tls::Expected;
use polder_types::{Event, Peer, Role};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// A link that is not warm is given up after so long without use.
const IDLE: Duration = Duration::from_secs(300);

/// Which of the connections to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Tunnels.
    Bulk,
    /// Control calls.
    Control,
    /// Site role: streams that the servlet opens towards us.
    DialOut,
}

/// Why there is no stream.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct LinkError(pub Arc<str>);

impl LinkError {
    pub(crate) fn new(why: impl ToString) -> Self {
        LinkError(why.to_string().into())
    }
}

/// A link that is up.
pub(crate) struct Live {
    pub(crate) send: Option<SendRequest<Bytes>>,
    /// Told when the connection takes no more streams.
    pub(crate) used_up: Arc<Notify>,
    /// A connection on which we serve: when this is dropped, it ends with its last stream.
    _serving: Option<oneshot::Sender<()>>,
    /// Somebody waits longer than usual: the keeper asks for a sign of life.
    pub(crate) late: Notify,
    /// Whether the peer, asked for a sign of life, has given none yet.
    pub(crate) silent: watch::Sender<bool>,
    heard: Arc<AtomicU64>,
    /// Of all streams on it.
    pub(crate) crowd: Arc<Crowd>,
}

impl Live {
    /// `heard`: counts what came from the peer.
    pub(crate) fn new(send: Option<SendRequest<Bytes>>, heard: Arc<AtomicU64>, crowd: Arc<Crowd>) -> Self {
        let (used_up, late, silent) = (Arc::default(), Notify::new(), watch::Sender::new(false));
        Live { send, used_up, _serving: None, late, silent, heard, crowd }
    }

    /// As [`Live::new`], for a connection on which we serve.
    pub(crate) fn serving(wanted: oneshot::Sender<()>, heard: Arc<AtomicU64>, crowd: Arc<Crowd>) -> Self {
        Live { _serving: Some(wanted), ..Live::new(None, heard, crowd) }
    }

    /// Grows with everything that comes from the peer.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Ends when the peer gives no sign of life.
    pub(crate) async fn falls_silent(&self) {
        if self.silent.subscribe().wait_for(|silent| *silent).await.is_err() {
            std::future::pending().await
        }
    }
}

#[derive(Clone)]
pub(crate) enum State {
    Idle,
    Up(Arc<Live>),
    Down(LinkError, Instant),
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) expected: Expected,
    pub(crate) address: SocketAddr,
    pub(crate) lane: Lane,
}

/// What is asked of a peer takes its own time: the rest of the way is long or short.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leg {
    Ring,
    Beacon,
    Servlet,
    AccessPoint,
}

impl From<Stage> for Leg {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Entry => Leg::AccessPoint,
            Stage::Ring(_) => Leg::Ring,
            Stage::Beacon => Leg::Beacon,
            Stage::Servlet => Leg::Servlet,
        }
    }
}

/// What was measured of tunnels through a peer, by [`Leg`].
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// From asking to the answer that the path stands.
    pub(crate) open: [Estimate; 4],
    /// When the last of them was noted.
    opened_at: [AtomicU64; 4],
    /// From then, or from the client's first byte if that is later, to the site's first byte.
    pub(crate) first: [Estimate; 4],
}

/// What was measured of openings through a peer says how far it leads for so long; then it is tried again if its link is short.
const REMEMBERED: Millis = 30_000;

impl Measured {
    /// A path through the peer stood after `took`. After a long time without, measuring begins anew.
    pub(crate) fn opened(&self, leg: Leg, took: Duration, now: Millis) {
        let leg = leg as usize;
        if now.saturating_sub(self.opened_at[leg].swap(now, Relaxed)) > REMEMBERED {
            self.open[leg].forget();
        }
        self.open[leg].note(took);
    }

    /// How long openings take, if there were any of late.
    pub(crate) fn opened_lately(&self, leg: Leg, now: Millis) -> Option<Duration> {
        let lately = now.saturating_sub(self.opened_at[leg as usize].load(Relaxed)) <= REMEMBERED;
        self.open[leg as usize].mean().filter(|_| lately)
    }
}

pub(crate) struct Slot {
    pub(crate) key: Key,
    pub(crate) warm: AtomicBool,
    /// Dials that have failed, and the state.
    state: watch::Sender<(u64, State)>,
    pub(crate) want: Notify,
    pub(crate) rtt_us: AtomicU64,
    measured: Arc<Measured>,
    used: Mutex<Instant>,
    keeper: Mutex<Option<AbortHandle>>,
    retired: AtomicBool,
}

/// Every link of this process.
#[derive(Default)]
pub struct Links {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// A link as `status` shows it.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// Peer's name.
    pub name: String,
    /// Peer's address.
    pub address: SocketAddr,
    /// Which connection.
    pub lane: Lane,
    /// Whether it is up.
    pub up: bool,
    /// Last measured round trip in microseconds; 0 when unknown.
    pub rtt_us: u64,
}

impl Links {
    /// Opens a stream to `peer` with `request`; dials if there is no link. Waits as long as dialling takes: the caller sets
    /// the deadline. The response comes later; body bytes may be sent at once.
    pub async fn open_stream(
        &self,
        plane: &Arc<Plane>,
        peer: &Peer,
        lane: Lane,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), LinkError> {
        let opened = self.open_on(plane, peer, lane, request, end).await;
        opened.map(|(response, stream, _)| (response, stream))
    }

    /// As [`Links::open_stream`]; tells which connection took it.
    pub(crate) async fn open_on(
        &self,
        plane: &Arc<Plane>,
        peer: &Peer,
        lane: Lane,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>, Arc<Live>), LinkError> {
        loop {
            let slot = self.slot(plane, peer, lane);
            *slot.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let live = match slot.up().await {
                Ok(live) => live,
                Err(_) if slot.retired.load(Relaxed) => continue, // a new certificate, a new link
                Err(why) => return Err(why),
            };
            let send = live.send.clone().ok_or_else(|| LinkError::new("this lane opens no streams"))?;
            match send.ready().await {
                Ok(mut send) => {
                    let (response, stream) = send.send_request(request, end).map_err(LinkError::new)?;
                    return Ok((response, stream, live));
                }
                // The peer is going (GOAWAY) or gone: what runs may end, new streams need a new connection.
                Err(_) => slot.let_go(&live),
            }
        }
    }

    /// Dials `peer` in the background if its bulk lane is not up and has not failed lately: a candidate that is passed over
    /// because its link is down shall be ready the next time.
    pub(crate) fn wake(&self, plane: &Arc<Plane>, peer: &Peer) {
        let slot = self.slot(plane, peer, Lane::Bulk);
        let sleeps = match &slot.state.borrow().1 {
            State::Idle => true,
            State::Up(_) => false,
            State::Down(_, at) => at.elapsed() > BACKOFF_MAX,
        };
        if sleeps {
            slot.want.notify_one();
        }
    }

    /// Whether the bulk lane to `peer` is up, and the peer not silent when asked for a sign of life.
    pub fn is_up(&self, peer: &Peer) -> bool {
        self.find(peer, Lane::Bulk).is_some_and(|slot| slot.is_well())
    }

    /// Last measured round trip to `peer` over the bulk lane; `None` when it is not up, or silent.
    pub fn rtt(&self, peer: &Peer) -> Option<Duration> {
        let slot = self.find(peer, Lane::Bulk)?;
        slot.is_well().then(|| Duration::from_micros(slot.rtt_us.load(Relaxed)))
    }

    /// What is known of tunnels through `peer`; `None` while nobody wanted a link to it.
    pub(crate) fn measured(&self, peer: &Peer) -> Option<Arc<Measured>> {
        self.find(peer, Lane::Bulk).map(|slot| slot.measured.clone())
    }

    /// What `status` shows.
    pub fn status(&self) -> Vec<LinkStatus> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = slots
            .values()
            .map(|slot| LinkStatus {
                name: slot.key.expected.name.to_string(),
                address: slot.key.address,
                lane: slot.key.lane,
                up: matches!(slot.state.borrow().1, State::Up(_)),
                rtt_us: slot.rtt_us.load(Relaxed),
            })
            .collect();
        all.sort_by(|a, b| (&a.name, a.lane as u8).cmp(&(&b.name, b.lane as u8)));
        all
    }

    fn find(&self, peer: &Peer, lane: Lane) -> Option<Arc<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(&Key::of(peer, lane)).cloned()
    }

    fn slot(&self, plane: &Arc<Plane>, peer: &Peer, lane: Lane) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key::of(peer, lane);
        slots.entry(key.clone()).or_insert_with(|| Slot::start(plane, key)).clone()
    }

    /// Brings links in line with a new snapshot. `renewed`: our own certificate changed; every link is replaced, and the old
    /// ones end with their last tunnel. Links to peers that the snapshot no longer lists get no new tunnels.
    pub(crate) fn reconcile(&self, plane: &Arc<Plane>, world: &World, renewed: bool) {
        let listed = |key: &Key| {
            let peer = world.plan.peer(&key.expected.name);
            peer.filter(|peer| peer.ring_id == key.expected.ring_id && peer.address == key.address).cloned()
        };
        let mut retired = Vec::new();
        let mut again = Vec::new();
        {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|key, slot| {
                let peer = listed(key);
                slot.warm.store(peer.as_ref().is_some_and(|peer| peer.warm) && key.lane != Lane::Control, Relaxed);
                // A control call may go to a node that is no peer yet (a joiner asks its successor).
                let keep = !renewed && (peer.is_some() || key.lane == Lane::Control);
                if !keep {
                    // Streams that run on over the old connection live no longer than the certificate that the peer has seen
                    // last: whoever has a link shows the new one.
                    let up = matches!(slot.state.borrow().1, State::Up(_));
                    again.extend(peer.filter(|_| renewed && up && key.lane == Lane::Bulk));
                    retired.push(slot.clone());
                }
                keep
            });
        }
        retired.iter().for_each(|slot| slot.retire());
        for peer in again {
            self.slot(plane, &peer, Lane::Bulk).want.notify_one();
        }
        let lane = if plane.config.role == Role::Site { Lane::DialOut } else { Lane::Bulk };
        for peer in world.plan.peers().filter(|peer| peer.warm) {
            let slot = self.slot(plane, peer, lane);
            slot.warm.store(true, Relaxed);
            slot.want.notify_one();
        }
    }

    /// Retires links that nobody has used for long and the snapshot does not want warm.
    pub fn retire_idle(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let idle = slot.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > IDLE;
            let keep = slot.warm.load(Relaxed) || !idle;
            if !keep {
                slot.retire();
            }
            keep
        });
    }
}

impl Key {
    fn of(peer: &Peer, lane: Lane) -> Self {
        let expected = Expected { name: peer.name.clone(), ring_id: peer.ring_id };
        Key { expected, address: peer.address, lane }
    }
}

impl Slot {
    fn start(plane: &Arc<Plane>, key: Key) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            key,
            warm: AtomicBool::new(false),
            state: watch::Sender::new((0, State::Idle)),
            want: Notify::new(),
            rtt_us: AtomicU64::new(0),
            measured: Arc::default(),
            used: Mutex::new(Instant::now()),
            keeper: Mutex::new(None),
            retired: AtomicBool::new(false),
        });
        let keeper = tokio::spawn(keep(plane.clone(), slot.clone()));
        *slot.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper.abort_handle());
        slot
    }

    /// Ends the keeper and lets go of the connection: it closes itself after its last stream.
    fn retire(&self) {
        self.retired.store(true, Relaxed);
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
        self.fail(LinkError::new("the link was replaced; try again"));
    }

    fn is_well(&self) -> bool {
        matches!(&self.state.borrow().1, State::Up(live) if !*live.silent.borrow())
    }

    /// Whether somebody wanted something of it within `span`.
    pub(crate) fn used_within(&self, span: Duration) -> bool {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < span
    }

    /// Waits until the link is up, asking the keeper to dial; an attempt that ends without success ends the wait.
    async fn up(&self) -> Result<Arc<Live>, LinkError> {
        let mut state = self.state.subscribe();
        let asked = state.borrow_and_update().0;
        loop {
            match &*state.borrow_and_update() {
                (_, State::Up(live)) => return Ok(live.clone()),
                (attempt, State::Down(why, _)) if *attempt > asked => return Err(why.clone()),
                _ => self.want.notify_one(),
            }
            state.changed().await.map_err(|_| LinkError::new("the engine stops"))?;
        }
    }

    /// Stops using a connection that takes no more streams.
    fn let_go(&self, dead: &Arc<Live>) {
        let used_up = self.state.send_if_modified(|s| {
            let same = matches!(&s.1, State::Up(live) if Arc::ptr_eq(live, dead));
            if same {
                s.1 = State::Idle;
            }
            same
        });
        if used_up {
            dead.used_up.notify_one();
        }
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_modify(|s| s.1 = state);
    }

    pub(crate) fn tell_down(&self, plane: &Plane, reason: &LinkError) {
        let (name, reason) = (self.key.expected.name.to_string(), reason.0.to_string());
        plane.emit(Event::Link { name, up: false, rtt_us: 0, reason });
    }

    pub(crate) fn fail(&self, why: LinkError) {
        self.state.send_modify(|s| *s = (s.0 + 1, State::Down(why, Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_long_ago_no_longer_tells_how_far_a_peer_leads() {
        let (measured, ms) = (Measured::default(), Duration::from_millis);
        assert_eq!(measured.opened_lately(Leg::Beacon, 5), None);
        measured.opened(Leg::Beacon, ms(400), 1000);
        assert_eq!(measured.opened_lately(Leg::Beacon, 1000 + REMEMBERED), Some(ms(400)));
        assert_eq!(measured.opened_lately(Leg::Servlet, 1000), None);
        assert_eq!(measured.opened_lately(Leg::Beacon, 1001 + REMEMBERED), None);
        measured.opened(Leg::Beacon, ms(80), 1001 + REMEMBERED);
        assert_eq!(measured.opened_lately(Leg::Beacon, 2000 + REMEMBERED), Some(ms(80)));
    }
}
