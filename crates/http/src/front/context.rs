//! What every client's connection shares: limits in force, counts, counters, and whom to tell.

use super::client::Client;
use super::counters::Counters;
use super::effort::{AT_WORK, COMPANY, Calm, Effort, Task};
use crate::counters::Measures;
use crate::pressure::Pressure;
use crate::pump::Meter;
use crate::tunnel::Asker;
use crate::turns::Turns;
use arc_swap::{ArcSwap, ArcSwapOption};
use polder_flow::{Bounds, Gate, Over, SourceKey};
use polder_types::{Forwarder, Limits};
use polder_wire::{ProxyError, Refusal};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Who is told what was refused (it becomes `Event::Refused`). Must not block; may drop and count.
pub trait Report: Send + Sync + 'static {
    /// `what` is `limit` or `target`; `why` and `who` are for the operator.
    fn refused(&self, what: &'static str, why: &str, who: &str, source: IpAddr);
}

/// Shared by all fronts of one engine; lives as long as the engine.
pub struct FrontContext {
    limits: ArcSwap<Limits>,
    forwarder: ArcSwapOption<Forwarder>,
    gate: Mutex<Gate>,
    start: Instant,
    draining: watch::Sender<bool>,
    jitter: RandomState,
    traces_to_origins: AtomicBool,
    report: Box<dyn Report>,
    pressure: Arc<Pressure>,
    turns: Turns,
    calm: Mutex<Calm>,
    efforts: Mutex<HashMap<Arc<str>, Weak<Effort>>>,
    /// Counters.
    pub counters: Counters,
    /// How long tunnels lived and what they carried.
    pub measures: Measures,
}

impl FrontContext {
    /// A context with the limits of the first snapshot; `pressure` is the process's.
    pub fn new(limits: Limits, report: impl Report, pressure: Arc<Pressure>) -> Arc<Self> {
        Arc::new(FrontContext {
            limits: ArcSwap::from_pointee(limits),
            forwarder: ArcSwapOption::empty(),
            gate: Mutex::default(),
            start: Instant::now(),
            draining: watch::Sender::new(false),
            jitter: RandomState::new(),
            traces_to_origins: AtomicBool::new(false),
            report: Box::new(report),
            pressure,
            turns: Turns::default(),
            calm: Mutex::default(),
            efforts: Mutex::default(),
            counters: Counters::default(),
            measures: Measures::default(),
        })
    }

    /// Puts the limits, and in a forwarder its PAC file and manners, of a new snapshot in force.
    pub fn apply(&self, limits: Limits, forwarder: Option<Forwarder>) {
        self.limits.store(Arc::new(limits));
        self.forwarder.store(forwarder.map(Arc::new));
        let now = self.now();
        let limits = self.limits();
        let mut gate = self.gate();
        gate.sweep(limits.handshake_rate_per_source, now);
        gate.sweep_identities(&self.bounds(), now);
    }

    /// Puts in force whether clients' own trace fields go on to origins.
    pub fn pass_traces(&self, to_origins: bool) {
        self.traces_to_origins.store(to_origins, Relaxed);
    }

    pub(crate) fn traces_to_origins(&self) -> bool {
        self.traces_to_origins.load(Relaxed)
    }

    /// Sends every client away when it has finished what it is doing: HTTP/2 GOAWAY, HTTP/1.1 `Connection: close`.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Up to `most` addresses from which somebody has proved an identity within the hour, the latest first.
    pub fn guests(&self, most: usize) -> Vec<IpAddr> {
        let guests = self.gate().guests(most, self.now());
        guests.into_iter().map(IpAddr::from).collect()
    }

    /// A stranger or user connects, before his handshake. Keep the pass as long as the connection.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> Result<Pass, Refusal> {
        let key = SourceKey::from(source);
        let entered = self.gate().enter(key, &self.bounds(), self.now());
        match entered {
            Ok(guest) => Ok(Pass { ctx: self.clone(), key, guest, identity: None }),
            Err(over) => Err(self.over(over, &source.to_string(), source)),
        }
    }

    /// `count` frames or requests of `who` that carry little: milliseconds to wait before more. A user's own programs wait for
    /// nothing.
    pub(crate) fn spend(&self, who: &Asker, count: u32) -> u64 {
        let Some(identity) = who else { return 0 };
        let wait = self.gate().spend(&identity.uri, count, &self.bounds(), self.now());
        if wait > 0 {
            self.counters.over_frames.up();
        }
        wait
    }

    /// What the connections of `who` cost; nobody counts what a user's own programs cost.
    pub(crate) fn effort(&self, who: &Asker) -> Option<Arc<Effort>> {
        let identity = who.as_ref()?;
        let mut efforts = self.efforts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(effort) = efforts.get(&identity.uri).and_then(Weak::upgrade) {
            return Some(effort);
        }
        efforts.retain(|_, effort| effort.strong_count() > 0);
        let effort = Arc::new(Effort::default());
        efforts.insert(identity.uri.clone(), Arc::downgrade(&effort));
        Some(effort)
    }

    /// Runs `work` of somebody whose `effort` is counted: when he has taken more than his share of the thread and is not
    /// alone, step by step, in turns with others who have. The work comes in a box: by value it would lie in this future twice, for as
    /// long as a connection or a tunnel lives.
    pub(super) async fn fairly<T>(&self, effort: Option<&Effort>, task: Task, mut work: Pin<Box<impl Future<Output = T>>>) -> T {
        let Some(effort) = effort else { return work.await };
        loop {
            let alone = poll_fn(|cx| {
                let clock = self.start.elapsed();
                let over = effort.is_over(self.limits.load().work_percent_per_identity, clock);
                if over && self.calm().others(effort.id(), clock, COMPANY) {
                    return Poll::Ready(None);
                }
                let began = Instant::now();
                self.calm().works(effort.id(), began.duration_since(self.start));
                let step = work.as_mut().poll(cx);
                self.worked(effort, began.elapsed());
                step.map(Some)
            });
            if let Some(done) = alone.await {
                return done;
            }
            self.counters.over_work.up();
            let own = effort.turn(task).acquire().await;
            let others = self.calm().others(effort.id(), self.start.elapsed(), AT_WORK);
            let rest = if others { self.limits.load().overwork_rest } else { 0 };
            let (step, bell, took) = self.turns.step(rest, &self.counters.over_work_rests, work.as_mut()).await;
            self.worked(effort, took);
            drop(own);
            match step {
                Poll::Ready(done) => return done,
                Poll::Pending => bell.rings().await,
            }
        }
    }

    fn calm(&self) -> MutexGuard<'_, Calm> {
        self.calm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worked(&self, effort: &Effort, took: Duration) {
        effort.spend(took);
        self.measures.client_turn_seconds.took(took);
    }

    /// A receiver of `who` has yet to take what has come: what to hold while that lasts.
    pub(crate) fn waits(&self, who: &Asker) -> Waits<'_> {
        let identity = who.as_ref().map(|identity| identity.uri.clone());
        if let Some(identity) = &identity {
            self.gate().waits(identity);
        }
        Waits(self, identity)
    }

    /// A receiver of `who` has taken nothing for a moment: what to hold while that lasts; `None`: too many do, cut it.
    pub(crate) fn stalls(&self, who: &Asker) -> Option<Stalled<'_>> {
        let Some(identity) = who else { return Some(Stalled(self, None)) };
        if self.gate().stalls(&identity.uri, &self.bounds(), self.now()) {
            return Some(Stalled(self, Some(identity.uri.clone())));
        }
        self.counters.over_stalled_per_identity.up();
        None
    }

    /// Memory's.
    pub(crate) fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// `who` opens a tunnel. Keep the permit as long as the tunnel.
    pub(crate) fn tunnel(self: &Arc<Self>, who: &Asker, source: IpAddr) -> Result<Permit, Refusal> {
        if self.pressure.is_full() {
            self.counters.shed_tunnels.up();
            return Err(Refusal::new(ProxyError::Limit, "This access point has no memory left for more."));
        }
        let identity = who.as_ref().map_or_else(|| Arc::from("loopback"), |identity| identity.uri.clone());
        let opened = self.gate().open(&identity, &self.bounds(), self.now());
        match opened {
            Ok(()) => Ok(Permit { ctx: self.clone(), identity }),
            Err(over) => Err(self.over(over, &identity, source)),
        }
    }

    /// Tunnels that an identity holds, by SPIFFE id.
    pub fn tunnels_of(&self, identity: &str) -> u32 {
        self.gate().tunnels(identity)
    }

    /// What a tunnel of `client` counts.
    pub(crate) fn meter<'a>(&'a self, client: &'a Client) -> Meter<'a> {
        let counters = &self.counters;
        Meter {
            up: &counters.bytes_up,
            down: &counters.bytes_down,
            waiting: &counters.receivers_waiting,
            dismissed: &counters.shed_open_tunnels,
            measures: &self.measures,
            pressure: &self.pressure,
            stalls: Some(client),
        }
    }

    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    pub(crate) fn forwarder(&self) -> Option<Arc<Forwarder>> {
        self.forwarder.load_full()
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    pub(crate) fn now(&self) -> polder_flow::Millis {
        self.start.elapsed().as_millis() as u64
    }

    /// Seconds for `Retry-After`: 1 to 8, different each time, so that those who were sent away do not return together.
    pub(crate) fn retry_after(&self) -> u32 {
        1 + (self.jitter.hash_one(self.start.elapsed().as_nanos()) % 8) as u32
    }

    pub(crate) fn refused(&self, what: &'static str, why: &str, who: &str, source: IpAddr) {
        self.report.refused(what, why, who, source);
    }

    fn over(&self, over: Over, who: &str, source: IpAddr) -> Refusal {
        self.counters.over(over);
        let why = match over {
            Over::Connections => "too many connections in all: raise limits.connections or add nodes",
            Over::PerSource => "too many connections from one source: limits.connections_per_source",
            Over::HandshakeRate => "too many handshakes from one source: limits.handshake_rate_per_source",
            Over::Tunnels => "too many open tunnels of one user: limits.tunnels_per_identity",
            Over::TunnelRate(_) => "too many new tunnels of one user: limits.tunnel_rate_per_identity",
            Over::PerIdentity => "too many connections of one user: limits.connections_per_identity",
        };
        self.refused("limit", why, who, source);
        Refusal::new(ProxyError::Limit, "You have too many connections open, or open them too fast.")
    }

    fn bounds(&self) -> Bounds {
        let limits = self.limits.load();
        Bounds {
            connections: limits.connections,
            connections_per_source: limits.connections_per_source,
            handshake_rate_per_source: limits.handshake_rate_per_source,
            tunnels_per_identity: limits.tunnels_per_identity,
            tunnel_rate_per_identity: limits.tunnel_rate_per_identity,
            connections_per_identity: limits.connections_per_identity,
            frame_rate_per_identity: limits.frame_rate_per_identity,
            stalled_per_identity: limits.stalled_per_identity,
            handshake_rate_per_identity: limits.handshake_rate_per_identity,
            homes_per_identity: limits.homes_per_identity,
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver that has yet to take something, while this lives.
pub(crate) struct Waits<'a>(&'a FrontContext, Option<Arc<str>>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(identity) = &self.1 {
            self.0.gate().takes(identity);
        }
    }
}

/// A receiver that takes nothing, while this lives.
pub(crate) struct Stalled<'a>(&'a FrontContext, Option<Arc<str>>);

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        if let Some(identity) = &self.1 {
            self.0.gate().moves(identity);
        }
    }
}

/// A connection that counts while this lives.
pub struct Pass {
    ctx: Arc<FrontContext>,
    key: SourceKey,
    guest: bool,
    identity: Option<Arc<str>>,
}

impl Pass {
    /// Whether somebody has proved an identity from there within the last hour, who has not shaken hands too often lately.
    pub fn is_guest(&self) -> bool {
        self.guest
    }

    /// Makes a stranger of a guest.
    pub fn forget(&mut self) {
        self.guest = false;
    }

    /// Its holder is `identity`; false when that has too many connections already.
    pub fn proves(&mut self, identity: &Arc<str>, source: IpAddr) -> bool {
        let joined = {
            let mut gate = self.ctx.gate();
            let now = self.ctx.now();
            gate.proved(self.key, identity, &self.ctx.bounds(), now);
            gate.join(identity, &self.ctx.bounds(), now)
        };
        match joined {
            Ok(()) => {
                self.identity = Some(identity.clone());
                true
            }
            Err(over) => {
                self.ctx.over(over, identity, source);
                false
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut gate = self.ctx.gate();
        gate.left(self.key);
        if let Some(identity) = &self.identity {
            gate.parted(identity);
        }
    }
}

/// A tunnel that counts while this lives.
pub(crate) struct Permit {
    ctx: Arc<FrontContext>,
    identity: Arc<str>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.ctx.gate().closed(&self.identity);
    }
}
