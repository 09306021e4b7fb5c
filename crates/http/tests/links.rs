//! Links: who is let in, what happens when a peer dies, is revoked, or renews.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::*;
use polder_http::control;
use polder_http::link::Lane;
use polder_types::*;
use std::time::Duration;

/// Calls `method` and returns the answer's status and text.
async fn call(from: &Node, peer: &Peer, method: &str, body: &[u8], wait: u64) -> (u16, String) {
    let id = from.plane.calls.number();
    let body = Bytes::copy_from_slice(body);
    let wait = Duration::from_millis(wait);
    tokio::spawn(control::call(from.plane.clone(), id, peer.clone(), method.into(), body, wait));
    from.heard
        .until(|event| match event {
            Event::Answer { id: answered, status, body } if *answered == id => {
                Some((*status, String::from_utf8_lossy(body).into_owned()))
            }
            _ => None,
        })
        .await
}

/// Answers every call with its own body and the caller's name.
fn answer_calls(node: &Node) {
    let (plane, heard) = (node.plane.clone(), node.heard.clone());
    tokio::spawn(async move {
        let mut answered = 0;
        loop {
            let (id, status, text) = heard
                .until(|event| match event {
                    Event::Call { id, name, kind, method, body, .. } if *id > answered => {
                        let text = format!("{} {name} {method} {}", kind.as_str(), body.len());
                        Some((*id, if method == "odd" { 409 } else { 200 }, text))
                    }
                    _ => None,
                })
                .await;
            answered = id;
            plane.calls.answer(id, status, Bytes::from(text));
        }
    });
}

#[tokio::test]
async fn calls_carry_body_and_verified_name_both_ways() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b"]).await;
    answer_calls(&nodes[0]);
    answer_calls(&nodes[1]);
    let big = vec![1u8; 1 << 20];
    assert_eq!(call(&nodes[0], &nodes[1].peer, "ring.x", &big, 5000).await, (200, "node a ring.x 1048576".into()));
    assert_eq!(call(&nodes[1], &nodes[0].peer, "ring.x", b"", 5000).await, (200, "node b ring.x 0".into()));
    assert_eq!(call(&nodes[0], &nodes[1].peer, "odd", b"", 5000).await, (409, "node a odd 0".into()));
    assert_eq!(nodes[0].plane.counters.links_dialled.get(), 1, "one control link, used again");
}

#[tokio::test]
async fn calls_that_cannot_be_right_are_refused_at_once() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b"]).await;
    for (method, size) in [("", 0), ("UPPER", 0), ("a b", 0), ("../x?y", 0), ("fine", (1 << 20) + 1)] {
        let (status, why) = call(&nodes[0], &nodes[1].peer, method, &vec![0; size], 5000).await;
        assert_eq!(status, 0, "{method}: {why}");
    }
    assert_eq!(nodes[1].plane.counters.calls_in.get(), 0);
}

#[tokio::test]
async fn a_full_queue_answers_busy_and_a_silent_one_late() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b"]).await;
    nodes[1].heard.deaf.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(call(&nodes[0], &nodes[1].peer, "m", b"", 5000).await.0, 503);
    nodes[1].heard.deaf.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(call(&nodes[0], &nodes[1].peer, "m", b"", 10_000).await.0, 504);
    let (busy, late) = (nodes[1].plane.counters.calls_busy.get(), nodes[1].plane.counters.calls_late.get());
    assert_eq!((busy, late), (1, 1));
}

#[tokio::test]
async fn a_self_chosen_ring_id_is_refused_by_who_dials() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b"]).await;
    // B's certificate says one place; somebody spreads that B is at another.
    let moved = Peer { ring_id: RingId(99), ..nodes[1].peer.clone() };
    let (status, why) = call(&nodes[0], &moved, "m", b"", 5000).await;
    assert_eq!(status, 0);
    assert!(why.contains("ring id"), "{why}");
    assert!(refused(&nodes[0], "identity").await.contains("0000000000000063"), "says which was wanted");
}

#[tokio::test]
async fn nobody_else_answers_for_a_node() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b", "c"]).await;
    let posing = Peer { address: nodes[2].peer.address, ..nodes[1].peer.clone() };
    let (status, why) = call(&nodes[0], &posing, "m", b"", 5000).await;
    assert!(status == 0 && why.contains("node c"), "{why}");
}

/// A caller with `material`, and a callee that is good.
async fn stranger(pki: &Pki, home: &Pki, material: IdentityMaterial) -> (Node, Node) {
    let good = Node::node(pki, "good").await;
    good.apply(|_| {});
    let bad = Node::start(home, "bad", Role::Node, material, vec![]).await;
    bad.apply(|_| {});
    // It does not check us: what counts is what we say to it.
    bad.apply(|snapshot| snapshot.roots.push(pki.root.clone().into()));
    (good, bad)
}

#[tokio::test]
async fn foreign_expired_and_shapeless_certificates_are_refused_and_told() {
    let pki = Pki::new();
    let foreign = Pki::new();
    let material = foreign.issue(Leaf::node("bad", 5));
    let (good, bad) = stranger(&pki, &foreign, material).await;
    let (status, _) = call(&bad, &good.peer, "m", b"", 5000).await;
    assert_eq!((status, good.plane.counters.calls_in.get()), (0, 0));
    assert!(!refused(&good, "certificate").await.is_empty());

    let material = pki.issue(Leaf { until: -5, ..Leaf::node("bad", 5) });
    let (good, bad) = stranger(&pki, &pki, material).await;
    assert_eq!(call(&bad, &good.peer, "m", b"", 5000).await.0, 0);
    assert!(refused(&good, "certificate").await.contains("expired"));
}

#[test]
fn what_a_leaf_must_say() {
    let pki = Pki::new();
    let uri = |kind: &str| format!("spiffe://{DOMAIN}/{kind}/x");
    let cases: Vec<(Leaf, &str)> = vec![
        (Leaf { uris: vec![], ..Leaf::new("user", "x") }, "0 URI names"),
        (Leaf { uris: vec![uri("user"), uri("admin")], ..Leaf::new("user", "x") }, "2 URI names"),
        (Leaf { uris: vec!["spiffe://other.test/user/x".into()], ..Leaf::new("user", "x") }, "not an identity of trust domain"),
        (Leaf { uris: vec![uri("root")], ..Leaf::new("user", "x") }, "not an identity of trust domain"),
        (Leaf::new("user", "UP"), "malformed name"),
        (Leaf::new("node", "x"), "ring id"),
        (Leaf { ring_id: Some(vec![1; 15]), ..Leaf::new("node", "x") }, "ring id"),
        (Leaf { ring_id: Some(vec![1; 16]), ..Leaf::new("user", "x") }, "ring id"),
        (Leaf { groups: Some("admins".into()), ..Leaf::node("x", 1) }, "groups"),
        (Leaf { from: 600, ..Leaf::new("user", "x") }, "not valid yet"),
    ];
    for (leaf, wanted) in cases {
        let mut snapshot = bare(&pki, pki.issue(leaf));
        let error = polder_tls::Settings::new(&snapshot, polder_http::plane::unix_now() as u64).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.starts_with("identity.chain"), "{error}");
        snapshot.identity = pki.issue(Leaf { groups: Some("a,b".into()), ..Leaf::new("user", "x") });
        let good = polder_tls::Settings::new(&snapshot, polder_http::plane::unix_now() as u64).unwrap();
        assert_eq!(good.me().groups.len(), 2);
    }
}

fn bare(pki: &Pki, identity: IdentityMaterial) -> Snapshot {
    Snapshot {
        schema: SCHEMA,
        version: 1,
        trust_domain: DOMAIN.into(),
        roots: vec![pki.root.clone().into()],
        identity,
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
    }
}

#[tokio::test]
async fn revocation_cuts_links_with_their_tunnels_and_keeps_the_revoked_out() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "servlet"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.sites = vec![Site { servlets: vec!["servlet".into()], ..site(PathMode::Direct) }]);
    nodes[1].apply(|s| s.servlets = vec![tcp(origin)]);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.unwrap();
    nodes[1].apply(|s| {
        s.revocations = Revocations { epoch: 1, identities: vec![format!("spiffe://{DOMAIN}/node/ap")], ..Default::default() }
    });
    assert!(drain(&mut tunnel.source).await.is_err(), "the live tunnel is cut");
    assert_eq!(nodes[1].plane.counters.identities_cut.get(), 1);
    assert!(nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.is_err());
    assert!(refused(&nodes[1], "certificate").await.contains("revoked"));
}

#[tokio::test]
async fn revocation_by_key_hash_cuts_who_dialled_too() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b"]).await;
    answer_calls(&nodes[1]);
    assert_eq!(call(&nodes[0], &nodes[1].peer, "m", b"", 5000).await.0, 200);
    let world = nodes[1].plane.world().unwrap();
    let hash = world.tls.me().key_hash.to_vec();
    nodes[0].apply(|s| s.revocations.keys = vec![hash.into()]);
    let (status, why) = call(&nodes[0], &nodes[1].peer, "m", b"", 5000).await;
    assert!(status == 0 && why.contains("revoked"), "{why}");
}

#[tokio::test]
async fn a_stale_revocation_list_stops_new_work_only() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "servlet"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.sites = vec![Site { servlets: vec!["servlet".into()], ..site(PathMode::Direct) }]);
    nodes[1].apply(|s| s.servlets = vec![tcp(origin)]);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    nodes[1].apply(|s| s.revocations.fresh_until = Some(polder_http::plane::unix_now() - 1));
    assert!(nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.is_err());
    assert_eq!(nodes[1].plane.counters.refused_stale.get(), 1);
    tunnel.sink.send(Bytes::from_static(b"still")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"still");
}

#[tokio::test]
async fn a_dead_servlet_is_masked_and_early_bytes_are_said_again() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "beacon", "dead", "alive"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.sites[0].beacons = vec!["beacon".into()]);
    nodes[1].apply(|s| s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["dead".into(), "alive".into()] }]);
    for node in &nodes[2..] {
        node.apply(|s| s.servlets = vec![tcp(origin)]);
    }
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET one")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"GET one");
    assert_eq!(nodes[2].plane.counters.tunnels.get(), 1);
    nodes[2].die();
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET two")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"GET two");
    assert_eq!(nodes[3].plane.counters.tunnels.get(), 1);
}

#[tokio::test]
async fn a_link_that_has_just_died_fails_no_tunnel() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "servlet"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.sites = vec![Site { servlets: vec!["servlet".into()], ..site(PathMode::Direct) }]);
    nodes[1].apply(|s| s.servlets = vec![tcp(origin)]);
    for turn in 1..=20 {
        let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET again")).await.unwrap();
        tunnel.sink.finish().await.unwrap();
        assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"GET again", "turn {turn}");
        nodes[1].plane.registry.cut(|_| true, |_| {}); // the only candidate is alive, its link is not
    }
}

#[tokio::test]
async fn a_node_that_accepts_and_never_answers_is_given_up_for_the_next() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "good"]).await;
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(); // shakes no hands
    let origin = origin(echo).await;
    let silent = Peer { name: "silent".into(), ring_id: RingId(3), address: hole.local_addr().unwrap(), warm: false };
    nodes[0].apply(|s| {
        s.limits.open_timeout_ms = 2000;
        s.peers.push(silent);
        s.sites = vec![Site { servlets: vec!["silent".into(), "good".into()], ..site(PathMode::Direct) }];
    });
    nodes[1].apply(|s| s.servlets = vec![tcp(origin)]);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET x")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"GET x");
    assert_eq!(nodes[0].plane.counters.failovers.get(), 1);
}

#[tokio::test]
async fn warm_links_come_up_by_themselves_and_again_after_death() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b"]).await;
    nodes[0].apply(|s| s.peers[0].warm = true);
    came_up(&nodes[0], 1).await;
    assert!(nodes[0].plane.links.is_up(&nodes[1].peer));
    assert!(nodes[0].plane.links.rtt(&nodes[1].peer).unwrap() > Duration::ZERO);
    nodes[1].plane.registry.cut(|_| true, |_| {});
    came_up(&nodes[0], 2).await;
}

#[tokio::test]
async fn a_candidate_that_was_passed_over_is_ready_the_next_time() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "first", "second"]).await;
    let origin = origin(echo).await;
    for node in &nodes[1..] {
        node.apply(|s| s.servlets = vec![tcp(origin)]);
    }
    nodes[0].apply(|s| s.sites = vec![Site { servlets: vec!["second".into()], ..site(PathMode::Direct) }]);
    nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.unwrap();
    nodes[0].apply(|s| s.sites[0].servlets = vec!["first".into(), "second".into()]);
    nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.unwrap();
    assert_eq!(nodes[1].plane.counters.tunnels.get(), 0, "its link was not up yet");
    came_up(&nodes[0], 2).await;
    assert!(nodes[0].plane.links.is_up(&nodes[1].peer));
    nodes[0].apply(|s| s.sites[0].servlets = vec!["first".into()]); // which of two is nearer is a matter of chance here
    nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.unwrap();
    assert_eq!(nodes[1].plane.counters.tunnels.get(), 1, "it carries");
}

#[tokio::test]
async fn renewal_replaces_links_and_lets_tunnels_end() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "servlet"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.sites = vec![Site { servlets: vec!["servlet".into()], ..site(PathMode::Direct) }]);
    nodes[1].apply(|s| s.servlets = vec![tcp(origin)]);
    let mut old = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    let material = pki.issue(Leaf::node("ap", ring_id("ap")));
    nodes[0].apply(|s| s.identity = material);
    let mut new = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    assert_eq!(nodes[0].plane.counters.links_dialled.get(), 2);
    for tunnel in [&mut old, &mut new] {
        tunnel.sink.send(Bytes::from_static(b"through")).await.unwrap();
        tunnel.sink.finish().await.unwrap();
        assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"through");
    }
}

#[tokio::test]
async fn a_node_that_drains_takes_no_new_streams_but_ends_the_old_ones() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "leaving", "staying"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.sites = vec![Site { servlets: vec!["leaving".into(), "staying".into()], ..site(PathMode::Direct) }]);
    for node in &nodes[1..] {
        node.apply(|s| s.servlets = vec![tcp(origin)]);
    }
    let old = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    assert_eq!(nodes[1].plane.counters.tunnels.get(), 1);
    nodes[1].doors.lock().unwrap().iter().for_each(|door| door.abort());
    nodes[1].plane.drain();
    // What is opened before the GOAWAY has arrived is still served: no tunnel fails at any time.
    let mut all = vec![old];
    while nodes[2].plane.counters.tunnels.get() == 0 {
        all.push(nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap());
    }
    for tunnel in &mut all {
        tunnel.sink.send(Bytes::from_static(b"through")).await.unwrap();
        tunnel.sink.finish().await.unwrap();
        assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"through");
    }
    assert_eq!(nodes[2].plane.counters.tunnels.get(), 1);
}

#[tokio::test]
async fn tunnels_do_not_starve_calls() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "servlet"]).await;
    // An origin that takes everything and reads nothing: queues and windows of the bulk lane fill.
    let origin = origin(|socket| async move {
        let _held = socket;
        std::future::pending::<()>().await;
    })
    .await;
    nodes[0].apply(|s| s.sites = vec![Site { servlets: vec!["servlet".into()], ..site(PathMode::Direct) }]);
    nodes[1].apply(|s| {
        s.servlets = vec![tcp(origin)];
        s.limits.link_window = 1 << 20;
    });
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.unwrap();
        stuck.push(tokio::spawn(async move { while tunnel.sink.send(Bytes::from(vec![0; 65536])).await.is_ok() {} }));
    }
    answer_calls(&nodes[1]);
    for _ in 0..50 {
        assert_eq!(call(&nodes[0], &nodes[1].peer, "ring.ping", b"", 5000).await.0, 200);
    }
    stuck.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn users_may_not_call() {
    let pki = Pki::new();
    let good = Node::node(&pki, "good").await;
    good.apply(|_| {});
    let ann = Node::start(&pki, "ann", Role::Forwarder, pki.issue(Leaf::new("user", "ann")), vec![]).await;
    ann.apply(|_| {});
    // A user's connection goes to the front, which is a proxy and nothing else.
    let (status, why) = call(&ann, &good.peer, "m", b"", 5000).await;
    assert_eq!(status, 421, "{why}");
    assert!(why.contains("serves no pages of its own"), "{why}");
    let request = http::Request::builder().method("CONNECT").uri("wiki.test:443").body(()).unwrap();
    let opened = ann.plane.links.open_stream(&ann.plane, &good.peer, Lane::Bulk, request, false).await;
    assert_eq!(opened.unwrap().0.await.unwrap().status(), 403);
}
