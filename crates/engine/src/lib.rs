//! The runtime: listeners, links, counters, the queue of events.
//!
//! Theory of operation. An [`Engine`] owns one thread with a tokio runtime (more threads if configured) and everything in it.
//! Callers only hand in bytes and take out bytes; no call waits for the network. A snapshot is compiled in the caller's
//! thread, so that a bad one is an error there and then, and swapped in whole. Stopping is: close the listeners, tell peers,
//! let tunnels end until the deadline, drop the runtime from its own thread.

mod accept;
mod ends;
mod listeners;
mod lock;
mod queue;
mod spread;
mod status;
mod weigh;

use accept::{Budget, Door};
use bytes::Bytes;
use ends::Ends;
use listeners::Listeners;
use polder_http::control;
use polder_http::counters::{Counters, Measures};
use polder_http::forwarder::Forwarder;
use polder_http::front::{self, FrontContext, Report};
use polder_http::overlay::Overlay;
use polder_http::plane::{Plane, PlaneConfig, World, unix_now};
use polder_http::spread::order::Order;
use polder_http::spread::quic_limits;
use polder_http::tunnel::Opener;
use polder_meter::Meaning;
use polder_plan::Plan;
use polder_spread::Here;
use polder_tls::Settings;
use polder_types::{CallId, EngineConfig, Peer, Role, SCHEMA, Snapshot, decode};
use queue::Queue;
use spread::RelayThread;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// Between looks at whether tunnels have ended while stopping.
const LOOK: Duration = Duration::from_millis(10);
/// Between looks for expired identities and unused links.
const SWEEP: Duration = Duration::from_secs(5);

/// Why the engine did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The configuration, the snapshot or an argument is unusable; what was in force stays.
    #[error("{0}")]
    Invalid(String),
    /// A listener could not be opened, or the system refused a thread or descriptor.
    #[error("{0}")]
    System(String),
    /// Stopped before.
    #[error("the engine has stopped")]
    Stopped,
}

fn invalid(e: impl ToString) -> EngineError {
    EngineError::Invalid(e.to_string())
}

fn system(e: impl ToString) -> EngineError {
    EngineError::System(e.to_string())
}

/// One data plane.
pub struct Engine {
    plane: Arc<Plane>,
    queue: Arc<Queue>,
    handle: Handle,
    front: OnceLock<Arc<FrontContext>>,
    listeners: Listeners,
    relay: Option<RelayThread>,
    ends: Ends,
    stopped: AtomicBool,
    end: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Refusals of the front become events.
struct Tell(Arc<Plane>);

impl Report for Tell {
    fn refused(&self, what: &'static str, why: &str, who: &str, source: IpAddr) {
        self.0.refused(what, why, who, Some(source));
    }
}

impl Engine {
    /// Starts an engine from an encoded [`EngineConfig`].
    pub fn start(config: &[u8]) -> Result<Engine, EngineError> {
        let config: EngineConfig = decode(config).map_err(|e| invalid(format!("config: {e}")))?;
        if config.schema != SCHEMA {
            return Err(invalid(format!("config.schema: {} is not {SCHEMA}", config.schema)));
        }
        polder_sock::keep_memory();
        let queue = Arc::new(Queue::new(config.event_queue.max(1) as usize).map_err(system)?);
        let runtime = runtime(config.workers).map_err(system)?;
        let handle = runtime.handle().clone();
        let listeners = Listeners::default();
        {
            let _inside = handle.enter();
            listeners.set(&config.listen, &config.inherit)?;
        }
        let relay = RelayThread::start(&config).map_err(system)?;
        let plane_config = PlaneConfig {
            role: config.role,
            call_timeout: Duration::from_millis(u64::from(config.call_timeout_ms)),
            calls: config.event_queue.max(1) as usize,
            origins: config.origins.clone(),
        };
        let plane = Plane::new(plane_config, queue.clone());
        let (end, ended) = watch::channel(false);
        let thread =
            std::thread::Builder::new().name("polder-engine".into()).spawn(move || run(runtime, ended)).map_err(system)?;
        Ok(Engine {
            plane,
            queue,
            handle,
            front: OnceLock::new(),
            listeners,
            relay,
            ends: Ends::default(),
            stopped: AtomicBool::new(false),
            end,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.bound()
    }

    /// Where it takes datagrams of the spread plane, in the order of the configuration.
    pub fn spread_addresses(&self) -> Vec<SocketAddr> {
        self.relay.as_ref().map(RelayThread::addresses).unwrap_or_default()
    }

    /// Its sockets of the spread plane: whoever sends from here sends from the node's own address.
    pub fn spread_sockets(&self) -> Vec<Arc<UdpSocket>> {
        self.relay.as_ref().map(|relay| relay.sockets().to_vec()).unwrap_or_default()
    }

    /// Hands datagrams whose session ends at this node to `here` from now on; only the first call counts.
    pub fn host_sessions(&self, here: Arc<dyn Here>) {
        if let Some(relay) = &self.relay {
            relay.host(here);
        }
    }

    /// Listens on `addresses` and nowhere else; connections stay, also of listeners that close. On error nothing changes.
    pub fn listen(&self, addresses: &[SocketAddr], inherited: &[(SocketAddr, RawFd)]) -> Result<(), EngineError> {
        self.running()?;
        let _inside = self.handle.enter();
        self.listeners.set(addresses, inherited)
    }

    /// Its listening sockets, by address as configured. The descriptors stay the engine's.
    pub fn listeners(&self) -> Vec<(SocketAddr, RawFd)> {
        self.listeners.descriptors()
    }

    /// Readable while events wait.
    pub fn event_fd(&self) -> RawFd {
        self.queue.fd()
    }

    /// Takes up to `max` encoded events.
    pub fn drain_events(&self, max: usize) -> Vec<Vec<u8>> {
        self.queue.drain(max)
    }

    /// Puts an encoded [`Snapshot`] in force and returns its version. Errors name the field; the last snapshot stays.
    pub fn apply(&self, snapshot: &[u8]) -> Result<u64, EngineError> {
        self.running()?;
        let snapshot: Snapshot = decode(snapshot).map_err(invalid)?;
        let before = self.plane.world();
        let now = u64::try_from(unix_now()).unwrap_or(0);
        let tls = Settings::after(before.as_deref().map(|before| &before.tls), &snapshot, now).map_err(invalid)?;
        let plan = Plan::compile(&snapshot, &tls.me().name).map_err(invalid)?;
        let relays = snapshot.spread.as_ref().map(spread::config).transpose().map_err(invalid)?;
        let version = plan.version;
        if before.is_some_and(|before| before.plan.version >= version) {
            return Err(invalid(format!("version: {version} is not newer than the one in force")));
        }
        let front = self
            .front
            .get_or_init(|| FrontContext::new(plan.limits.clone(), Tell(self.plane.clone()), self.plane.pressure.clone()));
        let counted = Arc::downgrade(front);
        self.plane
            .front_tunnels
            .get_or_init(|| Box::new(move |uri| counted.upgrade().map_or(0, |front| u64::from(front.tunnels_of(uri)))));
        front.apply(plan.limits.clone(), plan.forwarder.clone());
        let _ = self.plane.front.set(front.clone());
        front.pass_traces(plan.tracing.as_ref().is_some_and(|tracing| tracing.to_origin));
        let _inside = self.handle.enter();
        self.plane.apply(World { plan, tls });
        if let Some(relay) = &self.relay {
            if let (Some(spread), Some(world)) = (&snapshot.spread, self.plane.world()) {
                let limits = quic_limits(&world.plan.limits);
                self.ends.apply(&self.plane, relay, &world.tls, spread, &limits).map_err(invalid)?;
            }
            relay.configure(relays);
        }
        self.open_doors(front);
        Ok(version)
    }

    /// Starts accepting, once.
    fn open_doors(&self, front: &Arc<FrontContext>) {
        self.listeners.open(|| {
            let opener: Arc<dyn Opener> = match self.plane.config.role {
                Role::Forwarder => Arc::new(Forwarder::new(self.plane.clone())),
                Role::Node | Role::Site => Arc::new(Overlay::new(self.plane.clone())),
            };
            self.handle.spawn(sweep(self.plane.clone()));
            self.handle.spawn(weigh::watch(self.plane.clone()));
            Arc::new(Door {
                strangers: Budget::default(),
                guests: Budget::default(),
                plane: self.plane.clone(),
                front: front.clone(),
                opener,
            })
        });
    }

    /// Does what the control plane orders of the spread plane's ends (an encoded [`Order`]) and returns the encoded answer.
    pub fn spread(&self, order: &[u8]) -> Result<Vec<u8>, EngineError> {
        self.running()?;
        let order: Order = decode(order).map_err(invalid)?;
        let _inside = self.handle.enter();
        self.ends.order(&self.plane, order).map_err(invalid)
    }

    /// Calls `method` at a node; the answer arrives as an event with the returned number.
    pub fn call(&self, peer: Peer, method: String, body: Vec<u8>, wait: Duration) -> Result<CallId, EngineError> {
        self.running()?;
        let id = self.plane.calls.number();
        self.handle.spawn(control::call(self.plane.clone(), id, peer, method, Bytes::from(body), wait));
        Ok(id)
    }

    /// Answers a peer's call. A late answer is dropped.
    pub fn reply(&self, id: CallId, status: u16, body: Vec<u8>) {
        self.plane.calls.answer(id, status, Bytes::from(body));
    }

    /// Counters by name.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        let mut all = BTreeMap::from_iter(self.plane.counters.read());
        if let Some(front) = self.front.get() {
            all.extend(front.counters.read());
        }
        all.extend(self.relay.iter().flat_map(RelayThread::read));
        let ends = if self.plane.config.role == Role::Forwarder { &self.plane.users.counters } else { &self.ends.counters };
        all.extend(ends.read());
        all.extend([("events_lost", self.queue.dropped()), ("events_waiting", self.queue.waiting())]);
        all
    }

    /// Histograms by name: of the plane and of the front together.
    pub fn histograms(&self) -> Vec<(&'static str, polder_meter::Read)> {
        let mut all = self.plane.measures.read();
        if let Some(front) = self.front.get() {
            all.iter_mut().zip(front.measures.read()).for_each(|((_, sum), (_, more))| sum.add(&more));
        }
        all
    }

    /// What every counter and histogram of this process means.
    pub fn meanings() -> Vec<Meaning> {
        let mut all = Counters::meanings();
        all.extend(front::Counters::meanings());
        all.extend(Measures::meanings());
        all.extend(spread::meanings());
        all.extend(polder_quic::Counters::meanings());
        all.extend([
            Meaning::of_count("events_lost", &["Events for the control plane that were dropped because its queue was full."]),
            Meaning::of_count("events_waiting", &["Events and calls that wait for the control plane now."]),
        ]);
        all
    }

    /// Links, tunnels, version in force, as a MessagePack map.
    pub fn status(&self) -> Vec<u8> {
        status::encode(&self.plane, self.tunnels(), self.work())
    }

    /// Takes nothing new: closes the listeners and tells everybody who is connected to go elsewhere. What runs goes on.
    pub fn drain(&self) {
        self.listeners.close();
        self.plane.drain();
        if let Some(front) = self.front.get() {
            front.drain();
        }
    }

    /// Stops: drains until `deadline`, then drops everything. Waits for the end; stopping twice is harmless. Returns the
    /// tunnels that were cut.
    pub fn stop(&self, deadline: Duration) -> u64 {
        let until = Instant::now() + deadline;
        self.stopped.store(true, Relaxed);
        self.drain();
        while self.tunnels() > 0 && Instant::now() < until {
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        let cut = self.tunnels();
        if let Some(relay) = &self.relay {
            relay.stop();
        }
        self.end.send_replace(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        cut
    }

    /// What a drain waits for: connections that others made, handshakes, tunnels.
    fn work(&self) -> u64 {
        let counters = &self.plane.counters;
        let open = [&counters.connections_open, &counters.handshakes_open, &counters.dialouts_open];
        open.iter().map(|open| open.get()).sum::<u64>() + self.tunnels()
    }

    /// Tunnels open now, in whatever role.
    fn tunnels(&self) -> u64 {
        self.plane.counters.tunnels_open.get() + self.front.get().map_or(0, |front| front.counters.tunnels_open.get())
    }

    fn running(&self) -> Result<(), EngineError> {
        if self.stopped.load(Relaxed) { Err(EngineError::Stopped) } else { Ok(()) }
    }
}

impl Drop for Engine {
    /// Without [`Engine::stop`] the thread is told to end and left alone: a destructor must not wait.
    fn drop(&mut self) {
        self.listeners.close();
        self.end.send_replace(true);
    }
}

fn runtime(workers: u16) -> std::io::Result<Runtime> {
    if workers <= 1 {
        Builder::new_current_thread().enable_all().build()
    } else {
        Builder::new_multi_thread().worker_threads(usize::from(workers)).thread_name("polder-engine").enable_all().build()
    }
}

/// The engine's own thread: everything that the runtime holds is dropped here.
fn run(runtime: Runtime, mut ended: watch::Receiver<bool>) {
    runtime.block_on(async move {
        let _ = ended.wait_for(|ended| *ended).await;
    });
    runtime.shutdown_background();
}

async fn sweep(plane: Arc<Plane>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        plane.links.retire_idle();
        if let Some(world) = plane.world() {
            plane.cut_unworthy(&world);
        }
    }
}
