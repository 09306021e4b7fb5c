//! Tunnels through one to ten nodes, in every path mode.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::*;
use polder_http::tunnel::Source;
use polder_types::*;
use polder_wire::ProxyError;

async fn round_trip(entry: &Node, text: &'static str) -> String {
    let mut client = says(text);
    let mut tunnel = entry.open(&user("ann"), "wiki.test", &mut client).await.expect("opened");
    // What had not travelled with the open goes now.
    while let Some(chunk) = client.take_front() {
        tunnel.sink.send(chunk).await.unwrap();
    }
    tunnel.sink.send(Bytes::from_static(b" and more")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    String::from_utf8(drain(&mut tunnel.source).await.unwrap()).unwrap()
}

#[tokio::test]
async fn one_node_is_everything() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["n0"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.servlets = vec![tcp(origin)]);
    assert_eq!(round_trip(&nodes[0], "GET hello").await, "GET hello and more");
    assert_eq!(nodes[0].plane.counters.links_dialled.get(), 0);
}

#[tokio::test]
async fn access_point_beacon_servlet() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "beacon", "servlet"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| s.sites[0].beacons = vec!["beacon".into()]);
    nodes[1].apply(|s| s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["servlet".into()] }]);
    nodes[2].apply(|s| s.servlets = vec![tcp(origin)]);
    assert_eq!(round_trip(&nodes[0], "GET hello").await, "GET hello and more");
    for (node, tunnels) in nodes.iter().zip([0, 1, 1]) {
        assert_eq!(node.plane.counters.tunnels.get(), tunnels, "{}", node.name);
    }
}

#[tokio::test]
async fn direct_mode_goes_straight_and_falls_back_to_the_beacons() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "beacon", "old", "new"]).await;
    let origin = origin(echo).await;
    nodes[0].apply(|s| {
        s.sites = vec![Site { servlets: vec!["old".into()], beacons: vec!["beacon".into()], ..site(PathMode::Direct) }];
    });
    nodes[1].apply(|s| s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["new".into()] }]);
    nodes[2].apply(|s| s.servlets = vec![tcp(origin)]);
    nodes[3].apply(|s| s.servlets = vec![tcp(origin)]);
    assert_eq!(round_trip(&nodes[0], "a").await, "a and more");
    assert_eq!(nodes[2].plane.counters.tunnels.get(), 1);
    nodes[2].apply(|s| s.servlets = vec![]); // rotated away
    assert_eq!(round_trip(&nodes[0], "b").await, "b and more");
    assert_eq!(nodes[3].plane.counters.tunnels.get(), 1);
}

/// A chain in mode `ring`: each node but the last relays to the next; the last owns the key and is beacon and servlet.
async fn chain(pki: &Pki, length: usize, origin: std::net::SocketAddr) -> Vec<Node> {
    let names: Vec<String> = (0..length).map(|n| format!("n{n}")).collect();
    let nodes = overlay(pki, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (index, node) in nodes.iter().enumerate() {
        let next = names.get(index + 1).map(|name| name.as_str().into());
        let last = next.is_none();
        node.apply(|s| {
            let route = RingRoute { key: 0, next, alternatives: vec![] };
            s.sites = vec![Site { ring: vec![route], ..site(PathMode::Ring) }];
            if last {
                s.servlets = vec![tcp(origin)];
            }
        });
    }
    nodes
}

#[tokio::test]
async fn ring_mode_relays_through_every_hop() {
    let pki = Pki::new();
    let origin = origin(echo).await;
    for length in [2, 4, 7, 10] {
        let nodes = chain(&pki, length, origin).await;
        assert_eq!(round_trip(&nodes[0], "GET hello").await, "GET hello and more", "{length} nodes");
        assert!(nodes[1..].iter().all(|node| node.plane.counters.tunnels.get() == 1));
    }
}

#[tokio::test]
async fn a_hundred_megabytes_come_through_ten_nodes_whole() {
    let pki = Pki::new();
    const SIZE: usize = 100 << 20;
    let origin = origin(|socket| pour(socket, SIZE)).await;
    let nodes = chain(&pki, 10, origin).await;
    let mut client = says("GET x");
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut client).await.unwrap();
    let mut count = 0;
    while let Some(chunk) = tunnel.source.next().await {
        let chunk = chunk.unwrap();
        assert!(chunk.iter().all(|b| *b == 7));
        count += chunk.len();
    }
    assert_eq!(count, SIZE);
}

#[tokio::test]
async fn a_slow_reader_makes_nodes_hold_their_windows_and_no_more() {
    const SIZE: usize = 32 << 20;
    let pki = Pki::new();
    let origin = origin(|socket| pour(socket, SIZE)).await;
    let nodes = chain(&pki, 3, origin).await;
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET x")).await.unwrap();
    let taken = |node: usize| nodes[node].plane.counters.bytes_down.get();
    let held = |link: u64| link * (u64::from(limits().stream_window) + 2 * 256 * 1024);
    let full = async {
        while taken(2) < u64::from(limits().stream_window) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), full).await.unwrap();
    // However long one looks: beyond a link can be its window, and before it what the sender keeps and one read.
    for _ in 0..30 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert!(taken(1) <= held(1) && taken(2) <= held(2), "{} and {}", taken(1), taken(2));
    }
    assert_eq!(drain(&mut tunnel.source).await.unwrap().len(), SIZE);
}

#[tokio::test]
async fn a_loop_of_routes_ends_with_the_hops() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["a", "b"]).await;
    for (node, other) in nodes.iter().zip(["b", "a"]) {
        let route = RingRoute { key: 0, next: Some(other.into()), alternatives: vec![] };
        node.apply(|s| {
            s.limits.max_hops = 5;
            s.sites = vec![Site { ring: vec![route], ..site(PathMode::Ring) }];
        });
    }
    let refused = nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.err().expect("refused");
    assert_eq!(refused.error, ProxyError::Unavailable, "users learn nothing of hops");
    let opened: u64 = nodes.iter().map(|n| n.plane.counters.tunnels_failed.get()).sum();
    assert_eq!(opened, 5, "four hops and the access point");
}

#[tokio::test]
async fn halves_close_one_by_one() {
    let pki = Pki::new();
    // The origin ends first, and still hears what comes afterwards.
    let (heard, hears) = tokio::sync::oneshot::channel();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Some(heard)));
    let origin = origin(move |mut socket| {
        let heard = heard.clone();
        async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            socket.write_all(b"bye").await.unwrap();
            socket.shutdown().await.unwrap();
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).await.unwrap();
            heard.lock().unwrap().take().unwrap().send(rest).unwrap();
        }
    })
    .await;
    let nodes = chain(&pki, 3, origin).await;
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("")).await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"bye");
    tunnel.sink.send(Bytes::from_static(b"late")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(hears.await.unwrap(), b"late");
}

#[tokio::test]
async fn a_reset_at_the_origin_reaches_the_user_as_an_error_and_not_as_an_end() {
    let pki = Pki::new();
    let origin = origin(|mut socket| async move {
        use tokio::io::AsyncWriteExt;
        socket.write_all(b"half of").await.unwrap();
        socket.set_zero_linger().unwrap();
    })
    .await;
    let nodes = chain(&pki, 3, origin).await;
    if let Ok(mut tunnel) = nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await {
        assert!(drain(&mut tunnel.source).await.is_err());
    }
}

#[tokio::test]
async fn a_user_who_gives_up_resets_the_origin() {
    let pki = Pki::new();
    let (ended, ends) = tokio::sync::mpsc::unbounded_channel();
    let origin = origin(move |mut socket| {
        let ended = ended.clone();
        async move {
            use tokio::io::AsyncReadExt;
            let mut all = Vec::new();
            ended.send(socket.read_to_end(&mut all).await.map(|_| all)).unwrap();
        }
    })
    .await;
    let mut ends = ends;
    let nodes = chain(&pki, 3, origin).await;
    let tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.unwrap();
    drop(tunnel);
    assert!(ends.recv().await.unwrap().is_err(), "a cut is no end in good order");
}

#[tokio::test]
async fn unregistered_targets_are_nobodys() {
    let pki = Pki::new();
    let origin = origin(echo).await;
    let nodes = chain(&pki, 1, origin).await;
    for host in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "wiki.test.evil", "other.test", "10.0.0.1", ""] {
        let refused = nodes[0].open(&user("ann"), host, &mut says("x")).await.err().expect("refused");
        assert_eq!(refused.error, ProxyError::Prohibited, "{host}");
    }
}

#[tokio::test]
async fn early_data_is_bounded_and_the_rest_follows_in_order() {
    let pki = Pki::new();
    let origin = origin(echo).await;
    let nodes = chain(&pki, 4, origin).await;
    let mut text: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    text[..6].copy_from_slice(&[22, 3, 1, 2, 0, 1]); // a ClientHello may be said twice, so it travels with the open
    let (mut here, there) = tokio::io::duplex(64 * 1024);
    let mut client = Source::io(there);
    let said = text.clone();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        here.write_all(&said).await.unwrap();
    });
    let tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut client).await.unwrap();
    let (mut sink, mut source) = (tunnel.sink, tunnel.source);
    let push = async {
        while let Some(chunk) = client.next().await {
            sink.send(chunk.unwrap()).await.unwrap();
        }
        sink.finish().await.unwrap();
    };
    let (heard, ()) = tokio::join!(drain(&mut source), push);
    assert!(heard.unwrap() == text);
}

#[tokio::test]
async fn a_site_that_takes_no_connections_is_asked_once() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "b1", "b2", "s1", "s2"]).await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    nodes[0].apply(|s| s.sites[0].beacons = vec!["b1".into(), "b2".into()]);
    for beacon in &nodes[1..3] {
        beacon.apply(|s| s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["s1".into(), "s2".into()] }]);
    }
    for servlet in &nodes[3..] {
        servlet.apply(|s| s.servlets = vec![tcp(dead)]);
    }
    let refused = nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.err().expect("refused");
    assert_eq!(refused.error, ProxyError::Refused, "whoever tried: the site's own answer");
    let failed: Vec<u64> = nodes.iter().map(|n| n.plane.counters.tunnels_failed.get()).collect();
    assert_eq!(failed.iter().sum::<u64>(), 3, "access point, one beacon, one servlet: {failed:?}");
}
