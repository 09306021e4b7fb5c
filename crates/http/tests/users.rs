//! A site that asks who its users are: what its agent believes, and what its origin is told.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::*;
use polder_http::front::FrontContext;
use polder_http::plane::unix_now;
use polder_http::tunnel::Tunnel;
use polder_tls::{Sealer, Settings};
use polder_types::*;
use polder_wire::proxy2::{self, Proxy2};
use polder_wire::word::{SealedWord, UserWord};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as HPKE;
use rustls::crypto::hpke::Hpke;
use serde_bytes::ByteBuf;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Nobody;

impl polder_http::front::Report for Nobody {
    fn refused(&self, _: &'static str, _: &str, _: &str, _: std::net::IpAddr) {}
}

fn told(how: Telling) -> Told {
    let (public, secret) = HPKE.generate_key_pair().unwrap();
    Told {
        how,
        seal_secret: ByteBuf::from(secret.secret_bytes().to_vec()),
        seal_public: ByteBuf::from(public.0),
        sign_key: ByteBuf::from(rcgen::KeyPair::generate().unwrap().serialize_der()),
        sign_id: "k1".into(),
        window: 30,
    }
}

/// Access point, servlet and the site's agent, over dial-out or the inner address.
struct Scene {
    pki: Pki,
    nodes: Vec<Node>,
    agent: Node,
    told: Told,
}

impl Scene {
    async fn new(how: Telling, origin: SocketAddr, inner: bool) -> Scene {
        let (pki, told) = (Pki::new(), told(how));
        let nodes = overlay(&pki, &["ap", "servlet"]).await;
        let agent = Node::start(&pki, "wiki", Role::Site, pki.issue(Leaf::new("site", "wiki")), vec![(443, origin)]).await;
        let front = FrontContext::new(limits(), Nobody, Arc::default());
        assert!(agent.plane.front.set(front).is_ok());
        let servlet = Peer { warm: true, ..nodes[1].peer.clone() };
        let asking = Some(Tell { key: told.seal_public.clone(), address: true });
        let asks = Site { servlets: vec!["servlet".into()], tell: asking, ..site(PathMode::Direct) };
        agent.apply(|s| {
            s.peers = vec![servlet];
            s.told = Some(told.clone());
            s.sites = vec![site(PathMode::Direct)];
        });
        nodes[0].apply(|s| s.sites = vec![asks.clone()]);
        let delivery = match inner {
            false => Delivery::DialOut,
            true => Delivery::Tcp {
                address: agent.peer.address.ip(),
                bind: None,
                ports: vec![(443, agent.peer.address.port())],
                preface: true,
            },
        };
        nodes[1].apply(|s| s.servlets = vec![ServletEntry { site: "wiki".into(), delivery }]);
        came_up(&agent, 1).await;
        Scene { pki, nodes, agent, told }
    }

    async fn open(&self, text: &'static str) -> Tunnel {
        let groups = vec!["staff".into(), "night shift".into()];
        let mut client = says(text);
        self.nodes[0].open(&Identity { groups, ..user("ann") }, "wiki.test", &mut client).await.unwrap()
    }

    fn counts(&self) -> (u64, u64, u64) {
        let counters = &self.agent.plane.counters;
        (counters.words_heard.get(), counters.words_missing.get(), counters.words_refused.get())
    }

    /// A word as `by` would say it, after `change`.
    fn word(&self, by: &Settings, site: &str, change: impl FnOnce(&mut UserWord)) -> String {
        let mut word = plain_word();
        change(&mut word);
        Scene::seal(&by.session(site, &self.told.seal_public, unix_now(), 3600).unwrap(), &word)
    }

    fn seal(sealer: &Sealer, word: &UserWord) -> String {
        let (number, message) = sealer.seal(&word.encode().unwrap()).unwrap();
        SealedWord { session: sealer.opening.clone(), number, message }.to_text()
    }

    /// What a servlet gets that brings `word` (or another preface) to the inner address: the origin's first bytes, if any.
    async fn bring(&self, word: Option<&str>) -> Option<Vec<u8>> {
        let tlvs = word.map(|word| (proxy2::WORD, word.as_bytes().to_vec())).into_iter().collect();
        let mut socket = self.knock(Proxy2 { addresses: None, tlvs }.encode().unwrap()).await;
        let mut heard = vec![0; 4096];
        match socket.read(&mut heard).await {
            Ok(0) | Err(_) => None,
            Ok(n) => Some(heard[..n].to_vec()),
        }
    }

    async fn knock(&self, first: Vec<u8>) -> TcpStream {
        let mut socket = TcpStream::connect(self.agent.peer.address).await.unwrap();
        let _ = socket.write_all(&first).await;
        let _ = socket.write_all(b"hello").await;
        socket
    }
}

fn plain_word() -> UserWord {
    UserWord {
        at: i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap(),
        host: "wiki.test".into(),
        port: 443,
        user: format!("spiffe://{DOMAIN}/user/ann"),
        groups: vec![],
        address: None,
    }
}

async fn read_until(tunnel: &mut Tunnel, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut heard = Vec::new();
    while !enough(&heard) {
        heard.extend_from_slice(&tunnel.source.next().await.expect("more").unwrap());
    }
    heard
}

#[tokio::test]
async fn the_origin_gets_a_proxy_header_over_both_ways() {
    for inner in [false, true] {
        let scene = Scene::new(Telling::ProxyV2, origin(echo).await, inner).await;
        let mut tunnel = scene.open("GET hello").await;
        let heard = read_until(&mut tunnel, |heard| heard.ends_with(b"GET hello")).await;
        let (header, length) = Proxy2::decode(&heard).unwrap().unwrap();
        assert_eq!(&heard[length..], b"GET hello", "and nothing else");
        assert_eq!(header.only(proxy2::AUTHORITY), Some(&b"wiki.test"[..]));
        assert_eq!(header.only(proxy2::USER), Some(format!("spiffe://{DOMAIN}/user/ann").as_bytes()));
        assert_eq!(header.only(proxy2::GROUPS), Some(&b"staff,night shift"[..]));
        assert_eq!(header.only(proxy2::WORD), None);
        let (from, to) = header.addresses.unwrap();
        assert_eq!(to.port(), 443);
        assert!(from.is_ipv6() && from.to_string().starts_with("[fd"), "no address was known: a pseudonym");
        assert_eq!(scene.counts(), (1, 0, 0), "inner address: {inner}");
    }
}

#[tokio::test]
async fn a_word_is_good_for_one_answer() {
    let scene = Scene::new(Telling::ProxyV2, origin(echo).await, true).await;
    let by = &scene.nodes[0].plane.world().unwrap();
    let word = scene.word(&by.tls, "wiki", |_| {});
    assert!(scene.bring(Some(&word)).await.is_some());
    assert!(scene.bring(Some(&word)).await.is_none(), "a servlet that repeats it gets nothing");
    assert_eq!(scene.counts(), (1, 0, 1));
}

#[tokio::test]
async fn a_word_that_was_not_answered_may_come_again_but_not_often_and_one_only_is_answered() {
    let silent: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let kept = silent.clone();
    let scene = Scene::new(
        Telling::ProxyV2,
        origin(move |socket| {
            kept.lock().unwrap().push(socket);
            std::future::ready(())
        })
        .await,
        true,
    )
    .await;
    let by = &scene.nodes[0].plane.world().unwrap();
    let word = scene.word(&by.tls, "wiki", |_| {});
    let preface = Proxy2 { addresses: None, tlvs: vec![(proxy2::WORD, word.clone().into_bytes())] }.encode().unwrap();
    let mut sockets = Vec::new();
    for count in 1..=4 {
        sockets.push(scene.knock(preface.clone()).await);
        let come = async {
            while silent.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), come).await.unwrap();
    }
    assert!(scene.bring(Some(&word)).await.is_none(), "too often");
    let mut origins: Vec<_> = silent.lock().unwrap().drain(..).collect();
    let mut heard = [0; 3];
    origins[1].write_all(b"one").await.unwrap();
    sockets[1].read_exact(&mut heard).await.unwrap();
    origins[2].write_all(b"two").await.unwrap();
    assert!(sockets[2].read_exact(&mut heard).await.is_err(), "the second answer is not passed on");
    origins[1].write_all(b"mor").await.unwrap();
    sockets[1].read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"mor");
}

#[tokio::test]
async fn false_words_are_refused() {
    let scene = Scene::new(Telling::ProxyV2, origin(echo).await, true).await;
    let (ap, pki) = (scene.nodes[0].plane.world().unwrap(), &scene.pki);
    let by = |kind: &'static str| {
        let material =
            if kind == "node" { pki.issue(Leaf::node("other", ring_id("other"))) } else { pki.issue(Leaf::new(kind, "ann")) };
        let mut snapshot = scene.nodes[0].snapshot.lock().unwrap().clone();
        snapshot.identity = material;
        Settings::new(&snapshot, unix_now() as u64).unwrap()
    };
    let good = scene.word(&ap.tls, "wiki", |_| {});
    let other = scene.word(&by("node"), "wiki", |_| {});
    let (opening, message) = (good.split_once('.').unwrap().0, other.split_once('.').unwrap().1);
    let mut changed = good.clone().into_bytes();
    let last = changed.len() - 5;
    changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
    let cases = [
        ("a user's own word", scene.word(&by("user"), "wiki", |_| {})),
        ("a site's word", scene.word(&by("site"), "wiki", |_| {})),
        ("meant for another site", scene.word(&ap.tls, "shop", |_| {})),
        ("for another host", scene.word(&ap.tls, "wiki", |w| w.host = "shop.test".into())),
        ("for another port", scene.word(&ap.tls, "wiki", |w| w.port = 80)),
        ("old", scene.word(&ap.tls, "wiki", |w| w.at -= 40_000)),
        ("from the future", scene.word(&ap.tls, "wiki", |w| w.at += 40_000)),
        ("of a foreign domain", scene.word(&ap.tls, "wiki", |w| w.user = "spiffe://evil.test/user/ann".into())),
        ("a node as user", scene.word(&ap.tls, "wiki", |w| w.user = format!("spiffe://{DOMAIN}/node/ap"))),
        ("in a session of another node", format!("{opening}.{message}")),
        ("changed", String::from_utf8(changed).unwrap()),
        ("no word", "AAAA.AAAAAAAAAAAA".into()),
    ];
    for (count, (what, word)) in cases.iter().enumerate() {
        assert!(scene.bring(Some(word)).await.is_none(), "{what}");
        assert_eq!(scene.counts(), (0, 0, count as u64 + 1), "{what}");
    }
    assert!(scene.bring(None).await.is_none());
    let mut bare = scene.knock(b"GET / HTTP/1.1\r\nHost: wiki.test\r\n\r\n".to_vec()).await;
    assert!(!matches!(bare.read(&mut [0; 16]).await, Ok(1..)), "no header at all");
    assert_eq!(scene.counts().1, 2);
    let sealer = ap.tls.session("wiki", &scene.told.seal_public, unix_now(), 3600).unwrap();
    assert!(scene.bring(Some(&Scene::seal(&sealer, &plain_word()))).await.is_some(), "the good one passes");
    let uri = format!("spiffe://{DOMAIN}/node/ap");
    scene.agent.apply(|s| s.revocations.identities = vec![uri]);
    let after = scene.word(&ap.tls, "wiki", |_| {});
    assert!(scene.bring(Some(&after)).await.is_none(), "a revoked access point, new session");
    assert!(scene.bring(Some(&Scene::seal(&sealer, &plain_word()))).await.is_none(), "and in the session that was good");
}

#[tokio::test]
async fn a_tunnel_without_a_word_is_refused_where_the_site_asks() {
    let scene = Scene::new(Telling::ProxyV2, origin(echo).await, false).await;
    // An access point that has not heard of the site's wish.
    scene.nodes[0].apply(|s| s.sites[0].tell = None);
    assert!(scene.nodes[0].open(&user("ann"), "wiki.test", &mut says("x")).await.is_err());
    assert_eq!(scene.counts(), (0, 1, 0));
}

/// An origin that answers each request with its head, after having read its body; `/switch` echoes from then on.
async fn mirror(mut socket: TcpStream) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            let mut more = [0; 4096];
            match socket.read(&mut more).await {
                Ok(0) | Err(_) => return,
                Ok(n) => buffer.extend_from_slice(&more[..n]),
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        if head.contains("Transfer-Encoding: chunked") {
            while !buffer.ends_with(b"0\r\n\r\n") {
                let mut more = [0; 4096];
                let n = socket.read(&mut more).await.unwrap();
                buffer.extend_from_slice(&more[..n]);
            }
            buffer.clear();
        }
        if head.starts_with("GET /switch") {
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\nX-Length: {}\r\n\r\n",
                head.len()
            );
            socket.write_all(format!("{answer}{head}").as_bytes()).await.unwrap();
            return echo(socket).await;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
    }
}

const FORGED: &str = "Polder-User: root\r\npolder_user: root\r\nPOLDER-GROUPS: admin\r\nPolder-Assertion: e30.e30.e30\r\n\
    X-Forwarded-User: root\r\nX-Forwarded-For: 10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n";

/// What the origin saw must name ann, once, and nothing that she forged.
fn names_ann(head: &str) {
    let lower = head.to_lowercase();
    for (name, value) in [("polder-user", "ann"), ("polder-groups", "staff,night%20shift")] {
        let lines: Vec<_> = lower.lines().filter(|line| line.replace('_', "-").starts_with(name)).collect();
        assert_eq!(lines, [format!("{name}: {value}")], "{head}");
    }
    assert_eq!(lower.matches("polder-assertion").count(), 1, "{head}");
    for forged in ["root", "admin", "e30.e30", "10.0.0.1"] {
        assert!(!lower.contains(forged), "{forged} in {head}");
    }
}

#[tokio::test]
async fn every_request_of_a_connection_is_told_and_forged_copies_are_stripped() {
    for inner in [false, true] {
        let scene = Scene::new(Telling::Header, origin(mirror).await, inner).await;
        let mut tunnel = scene.open("").await;
        // Pipelined, in all forms that a user's tunnel may hold, with bodies.
        let requests = [
            format!("GET /one HTTP/1.1\r\nHost: wiki.test:443\r\n{FORGED}\r\n"),
            format!(
                "POST /two HTTP/1.1\r\nHost: wiki.test:443\r\n{FORGED}Transfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\nPolder-User: root\r\n\r\n"
            ),
            format!(
                "GET http://wiki.test:443/three HTTP/1.1\r\nHost: wiki.test:443\r\nConnection: close, Polder-User\r\n{FORGED}\r\n"
            ),
        ];
        tunnel.sink.send(Bytes::from(requests.concat())).await.unwrap();
        let all = String::from_utf8(drain(&mut tunnel.source).await.unwrap()).unwrap();
        let heads: Vec<_> = all.split("HTTP/1.1 200 OK").skip(1).collect();
        assert_eq!(heads.len(), 3, "{all}");
        for (head, path) in heads.iter().zip(["GET /one ", "POST /two ", "GET /three "]) {
            let head = head.split_once("\r\n\r\n").unwrap().1;
            assert!(head.starts_with(path), "{head}");
            names_ann(head);
        }
    }
}

#[tokio::test]
async fn an_upgrade_is_told_once_and_then_left_alone() {
    let scene = Scene::new(Telling::Header, origin(mirror).await, false).await;
    let mut tunnel = scene.open("").await;
    let ask = format!("GET /switch HTTP/1.1\r\nHost: wiki.test:443\r\nConnection: upgrade\r\nUpgrade: echo\r\n{FORGED}\r\n");
    tunnel.sink.send(Bytes::from(ask)).await.unwrap();
    let heard = read_until(&mut tunnel, |heard| heard.windows(4).filter(|w| *w == b"\r\n\r\n").count() == 2).await;
    names_ann(std::str::from_utf8(&heard).unwrap().split_once("\r\n\r\n").unwrap().1);
    tunnel.sink.send(Bytes::from_static(b"Polder-User: bytes are bytes now")).await.unwrap();
    let heard = read_until(&mut tunnel, |heard| heard.ends_with(b"now")).await;
    assert_eq!(heard, b"Polder-User: bytes are bytes now");
}

#[tokio::test]
async fn what_is_not_for_this_site_or_not_http_does_not_reach_the_origin() {
    let asked: Arc<Mutex<usize>> = Arc::default();
    let count = asked.clone();
    let listening = origin(move |socket| {
        *count.lock().unwrap() += 1;
        mirror(socket)
    });
    let scene = Scene::new(Telling::Header, listening.await, false).await;
    for bad in [
        "GET / HTTP/1.1\r\nHost: shop.test:443\r\n\r\n",
        "GET http://shop.test/ HTTP/1.1\r\nHost: wiki.test:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: wiki.test\r\n\r\n",
        "CONNECT wiki.test:443 HTTP/1.1\r\nHost: wiki.test:443\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: wiki.test:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: wiki.test:443\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: wiki.test:443\r\nPolder-User : root\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}\r\n\r\n",
    ] {
        let mut tunnel = scene.open("").await;
        tunnel.sink.send(Bytes::from_static(bad.as_bytes())).await.unwrap();
        let all = drain(&mut tunnel.source).await.unwrap_or_default();
        assert!(all.starts_with(b"HTTP/1.1 400 "), "{bad}: {}", String::from_utf8_lossy(&all));
    }
    assert_eq!(*asked.lock().unwrap(), 0);
}
