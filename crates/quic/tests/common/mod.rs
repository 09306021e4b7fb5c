//! An overlay of relays on loopback, with a servlet among them.
#![allow(dead_code, clippy::unwrap_used)]

use polder_quic::wire::{Batch, Inlet, Outlet, UdpWire, Wire};
use polder_quic::{Clock, Connection, Counters, ForwarderEnd, Limits, ServletEnd};
use polder_spread::issue::{Grant, issue};
use polder_spread::{
    Epoch, Hosted, Member, Members, Micros, NodeId, PeerKey, Relay, RelayConfig, Run, SessionId, SpreadConfig, Terms, Ticket, To,
    epoch_key, grant_key, peer_key,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

pub const SERVLET: usize = 0;
const LIFE: u16 = 600;

/// A node's socket, relay and keys.
pub struct Node {
    pub id: NodeId,
    pub socket: Arc<UdpSocket>,
    pub address: SocketAddr,
    pub secret: [u8; 32],
    pub relay: Arc<Mutex<Relay>>,
    /// Set: it takes packets and passes none on.
    pub dead: Arc<AtomicBool>,
    /// Of so many packets it drops one; 0: none.
    pub loses: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Out(Arc<UdpSocket>);

impl Outlet for Out {
    fn send(&self, run: Run<'_>) {
        for packet in run.packets() {
            let _ = self.0.try_send_to(packet, run.to);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Everything.
pub struct World {
    pub nodes: Vec<Node>,
    pub members: Arc<Members>,
    /// What comes for sessions that end at the first node.
    pub inlet: Arc<Inlet>,
    end: Option<Arc<ServletEnd>>,
    pub epoch: u32,
    pin: CertificateDer<'static>,
    made: u8,
}

fn now() -> Micros {
    Clock::system().now()
}

fn epochs(secret: &[u8; 32], numbers: &[u32]) -> Vec<Epoch> {
    let live = |number: &u32| {
        let (begins, ends) = (now() - Duration::from_secs(3600), now() + Duration::from_secs(3600));
        Epoch::new(*number, &epoch_key(secret, *number), begins, ends)
    };
    numbers.iter().map(live).collect()
}

fn config(id: NodeId, secret: &[u8; 32], numbers: &[u32], members: &[Arc<Members>]) -> RelayConfig {
    RelayConfig {
        me: id,
        epochs: epochs(secret, numbers),
        members: members.to_vec(),
        sessions: 1000,
        span: Duration::from_secs(3),
        return_age: Duration::from_secs(30),
    }
}

async fn relay(
    socket: Arc<UdpSocket>,
    relay: Arc<Mutex<Relay>>,
    (dead, loses): (Arc<AtomicBool>, Arc<AtomicU32>),
    inlet: Option<Arc<Inlet>>,
) {
    let mut buffer = vec![0; 65_536];
    let mut came = 0u32;
    let mut out = Vec::new();
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        came = came.wrapping_add(1);
        if dead.load(Relaxed) || came.checked_rem(loses.load(Relaxed)) == Some(0) {
            continue;
        }
        out.clear();
        relay.lock().unwrap().handle(now(), from, &mut buffer[..length], length, &mut out);
        for send in &out {
            match (send.to, &inlet) {
                (To::Peer(to), _) => drop(socket.try_send_to(&buffer[send.range.clone()], to)),
                (To::Here, Some(inlet)) => inlet.push(from, &buffer[send.range.clone()], send.segment),
                (To::Here, None) => {}
            }
        }
    }
}

impl World {
    /// `count` relays.
    pub async fn relays(count: usize) -> World {
        let mut sockets = Vec::new();
        for _ in 0..count {
            sockets.push(Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()));
        }
        let member = |at: usize| Member { id: id(at), address: sockets[at].local_addr().unwrap() };
        let members = Arc::new(Members::new(1, (0..count).map(member).collect()).unwrap());
        let inlet = Inlet::new(Arc::new(Out(sockets[SERVLET].clone())), 4 << 20);
        let nodes = (0..count).map(|at| {
            let here = (at == SERVLET).then(|| inlet.clone());
            Node::start(at, sockets[at].clone(), &members, here)
        });
        let nodes: Vec<_> = nodes.collect();
        World { nodes, members, inlet, end: None, epoch: 7, pin: CertificateDer::from(vec![]), made: 0 }
    }

    /// `count` nodes; the first is the servlet, too, and serves.
    pub async fn new(count: usize) -> World {
        let mut world = World::relays(count).await;
        let made = rcgen::generate_simple_self_signed(vec!["servlet.polder.invalid".into()]).unwrap();
        let pin = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![pin.clone()], key.into())
            .unwrap();
        let counters = Arc::new(Counters::default());
        let end = ServletEnd::new(world.inlet.clone(), tls, &Limits::default(), SpreadConfig::default(), counters, 100).unwrap();
        let end = Arc::new(end);
        tokio::spawn(serve(end.clone()));
        (world.end, world.pin) = (Some(end), pin);
        world
    }

    /// The servlet's end.
    pub fn servlet(&self) -> &ServletEnd {
        self.end.as_ref().unwrap()
    }

    /// A ticket of the present epoch, and its other half.
    pub fn ticket(&mut self) -> (Ticket, Hosted) {
        self.made += 1;
        let (session, key) = (SessionId([self.made; 16]), [self.made ^ 0x77; 32]);
        let terms = Terms { starts: (now().secs() - 1) as u32, lasts: LIFE, pace: 14, rate: 17 };
        let grants: Vec<_> = self.nodes.iter().map(|node| self.grant(node)).collect();
        let ticket = issue(session, key, id(SERVLET), terms, self.members.version(), &grants).unwrap();
        let peer = |node: &Node| {
            let key = peer_key(&epoch_key(&node.secret, self.epoch), id(SERVLET));
            PeerKey { relay: node.id, epoch: self.epoch, key }
        };
        let hosted = Hosted { session, key, terms, me: id(SERVLET), relays: self.nodes.iter().map(peer).collect() };
        (ticket, hosted)
    }

    fn grant(&self, node: &Node) -> Grant {
        let grant = [9; 8];
        let key = grant_key(&epoch_key(&node.secret, self.epoch), grant);
        Grant { relay: node.id, address: node.address, epoch: self.epoch, grant, key }
    }

    /// Relays take keys of these epochs from now on; tickets are made for the last.
    pub fn set_epochs(&mut self, numbers: &[u32]) {
        self.epoch = *numbers.last().unwrap();
        for node in &self.nodes {
            node.relay.lock().unwrap().configure(config(node.id, &node.secret, numbers, std::slice::from_ref(&self.members)));
        }
    }

    /// Another member list, which everybody learns at once; the one before is still taken.
    pub fn set_members(&mut self, places: &[usize]) {
        let list = places.iter().map(|at| Member { id: self.nodes[*at].id, address: self.nodes[*at].address }).collect();
        let next = Arc::new(Members::new(self.members.version() + 1, list).unwrap());
        let both = [next.clone(), std::mem::replace(&mut self.members, next.clone())];
        for node in &self.nodes {
            node.relay.lock().unwrap().configure(config(node.id, &node.secret, &[self.epoch], &both));
        }
        if let Some(end) = &self.end {
            end.set_members(&next);
        }
    }

    /// The relay's process ends and another one takes its place: its windows and return keys are gone.
    pub fn restart(&self, at: usize) {
        let node = &self.nodes[at];
        let fresh = config(node.id, &node.secret, &[self.epoch], std::slice::from_ref(&self.members));
        *node.relay.lock().unwrap() = Relay::new(fresh, 77, now() - Duration::from_secs(10), Arc::default());
    }

    /// The user's end over `wire`.
    pub fn forwarder(&mut self, wire: Arc<UdpWire>, config: SpreadConfig) -> ForwarderEnd {
        self.forwarder_over(wire, config)
    }

    /// The same over any wire.
    pub fn forwarder_over(&mut self, wire: Arc<dyn Wire>, config: SpreadConfig) -> ForwarderEnd {
        let (ticket, hosted) = self.ticket();
        self.servlet().host(&hosted, self.members.clone(), 5).unwrap();
        let counters = Arc::new(Counters::default());
        ForwarderEnd::new(&ticket, self.members.clone(), config, wire, Clock::system(), counters, 6).unwrap()
    }

    /// QUIC over it.
    pub async fn connect(&self, end: &ForwarderEnd) -> Connection {
        let limit = Duration::from_secs(20);
        let shaken = tokio::time::timeout(limit, end.connect(self.client(), &Limits::default())).await;
        shaken.expect("in time").expect("connected")
    }

    /// What the user believes.
    pub fn client(&self) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.pin.clone()).unwrap();
        rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

impl Node {
    fn start(at: usize, socket: Arc<UdpSocket>, members: &Arc<Members>, inlet: Option<Arc<Inlet>>) -> Node {
        let (secret, address) = ([at as u8 ^ 0xA5; 32], socket.local_addr().unwrap());
        let config = config(id(at), &secret, &[7], std::slice::from_ref(members));
        let began = now() - Duration::from_secs(10);
        let made = Relay::new(config, at as u32, began, Arc::default());
        let made = Arc::new(Mutex::new(made));
        let (dead, loses) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let task = tokio::spawn(relay(socket.clone(), made.clone(), (dead.clone(), loses.clone()), inlet));
        Node { id: id(at), socket, address, secret, relay: made, dead, loses, task }
    }
}

fn id(at: usize) -> NodeId {
    NodeId(at as u64 * 1000 + 11)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Eight bytes ask for so many bytes in return; all else is echoed.
async fn serve(servlet: Arc<ServletEnd>) {
    while let Some(incoming) = servlet.accept().await {
        let Ok(incoming) = servlet.welcome(incoming) else { continue };
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    let mut asked = [0; 8];
                    receive.read_exact(&mut asked).await.unwrap();
                    let mut left = u64::from_be_bytes(asked) as usize;
                    let chunk = vec![7; 64 * 1024];
                    while left > 0 && send.write_all(&chunk[..left.min(chunk.len())]).await.is_ok() {
                        left -= left.min(chunk.len());
                    }
                    let _ = send.finish();
                });
            }
        });
    }
}

/// Asks for `size` bytes on a stream of its own and calls `at` with how many have come.
pub async fn fetch(connection: &Connection, size: u64, mut at: impl FnMut(u64)) -> Result<(), String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
    send.write_all(&size.to_be_bytes()).await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    let mut had = 0;
    while let Some(chunk) = receive.read_chunk(1 << 20, true).await.map_err(|e| e.to_string())? {
        had += chunk.bytes.len() as u64;
        at(had);
    }
    if had == size { Ok(()) } else { Err(format!("{had} of {size}")) }
}

/// A wire on loopback.
pub fn wire() -> Arc<UdpWire> {
    Arc::new(UdpWire::bind("127.0.0.1:0".parse().unwrap()).unwrap())
}

/// A wire whose machine changes its address: each time a socket of its own.
#[derive(Debug)]
pub struct Roaming {
    now: Mutex<Arc<UdpWire>>,
    waker: Mutex<Option<std::task::Waker>>,
    runtime: tokio::runtime::Handle,
}

pub fn roaming() -> Arc<Roaming> {
    let runtime = tokio::runtime::Handle::current();
    Arc::new(Roaming { now: Mutex::new(wire()), waker: Mutex::default(), runtime })
}

impl Roaming {
    pub fn roam(&self) {
        let _inside = self.runtime.enter();
        *self.now.lock().unwrap() = wire();
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }
}

impl Wire for Roaming {
    fn send(&self, run: Run<'_>) {
        self.now.lock().unwrap().send(run);
    }

    fn poll_receive(&self, cx: &mut std::task::Context<'_>, batch: &mut Batch) -> std::task::Poll<io::Result<()>> {
        *self.waker.lock().unwrap() = Some(cx.waker().clone());
        let now = self.now.lock().unwrap().clone();
        now.poll_receive(cx, batch)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.now.lock().unwrap().local_addr()
    }
}
