//! From an accepted socket to whoever serves it.

use crate::lock::Lock;
use polder_flow::Bucket;
use polder_http::front::{self, FrontContext, Pass};
use polder_http::plane::{Plane, World};
use polder_http::tunnel::Opener;
use polder_http::turns::Turns;
use polder_http::{peer, relay};
use polder_meter::Count;
use polder_tls::{Alpn, Corked, HandshakeError};
use polder_types::{Kind, Limits, Role};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// Handshakes per second of all strangers together, and of all guests, as a multiple of one source's budget. A mutual handshake
/// costs about 1.2 ms of CPU time: 8 × 50 a second leave half of a core to links and tunnels, however many sources a flood has.
const SOURCES: u32 = 8;

/// Connections accepted before others get their turn.
const AT_ONCE: usize = 4;

/// A budget of handshakes in all: how many, and how much of the thread.
pub(crate) struct Budget {
    bucket: Mutex<Bucket>,
    born: Instant,
    turns: Turns,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { bucket: Mutex::new(Bucket::full(u32::MAX, 0)), born: Instant::now(), turns: Turns::default() }
    }
}

impl Budget {
    fn take(&self, limits: &Limits) -> bool {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rate = limits.handshake_rate_per_source.saturating_mul(SOURCES);
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(rate, now)
    }

    /// Shakes hands one step at a time, with rests that leave all but `percent` of the thread to others.
    async fn shake<T>(&self, percent: u32, rests: &Count, shaking: impl Future<Output = T>) -> T {
        let rest = 100 / percent.clamp(1, 100) - 1;
        self.turns.take(rest, rests, shaking).await
    }
}

/// What every accepted connection needs.
pub(crate) struct Door {
    /// Of handshakes from where nobody has proved an identity yet.
    pub(crate) strangers: Budget,
    /// And from where somebody has: a flood of strangers must not keep users out.
    pub(crate) guests: Budget,
    pub(crate) plane: Arc<Plane>,
    pub(crate) front: Arc<FrontContext>,
    pub(crate) opener: Arc<dyn Opener>,
}

/// Accepts until the sender of `open` is gone. What waits in the backlog then is left to whoever else has the socket.
pub(crate) async fn listen(door: Arc<Door>, listener: Arc<TcpListener>, mut open: watch::Receiver<()>) {
    let mut number = 0_usize;
    let mut lock = Lock::new(listener.clone());
    loop {
        let accepted = tokio::select! {
            biased;
            _ = open.changed() => return,
            accepted = listener.accept() => accepted,
            () = lock.waits() => {
                lock.look(&door);
                continue;
            }
        };
        match accepted {
            Ok((socket, from)) => {
                lock.admit(&socket);
                if !enter(&door, socket, from.ip()) {
                    lock.refused(from.ip());
                }
            }
            Err(e) => {
                // Out of descriptors or memory: connections wait in the backlog meanwhile.
                door.plane.log("error", "accept", format!("{e}: raise the limit of open files"));
                sleep(Duration::from_millis(50)).await;
            }
        }
        number += 1;
        if number.is_multiple_of(AT_ONCE) {
            lock.look(&door);
            yield_now().await;
        }
    }
}

/// Lets a connection in or closes it: whoever is refused costs no task. False: it was a stranger's and refused, as those of floods are.
fn enter(door: &Arc<Door>, socket: TcpStream, from: IpAddr) -> bool {
    let plane = &door.plane;
    plane.counters.connections.up();
    let Some(world) = plane.world() else { return false };
    let limits = &world.plan.limits;
    match plane.config.role {
        Role::Node => {
            // Addresses of known nodes are outside the budget of strangers, so that a flood of handshakes does not keep nodes
            // apart; what a node is, only its certificate decides.
            let known = world.plan.is_home_of_a_peer(from.to_canonical());
            match if known { Some(None) } else { admit(door, limits, from).map(Some) } {
                Some(pass) => drop(tokio::spawn(stranger(door.clone(), world.clone(), socket, from, pass))),
                None => {
                    plane.counters.connections_refused.up();
                    // A reset: nothing of it stays behind in the kernel either.
                    let _ = socket.set_zero_linger();
                    return false;
                }
            }
        }
        // The user's own programs: rates per source would only punish a busy browser.
        Role::Forwarder if plane.counters.connections_open.get() >= u64::from(limits.connections) => {
            plane.counters.connections_refused.up();
        }
        Role::Forwarder | Role::Site => drop(tokio::spawn(own(door.clone(), socket, from))),
    }
    true
}

/// A connection of the user's own programs, or of whoever the perimeter lets through to a site.
async fn own(door: Arc<Door>, socket: TcpStream, from: IpAddr) {
    let plane = &door.plane;
    let _open = plane.counters.connections_open.hold();
    let _ = socket.set_nodelay(true);
    match plane.config.role {
        Role::Forwarder => front::serve(socket, false, None, from, door.opener.clone(), door.front.clone()).await,
        Role::Node | Role::Site => relay::serve_socket(plane.clone(), socket).await,
    }
}

/// A connection of somebody who has yet to say who he is; without a pass, from the address of a node.
async fn stranger(door: Arc<Door>, world: Arc<World>, socket: TcpStream, from: IpAddr, mut pass: Option<Pass>) {
    let plane = door.plane.clone();
    let _ = socket.set_nodelay(true);
    let patience = Duration::from_millis(u64::from(world.plan.limits.header_timeout_ms));
    let shaking = plane.counters.handshakes_open.hold();
    let began = Instant::now();
    let accepting = world.tls.accept(socket);
    let rests = &plane.counters.over_handshake_percent;
    let shaken = match &pass {
        // Guests are bounded by number alone: with rests they would wait for each other without end.
        Some(pass) if pass.is_guest() => timeout(patience, door.guests.shake(100, rests, accepting)).await,
        Some(_) => timeout(patience, door.strangers.shake(world.plan.limits.handshake_percent, rests, accepting)).await,
        None => timeout(patience, accepting).await,
    };
    let (stream, identity, alpn) = match shaken {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(e)) => return refuse(&plane, &e, from),
        Err(_) => return plane.counters.handshakes_failed.up(),
    };
    plane.measures.handshake_seconds.took(began.elapsed());
    let identity = Arc::new(identity);
    if let Some(pass) = &mut pass
        && identity.kind == Kind::User
        && !pass.proves(&identity.uri, from)
    {
        return plane.counters.connections_refused.up();
    }
    let unsent = world.plan.limits.unsent_bytes;
    if identity.kind == Kind::User && unsent > 0 {
        let _ = polder_sock::bound_unsent(stream.get_ref().0.socket(), unsent);
    }
    // The snapshot may have changed during the handshake; from here on the registry sees every change.
    let open = plane.clone();
    let task = {
        let identity = identity.clone();
        async move {
            let _open = open.counters.connections_open.hold();
            match identity.kind {
                Kind::User => {
                    let opener = door.opener.clone();
                    drop(world);
                    let _pass = pass;
                    let front = door.front.clone();
                    // Each in a box of its own size: a user's connection need not have room for a node's.
                    match alpn {
                        Alpn::H2 => Box::pin(front::serve(Corked::new(stream), true, Some(identity), from, opener, front)).await,
                        _ => Box::pin(front::serve(stream, false, Some(identity), from, opener, front)).await,
                    }
                }
                Kind::Node | Kind::Site | Kind::Admin => {
                    drop(pass);
                    Box::pin(peer::serve(door.plane.clone(), world, identity, alpn, from, stream)).await;
                }
            }
        }
    };
    plane.registry.spawn(identity.clone(), task);
    drop(shaking);
    // A change between the handshake and the registration asked nobody about this one. Only this one is looked at: all of them for each
    // that comes would cost a crowd its square.
    if let Some(world) = plane.world()
        && plane.is_unworthy(&world, &identity)
    {
        plane.cut_unworthy(&world);
    }
}

/// Whether a connection of somebody from outside may begin its handshake.
fn admit(door: &Door, limits: &Limits, from: IpAddr) -> Option<Pass> {
    let counters = &door.plane.counters;
    let mut pass = door.front.enter(from).ok()?;
    // Connections cost memory, too, whosever they are.
    if door.plane.pressure.is_full() {
        counters.shed_connections.up();
        return None;
    }
    if pass.is_guest() {
        if door.guests.take(limits) {
            return Some(pass);
        }
        // Guests without budget are no worse off than strangers.
        pass.forget();
    }
    if door.plane.pressure.is_high() {
        counters.shed_connections.up();
        return None;
    }
    if !door.strangers.take(limits) {
        counters.over_handshakes.up();
        return None;
    }
    Some(pass)
}

fn refuse(plane: &Plane, error: &HandshakeError, from: IpAddr) {
    plane.counters.handshakes_failed.up();
    if let Some(why) = error.about_certificate() {
        plane.counters.identities_refused.up();
        plane.refused("certificate", why, "", Some(from));
    }
}
