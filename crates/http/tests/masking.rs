//! Failures that a client does not notice: what breaks before the site's first byte is done again elsewhere.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::*;
use polder_http::tunnel::Source;
use polder_types::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// An origin that tells what it hears first on each connection; its first `mute` connections are never answered.
async fn origin_with(mute: usize) -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (tell, told) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let work = move |mut socket: TcpStream| {
        let (tell, number) = (tell.clone(), count.fetch_add(1, SeqCst));
        async move {
            let mut first = vec![0; 1024];
            let length = socket.read(&mut first).await.unwrap_or(0);
            first.truncate(length);
            tell.send(first.clone()).unwrap();
            if number < mute {
                let _ = socket.read(&mut [0; 1]).await; // until it is cut
                return;
            }
            socket.write_all(&first).await.unwrap();
            echo(socket).await;
        }
    };
    (origin(work).await, told)
}

/// Access point, beacon, two servlets.
async fn overlay_of(pki: &Pki, origin: SocketAddr) -> Vec<Node> {
    let nodes = overlay(pki, &["ap", "beacon", "s1", "s2"]).await;
    nodes[0].apply(|s| s.sites[0].beacons = vec!["beacon".into()]);
    nodes[1].apply(|s| s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["s1".into(), "s2".into()] }]);
    for node in &nodes[2..] {
        node.apply(|s| s.servlets = vec![tcp(origin)]);
    }
    nodes
}

/// Which servlets the beacon knows: of two it takes the nearer, and on a busy machine that is a matter of chance.
fn knows(beacon: &Node, servlets: &[&str]) {
    beacon.apply(|s| s.beacons[0].servlets = servlets.iter().map(|&name| name.into()).collect());
}

#[tokio::test]
async fn a_servlet_that_dies_before_the_first_byte_is_replaced() {
    let pki = Pki::new();
    let (origin, mut told) = origin_with(1).await;
    let nodes = overlay_of(&pki, origin).await;
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), b"GET a");
    nodes[2].die();
    assert_eq!(tunnel.source.next().await.unwrap().unwrap(), "GET a");
    assert_eq!(told.recv().await.unwrap(), b"GET a");
    tunnel.sink.send(Bytes::from_static(b"more")).await.unwrap();
    tunnel.sink.finish().await.unwrap();
    assert_eq!(drain(&mut tunnel.source).await.unwrap(), b"more");
    assert_eq!((nodes[1].plane.counters.replays.get(), nodes[0].plane.counters.replays.get()), (1, 0), "the nearest mends");
}

#[tokio::test]
async fn what_might_be_done_twice_is_not_repeated() {
    let pki = Pki::new();
    let (origin, mut told) = origin_with(1).await;
    let nodes = overlay_of(&pki, origin).await;
    let mut client = says("POST a");
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut client).await.unwrap();
    let held = client.take_front().expect("it has not travelled with the open");
    tunnel.sink.send(held).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), b"POST a");
    nodes[2].die();
    assert!(drain(&mut tunnel.source).await.is_err());
    assert!(told.try_recv().is_err(), "nobody said it again");
}

#[tokio::test]
async fn what_the_site_breaks_itself_is_not_repeated() {
    let pki = Pki::new();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let origin = origin(move |mut socket| {
        counted.fetch_add(1, SeqCst);
        async move {
            let _ = socket.read(&mut [0; 16]).await;
            socket.set_zero_linger().unwrap();
        }
    })
    .await;
    let nodes = overlay_of(&pki, origin).await;
    // It hangs up before the path was told to stand; then after its first byte was waited for in vain.
    assert!(nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.is_err());
    assert_eq!(connections.load(SeqCst), 1);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut Source::held(Bytes::new())).await.unwrap();
    tunnel.sink.send(Bytes::from_static(b"GET a")).await.unwrap();
    assert!(drain(&mut tunnel.source).await.is_err());
    assert_eq!(connections.load(SeqCst), 2);
    assert!(nodes.iter().all(|node| node.plane.counters.replays.get() == 0));
}

#[tokio::test]
async fn a_site_that_refuses_connections_is_asked_once() {
    let pki = Pki::new();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nodes = overlay_of(&pki, closed).await;
    assert!(nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.is_err());
    let asked: u64 = nodes[2..].iter().map(|node| node.plane.counters.tunnels_failed.get()).sum();
    assert_eq!(asked, 1);
}

/// Passes connections on to `to`; frozen, it says nothing any more and ends nothing.
async fn freezer(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let frozen = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, flag) = (listener.local_addr().unwrap(), frozen.clone());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let flag = flag.clone();
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.into_split();
                let (mut far_read, mut far_write) = TcpStream::connect(to).await.unwrap().into_split();
                let carry = async |read: &mut tokio::net::tcp::OwnedReadHalf, write: &mut tokio::net::tcp::OwnedWriteHalf| {
                    let mut buffer = vec![0; 65536];
                    while let Ok(length @ 1..) = read.read(&mut buffer).await {
                        if flag.load(SeqCst) {
                            std::future::pending::<()>().await;
                        }
                        if write.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::join!(carry(&mut near_read, &mut far_write), carry(&mut far_read, &mut near_write));
            });
        }
    });
    (address, frozen)
}

#[tokio::test]
async fn a_servlet_that_hangs_is_left_for_another_and_its_link_is_given_up() {
    let pki = Pki::new();
    let (origin, mut told) = origin_with(1).await;
    let nodes = overlay_of(&pki, origin).await;
    let (address, frozen) = freezer(nodes[2].peer.address).await;
    nodes[1].apply(|s| {
        s.peers.iter_mut().filter(|peer| &*peer.name == "s1").for_each(|peer| peer.address = address);
        s.peers.iter_mut().for_each(|peer| peer.warm = true);
    });
    let s2 = |event: &Event| matches!(event, Event::Link { name, up: true, .. } if name == "s2").then_some(());
    nodes[1].heard.until(s2).await;
    knows(&nodes[1], &["s1"]);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), b"GET a");
    frozen.store(true, SeqCst);
    knows(&nodes[1], &["s1", "s2"]);
    assert_eq!(tunnel.source.next().await.unwrap().unwrap(), "GET a");
    assert_eq!(nodes[1].plane.counters.replays.get(), 1);
    let mut next = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET b")).await.unwrap();
    assert_eq!(next.source.next().await.unwrap().unwrap(), "GET b", "nobody waits for it any more");
    let down = |event: &Event| matches!(event, Event::Link { name, up: false, .. } if name == "s1").then_some(());
    nodes[1].heard.until(down).await;
}

#[tokio::test]
async fn where_nobody_else_can_be_asked_a_silent_link_is_waited_for() {
    let pki = Pki::new();
    let (origin, mut told) = origin_with(1).await;
    let nodes = overlay_of(&pki, origin).await;
    let (address, frozen) = freezer(nodes[1].peer.address).await;
    nodes[0].apply(|s| s.peers.iter_mut().filter(|peer| &*peer.name == "beacon").for_each(|peer| peer.address = address));
    knows(&nodes[1], &["s1"]);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), b"GET a");
    frozen.store(true, SeqCst);
    let waking = async {
        // Whatever wakes the tunnel while the link is silent, it waits on.
        loop {
            if let Ok(heard) = tokio::time::timeout(Duration::from_millis(5), tunnel.source.next()).await {
                return heard;
            }
        }
    };
    let given_up = async {
        let down = |event: &Event| matches!(event, Event::Link { name, up: false, .. } if name == "beacon").then_some(());
        nodes[0].heard.until(down).await;
        frozen.store(false, SeqCst);
    };
    let (heard, ()) = tokio::join!(waking, given_up);
    assert_eq!(heard.unwrap().unwrap(), "GET a");
}

#[tokio::test]
async fn who_finds_no_way_waits_for_news() {
    let pki = Pki::new();
    let (origin, _told) = origin_with(0).await;
    let nodes = overlay_of(&pki, origin).await;
    nodes[1].apply(|s| s.beacons[0].servlets = vec!["s1".into()]);
    nodes[2].die();
    let user = user("ann");
    let mut client = says("GET a");
    let opening = nodes[0].open(&user, "wiki.test", &mut client);
    let news = async {
        // The beacon has found out that its only servlet is dead.
        let tried = |event: &Event| matches!(event, Event::Link { name, up: false, .. } if name == "s1").then_some(());
        nodes[1].heard.until(tried).await;
        nodes[1].apply(|s| s.beacons[0].servlets = vec!["s1".into(), "s2".into()]);
    };
    let (opened, ()) = tokio::join!(opening, news);
    assert_eq!(opened.unwrap().source.next().await.unwrap().unwrap(), "GET a");
}

#[tokio::test]
async fn refusals_are_not_multiplied_beyond_the_budget() {
    let pki = Pki::new();
    let nodes = overlay(&pki, &["ap", "b1", "b2", "b3"]).await;
    nodes[0].apply(|s| {
        s.limits.retry_burst = 5;
        s.limits.retry_percent = 20;
        s.limits.open_timeout_ms = 1000;
        s.sites[0].beacons = vec!["b1".into(), "b2".into(), "b3".into()];
    });
    let began = std::time::Instant::now();
    for _ in 0..40 {
        assert!(nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.is_err());
    }
    let asked: u64 = nodes[1..].iter().map(|node| node.plane.counters.tunnels_failed.get()).sum();
    // 40 tunnels, a fifth of them again, the burst, and what comes back with time.
    let bound = 40 + 8 + 5 + began.elapsed().as_millis() as u64 / 2000 + 1;
    assert!((40..=bound).contains(&asked), "{asked} of at most {bound}");
    assert!(nodes[0].plane.counters.retries_refused.get() > 0);
}

#[tokio::test]
async fn half_a_second_beside_a_late_candidate_and_the_first_wins() {
    let pki = Pki::new();
    let (origin, _told) = origin_with(0).await;
    let nodes = overlay_of(&pki, origin).await;
    let (address, frozen) = freezer(nodes[2].peer.address).await;
    nodes[1].apply(|s| s.peers.iter_mut().filter(|peer| &*peer.name == "s1").for_each(|peer| peer.address = address));
    knows(&nodes[1], &["s1"]);
    let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.unwrap();
    tunnel.source.next().await.unwrap().unwrap();
    frozen.store(true, SeqCst);
    knows(&nodes[1], &["s1", "s2"]);
    let mut tunnel = tokio::time::timeout(Duration::from_secs(20), nodes[0].open(&user("ann"), "wiki.test", &mut says("GET b")))
        .await
        .expect("long before any deadline")
        .unwrap();
    assert_eq!(tunnel.source.next().await.unwrap().unwrap(), "GET b");
    assert_eq!((nodes[1].plane.counters.hedges.get(), nodes[1].plane.counters.failovers.get()), (1, 1));
}

#[tokio::test]
async fn of_two_servlets_the_one_behind_the_shorter_way_is_taken() {
    let pki = Pki::new();
    let (origin, _told) = origin_with(0).await;
    let nodes = overlay_of(&pki, origin).await;
    let address = far(nodes[2].peer.address).await;
    nodes[1].apply(|s| {
        s.peers.iter_mut().filter(|peer| &*peer.name == "s1").for_each(|peer| peer.address = address);
        s.peers.iter_mut().for_each(|peer| peer.warm = true);
    });
    for name in ["s1", "s2"] {
        let up = |event: &Event| matches!(event, Event::Link { name: of, up: true, .. } if of == name).then_some(());
        nodes[1].heard.until(up).await;
    }
    let mut tunnels = vec![];
    for _ in 0..5 {
        let mut tunnel = nodes[0].open(&user("ann"), "wiki.test", &mut says("GET a")).await.unwrap();
        assert_eq!(tunnel.source.next().await.unwrap().unwrap(), "GET a");
        tunnels.push(tunnel);
    }
    let open = |node: &Node| node.plane.counters.tunnels_open.get();
    assert_eq!((open(&nodes[2]), open(&nodes[3])), (0, 5));
}

/// Passes connections on to `to`, each piece half a second late: further away than a busy machine makes anybody.
async fn far(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.into_split();
                let (mut far_read, mut far_write) = TcpStream::connect(to).await.unwrap().into_split();
                let carry = async |read: &mut tokio::net::tcp::OwnedReadHalf, write: &mut tokio::net::tcp::OwnedWriteHalf| {
                    let mut buffer = vec![0; 65536];
                    while let Ok(length @ 1..) = read.read(&mut buffer).await {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        if write.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::join!(carry(&mut near_read, &mut far_write), carry(&mut far_read, &mut near_write));
            });
        }
    });
    address
}
