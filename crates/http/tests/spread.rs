//! Users' tunnels over the relays of the spread plane: to the site, and back to access points when that does not work.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "../../quic/tests/common/mod.rs"]
mod relays;

use bytes::Bytes;
use common::*;
use polder_http::forwarder::Forwarder;
use polder_http::front::{FrontContext, Report};
use polder_http::spread::Servlet;
use polder_http::spread::order::{Guest, MemberList, Redundancy, UserTicket};
use polder_http::tunnel::{Opener, Source, Target};
use polder_quic::{Clock, Limits, ServletEnd};
use polder_spread::SpreadConfig;
use polder_tls::spread_pin;
use polder_types::*;
use polder_wire::{ProxyError, Refusal};
use rcgen::KeyPair;
use relays::World;
use serde_bytes::ByteBuf;
use std::net::IpAddr;
use std::sync::Arc;
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
    end_key: Vec<u8>,
    ann: Node,
}

async fn stage(choice: PlaneChoice) -> Stage {
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
    let end = ServletEnd::new(relays.inlet.clone(), tls, &Limits::default(), SpreadConfig::default(), counters, 10).unwrap();
    let servlet = Servlet::start(node.plane.clone(), end, 1);
    let ann = forwarder(&pki, "ann", &node, choice).await;
    Stage { pki, relays, node, servlet, end_key, ann }
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
            redundancy: REDUNDANCY,
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
            redundancy: REDUNDANCY,
            renews: renews.is_some(),
            prefer: true,
        };
        (order, guest)
    }

    /// Ann has a session.
    async fn session(&mut self) -> [u8; 16] {
        let ann = std::mem::replace(&mut self.ann, forwarder(&self.pki, "nobody", &self.node, PlaneChoice::Tunnel).await);
        let (order, guest) = self.issue(&ann, None);
        self.ann = ann;
        self.servlet.expect(&guest, self.relays.members.clone()).unwrap();
        self.ann.plane.users.ticket(&self.ann.plane, &order).unwrap();
        assert!(session(&self.ann).await.0);
        order.ticket.session.0
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
    stage.node.apply(|s| {
        s.revocations = Revocations {
            epoch: 2,
            identities: vec![format!("spiffe://{DOMAIN}/user/ann")],
            keys: vec![],
            fresh_until: None,
            issuers: vec![],
        };
    });
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
