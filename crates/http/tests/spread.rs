//! Users' tunnels over the relays of the spread plane: to the site, and back to access points when that does not work.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "../../quic/tests/common/mod.rs"]
mod relays;

use bytes::Bytes;
use common::*;
use polder_http::forwarder::Forwarder;
use polder_http::front::{FrontContext, Report};
use polder_http::link::Lane;
use polder_http::spread::Servlet;
use polder_http::spread::order::{Guest, MemberList, Redundancy, SessionNow, UserTicket};
use polder_http::tunnel::{Opener, Source, Target, Tunnel};
use polder_quic::{Clock, Limits, ServletEnd};
use polder_spread::{SessionId, SpreadConfig, detour_proof};
use polder_tls::spread_pin;
use polder_types::*;
use polder_wire::detour::{Claim, FIELD};
use polder_wire::{ProxyError, Refusal};
use rcgen::KeyPair;
use relays::World;
use serde_bytes::ByteBuf;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const REDUNDANCY: Redundancy = Redundancy { copies: 0.5, fec: None };

struct Nothing;

impl Report for Nothing {
    fn refused(&self, _: &'static str, _: &str, _: &str, _: IpAddr) {}
}

/// Relays, a node that is access point and servlet, and ann's forwarder.
struct Stage {
    pki: Pki,
    relays: World,
    node: Node,
    servlet: Arc<Servlet>,
    /// What the servlet's end counts.
    counters: Arc<polder_quic::Counters>,
    end_key: Vec<u8>,
    ann: Node,
    redundancy: Redundancy,
}

async fn stage(choice: PlaneChoice) -> Stage {
    bounded(choice, &Limits::default()).await
}

async fn bounded(choice: PlaneChoice, limits: &Limits) -> Stage {
    let pki = Pki::new();
    let node = Node::node(&pki, "ap1").await;
    let origin = origin(echo).await;
    node.apply(|s| {
        s.sites = vec![site(PathMode::Beacon)];
        s.servlets = vec![tcp(origin)];
    });
    let front = FrontContext::new(common::limits(), Nothing, node.plane.pressure.clone());
    assert!(node.plane.front.set(front).is_ok());
    let relays = World::relays(6).await;
    let end_key = KeyPair::generate().unwrap().serialize_der();
    let tls = node.plane.world().unwrap().tls.spread_server(&end_key).unwrap();
    let counters = Arc::new(polder_quic::Counters::default());
    let end = ServletEnd::new(relays.inlet.clone(), tls, limits, SpreadConfig::default(), counters.clone(), 40).unwrap();
    let servlet = Servlet::start(node.plane.clone(), end, 1);
    let ann = forwarder(&pki, "ann", &node, choice).await;
    Stage { pki, relays, node, servlet, counters, end_key, ann, redundancy: REDUNDANCY }
}

async fn forwarder(pki: &Pki, name: &str, node: &Node, choice: PlaneChoice) -> Node {
    let forwarder = Node::start(pki, name, Role::Forwarder, pki.issue(Leaf::new("user", name)), vec![]).await;
    forwarder.apply(|s| {
        s.peers = vec![Peer { warm: true, ..node.peer.clone() }];
        s.forwarder = Some(polder_types::Forwarder {
            access_points: vec![node.peer.name.clone()],
            hosts: vec!["wiki.test".into()],
            pac: String::new(),
            early_answer: true,
            plane: choice,
        });
    });
    forwarder
}

impl Stage {
    /// Both halves of a ticket for `who`, given out as the control plane does.
    fn issue(&mut self, who: &Node, renews: Option<[u8; 16]>) -> (UserTicket, Guest) {
        let (ticket, hosted) = self.relays.ticket();
        let me = who.plane.world().unwrap().tls.me().clone();
        let guest = Guest {
            hosted,
            renews: renews.map(|name| ByteBuf::from(name.to_vec())),
            user: me.uri.clone(),
            key: ByteBuf::from(me.key_hash.to_vec()),
            site: "wiki".into(),
            redundancy: self.redundancy,
        };
        let list = self.relays.members.list().to_vec();
        let order = UserTicket {
            site: "wiki".into(),
            hosts: vec!["wiki.test".into()],
            ports: vec![443],
            pin: ByteBuf::from(spread_pin(&self.end_key).unwrap().to_vec()),
            now: Clock::system().now().0,
            ticket,
            members: MemberList { version: self.relays.members.version(), list },
            redundancy: self.redundancy,
            renews: renews.is_some(),
            prefer: true,
        };
        (order, guest)
    }

    /// All relays fall silent, or are there again.
    fn silence(&self, dead: bool) {
        self.relays.nodes.iter().for_each(|node| node.dead.store(dead, Relaxed));
    }

    /// Her session is cut.
    fn revoke_ann(&self) {
        let identities = vec![format!("spiffe://{DOMAIN}/user/ann")];
        self.node.apply(|s| s.revocations = Revocations { epoch: 2, identities, ..s.revocations.clone() });
    }

    /// What ann's forwarder tells of her session.
    fn now(&self) -> SessionNow {
        self.ann.plane.users.now().remove(0)
    }

    /// A tunnel of ann's.
    async fn tunnel(&self) -> Tunnel {
        let target = Target { host: "wiki.test".into(), port: 443 };
        Forwarder::new(self.ann.plane.clone()).open(&None, &target, &mut says("")).await.unwrap()
    }

    /// Ann has a session.
    async fn session(&mut self) -> [u8; 16] {
        self.ticket().await.ticket.session.0
    }

    /// The same; all of her ticket.
    async fn ticket(&mut self) -> UserTicket {
        let ann = std::mem::replace(&mut self.ann, forwarder(&self.pki, "nobody", &self.node, PlaneChoice::Tunnel).await);
        let (order, guest) = self.issue(&ann, None);
        self.ann = ann;
        self.servlet.expect(&guest, self.relays.members.clone()).unwrap();
        self.ann.plane.users.ticket(&self.ann.plane, &order).unwrap();
        assert!(session(&self.ann).await.0);
        order
    }
}

/// The next word about the session: whether it is up, and why not.
async fn session(forwarder: &Node) -> (bool, String) {
    let said = |event: &Event| match event {
        Event::SpreadSession { up, reason, .. } => Some((*up, reason.clone())),
        _ => None,
    };
    forwarder.heard.until(said).await
}

async fn over(forwarder: &Node) -> String {
    let over = |event: &Event| match event {
        Event::SpreadSession { up: false, reason, .. } => Some(reason.clone()),
        _ => None,
    };
    forwarder.heard.until(over).await
}

/// Opens a tunnel, says `text` with the open and hears the echo.
async fn ask(forwarder: &Node, text: &'static str) -> Result<String, Refusal> {
    let opener = Forwarder::new(forwarder.plane.clone());
    let mut client = Source::bytes(Bytes::from_static(text.as_bytes()));
    let target = Target { host: "wiki.test".into(), port: 443 };
    let mut tunnel = opener.open(&None, &target, &mut client).await?;
    while let Some(chunk) = client.take_front() {
        tunnel.sink.send(chunk).await.unwrap();
    }
    tunnel.sink.finish().await.unwrap();
    Ok(String::from_utf8(drain(&mut tunnel.source).await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_goes_over_the_relays_and_its_end_is_an_end() {
    let mut stage = stage(PlaneChoice::Spread).await;
    stage.session().await;
    for text in ["GET / HTTP/1.1\r\n\r\n", "anything else"] {
        assert_eq!(ask(&stage.ann, text).await.unwrap(), text);
    }
    let now = stage.ann.plane.users.now();
    assert_eq!((now[0].tunnels, now[0].failed, now[0].paths.len()), (2, 0, 6));
    assert!(now[0].rtt_us > 0 && now[0].ends_in > 0.0 && now[0].paths.iter().any(|path| path.received > 0));
    assert_eq!(stage.node.plane.counters.spread_tunnels.get(), 2);
    assert_eq!(stage.node.plane.counters.tunnels.get(), 2, "and none went through the access point");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_hold_at_the_servlet() {
    let mut stage = stage(PlaneChoice::Spread).await;
    stage.session().await;
    stage.node.apply(|s| s.sites[0].deny = vec![Rule::User("ann".into())]);
    assert_eq!(ask(&stage.ann, "hello").await.unwrap_err().error, ProxyError::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_of_another_is_refused() {
    let mut stage = stage(PlaneChoice::Spread).await;
    let eve = forwarder(&stage.pki, "eve", &stage.node, PlaneChoice::Spread).await;
    let ann = std::mem::replace(&mut stage.ann, forwarder(&stage.pki, "nobody", &stage.node, PlaneChoice::Tunnel).await);
    let (order, guest) = stage.issue(&ann, None);
    stage.servlet.expect(&guest, stage.relays.members.clone()).unwrap();
    eve.plane.users.ticket(&eve.plane, &order).unwrap();
    assert!(refused(&stage.node, "identity").await.contains("another's"));
    over(&eve).await;
    assert_eq!(stage.node.plane.counters.spread_sessions.get(), 0);
}

#[tokio::test]
async fn who_asks_for_ever_more_tickets_leaves_room_for_others() {
    let mut stage = stage(PlaneChoice::Spread).await;
    let ann = std::mem::replace(&mut stage.ann, forwarder(&stage.pki, "nobody", &stage.node, PlaneChoice::Tunnel).await);
    let bob = forwarder(&stage.pki, "bob", &stage.node, PlaneChoice::Tunnel).await;
    let mut expect = |user: &Node| {
        let (_, guest) = stage.issue(user, None);
        stage.servlet.expect(&guest, stage.relays.members.clone())
    };
    (0..32).for_each(|_| expect(&ann).unwrap());
    assert!(expect(&ann).unwrap_err().contains("32 sessions"));
    expect(&bob).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servlet_with_another_key_is_not_believed() {
    let mut stage = stage(PlaneChoice::Spread).await;
    let ann = std::mem::replace(&mut stage.ann, forwarder(&stage.pki, "nobody", &stage.node, PlaneChoice::Tunnel).await);
    let (mut order, guest) = stage.issue(&ann, None);
    stage.servlet.expect(&guest, stage.relays.members.clone()).unwrap();
    order.pin = ByteBuf::from(vec![7; 32]);
    ann.plane.users.ticket(&ann.plane, &order).unwrap();
    let (up, _) = session(&ann).await;
    assert!(!up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_cuts_a_session() {
    let mut stage = stage(PlaneChoice::Spread).await;
    stage.session().await;
    assert_eq!(ask(&stage.ann, "hello").await.unwrap(), "hello");
    stage.revoke_ann();
    over(&stage.ann).await;
    assert!(stage.node.plane.counters.identities_cut.get() >= 1, "her link to the access point is another");
    assert!(stage.ann.plane.users.now().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_carried_on_by_its_own_user_only() {
    let mut stage = stage(PlaneChoice::Spread).await;
    let first = stage.session().await;
    let ann = std::mem::replace(&mut stage.ann, forwarder(&stage.pki, "nobody", &stage.node, PlaneChoice::Tunnel).await);
    let (_, stolen) = {
        let eve = forwarder(&stage.pki, "eve", &stage.node, PlaneChoice::Tunnel).await;
        stage.issue(&eve, Some(first))
    };
    assert!(stage.servlet.expect(&stolen, stage.relays.members.clone()).unwrap_err().contains("another"));
    let (_, unknown) = stage.issue(&ann, Some([9; 16]));
    assert!(stage.servlet.expect(&unknown, stage.relays.members.clone()).unwrap_err().contains("no such session"));
    let (order, guest) = stage.issue(&ann, Some(first));
    stage.servlet.expect(&guest, stage.relays.members.clone()).unwrap();
    ann.plane.users.ticket(&ann.plane, &order).unwrap();
    assert_eq!(ask(&ann, "hello again").await.unwrap(), "hello again");
    assert_eq!(stage.node.plane.counters.spread_sessions.get(), 1, "no other connection was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_session_tunnels_go_through_access_points_and_one_is_asked_for() {
    let stage = stage(PlaneChoice::Auto).await;
    assert_eq!(ask(&stage.ann, "hello").await.unwrap(), "hello");
    let wanted = |event: &Event| match event {
        Event::SpreadWanted { host, port } => Some((host.clone(), *port)),
        _ => None,
    };
    assert_eq!(stage.ann.heard.until(wanted).await, ("wiki.test".to_owned(), 443));
    assert_eq!(stage.node.plane.counters.spread_tunnels.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planes_change_while_tunnels_are_open() {
    let mut stage = stage(PlaneChoice::Auto).await;
    stage.session().await;
    let opener = Forwarder::new(stage.ann.plane.clone());
    let target = Target { host: "wiki.test".into(), port: 443 };
    let mut over_relays = opener.open(&None, &target, &mut says("")).await.unwrap();
    assert_eq!(stage.ann.plane.counters.spread_tunnels.get(), 1);
    stage.ann.plane.users.prefer("wiki", false);
    let mut through_node = opener.open(&None, &target, &mut says("")).await.unwrap();
    assert_eq!(stage.ann.plane.counters.spread_tunnels.get(), 1);
    for tunnel in [&mut over_relays, &mut through_node] {
        tunnel.sink.send(Bytes::from_static(b"both live")).await.unwrap();
        assert_eq!(tunnel.source.next().await.unwrap().unwrap(), "both live");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servlet_that_was_dismissed_is_left_for_access_points() {
    let mut stage = stage(PlaneChoice::Auto).await;
    stage.session().await;
    // Another node carries to the site now; the session's servlet does no more.
    let other = Node::node(&stage.pki, "ap2").await;
    let origin = origin(echo).await;
    other.apply(|s| {
        s.sites = vec![site(PathMode::Beacon)];
        s.servlets = vec![tcp(origin)];
    });
    stage.ann.apply(|s| {
        s.peers = vec![Peer { warm: true, ..other.peer.clone() }];
        s.forwarder.as_mut().unwrap().access_points = vec![other.peer.name.clone()];
    });
    stage.node.apply(|s| s.servlets = vec![]);
    assert_eq!(ask(&stage.ann, "hello").await.unwrap(), "hello");
    assert_eq!(stage.ann.plane.counters.spread_fallbacks.get(), 1);
    tokio::time::timeout(Duration::from_secs(5), async { ask(&stage.ann, "hello").await.unwrap() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_another_replaces_while_it_begins_does_not_stay() {
    let mut stage = stage(PlaneChoice::Spread).await;
    let ann = std::mem::replace(&mut stage.ann, forwarder(&stage.pki, "nobody", &stage.node, PlaneChoice::Tunnel).await);
    stage.silence(true);
    for _ in 0..2 {
        let (order, guest) = stage.issue(&ann, None);
        stage.servlet.expect(&guest, stage.relays.members.clone()).unwrap();
        ann.plane.users.ticket(&ann.plane, &order).unwrap();
    }
    assert_eq!(stage.counters.sessions_open.get(), 2);
    stage.silence(false);
    assert!(session(&ann).await.0, "the other is up, and nothing is said of this one");
    let gone = async {
        while stage.counters.sessions_open.get() > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("the first is over");
    assert_eq!(ask(&ann, "hello").await.unwrap(), "hello");
}

/// Says something and hears the echo, as often as it takes until `done`.
async fn talk(stage: &Stage, tunnel: &mut Tunnel, done: impl Fn(&SessionNow) -> bool) {
    let talk = async {
        loop {
            tunnel.sink.send(Bytes::from_static(b"still there?")).await.unwrap();
            let mut heard = 0;
            while heard < 12 {
                heard += tunnel.source.next().await.unwrap().unwrap().len();
            }
            if done(&stage.now()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), talk).await.expect("the tunnel goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_tunnel_goes_on_while_no_relay_answers_and_when_they_are_back() {
    let mut stage = stage(PlaneChoice::Auto).await;
    stage.session().await;
    let mut tunnel = stage.tunnel().await;
    talk(&stage, &mut tunnel, |now| now.carrier == "relays" && now.detours == 0).await;
    for round in 1..=2 {
        stage.silence(true);
        talk(&stage, &mut tunnel, |now| now.carrier == "tunnel").await;
        assert_eq!(stage.ann.plane.counters.spread_detours_open.get(), 1);
        assert_eq!(ask(&stage.ann, "new ones go through access points").await.unwrap().len(), 33);
        assert_eq!(stage.ann.plane.counters.spread_tunnels.get(), 1);
        stage.silence(false);
        talk(&stage, &mut tunnel, |now| now.carrier == "relays").await;
        assert_eq!((stage.now().detours, stage.ann.plane.counters.spread_detours.get()), (round, round));
        assert_eq!(stage.ann.plane.counters.spread_detours_open.get(), 0);
    }
    assert_eq!(stage.node.plane.counters.spread_sessions.get(), 1, "QUIC's connection was the same all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begins_where_datagrams_are_blocked() {
    let mut stage = stage(PlaneChoice::Spread).await;
    stage.silence(true);
    stage.session().await;
    assert_eq!(ask(&stage.ann, "hello").await.unwrap(), "hello");
    assert_eq!(stage.now().carrier, "tunnel");
    assert!(stage.now().paths.iter().all(|path| path.received == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detour_is_for_who_holds_the_sessions_key_and_once() {
    let mut stage = stage(PlaneChoice::Auto).await;
    let ticket = stage.ticket().await.ticket;
    // Her own forwarder claims one to measure the way: it is not to come between these.
    let measured = async {
        while stage.now().tunnel_rtt_us == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), measured).await.unwrap();
    let (node, ann) = (&stage.node, &stage.ann);
    let claim = |at: u64, key: &[u8; 32], session: SessionId| {
        Claim { session: session.0, at, proof: detour_proof(key, session, at) }.encode()
    };
    let ask = async |value: String| {
        let request = http::Request::connect("wiki.test:443").header(FIELD, value).body(()).unwrap();
        let (answer, stream) = ann.plane.links.open_stream(&ann.plane, &node.peer, Lane::Bulk, request, false).await.unwrap();
        let answer = answer.await.unwrap();
        drop(stream);
        answer.status().as_u16()
    };
    let (now, hour) = (Clock::system().now().0 + 1_000_000, 3_600_000_000);
    let (good, known) = (claim(now, &ticket.key, ticket.session), ticket.session);
    for (value, status) in [
        (claim(now, &[7; 32], known), 502),
        (claim(now, &ticket.key, SessionId([9; 16])), 502),
        (claim(now + hour, &ticket.key, known), 502),
        (claim(now - hour, &ticket.key, known), 502),
        ("00".repeat(39), 400),
        (good.clone(), 200),
        (good, 502),
        (claim(now - 1, &ticket.key, known), 502),
        (claim(now + 1, &ticket.key, known), 200),
    ] {
        assert_eq!(ask(value).await, status);
    }
    assert_eq!(node.plane.counters.spread_detours_refused.get(), 5, "a session that is not here is nothing to refuse");
}

#[tokio::test]
async fn a_search_for_a_session_is_no_failure_of_those_who_have_not_got_it() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "beacon", "s1", "s2", "s3"]).await;
    nodes[0].apply(|s| s.sites[0].beacons = vec!["beacon".into()]);
    let servlets = vec!["s1".into(), "s2".into(), "s3".into()];
    nodes[1].apply(|s| s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets }]);
    let origin = origin(echo).await;
    nodes[2..].iter().for_each(|node| node.apply(|s| s.servlets = vec![tcp(origin)]));
    let front = FrontContext::new(common::limits(), Nothing, nodes[0].plane.pressure.clone());
    assert!(nodes[0].plane.front.set(front).is_ok());
    let ann = forwarder(&pki, "ann", &nodes[0], PlaneChoice::Tunnel).await;
    let claim = Claim { session: [9; 16], at: 1, proof: [7; 16] }.encode();
    let request = http::Request::connect("wiki.test:443").header(FIELD, claim).body(()).unwrap();
    let (answer, _stream) = ann.plane.links.open_stream(&ann.plane, &nodes[0].peer, Lane::Bulk, request, false).await.unwrap();
    assert_eq!(answer.await.unwrap().status(), 502);
    let beacon = &nodes[1].plane.counters;
    assert_eq!((beacon.failovers.get(), beacon.retries_refused.get()), (0, 0));
    assert!(nodes[2..].iter().all(|node| node.plane.counters.tunnels_failed.get() == 1), "all were asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_repairs_regains_what_relays_lose() {
    let mut stage = stage(PlaneChoice::Spread).await;
    stage.redundancy = Redundancy { copies: 0.0, fec: Some((10, 5)) };
    stage.session().await;
    stage.relays.nodes.iter().for_each(|node| node.loses.store(10, Relaxed));
    let mut tunnel = stage.tunnel().await;
    let mut sink = tunnel.sink;
    let saying = tokio::spawn(async move {
        for _ in 0..50 {
            sink.send(Bytes::from(vec![7; 20_000])).await.unwrap();
        }
        sink.finish().await.unwrap();
    });
    let heard = tokio::time::timeout(Duration::from_secs(60), drain(&mut tunnel.source)).await.unwrap().unwrap();
    saying.await.unwrap();
    assert!(heard.len() == 1_000_000 && heard.iter().all(|byte| *byte == 7));
    assert!(stage.now().recovered > 0, "{:?}", stage.now());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_to_its_bounds() {
    let limits = Limits { streams: 2, stream_window: 1 << 16, window: 1 << 16, ..Limits::default() };
    let mut stage = bounded(PlaneChoice::Spread, &limits).await;
    stage.session().await;
    let (first, second) = (stage.tunnel().await, stage.tunnel().await);
    let counters = &stage.ann.plane.counters;
    assert_eq!((counters.spread_over_streams.get(), counters.spread_over_window.get()), (0, 0));
    let third = async {
        let third = stage.tunnel().await;
        assert!(counters.spread_over_streams.get() >= 1);
        third
    };
    let leaves = async {
        while counters.spread_over_streams.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(first);
    };
    let (mut third, ()) = tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(third, leaves) }).await.unwrap();
    // More than the window holds: it goes, and waits on the way.
    let mut bulk = second.sink;
    for _ in 0..16 {
        bulk.send(Bytes::from(vec![7; 65_536])).await.unwrap();
    }
    drop((bulk, second.source));
    third.sink.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(third.source.next().await.unwrap().unwrap(), "hello");
    stage.revoke_ann();
    over(&stage.ann).await;
    assert!(counters.spread_over_window.get() > 0);
}
