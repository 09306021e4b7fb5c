//! A whole overlay in one process: a private authority, nodes with real listeners on loopback, an origin.
#![allow(dead_code, clippy::unwrap_used)]

use polder_http::front::{self, FrontContext, Report};
use polder_http::overlay::Overlay;
use polder_http::plane::{Events, Plane, PlaneConfig, World, unix_now};
use polder_http::tunnel::{Opener, Source, Target, Tunnel};
use polder_http::{peer, relay};
use polder_plan::Plan;
use polder_tls::{Alpn, Settings};
use polder_types::*;
use polder_wire::Refusal;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_bytes::ByteBuf;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub const DOMAIN: &str = "o.test";
const ARC: [u64; 3] = [2, 25, 235_711_131_719_232_931];

/// A private authority.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pub root: Vec<u8>,
}

/// What a leaf says; the defaults are good.
pub struct Leaf {
    pub uris: Vec<String>,
    pub ring_id: Option<Vec<u8>>,
    pub groups: Option<String>,
    pub from: i64,
    pub until: i64,
}

impl Leaf {
    pub fn new(kind: &str, name: &str) -> Self {
        Leaf { uris: vec![format!("spiffe://{DOMAIN}/{kind}/{name}")], ring_id: None, groups: None, from: -60, until: 3600 }
    }

    pub fn node(name: &str, ring_id: u128) -> Self {
        Leaf { ring_id: Some(ring_id.to_be_bytes().to_vec()), ..Leaf::new("node", name) }
    }
}

fn at(seconds_from_now: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(unix_now() + seconds_from_now).unwrap()
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Pki { issuer: Issuer::new(params, key), root }
    }

    pub fn issue(&self, leaf: Leaf) -> IdentityMaterial {
        self.issue_as(leaf, vec![])
    }

    /// With a DNS name too.
    pub fn issue_named(&self, leaf: Leaf, name: &str) -> IdentityMaterial {
        self.issue_as(leaf, vec![name.to_owned()])
    }

    fn issue_as(&self, leaf: Leaf, names: Vec<String>) -> IdentityMaterial {
        let mut params = CertificateParams::new(names).unwrap();
        let uris = leaf.uris.iter().map(|u| SanType::URI(u.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (at(leaf.from), at(leaf.until));
        let mut private = |last: u64, value: Vec<u8>| {
            let oid = [ARC[0], ARC[1], ARC[2], last];
            params.custom_extensions.push(CustomExtension::from_oid_content(&oid, value));
        };
        leaf.ring_id.into_iter().for_each(|id| private(1, id));
        leaf.groups.into_iter().for_each(|groups| private(2, groups.into_bytes()));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        IdentityMaterial { chain: vec![ByteBuf::from(cert.der().to_vec())], key: ByteBuf::from(key.serialize_der()) }
    }
}

/// Keeps every event.
#[derive(Default)]
pub struct Heard {
    events: Mutex<Vec<Event>>,
    changed: Notify,
    pub deaf: std::sync::atomic::AtomicBool,
}

impl Events for Heard {
    fn emit(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.changed.notify_waiters();
    }

    fn offer(&self, call: Event) -> bool {
        let hears = !self.deaf.load(std::sync::atomic::Ordering::Relaxed);
        if hears {
            self.emit(call);
        }
        hears
    }
}

impl Heard {
    /// Waits until an event of this shape was heard, ever.
    pub async fn until<T>(&self, mut shape: impl FnMut(&Event) -> Option<T>) -> T {
        self.when(|events| events.iter().find_map(&mut shape)).await
    }

    /// Waits until all that was heard so far has this shape.
    pub async fn when<T>(&self, mut shape: impl FnMut(&[Event]) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = shape(&self.events.lock().unwrap()) {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), wait).await {
            Ok(found) => found,
            Err(_) => panic!("never heard; only {:?}", self.events.lock().unwrap()),
        }
    }

    pub fn all(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }
}

pub fn limits() -> Limits {
    Limits {
        tunnel_rate_per_identity: 1000,
        handshake_rate_per_source: 1000,
        connections: 4096,
        open_timeout_ms: 5000,
        header_timeout_ms: 5000,
        idle_timeout_ms: 60000,
        link_window: 16 << 20,
        streams_per_link: 1000,
        reset_rate_per_client: 1000,
        frame_rate_per_identity: 100000,
        handshake_rate_per_identity: 1000,
        ..Limits::default()
    }
}

/// One process of the overlay.
pub struct Node {
    pub name: String,
    pub plane: Arc<Plane>,
    pub heard: Arc<Heard>,
    pub peer: Peer,
    pub snapshot: Mutex<Snapshot>,
    pub doors: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

pub fn ring_id(name: &str) -> u128 {
    name.bytes().fold(7, |id, b| id * 257 + u128::from(b))
}

impl Node {
    /// A node that listens; `material` and the certificate's word decide who it is.
    pub async fn start(pki: &Pki, name: &str, role: Role, material: IdentityMaterial, origins: Vec<(u16, SocketAddr)>) -> Node {
        let heard = Arc::new(Heard::default());
        let config = PlaneConfig { role, call_timeout: Duration::from_secs(3), calls: 64, origins };
        let plane = Plane::new(config, heard.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = tokio::spawn(accept(plane.clone(), listener));
        let snapshot = Snapshot {
            schema: SCHEMA,
            version: 0,
            trust_domain: DOMAIN.into(),
            roots: vec![ByteBuf::from(pki.root.clone())],
            identity: material,
            revocations: Revocations::default(),
            peers: vec![],
            sites: vec![],
            beacons: vec![],
            servlets: vec![],
            limits: limits(),
            forwarder: None,
            shortcuts: false,
            tracing: None,
            cut: Vec::new(),
            told: None,
            spread: None,
        };
        let peer = Peer { name: name.into(), ring_id: RingId(ring_id(name)), address, warm: false };
        Node { name: name.into(), plane, heard, peer, snapshot: Mutex::new(snapshot), doors: Mutex::new(vec![door]) }
    }

    pub async fn node(pki: &Pki, name: &str) -> Node {
        Node::start(pki, name, Role::Node, pki.issue(Leaf::node(name, ring_id(name))), vec![]).await
    }

    /// Changes the snapshot and puts it in force.
    pub fn apply(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.snapshot.lock().unwrap();
        change(&mut snapshot);
        snapshot.version += 1;
        let before = self.plane.world();
        let tls = Settings::after(before.as_deref().map(|w| &w.tls), &snapshot, unix_now() as u64).unwrap();
        let plan = Plan::compile(&snapshot, &tls.me().name).unwrap();
        self.plane.apply(World { plan, tls });
    }

    /// Opens a tunnel as an access point does for a user.
    pub async fn open(&self, user: &Identity, host: &str, client: &mut Source) -> Result<Tunnel, Refusal> {
        let target = Target { host: host.into(), port: 443 };
        Overlay::new(self.plane.clone()).open(&Some(Arc::new(user.clone())), &target, client).await
    }

    /// The process dies: nothing listens, every connection is cut.
    pub fn die(&self) {
        self.doors.lock().unwrap().iter().for_each(|door| door.abort());
        self.plane.registry.cut(|_| true, |_| {});
    }
}

struct Told(Arc<Plane>);

impl Report for Told {
    fn refused(&self, what: &'static str, why: &str, who: &str, source: std::net::IpAddr) {
        self.0.refused(what, why, who, Some(source));
    }
}

/// As the engine does it, without limits before the handshake.
async fn accept(plane: Arc<Plane>, listener: TcpListener) {
    loop {
        let (socket, from) = listener.accept().await.unwrap();
        let plane = plane.clone();
        tokio::spawn(async move {
            if plane.config.role == Role::Site {
                return relay::serve_socket(plane, socket).await;
            }
            let Some(world) = plane.world() else { return };
            match world.tls.accept(socket).await {
                Ok((stream, identity, alpn)) => {
                    let identity = Arc::new(identity);
                    if identity.kind == Kind::User {
                        let opener = Arc::new(Overlay::new(plane.clone()));
                        let front = FrontContext::new(limits(), Told(plane.clone()), plane.pressure.clone());
                        let serve = front::serve(stream, alpn == Alpn::H2, Some(identity.clone()), from.ip(), opener, front);
                        plane.registry.spawn(identity, serve);
                        return;
                    }
                    let serve = peer::serve(plane.clone(), world, identity.clone(), alpn, from.ip(), stream);
                    plane.registry.spawn(identity, serve);
                }
                Err(e) => {
                    let why = e.about_certificate().unwrap_or_else(|| e.to_string());
                    plane.refused("certificate", why, "", Some(from.ip()));
                }
            }
        });
    }
}

pub fn user(name: &str) -> Identity {
    Identity {
        kind: Kind::User,
        name: name.into(),
        uri: format!("spiffe://{DOMAIN}/user/{name}").into(),
        ring_id: None,
        groups: vec![],
        key_hash: [0; 32],
        issuer: None,
        not_after: unix_now() + 3600,
    }
}

pub fn site(mode: PathMode) -> Site {
    Site {
        name: "wiki".into(),
        hosts: vec!["wiki.test".into()],
        ports: vec![443],
        allow: vec![Rule::Anyone],
        deny: vec![],
        mode,
        beacons: vec![],
        servlets: vec![],
        ring: vec![],
        tell: None,
    }
}

/// Delivery over TCP to `origin`.
pub fn tcp(origin: SocketAddr) -> ServletEntry {
    let delivery = Delivery::Tcp { address: origin.ip(), bind: None, ports: vec![(443, origin.port())], preface: false };
    ServletEntry { site: "wiki".into(), delivery }
}

/// An origin that answers each connection with `work`.
pub async fn origin<F, R>(work: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(work(socket));
        }
    });
    address
}

/// Says everything back, and ends when the client ends.
pub async fn echo(mut socket: TcpStream) {
    let (mut read, mut write) = socket.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// Sends `count` bytes as soon as the client has said anything, then ends.
pub async fn pour(mut socket: TcpStream, count: usize) {
    // What is not read when it closes would make the end a reset.
    if !matches!(socket.read(&mut [0; 64]).await, Ok(1..)) {
        return;
    }
    let chunk = vec![7u8; 64 * 1024];
    let mut left = count;
    while left > 0 {
        let part = left.min(chunk.len());
        if socket.write_all(&chunk[..part]).await.is_err() {
            return;
        }
        left -= part;
    }
    let _ = socket.shutdown().await;
}

/// Reads a tunnel to its end.
pub async fn drain(source: &mut Source) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = source.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// A client that has said `text` and says no more for now.
pub fn says(text: &'static str) -> Source {
    Source::held(text.as_bytes().into())
}

/// Several nodes that know each other.
pub async fn overlay(pki: &Pki, names: &[&str]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(Node::node(pki, name).await);
    }
    let peers: Vec<Peer> = nodes.iter().map(|node| node.peer.clone()).collect();
    for node in &nodes {
        let others = peers.iter().filter(|peer| *peer.name != *node.name).cloned().collect();
        node.apply(|snapshot| {
            snapshot.peers = others;
            snapshot.sites = vec![site(PathMode::Beacon)];
        });
    }
    nodes
}

pub async fn refused(node: &Node, what: &'static str) -> String {
    let found = |event: &Event| match event {
        Event::Refused { what: w, why, .. } if w == what => Some(why.clone()),
        _ => None,
    };
    node.heard.until(found).await
}

pub async fn came_up(node: &Node, times: usize) {
    let up = |event: &&Event| matches!(event, Event::Link { up: true, .. });
    node.heard.when(|events| (events.iter().filter(up).count() >= times).then_some(())).await;
}
