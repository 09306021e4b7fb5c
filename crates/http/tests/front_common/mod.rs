//! A front between a client made of bytes and origins that speak HTTP/1.1 in memory.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use http::Method;
use polder_http::front::{FrontContext, Report, serve};
use polder_http::pressure::Pressure;
use polder_http::tunnel::{Asker, BoxFuture, Opener, Sink, Source, Target, Tunnel};
use polder_types::{Forwarder, Identity, Kind, Limits};
use polder_wire::http1::{BodyLength, BodyReader, Piece, RequestReader};
use polder_wire::{ProxyError, Refusal};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// Longer than every timeout of the front; in tests with a paused clock it passes at once.
const WAIT: std::time::Duration = std::time::Duration::from_secs(2000);

/// Carries to origins in this process; `wiki.test` and `shop.test` are registered, `private.test` is forbidden to all.
#[derive(Default)]
pub struct Origins {
    pub opened: AtomicU64,
    pub early: Mutex<Vec<u8>>,
    /// So many tunnels break before they answer.
    pub broken: AtomicU64,
}

impl Opener for Origins {
    fn admit(&self, _who: &Asker, target: &Target) -> Result<(), Refusal> {
        match (&*target.host, target.port) {
            ("wiki.test" | "shop.test", 80 | 443) => Ok(()),
            ("private.test", _) => Err(Refusal::new(ProxyError::Denied, "Not for you.")),
            ("down.test", _) => Ok(()),
            _ => Err(Refusal::new(ProxyError::Prohibited, "Not registered.")),
        }
    }

    fn open<'a>(&'a self, who: &'a Asker, target: &'a Target, client: &'a mut Source) -> BoxFuture<'a, Result<Tunnel, Refusal>> {
        Box::pin(async move {
            self.admit(who, target)?;
            if &*target.host == "down.test" {
                return Err(Refusal::new(ProxyError::Unavailable, "No path."));
            }
            self.opened.fetch_add(1, Relaxed);
            // As a link does: what the client says at once travels with the open.
            let first = tokio::time::timeout(std::time::Duration::from_millis(5), client.next()).await;
            let (near, mut far) = duplex(64 * 1024);
            let (read, write) = tokio::io::split(near);
            let mut sink = Sink::io(write);
            if let Ok(Some(Ok(first))) = first {
                self.early.lock().unwrap().extend_from_slice(&first);
                sink.send(first).await.map_err(|_| Refusal::new(ProxyError::Terminated, "broke"))?;
            }
            let broken = self.broken.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok();
            let plain = target.port == 443;
            tokio::spawn(async move {
                if broken {
                    let _ = far.read_u8().await;
                } else if plain {
                    echo(far).await;
                } else {
                    origin(far).await;
                }
            });
            Ok(Tunnel { source: Source::io(read), sink })
        })
    }
}

async fn echo(mut io: DuplexStream) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = io.read(&mut buffer).await {
        if io.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// An origin with a page for each way of answering.
async fn origin(mut io: DuplexStream) {
    let mut reader = RequestReader::default();
    let mut buffer = BytesMut::new();
    loop {
        let head = loop {
            if let Some(head) = reader.next(&mut buffer).expect("the front sends good requests") {
                break head;
            }
            if io.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let polder_wire::http1::RequestTarget::Origin(path) = &head.target else { panic!("not in origin form: {head:?}") };
        let path = String::from_utf8(path.to_vec()).unwrap();
        if path == "/continue" {
            io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        }
        if path == "/early" {
            io.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await.unwrap();
            return;
        }
        let mut body = Vec::new();
        let mut bodies = BodyReader::new(head.length);
        loop {
            match bodies.next(&mut buffer).expect("good body") {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End => break,
                Piece::More => {
                    if io.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
            }
        }
        let answer = match path.as_str() {
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n".into(),
            "/until-close" => "HTTP/1.1 200 OK\r\n\r\nto the end".into(),
            "/hop" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nAlt-Svc: h3=\":443\"\r\nX-Kept: 2\r\n\r\n".into(),
            "/nonsense" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx".into(),
            "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".into(),
            "/cut-late" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                return;
            }
            "/big" => format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)),
            "/late" => std::future::pending().await,
            "/not-modified" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n".into(),
            "/ws" => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".into(),
            _ if head.method == Method::HEAD => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n".into(),
            _ => {
                let fields: String = head.fields.iter().map(|(n, v)| format!("{n}={};", String::from_utf8_lossy(v))).collect();
                let kind = if head.length == BodyLength::Chunked { "chunked" } else { "plain" };
                let text = format!("{} {path} {kind} [{}] {fields}", head.method, String::from_utf8_lossy(&body));
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
            }
        };
        if io.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        match path.as_str() {
            "/until-close" | "/cut" => return,
            "/ws" => return echo(io).await,
            _ => {}
        }
    }
}

/// Collects what the operator is told.
#[derive(Clone, Default)]
pub struct Told(pub Arc<Mutex<Vec<String>>>);

impl Report for Told {
    fn refused(&self, what: &'static str, why: &str, who: &str, source: IpAddr) {
        self.0.lock().unwrap().push(format!("{what}: {why} ({who} at {source})"));
    }
}

pub fn limits() -> Limits {
    Limits {
        tunnels_per_identity: 100,
        tunnel_rate_per_identity: 1000,
        connections_per_source: 100,
        handshake_rate_per_source: 1000,
        connections: 1000,
        link_window: 1 << 24,
        streams_per_link: 1000,
        streams_per_client: 50,
        reset_rate_per_client: 5,
        connections_per_identity: 50,
        handshake_rate_per_identity: 1000,
        ..Limits::default()
    }
}

pub fn ann() -> Asker {
    Some(Arc::new(Identity {
        kind: Kind::User,
        name: "ann".into(),
        uri: "spiffe://o.test/user/ann".into(),
        ring_id: None,
        groups: vec![],
        key_hash: [0; 32],
        issuer: None,
        not_after: i64::MAX,
    }))
}

pub struct Front {
    pub who: Asker,
    pub origins: Arc<Origins>,
    pub ctx: Arc<FrontContext>,
    pub told: Told,
    pub pressure: Arc<Pressure>,
}

impl Front {
    pub fn access_point() -> Front {
        Front::with(limits(), None)
    }

    pub fn with(limits: Limits, forwarder: Option<Forwarder>) -> Front {
        let (told, pressure) = (Told::default(), Arc::new(Pressure::default()));
        let who = if forwarder.is_some() { None } else { ann() };
        let ctx = FrontContext::new(limits.clone(), told.clone(), pressure.clone());
        ctx.apply(limits, forwarder);
        Front { who, origins: Arc::default(), ctx, told, pressure }
    }

    pub fn forwarder() -> Front {
        let forwarder = Forwarder {
            access_points: vec![],
            hosts: vec!["wiki.test".into()],
            pac: "function FindProxyForURL() { return \"PROXY 127.0.0.1:1\"; }".into(),
            early_answer: true,
            plane: polder_types::PlaneChoice::Tunnel,
        };
        Front::with(limits(), Some(forwarder))
    }

    /// A client's connection.
    pub fn connect(&self, h2: bool) -> DuplexStream {
        let (near, far) = duplex(64 * 1024);
        let source = IpAddr::from([127, 0, 0, 1]);
        tokio::spawn(serve(far, h2, self.who.clone(), source, self.origins.clone(), self.ctx.clone()));
        near
    }

    /// Says `text` and hears everything until the front ends the connection.
    pub async fn say(&self, text: &str) -> String {
        let mut io = self.connect(false);
        io.write_all(text.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        let read = async { while io.read_buf(&mut heard).await.is_ok_and(|n| n > 0) {} };
        tokio::time::timeout(WAIT, read).await.expect("the front ends the connection");
        String::from_utf8_lossy(&heard).into_owned()
    }

    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.ctx.counters.read();
        counters.iter().find(|(n, _)| *n == format!("front_{name}")).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

/// Reads until `text` has come.
pub async fn hear(io: &mut DuplexStream, text: &str) -> String {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&heard).contains(text) {
        let n = tokio::time::timeout(std::time::Duration::from_secs(60), io.read(&mut buffer)).await.expect(text).unwrap();
        assert!(n > 0, "ended before {text:?}: {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

pub fn get(path: &str, extra: &str) -> String {
    format!("GET http://wiki.test{path} HTTP/1.1\r\nHost: wiki.test\r\n{extra}\r\n")
}

pub const CLOSE: &str = "Connection: close\r\n";

/// Everything an HTTP/2 stream carries.
pub async fn collect(mut body: h2::RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}
