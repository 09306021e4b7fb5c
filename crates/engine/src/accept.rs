//! From an accepted socket to whoever serves it.

use polder_flow::Bucket;
use polder_http::front::{self, FrontContext};
use polder_http::plane::Plane;
use polder_http::tunnel::Opener;
use polder_http::{peer, relay};
use polder_tls::{Alpn, Corked, HandshakeError};
use polder_types::{Kind, Limits, Role};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Strangers' handshakes per second in all, as a multiple of one source's budget. A mutual handshake costs about 1.2 ms of
/// CPU time: 8 × 50 a second leave half of a core to links and tunnels, however many sources the flood has.
const SOURCES: u32 = 8;

/// The budget of strangers' handshakes.
pub(crate) struct Budget {
    bucket: Mutex<Bucket>,
    born: Instant,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Budget { bucket: Mutex::new(Bucket::full(u32::MAX, 0)), born: Instant::now() }
    }

    fn take(&self, limits: &Limits) -> bool {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rate = limits.handshake_rate_per_source.saturating_mul(SOURCES);
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(rate, now)
    }
}

/// What every accepted connection needs.
pub(crate) struct Door {
    pub(crate) budget: Budget,
    pub(crate) plane: Arc<Plane>,
    pub(crate) front: Arc<FrontContext>,
    pub(crate) opener: Arc<dyn Opener>,
}

/// Accepts until the sender of `open` is gone. What waits in the backlog then is left to whoever else has the socket.
pub(crate) async fn listen(door: Arc<Door>, listener: Arc<TcpListener>, mut open: watch::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = open.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, from)) => drop(tokio::spawn(enter(door.clone(), socket, from.ip()))),
            Err(e) => {
                // Out of descriptors or memory: connections wait in the backlog meanwhile.
                door.plane.log("error", "accept", format!("{e}: raise the limit of open files"));
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn enter(door: Arc<Door>, socket: TcpStream, from: IpAddr) {
    let _ = socket.set_nodelay(true);
    let plane = &door.plane;
    plane.counters.connections.up();
    match plane.config.role {
        Role::Node => stranger(door, socket, from).await,
        Role::Forwarder => {
            // The user's own programs: rates per source would only punish a busy browser.
            let most = plane.world().map_or(0, |world| u64::from(world.plan.limits.connections));
            if plane.counters.connections_open.get() >= most {
                return plane.counters.connections_refused.up();
            }
            let _open = plane.counters.connections_open.hold();
            front::serve(socket, false, None, from, door.opener.clone(), door.front.clone()).await;
        }
        Role::Site => {
            let _open = plane.counters.connections_open.hold();
            relay::serve_socket(plane.clone(), socket).await;
        }
    }
}

/// A connection of somebody who has yet to say who he is. Addresses of known nodes are outside the budget of strangers, so
/// that a flood of handshakes does not keep nodes apart; what a node is, only its certificate decides.
async fn stranger(door: Arc<Door>, socket: TcpStream, from: IpAddr) {
    let plane = door.plane.clone();
    let Some(world) = plane.world() else { return };
    let known = world.plan.is_home_of_a_peer(from.to_canonical());
    let mut pass = None;
    if !known {
        match door.front.enter(from) {
            Ok(entered) if door.budget.take(&world.plan.limits) => pass = Some(entered),
            _ => return plane.counters.connections_refused.up(),
        }
    }
    let patience = Duration::from_millis(u64::from(world.plan.limits.header_timeout_ms));
    let shaking = plane.counters.handshakes_open.hold();
    let began = Instant::now();
    let (stream, identity, alpn) = match timeout(patience, world.tls.accept(socket)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(e)) => return refuse(&plane, &e, from),
        Err(_) => return plane.counters.handshakes_failed.up(),
    };
    plane.measures.handshake_seconds.took(began.elapsed());
    let identity = Arc::new(identity);
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
                    match alpn {
                        Alpn::H2 => front::serve(Corked::new(stream), true, Some(identity), from, opener, front).await,
                        _ => front::serve(stream, false, Some(identity), from, opener, front).await,
                    }
                }
                Kind::Node | Kind::Site | Kind::Admin => {
                    drop(pass);
                    peer::serve(door.plane.clone(), world, identity, alpn, from, stream).await;
                }
            }
        }
    };
    plane.registry.spawn(identity, task);
    drop(shaking);
    if let Some(world) = plane.world() {
        plane.cut_unworthy(&world);
    }
}

fn refuse(plane: &Plane, error: &HandshakeError, from: IpAddr) {
    plane.counters.handshakes_failed.up();
    if let Some(why) = error.about_certificate() {
        plane.counters.identities_refused.up();
        plane.refused("certificate", why, "", Some(from));
    }
}
