//! The relay of the spread plane: a thread of its own, so that floods of datagrams take no time from tunnels.
//!
//! One turn takes at most a batch of runs from each socket, proves and rewrites them where they lie, and sends them. What the
//! kernel does not take at once is dropped and counted: a relay has no queue.

use polder_meter::{Meaning, counts};
use polder_sock::{Interest, Ready, RunInbox, RunOutbox, ToSend, bind_runs};
use polder_spread::{Counters, Epoch, Forward, Here, Member, Members, Micros, NodeId, Relay, RelayConfig, To};
use polder_types::{EngineConfig, Spread};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs that one turn takes from a socket: 2 MiB of room.
const BATCH: usize = 32;
/// Between looks for sessions that have fallen silent.
const SWEEP: Duration = Duration::from_secs(10);
/// Room of a socket where none is configured.
const BUFFER: usize = 4 << 20;

counts! {
    /// What the relay's thread has done with its sockets.
    pub(crate) struct Sockets, prefix "spread_";
    /// Runs of datagrams received: what one piece of the kernel's brought.
    received_runs,
    /// Runs of datagrams sent in one piece.
    sent_runs,
    /// Datagrams that the kernel did not take: its queue was full, or they are longer than the next link carries.
    send_dropped,
    /// Datagrams refused: this node has no keys yet.
    refused_unready,
}

/// What every number of the relay means.
pub(crate) fn meanings() -> Vec<Meaning> {
    Counters::meanings().into_iter().chain(Sockets::meanings()).collect()
}

/// The relay's view of a snapshot. Errors name the field.
pub(crate) fn config(spread: &Spread) -> Result<RelayConfig, String> {
    let epochs = spread.epochs.iter().map(|epoch| {
        let key = epoch.key.as_slice().try_into().map_err(|_| "spread.epochs: a key has 32 bytes".to_owned())?;
        let (begins, ends) = (Micros::from_secs(epoch.not_before), Micros::from_secs(epoch.not_after));
        Ok(Epoch::new(epoch.number, key, begins, ends))
    });
    let members = spread.members.iter().map(|members| {
        let list = members.list.iter().map(|&(id, address)| Member { id: NodeId(id), address }).collect();
        Members::new(members.version, list).map(Arc::new).map_err(|e| format!("spread.members: {e}"))
    });
    Ok(RelayConfig {
        me: NodeId(spread.me),
        epochs: epochs.collect::<Result<_, String>>()?,
        members: members.collect::<Result<_, String>>()?,
        sessions: spread.sessions as usize,
        span: Duration::from_millis(u64::from(spread.span_ms)),
        return_age: Duration::from_secs(u64::from(spread.return_age)),
    })
}

/// What the thread and its owner share.
#[derive(Default)]
struct Shared {
    /// The next configuration; the inner `None` takes the keys away.
    next: Mutex<Option<Option<RelayConfig>>>,
    stop: AtomicBool,
    here: OnceLock<Arc<dyn Here>>,
    counters: Arc<Counters>,
    sockets: Sockets,
}

/// The thread, seen from outside.
pub(crate) struct RelayThread {
    shared: Arc<Shared>,
    sockets: Vec<Arc<UdpSocket>>,
    wake: UnixStream,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RelayThread {
    /// Opens the sockets and starts the thread; `None` if the configuration names no address.
    pub(crate) fn start(config: &EngineConfig) -> io::Result<Option<Self>> {
        if config.spread_listen.is_empty() {
            return Ok(None);
        }
        let room = if config.spread_buffer == 0 { BUFFER } else { config.spread_buffer as usize };
        let open = |&address: &SocketAddr| {
            let socket = bind_runs(address, room, address.port() != 0);
            socket.map(Arc::new).map_err(|e| io::Error::new(e.kind(), format!("listen {address} (UDP): {e}")))
        };
        let sockets: Vec<Arc<UdpSocket>> = config.spread_listen.iter().map(open).collect::<io::Result<_>>()?;
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let looped = Loop::new(shared.clone(), sockets.clone(), woken)?;
        let thread = std::thread::Builder::new().name("polder-spread".into()).spawn(move || looped.run())?;
        Ok(Some(RelayThread { shared, sockets, wake, thread: Mutex::new(Some(thread)) }))
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Puts keys and lists in force, or takes them away.
    pub(crate) fn configure(&self, config: Option<RelayConfig>) {
        *lock(&self.shared.next) = Some(config);
        self.nudge();
    }

    /// Its sockets: whoever sends from here sends from the node's own address.
    pub(crate) fn sockets(&self) -> &[Arc<UdpSocket>] {
        &self.sockets
    }

    /// Hands datagrams that end at this node to `here` from now on; only the first call counts.
    pub(crate) fn host(&self, here: Arc<dyn Here>) {
        let _ = self.shared.here.set(here);
    }

    /// Names and values.
    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters.read().into_iter().chain(self.shared.sockets.read()).collect()
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Relaxed);
        self.nudge();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    fn nudge(&self) {
        let _ = (&self.wake).write(&[1]); // a full pipe wakes as well
    }
}

impl Drop for RelayThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.nudge();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The system's time in microseconds; a step back of less than a second is waited out, so that order holds.
fn clock(before: Micros) -> Micros {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Micros(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
    if now < before && before.since(now) < Duration::from_secs(1) { before } else { now }
}

/// What the thread owns.
struct Loop {
    shared: Arc<Shared>,
    /// With whether it speaks IPv6.
    sockets: Vec<(Arc<UdpSocket>, bool)>,
    woken: UnixStream,
    ready: Ready,
    relay: Option<Relay>,
    inbox: RunInbox,
    outbox: RunOutbox,
    forwards: Vec<(usize, Forward)>,
    now: Micros,
    swept: Micros,
}

impl Loop {
    fn new(shared: Arc<Shared>, sockets: Vec<Arc<UdpSocket>>, woken: UnixStream) -> io::Result<Self> {
        let ready = Ready::new()?;
        for (token, socket) in sockets.iter().enumerate() {
            ready.add(socket.as_fd(), token as u64, Interest::Read)?;
        }
        ready.add(woken.as_fd(), u64::MAX, Interest::Read)?;
        let now = clock(Micros(0));
        let six = |socket: Arc<UdpSocket>| socket.local_addr().map(|address| (socket, address.is_ipv6()));
        let sockets = sockets.into_iter().map(six).collect::<io::Result<_>>()?;
        Ok(Loop {
            shared,
            sockets,
            woken,
            ready,
            relay: None,
            inbox: RunInbox::new(BATCH),
            outbox: RunOutbox::default(),
            forwards: Vec::new(),
            now,
            swept: now,
        })
    }

    fn run(mut self) {
        let mut tokens = Vec::new();
        while !self.shared.stop.load(Relaxed) {
            if self.ready.wait(&mut tokens, Some(SWEEP)).is_err() {
                return; // the set of descriptors is gone: nothing can be waited for
            }
            self.now = clock(self.now);
            for &token in &tokens {
                match usize::try_from(token).ok().and_then(|at| self.sockets.get(at)).cloned() {
                    Some((socket, mapped)) => self.turn(&socket, mapped),
                    None => self.configure(),
                }
            }
            if self.now.since(self.swept) >= SWEEP {
                self.swept = self.now;
                if let Some(relay) = &mut self.relay {
                    relay.sweep(self.now);
                }
            }
        }
    }

    fn configure(&mut self) {
        let mut nudges = [0; 64];
        while (&self.woken).read(&mut nudges).is_ok_and(|count| count == nudges.len()) {}
        let Some(next) = lock(&self.shared.next).take() else { return };
        match (next, &mut self.relay) {
            (Some(config), Some(relay)) => relay.configure(config),
            (Some(config), none) => {
                let salt = RandomState::new().build_hasher().finish() as u32;
                *none = Some(Relay::new(config, salt, self.now, self.shared.counters.clone()));
            }
            (None, relay) => *relay = None,
        }
    }

    /// One batch of a socket.
    fn turn(&mut self, socket: &UdpSocket, mapped: bool) {
        // an error here is one of a datagram that we sent (ICMP): the next call brings what waits
        let Ok(count) = self.inbox.receive(socket.as_fd()) else { return };
        self.shared.sockets.received_runs.add(count as u64);
        self.forwards.clear();
        let mut forwards = Vec::new();
        for (index, run) in self.inbox.runs().enumerate() {
            let Some(relay) = &mut self.relay else {
                self.shared.sockets.refused_unready.add(run.bytes.len().div_ceil(run.segment) as u64);
                continue;
            };
            relay.handle(self.now, run.from, run.bytes, run.segment, &mut forwards);
            for forward in forwards.drain(..) {
                match (forward.to, self.shared.here.get()) {
                    (To::Peer(_), _) => self.forwards.push((index, forward)),
                    (To::Here, Some(here)) => here.onward(self.now, run.from, &mut run.bytes[forward.range], forward.segment),
                    (To::Here, None) => {}
                }
            }
        }
        self.send(socket, mapped);
    }

    fn send(&mut self, socket: &UdpSocket, mapped: bool) {
        let inbox = &self.inbox;
        let runs: Vec<ToSend<'_>> = self
            .forwards
            .iter()
            .filter_map(|(index, forward)| match forward.to {
                To::Peer(to) => {
                    inbox.bytes(*index).get(forward.range.clone()).map(|bytes| ToSend { to, segment: forward.segment, bytes })
                }
                To::Here => None,
            })
            .collect();
        let mut rest = &runs[..];
        while !rest.is_empty() {
            let (gone, error) = self.outbox.send(socket.as_fd(), rest, mapped);
            self.shared.sockets.sent_runs.add(gone as u64);
            rest = &rest[gone..];
            if let (Some(_), [first, others @ ..]) = (error, rest) {
                self.shared.sockets.send_dropped.add(first.bytes.len().div_ceil(first.segment.max(1)) as u64);
                rest = others;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polder_spread::issue::{Grant, issue};
    use polder_spread::*;
    use polder_types::{Role, SCHEMA, SpreadEpoch, SpreadMembers};

    const EPOCH: u32 = 7;
    const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
    const SERVLET: NodeId = NodeId(99);

    fn loopback() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn started() -> RelayThread {
        let config = EngineConfig {
            schema: SCHEMA,
            role: Role::Node,
            listen: Vec::new(),
            workers: 1,
            event_queue: 1,
            call_timeout_ms: 1,
            origins: Vec::new(),
            inherit: Vec::new(),
            spread_listen: vec![loopback()],
            spread_buffer: 0,
        };
        RelayThread::start(&config).unwrap().unwrap()
    }

    fn configured(relay: &RelayThread, n: usize, list: &[(u64, SocketAddr)]) {
        let key = epoch_key(&SECRETS[n], EPOCH).to_vec().into();
        let spread = Spread {
            me: n as u64 + 1,
            epochs: vec![SpreadEpoch { number: EPOCH, key, not_before: 0, not_after: 1 << 40 }],
            members: vec![SpreadMembers { version: 1, list: list.to_vec() }],
            sessions: 16,
            span_ms: 500, // it is deaf for twice that
            return_age: 30,
            end_key: Default::default(),
        };
        relay.configure(Some(config(&spread).unwrap()));
    }

    fn ends(list: &[(u64, SocketAddr)], now: Micros) -> (Session, Session) {
        let list = list.iter().map(|&(id, address)| Member { id: NodeId(id), address }).collect();
        let members = Arc::new(Members::new(1, list).unwrap());
        let grant = |n: usize| {
            let (relay, grant) = (NodeId(n as u64 + 1), [n as u8; 8]);
            let key = grant_key(&epoch_key(&SECRETS[n], EPOCH), grant);
            Grant { relay, address: members.address(relay).unwrap(), epoch: EPOCH, grant, key }
        };
        let terms = Terms { starts: now.secs() as u32, lasts: 600, pace: 14, rate: 20 };
        let ticket = issue(SessionId([5; 16]), [6; 32], SERVLET, terms, 1, &[grant(0), grant(1)]).unwrap();
        let peer = |n: usize| {
            let key = peer_key(&epoch_key(&SECRETS[n], EPOCH), SERVLET);
            PeerKey { relay: NodeId(n as u64 + 1), epoch: EPOCH, key }
        };
        let hosted = Hosted { session: ticket.session, key: ticket.key, terms, me: SERVLET, relays: vec![peer(0), peer(1)] };
        let config = SpreadConfig { copies: 1.0, ..SpreadConfig::default() };
        let user = Session::forwarder(&ticket, members.clone(), config.clone(), now, 1).unwrap();
        (user, Session::servlet(&hosted, members, config, now, 2).unwrap())
    }

    /// Sends what waits and takes what comes, on both sides, until `enough`.
    fn drive(ends: [(&mut Session, &UdpSocket, &mut Vec<Vec<u8>>); 2], enough: impl Fn(&[usize; 2]) -> bool) {
        let mut ends = ends;
        let (mut inbox, mut outbox, mut now) = (RunInbox::new(8), RunOutbox::default(), clock(Micros(0)));
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while !enough(&[ends[0].2.len(), ends[1].2.len()]) {
            assert!(std::time::Instant::now() < until, "{} and {} came", ends[0].2.len(), ends[1].2.len());
            now = clock(now);
            for (session, socket, got) in &mut ends {
                let mut inbound = Inbound::default();
                inbox.receive(socket.as_fd()).unwrap();
                for run in inbox.runs() {
                    for packet in run.bytes.chunks_mut(run.segment) {
                        session.receive(now, run.from, packet, &mut inbound).unwrap();
                    }
                }
                got.extend(inbound.datagrams().map(<[u8]>::to_vec));
                let mut out = Outbox::default();
                session.poll(now, &mut out);
                post(socket, &out, &mut outbox);
            }
            std::thread::yield_now(); // the relays' threads may share our core
        }
    }

    fn post(socket: &UdpSocket, out: &Outbox, outbox: &mut RunOutbox) {
        let runs: Vec<ToSend<'_>> = out.runs().map(|run| ToSend { to: run.to, segment: run.segment, bytes: run.bytes }).collect();
        assert_eq!(outbox.send(socket.as_fd(), &runs, false).0, runs.len());
    }

    #[test]
    fn datagrams_cross_two_relays_over_real_sockets_and_back() {
        let relays = [started(), started()];
        let [here, there] = [(); 2].map(|()| bind_runs(loopback(), 1 << 20, false).unwrap());
        let mut list: Vec<_> = relays.iter().enumerate().map(|(n, relay)| (n as u64 + 1, relay.addresses()[0])).collect();
        list.push((SERVLET.0, there.local_addr().unwrap()));
        relays.iter().enumerate().for_each(|(n, relay)| configured(relay, n, &list));
        let (mut user, mut servlet) = ends(&list, clock(Micros(0)));
        let (mut at_user, mut at_servlet) = (Vec::new(), Vec::new());
        let bytes: Vec<u8> = (0..20 * 1200).map(|n| (n / 1200) as u8).collect();
        let mut sent = 0;
        // what reaches a relay in its first second is refused
        while at_servlet.len() < 20 {
            let mut out = Outbox::default();
            user.send(clock(Micros(0)), &bytes, 1200, &mut out);
            post(&here, &out, &mut RunOutbox::default());
            sent += 20;
            let before = std::time::Instant::now();
            let some = |_: &[usize; 2]| before.elapsed() > Duration::from_millis(20);
            drive([(&mut user, &here, &mut at_user), (&mut servlet, &there, &mut at_servlet)], some);
            assert!(sent < 20_000, "nothing passes: {:?}", relays[0].read());
        }
        let mut out = Outbox::default();
        servlet.send(clock(Micros(0)), &bytes, 1200, &mut out);
        post(&there, &out, &mut RunOutbox::default());
        let read = |name: &str| -> u64 {
            relays.iter().flat_map(RelayThread::read).filter(|(known, _)| *known == name).map(|(_, value)| value).sum()
        };
        // two copies each
        let passed = |got: &[usize; 2]| got[0] >= 20 && read("spread_out_packets") >= 40 && read("spread_back_packets") >= 40;
        drive([(&mut user, &here, &mut at_user), (&mut servlet, &there, &mut at_servlet)], passed);
        assert!(at_servlet.iter().chain(&at_user).all(|one| one.len() == 1200 && one.iter().all(|byte| *byte == one[0])));
        assert!(read("spread_sent_runs") < read("spread_out_packets") + read("spread_back_packets"), "in runs");
        // without keys nothing passes, and nothing is answered
        relays.iter().for_each(|relay| relay.configure(None));
        let stranger = UdpSocket::bind(loopback()).unwrap();
        stranger.set_nonblocking(true).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while read("spread_refused_unready") < 3 {
            stranger.send_to(&[0xA1; 300], list[0].1).unwrap();
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
        assert_eq!(stranger.recv(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        relays.iter().for_each(RelayThread::stop);
    }
}
