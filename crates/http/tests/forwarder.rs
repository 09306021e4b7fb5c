//! A forwarder's clients through access points that fail, refuse or are silent.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::*;
use polder_http::forwarder::Forwarder;
use polder_http::tunnel::{Opener, Source, Target};
use polder_types::*;
use polder_wire::{ProxyError, Refusal};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Access points that are everything else too, and ann's forwarder, which lists them in this order.
async fn overlay(pki: &Pki, names: &[&str]) -> (Vec<Node>, Node) {
    let mut nodes = Vec::new();
    for name in names {
        let node = Node::node(pki, name).await;
        let origin = origin(echo).await;
        node.apply(|s| {
            s.sites = vec![site(PathMode::Beacon)];
            s.servlets = vec![tcp(origin)];
        });
        nodes.push(node);
    }
    let forwarder = Node::start(pki, "ann", Role::Forwarder, pki.issue(Leaf::new("user", "ann")), vec![]).await;
    forwarder.apply(|s| {
        s.peers = nodes.iter().map(|node| Peer { warm: true, ..node.peer.clone() }).collect();
        s.forwarder = Some(polder_types::Forwarder {
            access_points: nodes.iter().map(|node| node.peer.name.clone()).collect(),
            hosts: vec!["wiki.test".into(), "*.lost.test".into()],
            pac: String::new(),
            early_answer: true,
            plane: PlaneChoice::Tunnel,
        });
    });
    (nodes, forwarder)
}

/// Opens a tunnel to `host`, says `text` with the open and hears the echo.
async fn ask(forwarder: &Node, host: &str, text: &'static str) -> Result<String, Refusal> {
    let opener = Forwarder::new(forwarder.plane.clone());
    let mut client = Source::bytes(Bytes::from_static(text.as_bytes()));
    let mut tunnel = opener.open(&None, &Target { host: host.into(), port: 443 }, &mut client).await?;
    while let Some(chunk) = client.take_front() {
        tunnel.sink.send(chunk).await.unwrap();
    }
    tunnel.sink.finish().await.unwrap();
    Ok(String::from_utf8(drain(&mut tunnel.source).await.unwrap()).unwrap())
}

async fn up(forwarder: &Node, name: &str) {
    forwarder.heard.until(|event| matches!(event, Event::Link { name: n, up: true, .. } if n == name).then_some(())).await;
}

#[tokio::test]
async fn another_access_point_takes_over_and_the_client_notices_nothing() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["ap1", "ap2"]).await;
    up(&forwarder, "ap1").await;
    up(&forwarder, "ap2").await;
    assert_eq!(ask(&forwarder, "wiki.test", "hello").await.unwrap(), "hello");
    nodes[0].die();
    for _ in 0..5 {
        assert_eq!(ask(&forwarder, "wiki.test", "still here").await.unwrap(), "still here");
    }
    assert!(nodes[1].plane.counters.tunnels_failed.get() == 0);
}

#[tokio::test]
async fn a_silent_access_point_is_left_for_another() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["silent", "ap2"]).await;
    // It takes connections and never says a word.
    nodes[0].die();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    forwarder.apply(|s| {
        s.limits.open_timeout_ms = 300;
        s.peers = vec![Peer { address, ..nodes[0].peer.clone() }, Peer { warm: false, ..nodes[1].peer.clone() }];
    });
    assert_eq!(ask(&forwarder, "wiki.test", "hello").await.unwrap(), "hello");
    assert_eq!(forwarder.plane.counters.failovers.get(), 1);
}

#[tokio::test]
async fn a_measured_access_point_is_asked_before_one_that_is_not() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["gone", "ap2"]).await;
    nodes[0].die();
    up(&forwarder, "ap2").await;
    assert_eq!(ask(&forwarder, "wiki.test", "hello").await.unwrap(), "hello");
    assert_eq!(forwarder.plane.counters.failovers.get(), 0);
}

/// Carries connections to `target`, and every byte `delay` later in each direction.
async fn far(target: SocketAddr, delay: Duration) -> SocketAddr {
    origin(move |client| async move {
        let Ok(server) = TcpStream::connect(target).await else { return };
        let (to_server, to_client) = (client.into_split(), server.into_split());
        tokio::join!(late(to_server.0, to_client.1, delay), late(to_client.0, to_server.1, delay));
    })
    .await
}

async fn late(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = [0; 16_384];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let _ = sender.send((Instant::now() + delay, buffer[..count].to_vec()));
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

#[tokio::test]
async fn an_access_point_that_leads_far_round_gives_way_to_one_farther_off() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["near", "other"]).await;
    // The near one's only way to the site is a servlet at the end of the world; the other is 60 ms away and delivers itself.
    let servlet = Node::node(&pki, "servlet").await;
    let entry = nodes[0].snapshot.lock().unwrap().servlets.clone();
    servlet.apply(|s| (s.sites, s.servlets) = (vec![site(PathMode::Beacon)], entry));
    let address = far(servlet.peer.address, Duration::from_millis(200)).await;
    nodes[0].apply(|s| {
        s.servlets.clear();
        s.peers = vec![Peer { address, warm: true, ..servlet.peer.clone() }];
        s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["servlet".into()] }];
    });
    let carried = Arc::new(AtomicUsize::new(0));
    let counted = carried.clone();
    let own = origin(move |socket| {
        counted.fetch_add(1, Relaxed);
        echo(socket)
    })
    .await;
    nodes[1].apply(|s| s.servlets = vec![tcp(own)]);
    let address = far(nodes[1].peer.address, Duration::from_millis(30)).await;
    forwarder.apply(|s| s.peers[1].address = address);
    up(&forwarder, "near").await;
    came_up(&forwarder, 2).await;
    let mut in_a_row = 0;
    for _ in 0..60 {
        let before = carried.load(Relaxed);
        assert_eq!(ask(&forwarder, "wiki.test", "hello").await.unwrap(), "hello");
        in_a_row = if carried.load(Relaxed) > before { in_a_row + 1 } else { 0 };
        if in_a_row == 5 {
            return;
        }
    }
    panic!("it stays with the nearest");
}

#[tokio::test]
async fn a_site_that_one_access_point_has_not_heard_of_is_asked_of_another() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["ap1", "ap2"]).await;
    nodes[0].apply(|s| (s.sites, s.servlets) = (vec![], vec![]));
    up(&forwarder, "ap1").await;
    for _ in 0..3 {
        assert_eq!(ask(&forwarder, "wiki.test", "hello").await.unwrap(), "hello");
    }
    let refusal = ask(&forwarder, "a.lost.test", "hello").await.unwrap_err();
    assert_eq!(refusal.error, ProxyError::Prohibited, "nobody knows it");
}

#[tokio::test]
async fn what_the_sites_rules_refuse_is_asked_once() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["ap1", "ap2"]).await;
    for node in &nodes {
        node.apply(|s| s.sites[0].deny = vec![Rule::User("ann".into())]);
    }
    let refusal = ask(&forwarder, "wiki.test", "hello").await.unwrap_err();
    assert_eq!(refusal.error, ProxyError::Denied);
    assert_eq!(forwarder.plane.counters.failovers.get(), 0);
    let asked: u64 = nodes.iter().map(|node| node.plane.counters.refused_access.get()).sum();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn what_is_not_protected_is_not_carried_and_asks_nobody() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["ap1"]).await;
    for host in ["else.test", "xwiki.test", "wiki.test.evil.test", "127.0.0.1"] {
        let refusal = ask(&forwarder, host, "hello").await.unwrap_err();
        assert_eq!(refusal.error, ProxyError::Prohibited, "{host}");
    }
    assert_eq!(nodes[0].plane.counters.refused_target.get(), 0);
}

#[tokio::test]
async fn without_access_points_the_refusal_says_so() {
    let pki = Pki::new();
    let (nodes, forwarder) = overlay(&pki, &["ap1"]).await;
    nodes[0].die();
    forwarder.apply(|s| s.limits.open_timeout_ms = 300);
    let refusal = ask(&forwarder, "wiki.test", "hello").await.unwrap_err();
    assert!(refusal.error.retry(), "{refusal:?}");
    assert!(!refusal.detail.contains("ap1"), "{refusal}");
}
