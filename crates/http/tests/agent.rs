//! A site's agent: what it takes from servlets, what becomes of open streams when servlets change.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::*;
use polder_http::tunnel::{Opener, Target, Tunnel};
use polder_types::*;
use std::sync::Arc;

/// A site's agent with one origin, linked to `servlet`.
async fn agent(pki: &Pki, servlet: &Node, origin: std::net::SocketAddr) -> Node {
    let agent = Node::start(pki, "wiki", Role::Site, pki.issue(Leaf::new("site", "wiki")), vec![(443, origin)]).await;
    let warm = Peer { warm: true, ..servlet.peer.clone() };
    agent.apply(|s| s.peers = vec![warm]);
    came_up(&agent, 1).await;
    agent
}

#[tokio::test]
async fn dial_out_carries_streams_to_the_origin_and_only_there() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["servlet"]).await;
    let origin = origin(echo).await;
    let dialled = ServletEntry { site: "wiki".into(), delivery: Delivery::DialOut };
    nodes[0].apply(|s| {
        s.sites[0].ports = vec![443, 8443];
        s.servlets = vec![dialled];
    });
    assert!(nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.is_err(), "no agent yet");
    let agent = agent(&pki, &nodes[0], origin).await;
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET hello")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"GET hello");
    let other = Target { host: "wiki.test".into(), port: 8443 };
    let overlay = polder_http::overlay::Overlay::new(nodes[0].plane.clone());
    let opened = overlay.open(&Some(Arc::new(user("ann"))), &other, &mut says("x")).await;
    assert!(opened.is_err(), "a port without an origin");
    assert_eq!(agent.plane.counters.refused_target.get(), 1);
    agent.die();
    assert!(nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.is_err(), "the agent has gone");
}

#[tokio::test]
async fn the_inner_address_relays_to_the_origin() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["servlet"]).await;
    let origin = origin(echo).await;
    let agent = agent(&pki, &nodes[0], origin).await;
    nodes[0].apply(|s| s.servlets = vec![tcp(agent.peer.address)]);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    tunnel.sink.send(Bytes::from_static(b"hello")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"hello");
    assert_eq!(agent.plane.counters.tunnels.get(), 1);
}

fn by_dial_out() -> ServletEntry {
    ServletEntry { site: "wiki".into(), delivery: Delivery::DialOut }
}

/// Says `text` and hears it back.
async fn echoes(tunnel: &mut Tunnel, text: &'static str) {
    tunnel.sink.send(Bytes::from_static(text.as_bytes())).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < text.len() {
        heard.extend_from_slice(&tunnel.source.next().await.unwrap().unwrap());
    }
    assert_eq!(heard, text.as_bytes());
}

async fn dialled(node: &Node, up: bool, times: usize) {
    let shape = |event: &&Event| matches!(event, Event::DialOut { up: now, .. } if *now == up);
    node.heard.when(|events| (events.iter().filter(shape).count() >= times).then_some(())).await;
}

#[tokio::test]
async fn a_dismissed_servlet_keeps_its_streams_and_its_connection_ends_with_the_last() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["servlet"]).await;
    nodes[0].apply(|s| s.servlets = vec![by_dial_out()]);
    let agent = agent(&pki, &nodes[0], origin(echo).await).await;
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    echoes(&mut tunnel, "before").await;
    assert_eq!(agent.plane.carried.streams(), [("servlet".to_owned(), 1)].into());
    // As often as a busy rotation comes back to this node: old connections must not count against the new.
    for round in 2..12 {
        agent.apply(|s| s.peers = vec![]);
        echoes(&mut tunnel, "dismissed").await;
        let warm = Peer { warm: true, ..nodes[0].peer.clone() };
        agent.apply(|s| s.peers = vec![warm]);
        came_up(&agent, round).await;
        // The new connection takes the new stream; the old one has said goodbye.
        let mut other = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
        echoes(&mut other, "beside").await;
    }
    agent.apply(|s| s.peers = vec![]);
    echoes(&mut tunnel, "after").await;
    drop(tunnel);
    dialled(&nodes[0], false, 1).await;
    assert!(nodes[0].plane.dialled_out().is_empty(), "nothing is left behind");
}

#[tokio::test]
async fn streams_survive_a_renewal_of_the_agent_and_new_ones_use_the_new_connection() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["servlet"]).await;
    nodes[0].apply(|s| s.servlets = vec![by_dial_out()]);
    let agent = agent(&pki, &nodes[0], origin(echo).await).await;
    let mut old = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    agent.apply(|s| s.identity = pki.issue(Leaf::new("site", "wiki")));
    came_up(&agent, 2).await;
    let mut new = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    echoes(&mut new, "new").await;
    echoes(&mut old, "old").await;
    assert_eq!(agent.plane.carried.streams(), [("servlet".to_owned(), 2)].into());
}

#[tokio::test]
async fn a_burned_servlet_carries_nothing_more() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["servlet"]).await;
    let agent = agent(&pki, &nodes[0], origin(echo).await).await;
    for (delivery, name) in [(by_dial_out(), "servlet"), (tcp(agent.peer.address), "127.0.0.1")] {
        nodes[0].apply(|s| s.servlets = vec![delivery]);
        let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
        echoes(&mut tunnel, "before").await;
        let cut = agent.plane.counters.tunnels_cut.get();
        agent.apply(|s| s.cut = vec![name.into()]);
        assert!(!matches!(tunnel.source.next().await, Some(Ok(_))), "what was open is cut");
        let after = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await;
        if let Ok(mut after) = after {
            assert!(!matches!(after.source.next().await, Some(Ok(_))), "nothing new");
        }
        assert_eq!(agent.plane.counters.tunnels_cut.get(), cut + 2);
        agent.apply(|s| s.cut = vec![]);
    }
}
