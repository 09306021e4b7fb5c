//! Links to nodes: dialled on demand or kept warm, one connection per lane.
//!
//! Theory of operation. A *slot* is one wanted connection: (node, address, lane). Its *keeper* task dials when somebody wants
//! a stream, or always when the snapshot calls the peer warm; it measures the round trip, notices death, and dials again with
//! backoff and jitter. Openers wait at the slot's state. A link counts as up only after the peer has answered a first PING:
//! in TLS 1.3 a client learns only then that its own certificate was accepted.
//!
//! Tunnels and control calls use lanes of their own, that is, TCP connections of their own: a full send queue, an exhausted
//! HTTP/2 window or the stream limit of the bulk lane never delays ring maintenance (trap 49).

use crate::dial;
use crate::plane::{Plane, World, unix_now};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use polder_tls::Expected;
use polder_types::{Event, Identity, Peer, Role};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};

/// Between PINGs on an idle link.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A link whose PING stays unanswered so long is dead.
const PING_WAIT: Duration = Duration::from_secs(10);
/// First pause after a failed dial; doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause after a failed dial. Somebody who wants a stream does not wait for it.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A node is not dialled more often than this, however many want it.
const DIAL_GAP: Duration = Duration::from_millis(100);
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
}

impl Live {
    pub(crate) fn new(send: Option<SendRequest<Bytes>>) -> Self {
        Live { send, used_up: Arc::default(), _serving: None }
    }

    pub(crate) fn serving(wanted: oneshot::Sender<()>) -> Self {
        Live { send: None, used_up: Arc::default(), _serving: Some(wanted) }
    }
}

/// What dialling yields.
pub(crate) struct Dialled {
    pub(crate) live: Live,
    pub(crate) peer: Identity,
    pub(crate) pings: Option<PingPong>,
    pub(crate) task: JoinHandle<()>,
    pub(crate) rtt: Duration,
}

#[derive(Clone)]
enum State {
    Idle,
    Up(Arc<Live>),
    Down(LinkError, Instant),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    expected: Expected,
    address: SocketAddr,
    lane: Lane,
}

struct Slot {
    key: Key,
    warm: AtomicBool,
    /// Dials that have failed, and the state.
    state: watch::Sender<(u64, State)>,
    want: Notify,
    rtt_us: AtomicU64,
    open_us: AtomicU64,
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
                Ok(mut send) => return send.send_request(request, end).map_err(LinkError::new),
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

    /// Whether the bulk lane to `peer` is up.
    pub fn is_up(&self, peer: &Peer) -> bool {
        self.find(peer, Lane::Bulk).is_some_and(|slot| matches!(slot.state.borrow().1, State::Up(_)))
    }

    /// Last measured round trip to `peer` over the bulk lane; `None` when it is not up.
    pub fn rtt(&self, peer: &Peer) -> Option<Duration> {
        let slot = self.find(peer, Lane::Bulk)?;
        let up = matches!(slot.state.borrow().1, State::Up(_));
        up.then(|| Duration::from_micros(slot.rtt_us.load(Relaxed)))
    }

    /// How long opening a tunnel through `peer` lately took (smoothed); `None` before the first.
    pub(crate) fn open_time(&self, peer: &Peer) -> Option<Duration> {
        let slot = self.find(peer, Lane::Bulk)?;
        Some(slot.open_us.load(Relaxed)).filter(|us| *us > 0).map(Duration::from_micros)
    }

    /// Learns from one opening.
    pub(crate) fn note_open_time(&self, peer: &Peer, took: Duration) {
        if let Some(slot) = self.find(peer, Lane::Bulk) {
            let (old, new) = (slot.open_us.load(Relaxed), u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
            // Weight 1/8 as TCP's smoothed round trip (RFC 6298 §2).
            slot.open_us.store(if old == 0 { new } else { old - old / 8 + new / 8 }, Relaxed);
        }
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
            open_us: AtomicU64::new(0),
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

    fn set(&self, state: State) {
        self.state.send_modify(|s| s.1 = state);
    }

    fn tell_down(&self, plane: &Plane, reason: &LinkError) {
        let (name, reason) = (self.key.expected.name.to_string(), reason.0.to_string());
        plane.emit(Event::Link { name, up: false, rtt_us: 0, reason });
    }

    fn fail(&self, why: LinkError) {
        self.state.send_modify(|s| *s = (s.0 + 1, State::Down(why, Instant::now())));
    }
}

/// The keeper of one slot.
async fn keep(plane: Arc<Plane>, slot: Arc<Slot>) {
    let mut failures = 0u32;
    slot.want.notified().await;
    loop {
        let began = Instant::now();
        match dial::dial(&plane, &slot.key.expected, slot.key.address, slot.key.lane).await {
            Ok(dialled) => {
                failures = 0;
                plane.counters.links_dialled.up();
                plane.measures.link_dial_seconds.took(began.elapsed());
                plane.measures.link_rtt_seconds.took(dialled.rtt);
                let reason = watch_over(&plane, &slot, dialled).await;
                slot.set(State::Idle); // an end is no failed dial: who waits now waits for the next
                slot.tell_down(&plane, &reason);
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                plane.counters.links_failed.up();
                if failures == 1 {
                    slot.tell_down(&plane, &why);
                }
                slot.fail(why);
            }
        }
        if slot.key.lane == Lane::DialOut && *plane.draining().borrow() {
            return; // whoever comes after us has dialled, or nobody shall be sent here
        }
        tokio::time::sleep_until(began + DIAL_GAP.mul_f64(jitter())).await;
        if slot.warm.load(Relaxed) {
            let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX).mul_f64(jitter());
            let _ = timeout(pause, slot.want.notified()).await;
        } else {
            slot.want.notified().await;
        }
    }
}

/// Announces a link, measures it, and returns why it ended. A link is replaced some time before the peer's certificate ends.
async fn watch_over(plane: &Arc<Plane>, slot: &Slot, dialled: Dialled) -> LinkError {
    let Dialled { live, peer, mut pings, mut task, rtt } = dialled;
    let micros = |rtt: Duration| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
    slot.rtt_us.store(micros(rtt), Relaxed);
    let live = Arc::new(live);
    let due = renewal_due(peer.not_after, unix_now());
    slot.set(State::Up(live.clone()));
    plane.emit(Event::Link { name: peer.name.to_string(), up: true, rtt_us: micros(rtt), reason: String::new() });
    let _open = plane.counters.links_open.hold();
    loop {
        tokio::select! {
            _ = &mut task => return LinkError::new("the connection ended"),
            () = live.used_up.notified() => {
                slot.want.notify_one();
                return LinkError::new("the peer takes no more streams on this connection");
            }
            () = tokio::time::sleep(PING_EVERY.mul_f64(jitter())) => {}
        }
        if unix_now() >= due {
            return LinkError::new("the peer's certificate ends soon: the link is renewed");
        }
        let Some(pings) = &mut pings else { continue };
        let sent = Instant::now();
        tokio::select! {
            _ = &mut task => return LinkError::new("the connection ended"),
            pong = timeout(PING_WAIT, pings.ping(Ping::opaque())) => match pong {
                Ok(Ok(_)) => {
                    slot.rtt_us.store(micros(sent.elapsed()), Relaxed);
                    plane.measures.link_rtt_seconds.took(sent.elapsed());
                }
                Ok(Err(e)) => return LinkError::new(e),
                Err(_) => {
                    task.abort();
                    return LinkError::new("the peer does not answer: it or the network in between is down");
                }
            },
        }
    }
}

/// When to replace a link whose peer showed a certificate that ends at `not_after`: a minute before, or a sixth of what was
/// left, whatever is less; the peer has renewed by then (at two thirds of the whole). Unix seconds.
fn renewal_due(not_after: i64, now: i64) -> i64 {
    not_after - ((not_after - now) / 6).clamp(0, 60)
}

/// A factor between 0.75 and 1.25, so that nodes do not act in step. Not secret: the hasher's keys are chance enough.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let chance = RandomState::new().hash_one(0u8) >> 32;
    0.75 + (chance as f64) / f64::from(u32::MAX) / 2.0
}
