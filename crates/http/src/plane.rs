//! The tunnel plane of one process: what its connections and tunnels share.

use crate::carried::Carried;
use crate::control::Calls;
use crate::counters::{Counters, Measures};
use crate::dialout::DialOuts;
use crate::front::FrontContext;
use crate::link::Links;
use crate::memory::Paths;
use crate::pressure::Pressure;
use crate::pump::Meter;
use crate::registry::Registry;
use crate::spread::{Servlet, Users};
use crate::tell::Sealers;
use crate::told::Hearing;
use arc_swap::ArcSwapOption;
use polder_flow::Bucket;
use polder_plan::Plan;
use polder_tls::Settings;
use polder_types::{Event, Identity, Kind, Role, SiteName};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Refusals told per second (burst: twice that).
const TOLD: u32 = 50;

/// Where events go. Never blocks.
pub trait Events: Send + Sync + 'static {
    /// Queues an event; a full queue drops and counts it.
    fn emit(&self, event: Event);

    /// Queues a call or a span unless the queue is too full for it; says whether it did.
    fn offer(&self, event: Event) -> bool;
}

/// One snapshot in force: decisions and handshake settings change together.
#[derive(Debug)]
pub struct World {
    /// Decisions.
    pub plan: Plan,
    /// Handshakes.
    pub tls: Settings,
}

/// What a plane is born with.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    /// Role of the process.
    pub role: Role,
    /// How long Python has to answer a call.
    pub call_timeout: Duration,
    /// Most calls that wait for Python.
    pub calls: usize,
    /// Site role: asked port → origin.
    pub origins: Vec<(u16, SocketAddr)>,
}

/// SPIFFE id → open tunnels.
pub type TunnelsOf = Box<dyn Fn(&str) -> u64 + Send + Sync>;

/// Everything that connections and tunnels of this process share.
pub struct Plane {
    /// Frozen at birth.
    pub config: PlaneConfig,
    /// What has been done.
    pub counters: Counters,
    /// How long it took.
    pub measures: Measures,
    /// Links to nodes.
    pub links: Links,
    /// Live connections by identity.
    pub registry: Registry,
    /// How many tunnels an identity holds at this process's front; said once, by whoever makes the front.
    pub front_tunnels: OnceLock<TunnelsOf>,
    /// Memory's.
    pub pressure: Arc<Pressure>,
    pub(crate) dialouts: DialOuts,
    /// Forwarder: its sessions on the spread plane.
    pub users: Users,
    /// Servlet: sessions of the spread plane that end here; set when its end begins.
    pub(crate) servlet: OnceLock<Weak<Servlet>>,
    /// Site role: streams by servlet.
    pub carried: Carried,
    pub(crate) sealers: Sealers,
    pub(crate) hearing: Hearing,
    /// Site role: the front of a site whose origin is told in header fields; set before the first stream.
    pub front: OnceLock<Arc<FrontContext>>,
    /// Control calls that wait.
    pub calls: Calls,
    /// What is remembered of each site's paths.
    pub(crate) paths: Paths,
    draining: watch::Sender<bool>,
    stirred: watch::Sender<()>,
    told: Mutex<Bucket>,
    born: Instant,
    events: Arc<dyn Events>,
    world: ArcSwapOption<World>,
}

/// Unix seconds.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Unix milliseconds.
pub(crate) fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

impl Plane {
    /// A plane without a snapshot: it refuses everything until [`Plane::apply`].
    pub fn new(config: PlaneConfig, events: Arc<dyn Events>) -> Arc<Self> {
        let calls = Calls::new(config.calls);
        Arc::new(Plane {
            config,
            counters: Counters::default(),
            measures: Measures::default(),
            links: Links::default(),
            registry: Registry::default(),
            front_tunnels: OnceLock::new(),
            pressure: Arc::default(),
            dialouts: DialOuts::default(),
            users: Users::default(),
            servlet: OnceLock::new(),
            carried: Carried::default(),
            sealers: Sealers::default(),
            hearing: Hearing::default(),
            front: OnceLock::new(),
            calls,
            paths: Paths::default(),
            draining: watch::Sender::new(false),
            stirred: watch::Sender::new(()),
            told: Mutex::new(Bucket::full(TOLD, 0)),
            born: Instant::now(),
            events,
            world: ArcSwapOption::empty(),
        })
    }

    /// The snapshot in force; `None` before the first.
    pub fn world(&self) -> Option<Arc<World>> {
        self.world.load_full()
    }

    /// Puts a compiled snapshot in force: live connections of the newly revoked are cut, links are brought in line. Must run
    /// inside the runtime.
    pub fn apply(self: &Arc<Self>, world: World) {
        for warning in &world.plan.warnings {
            self.log("warn", "plan", warning.clone());
        }
        let world = Arc::new(world);
        let before = self.world.swap(Some(world.clone()));
        self.carried.cut(&world.plan.cut);
        self.cut_unworthy(&world);
        let renewed = before.is_some_and(|before| !before.tls.same_identity(&world.tls));
        self.links.reconcile(self, &world, renewed);
        self.paths.forget(self.now());
        self.stir();
    }

    /// Something changed that may help who found no way: a snapshot, a link that came up.
    pub(crate) fn stir(&self) {
        self.stirred.send_replace(());
    }

    /// Tells of every [`Plane::stir`] from now on.
    pub(crate) fn stirred(&self) -> watch::Receiver<()> {
        self.stirred.subscribe()
    }

    /// Milliseconds since this plane began.
    pub(crate) fn now(&self) -> polder_flow::Millis {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether an identity is revoked, or a user's or site's that has expired.
    pub fn is_unworthy(&self, world: &World, identity: &Identity) -> bool {
        // A node's certificate is replaced long before it ends and its links carry the tunnels of many: they are renewed by
        // their dialler (`link`), not cut.
        world.tls.is_revoked(identity) || (identity.kind != Kind::Node && identity.not_after < unix_now())
    }

    /// Cuts live connections whose identity is revoked, or a user's or site's that has expired and was not renewed.
    pub fn cut_unworthy(&self, world: &World) {
        let unworthy = |latest: &Identity| self.is_unworthy(world, latest);
        let told = |identity: &Identity| {
            if let Some(tunnels) = self.front_tunnels.get().filter(|_| identity.kind == Kind::User) {
                self.counters.identities_tunnels_cut.add(tunnels(&identity.uri));
            }
        };
        let cut = self.registry.cut(unworthy, told);
        self.counters.identities_cut.add(cut);
    }

    /// Tells nodes and sites that this process is going: they open nothing new on their connections to us.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Sites whose agent is connected now.
    pub fn dialled_out(&self) -> Vec<SiteName> {
        self.dialouts.sites()
    }

    /// Queues an event.
    pub fn emit(&self, event: Event) {
        self.events.emit(event);
    }

    pub(crate) fn offer(&self, call: Event) -> bool {
        self.events.offer(call)
    }

    /// Tells the operator of a refusal, [`TOLD`] times a second at most: whoever is refused a thousand times shall not keep
    /// Python busy. The counters tell of all.
    pub fn refused(&self, what: &str, why: impl Into<String>, who: impl Into<String>, source: Option<IpAddr>) {
        if !self.told.lock().unwrap_or_else(PoisonError::into_inner).take(TOLD, self.now()) {
            return self.counters.refusals_untold.up();
        }
        let source = source.map(|ip| ip.to_string()).unwrap_or_default();
        self.emit(Event::Refused { what: what.into(), why: why.into(), who: who.into(), source });
    }

    /// What a tunnel counts.
    pub fn meter(&self) -> Meter<'_> {
        self.counters.meter(&self.measures, &self.pressure)
    }

    /// Queues a log record.
    pub fn log(&self, level: &str, target: &str, text: impl Into<String>) {
        self.emit(Event::Log { level: level.into(), target: target.into(), text: text.into() });
    }
}
