//! The forwarder's end: a session for each site, by which tunnels go when the control plane prefers it.

use super::order::{PathNow, SessionNow, UserTicket};
use super::{bytes32, detour, quic_limits, stream, told_at_end};
use crate::early::Early;
use crate::estimate::Estimate;
use crate::plane::Plane;
use crate::trace::Context;
use crate::tunnel::{Source, Target, Tunnel};
use polder_quic::wire::UdpWire;
use polder_quic::{Clock, Connection, Counters, ForwarderEnd, Limits, RecvStream, VarInt};
use polder_spread::{Micros, PathReport, SessionId, SpreadConfig, State, detour_proof};
use polder_types::{Event, SiteName};
use polder_wire::ProxyError;
use polder_wire::detour::Claim;
use polder_wire::spread::{Opening, read_answer};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a session may take to come up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The control plane hears so seldom of one host that has no session.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Hosts remembered for that.
const ASKED: usize = 1024;

/// One session.
pub(crate) struct Held {
    site: SiteName,
    hosts: Mutex<(Vec<Arc<str>>, Vec<u16>)>,
    pub(super) end: ForwarderEnd,
    /// Name and key of the newest ticket.
    proof: Mutex<(SessionId, [u8; 32])>,
    /// Whether a detour carries it now, and how often one had to.
    detoured: AtomicBool,
    detours: AtomicU64,
    connection: OnceLock<Connection>,
    prefer: AtomicBool,
    opens: Estimate,
    /// Round trips to the servlet through access points.
    pub(super) soundings: Estimate,
    tunnels: AtomicU64,
    failed: AtomicU64,
}

/// All of a forwarder.
#[derive(Default)]
pub struct Users {
    sessions: Mutex<HashMap<SiteName, Arc<Held>>>,
    asked: Mutex<HashMap<Target, Instant>>,
    /// What the QUIC ends count.
    pub counters: Arc<Counters>,
    seeds: AtomicU64,
}

impl Users {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<SiteName, Arc<Held>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session, or carries it on. Inside a runtime. The error says why not.
    pub fn ticket(&self, plane: &Arc<Plane>, order: &UserTicket) -> Result<(), String> {
        let members = order.members.members()?;
        let (copies, fec) = (order.redundancy.copies, order.redundancy.fec());
        let known = self.sessions().get(&order.site).cloned();
        if let Some(held) = known.filter(|held| order.renews && held.is_up()) {
            held.end.set_members(&members);
            held.end.renew(&order.ticket).map_err(|e| e.to_string())?;
            held.end.set_redundancy(copies, fec);
            *held.hosts.lock().unwrap_or_else(PoisonError::into_inner) = (order.hosts.clone(), order.ports.clone());
            *held.proof.lock().unwrap_or_else(PoisonError::into_inner) = (order.ticket.session, order.ticket.key);
            held.prefer.store(order.prefer, Relaxed);
            return Ok(());
        }
        let world = plane.world().ok_or("no snapshot yet")?;
        let pin = bytes32(&order.pin).ok_or("pin: a hash has 32 bytes")?;
        let tls = world.tls.spread_client(pin).map_err(|e| e.to_string())?;
        let config = SpreadConfig { copies, fec, ..SpreadConfig::default() };
        let v6 = order.members.list.first().is_some_and(|member| member.address.is_ipv6());
        let any = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let wire = UdpWire::bind(SocketAddr::new(any, 0)).map_err(|e| e.to_string())?;
        let (clock, seed) = (Clock::told(Micros(order.now)), order.now ^ self.seeds.fetch_add(1, Relaxed) << 32);
        let end = ForwarderEnd::new(&order.ticket, members, config, Arc::new(wire), clock, self.counters.clone(), seed);
        let held = Arc::new(Held {
            site: order.site.clone(),
            hosts: Mutex::new((order.hosts.clone(), order.ports.clone())),
            end: end.map_err(|e| e.to_string())?,
            proof: Mutex::new((order.ticket.session, order.ticket.key)),
            detoured: AtomicBool::new(false),
            detours: AtomicU64::new(0),
            connection: OnceLock::new(),
            prefer: AtomicBool::new(order.prefer),
            opens: Estimate::default(),
            soundings: Estimate::default(),
            tunnels: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        self.sessions().insert(order.site.clone(), held.clone());
        let limits = quic_limits(&world.plan.limits);
        tokio::spawn(keep(plane.clone(), held, tls, limits));
        Ok(())
    }

    /// Whether tunnels to a site go by its session.
    pub fn prefer(&self, site: &str, on: bool) {
        if let Some(held) = self.sessions().get(site) {
            held.prefer.store(on, Relaxed);
        }
    }

    /// Whether no other session of its site has taken its place.
    fn keeps(&self, held: &Arc<Held>) -> bool {
        self.sessions().get(&held.site).is_some_and(|now| Arc::ptr_eq(now, held))
    }

    /// The session for a target, if it is up; and whether tunnels are to use it: none begins on a detour that has an access point
    /// at its beginning anyway.
    pub(crate) fn find(&self, target: &Target) -> Option<(Arc<Held>, bool)> {
        let sessions = self.sessions();
        let held = sessions.values().find(|held| held.is_up() && held.leads_to(target))?;
        Some((held.clone(), held.prefer.load(Relaxed) && !held.detoured.load(Relaxed)))
    }

    /// Tells the control plane that a session would be of use, now and then.
    pub(crate) fn want(&self, plane: &Plane, target: &Target) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if asked.get(target).is_some_and(|at| now.duration_since(*at) < ASK_AGAIN) {
            return;
        }
        if asked.len() >= ASKED {
            asked.retain(|_, at| now.duration_since(*at) < ASK_AGAIN);
        }
        if asked.len() < ASKED && plane.offer(Event::SpreadWanted { host: target.host.to_string(), port: target.port }) {
            asked.insert(target.clone(), now);
        }
    }

    /// What there is.
    pub fn now(&self) -> Vec<SessionNow> {
        let mut all: Vec<_> = self.sessions().values().map(|held| held.now()).collect();
        all.sort_by(|a, b| a.site.cmp(&b.site));
        all
    }
}

/// Connects, tells the control plane, and waits for the end.
async fn keep(plane: Arc<Plane>, held: Arc<Held>, tls: rustls::ClientConfig, limits: Limits) {
    let tell = |up: bool, reason: String| plane.emit(Event::SpreadSession { site: held.site.to_string(), up, reason });
    let lives = async {
        match timeout(HANDSHAKE, held.end.connect(tls, &limits)).await {
            Err(_) => "the servlet answered neither over a relay nor over a detour".into(),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(connection)) => {
                let _ = held.connection.set(connection.clone());
                if plane.users.keeps(&held) {
                    tell(true, String::new());
                    plane.stir();
                } else {
                    // Another took its place while it began: nothing would ever go over this one.
                    connection.close(VarInt::from_u32(0), b"");
                }
                let reason = connection.closed().await;
                told_at_end(&plane, &connection, &reason);
                reason.to_string()
            }
        }
    };
    let reason = tokio::select! {
        reason = lives => reason,
        () = detour::watch(plane.clone(), held.clone()) => String::new(),
    };
    if held.detoured.swap(false, Relaxed) {
        plane.counters.spread_detours_open.drop_by(1);
    }
    // The end of one that another has replaced says nothing of the other.
    if plane.users.sessions().extract_if(|_, now| Arc::ptr_eq(now, &held)).next().is_some() {
        tell(false, reason);
    }
}

impl Held {
    pub(super) fn is_up(&self) -> bool {
        self.connection.get().is_some_and(|connection| connection.close_reason().is_none())
    }

    /// What asks for a detour, made now; `None`: no host is known.
    pub(super) fn claim(&self) -> Option<(Target, Claim)> {
        let target = {
            let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            Target { host: hosts.0.first()?.clone(), port: *hosts.1.first()? }
        };
        let (session, key) = *self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.end.seen().0.0;
        let proof = detour_proof(&key, session, at);
        Some((target, Claim { session: session.0, at, proof }))
    }

    /// Another carrier has taken over.
    pub(super) fn changed(&self, plane: &Plane, detoured: bool) {
        self.detoured.store(detoured, Relaxed);
        if detoured {
            self.detours.fetch_add(1, Relaxed);
            plane.counters.spread_detours.up();
            plane.counters.spread_detours_open.up();
        } else {
            plane.counters.spread_detours_open.drop_by(1);
        }
        let by = if detoured { "a tunnel: no relay answers" } else { "relays, which answer again" };
        plane.log("info", "spread", format!("an open session is carried by {by}"));
    }

    fn leads_to(&self, target: &Target) -> bool {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.1.contains(&target.port) && hosts.0.contains(&target.host)
    }

    /// A tunnel over this session. What `client` says meanwhile travels along where it may be said twice; when this fails, it is
    /// back in `client`.
    pub(crate) async fn open(
        &self,
        plane: &Plane,
        target: &Target,
        client: &mut Source,
        trace: Option<Context>,
    ) -> Result<Tunnel, ProxyError> {
        let world = plane.world().ok_or(ProxyError::Unavailable)?;
        let within = Duration::from_millis(u64::from(world.plan.limits.open_timeout_ms)) * 2;
        let mut early = Early::new(world.plan.limits.replay_bytes);
        let began = Instant::now();
        let opened = match timeout(within, self.ask(plane, target, client, &mut early, trace)).await {
            Ok(opened) => opened,
            Err(_) => Err(ProxyError::Timeout),
        };
        match opened {
            Ok(mut tunnel) => {
                self.opens.note(began.elapsed());
                self.tunnels.fetch_add(1, Relaxed);
                if early.ended && tunnel.sink.finish().await.is_err() {
                    return Err(ProxyError::Terminated);
                }
                Ok(tunnel)
            }
            Err(error) => {
                self.failed.fetch_add(1, Relaxed);
                early.kept().iter().rev().for_each(|chunk| client.unread(chunk.clone()));
                Err(error)
            }
        }
    }

    async fn ask(
        &self,
        plane: &Plane,
        target: &Target,
        client: &mut Source,
        early: &mut Early,
        trace: Option<Context>,
    ) -> Result<Tunnel, ProxyError> {
        let connection = self.connection.get().ok_or(ProxyError::Unavailable)?;
        let trace = trace.map(|context| (context.trace, context.span));
        let opening = Opening { host: target.host.to_string(), port: target.port, trace };
        let opening = opening.encode().ok_or(ProxyError::Malformed)?;
        let mut opens = std::pin::pin!(connection.open_bi());
        let opened = tokio::select! {
            biased;
            opened = &mut opens => opened,
            () = std::future::ready(()) => {
                plane.counters.spread_over_streams.up();
                opens.await
            }
        };
        let (mut send, mut receive) = opened.map_err(|_| ProxyError::Terminated)?;
        send.write_all(&opening).await.map_err(|_| ProxyError::Terminated)?;
        let mut reading = true;
        {
            let mut heard = std::pin::pin!(hear(&mut receive));
            loop {
                tokio::select! {
                    biased;
                    heard = &mut heard => {
                        heard?;
                        break;
                    }
                    chunk = client.next(), if reading => match chunk {
                        Some(Ok(chunk)) if early.keep(&chunk) => {
                            send.write_all(&chunk).await.map_err(|_| ProxyError::Terminated)?;
                        }
                        Some(Ok(chunk)) => {
                            client.unread(chunk);
                            reading = false;
                        }
                        Some(Err(_)) => return Err(ProxyError::Terminated),
                        None => {
                            early.ended = true;
                            reading = false;
                        }
                    },
                }
            }
        }
        Ok(stream::tunnel(send, receive))
    }

    fn now(&self) -> SessionNow {
        let micros = |time: Option<Duration>| time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        let (ends, now) = self.end.ends();
        let connection = self.connection.get().filter(|_| self.is_up());
        SessionNow {
            site: self.site.clone(),
            up: connection.is_some(),
            prefer: self.prefer.load(Relaxed),
            rtt_us: micros(connection.map(Connection::rtt)),
            open_us: micros(self.opens.mean()),
            tunnel_rtt_us: micros(self.soundings.mean()),
            tunnels: self.tunnels.load(Relaxed),
            failed: self.failed.load(Relaxed),
            carrier: if self.detoured.load(Relaxed) { "tunnel" } else { "relays" }.into(),
            detours: self.detours.load(Relaxed),
            recovered: self.end.tallies().map_or(0, |tallies| tallies.recovered),
            ends_in: ends.since(now).as_secs_f64(),
            paths: self.end.paths().iter().map(path_now).collect(),
        }
    }
}

/// The servlet's answer.
async fn hear(receive: &mut RecvStream) -> Result<(), ProxyError> {
    let mut byte = [0];
    receive.read_exact(&mut byte).await.map_err(|_| ProxyError::Terminated)?;
    read_answer(byte[0])
}

fn path_now(path: &PathReport) -> PathNow {
    let state = match path.state {
        State::Live => "live",
        State::Suspect => "suspect",
        State::Untried => "untried",
        State::Unusable => "unusable",
    };
    PathNow {
        relay: path.address.to_string(),
        state: state.into(),
        weight: path.weight,
        loss: path.loss,
        delay_us: path.delay_us,
        sent: path.sent.into(),
        received: path.received.into(),
        duplicates: path.duplicates.into(),
        mtu: path.mtu,
    }
}
