//! The servlet's end: whose session it is, that the user who connects is the ticket's, and streams on to the site.

use super::order::Guest;
use super::{bytes32, detour, stream, told_at_end};
use crate::path::{self, Ask};
use crate::plane::{Plane, World, unix_now};
use crate::pump::{End, Terms, pump};
use crate::tell;
use crate::trace::{Context, Span};
use crate::tunnel::{Sink, Source, Target, Tunnel};
use polder_plan::Stage;
use polder_quic::{Connection, Incoming, RecvStream, SendStream, ServletEnd, VarInt};
use polder_spread::{Micros, SessionId, proves_detour};
use polder_types::{Identity, Kind, SiteName};
use polder_wire::ProxyError;
use polder_wire::detour::Claim;
use polder_wire::spread::{FIXED, MOST, Opening, answer};
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Between looks for sessions whose ticket has ended.
const SWEEP: Duration = Duration::from_secs(10);

/// For so long packets of an ended connection still pass, so that the user's end hears of the end (RFC 9000 §10.2).
const FAREWELL: Duration = Duration::from_secs(1);

/// Sessions of one user that may wait or be open here: others must find room beside who asks for ever more tickets.
const EACH: usize = 32;

/// Most that a claim's time may differ from ours: users take their time from their tickets.
const CLAIM_AGE: Duration = Duration::from_secs(30);

/// Bytes of a detour that wait between QUIC and its stream, each way.
const DETOUR: usize = 64 << 10;

/// Whom a session is for.
struct Expected {
    user: Arc<str>,
    key: [u8; 32],
    site: SiteName,
    /// Time of the newest claim for a detour, Unix microseconds.
    claimed: AtomicU64,
}

#[derive(Default)]
struct Tables {
    /// By the address that stands for the session.
    expected: HashMap<SocketAddr, Arc<Expected>>,
    /// Sessions of tickets, also of those that carry one on.
    names: HashMap<SessionId, Named>,
}

/// A ticket's session, and its key.
#[derive(Clone, Copy)]
struct Named {
    address: SocketAddr,
    key: [u8; 32],
}

/// All sessions that end at this node.
pub struct Servlet {
    end: ServletEnd,
    tables: Mutex<Tables>,
    seeds: AtomicU64,
}

impl Servlet {
    /// Over `end`; serves until dropped. Inside a runtime.
    pub fn start(plane: Arc<Plane>, end: ServletEnd, seed: u64) -> Arc<Self> {
        let servlet = Arc::new(Servlet { end, tables: Mutex::default(), seeds: AtomicU64::new(seed) });
        let _ = plane.servlet.set(Arc::downgrade(&servlet));
        tokio::spawn(accept(plane, servlet.clone()));
        servlet
    }

    /// The QUIC end.
    pub fn end(&self) -> &ServletEnd {
        &self.end
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects a session, or carries one on. The error says why not.
    pub fn expect(&self, guest: &Guest, members: Arc<polder_spread::Members>) -> Result<(), String> {
        let key = bytes32(&guest.key).ok_or("key: a hash has 32 bytes")?;
        let session = guest.hosted.session;
        let before = match &guest.renews {
            None => None,
            Some(name) => {
                let name: [u8; 16] = name.as_ref().try_into().map_err(|_| "renews: a session's name has 16 bytes")?;
                let known = self.tables().names.get(&SessionId(name)).map(|named| named.address);
                Some(known.ok_or("renews: no such session ends here")?)
            }
        };
        if let Some(address) = before {
            let same = |known: &Arc<Expected>| *known.user == *guest.user && known.key == key && known.site == guest.site;
            if !self.tables().expected.get(&address).is_some_and(same) {
                return Err("renews: another's session".into());
            }
            self.end.renew(address, &guest.hosted).map_err(|e| e.to_string())?;
            self.end.set_redundancy(address, guest.redundancy.copies, guest.redundancy.fec());
            let mut tables = self.tables();
            // Two generations are taken, as by the session below.
            tables.names.retain(|name, of| of.address != address || guest.renews.as_ref().is_some_and(|last| **last == name.0));
            tables.names.insert(session, Named { address, key: guest.hosted.key });
            return Ok(());
        }
        if self.tables().expected.values().filter(|known| known.user == guest.user).count() >= EACH {
            return Err(format!("the user has {EACH} sessions here"));
        }
        let address = self.end.host(&guest.hosted, members, self.seeds.fetch_add(1, Relaxed)).map_err(|e| e.to_string())?;
        self.end.set_redundancy(address, guest.redundancy.copies, guest.redundancy.fec());
        let mut tables = self.tables();
        let expected = Expected { user: guest.user.clone(), key, site: guest.site.clone(), claimed: AtomicU64::new(0) };
        tables.expected.insert(address, Arc::new(expected));
        tables.names.insert(session, Named { address, key: guest.hosted.key });
        Ok(())
    }

    /// A stream on which a session's datagrams go on. Whoever holds the session's key may ask, once with each time; not known here,
    /// or not proved, is all one to who asks.
    pub(crate) fn detour(&self, plane: &Plane, claim: &Claim, site: &str) -> Option<Tunnel> {
        let session = SessionId(claim.session);
        let (named, expected) = {
            let tables = self.tables();
            let named = *tables.names.get(&session)?;
            (named, tables.expected.get(&named.address)?.clone())
        };
        let (at, now) = (Micros(claim.at), self.end.now());
        let good = *expected.site == *site
            && proves_detour(&named.key, session, claim.at, &claim.proof)
            && now.since(at).max(at.since(now)) <= CLAIM_AGE
            && expected.claimed.fetch_max(claim.at, Relaxed) < claim.at;
        if !good {
            plane.counters.spread_detours_refused.up();
            return None;
        }
        let attached = self.end.attach(named.address)?;
        let (here, there) = tokio::io::duplex(DETOUR);
        let [(read, write), far] = [here, there].map(tokio::io::split);
        let near = Tunnel { source: Source::io(read), sink: Sink::io(write) };
        tokio::spawn(detour::carry(near, attached, None));
        Some(Tunnel { source: Source::io(far.0), sink: Sink::io(far.1) })
    }

    fn forget(&self, address: SocketAddr) {
        self.expect_no_more(address);
        self.end.forget(address);
    }

    fn expect_no_more(&self, address: SocketAddr) {
        let mut tables = self.tables();
        tables.expected.remove(&address);
        tables.names.retain(|_, of| of.address != address);
    }

    /// Forgets sessions whose last ticket has ended.
    fn sweep(&self) {
        let known: Vec<_> = self.tables().expected.keys().copied().collect();
        let now = self.end.now();
        for address in known {
            if self.end.ends(address).is_none_or(|ends| ends < now) {
                self.forget(address);
            }
        }
    }
}

/// Forgets a session when its connection has ended, however.
struct Leaving(Arc<Servlet>, SocketAddr);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.expect_no_more(self.1);
        let (servlet, address) = (self.0.clone(), self.1);
        let forget = async move {
            tokio::time::sleep(FAREWELL).await;
            servlet.forget(address);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(forget);
        }
    }
}

async fn accept(plane: Arc<Plane>, servlet: Arc<Servlet>) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let incoming = tokio::select! {
            incoming = servlet.end.accept() => incoming,
            _ = sweep.tick() => {
                servlet.sweep();
                continue;
            }
        };
        let Some(incoming) = incoming else { return };
        let address = incoming.remote_address();
        let Some(expected) = servlet.tables().expected.get(&address).cloned() else {
            incoming.ignore();
            continue;
        };
        tokio::spawn(enter(plane.clone(), Leaving(servlet.clone(), address), expected, incoming));
    }
}

/// The handshake, and whether it was the user that the ticket is for.
async fn enter(plane: Arc<Plane>, leaving: Leaving, expected: Arc<Expected>, incoming: Incoming) {
    let Some(world) = plane.world() else { return };
    let patience = Duration::from_millis(u64::from(world.plan.limits.header_timeout_ms));
    let Ok(connecting) = leaving.0.end.welcome(incoming) else {
        return plane.counters.handshakes_failed.up();
    };
    let Ok(Ok(connection)) = timeout(patience, connecting).await else {
        return plane.counters.handshakes_failed.up();
    };
    let chain = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let identity = match world.tls.spread_user(chain.as_deref().map(Vec::as_slice).unwrap_or_default()) {
        Ok(identity) if identity.uri == expected.user && identity.key_hash == expected.key && identity.kind == Kind::User => {
            Arc::new(identity)
        }
        Ok(other) => {
            plane.counters.identities_refused.up();
            plane.refused("identity", "came with a ticket that is another's", other.uri.to_string(), None);
            return connection.close(VarInt::from_u32(stream::CUT), b"");
        }
        Err(rejected) => {
            plane.counters.identities_refused.up();
            plane.refused("certificate", rejected.to_string(), "", None);
            return connection.close(VarInt::from_u32(stream::CUT), b"");
        }
    };
    drop(world);
    let work = serve(plane.clone(), leaving, expected, identity.clone(), connection);
    plane.registry.spawn(identity, work);
    if let Some(world) = plane.world() {
        plane.cut_unworthy(&world); // the list may have changed during the handshake
    }
}

async fn serve(plane: Arc<Plane>, leaving: Leaving, expected: Arc<Expected>, who: Arc<Identity>, connection: Connection) {
    let _open = plane.counters.spread_sessions.hold();
    let _leaving = leaving;
    // Dropping the set ends every stream's task: nothing outlives the connection.
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            opened = connection.accept_bi() => match opened {
                Ok((send, receive)) => {
                    drop(streams.spawn(tunnel(plane.clone(), expected.clone(), who.clone(), send, receive)));
                }
                Err(reason) => return told_at_end(&plane, &connection, &reason),
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn tunnel(plane: Arc<Plane>, expected: Arc<Expected>, who: Arc<Identity>, mut send: SendStream, mut receive: RecvStream) {
    let Some(front) = plane.front.get().cloned() else { return };
    let patience = Duration::from_millis(u64::from(front.limits().header_timeout_ms));
    let asked = match timeout(patience, read(&mut receive)).await {
        Ok(Some(opening)) => opening,
        _ => return refuse(&plane, send, ProxyError::Malformed).await,
    };
    let nowhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let Ok(_permit) = front.tunnel(&Some(who.clone()), nowhere) else {
        return refuse(&plane, send, ProxyError::Limit).await;
    };
    let mut client = Source::io(receive);
    let (far, terms) = match Box::pin(onward(&plane, &expected, &who, asked, &mut client)).await {
        Ok(opened) => opened,
        Err(error) => return refuse(&plane, send, error).await,
    };
    if send.write_all(&[answer(Ok(()))]).await.is_err() {
        return;
    }
    plane.counters.tunnels.up();
    plane.counters.spread_tunnels.up();
    let _open = plane.counters.tunnels_open.hold();
    let near = Tunnel { source: client, sink: stream::sink(send) };
    if pump(near, far, terms, plane.meter()).await == End::Idle {
        plane.counters.tunnels_idle.up();
    }
}

async fn read(receive: &mut RecvStream) -> Option<Opening> {
    let mut bytes = [0; MOST];
    receive.read_exact(&mut bytes[..FIXED]).await.ok()?;
    let length = Opening::length(bytes.first_chunk::<FIXED>()?)?;
    receive.read_exact(bytes.get_mut(FIXED..length)?).await.ok()?;
    Opening::decode(&bytes[..length])
}

async fn refuse(plane: &Plane, mut send: SendStream, error: ProxyError) {
    plane.counters.tunnels_failed.up();
    if send.write_all(&[answer(Err(error))]).await.is_ok() {
        let _ = send.finish();
    }
}

/// Checks what an access point would, and goes on as a servlet does.
async fn onward(
    plane: &Arc<Plane>,
    expected: &Expected,
    who: &Arc<Identity>,
    asked: Opening,
    client: &mut Source,
) -> Result<(Tunnel, Terms), ProxyError> {
    let world: Arc<World> = plane.world().ok_or(ProxyError::Unavailable)?;
    let limits = &world.plan.limits;
    let site = world.plan.admit(who, &asked.host, asked.port, unix_now()).map_err(|denied| {
        plane.counters.refused_access.up();
        match denied {
            polder_plan::Denied::Unregistered => ProxyError::Prohibited,
            polder_plan::Denied::Stale => ProxyError::Unavailable,
            polder_plan::Denied::Rules | polder_plan::Denied::Kind => ProxyError::Denied,
        }
    })?;
    if site.name != expected.site || site.delivery.is_none() {
        return Err(ProxyError::Unavailable); // dismissed meanwhile, or a host of another site: the forwarder asks anew
    }
    let target = Target { host: asked.host.as_str().into(), port: asked.port };
    let trace = asked.trace.map(|(trace, span)| Context { trace, span });
    let span = plane.span(trace, "hop", Stage::Servlet);
    let ask = Ask {
        from: None,
        site: site.name.clone(),
        host: asked.host,
        port: asked.port,
        stage: Stage::Servlet,
        hops: 2,
        within: site.patience(Stage::Servlet, limits),
        word: tell::word(plane, &world, site, who, &target, None),
        trace: span.as_ref().map(Span::context).or(trace),
        detour: None,
    };
    let opened = path::open(plane, Arc::new(ask), client).await;
    if let Some(span) = span {
        span.end(opened.as_ref().err().copied());
    }
    Ok((opened?, Terms::from(limits)))
}
