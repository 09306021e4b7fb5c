//! The proxy as a client sees it.

use polder_http::front::{FrontContext, Report, serve};
use polder_http::tunnel::{Asker, BoxFuture, Opener, Sink, Source, Target, Tunnel};
use polder_types::Limits;
use polder_wire::http1::{BodyReader, Piece, RequestReader, RequestTarget};
use polder_wire::{ProxyError, Refusal};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// Bytes that reach a site: (asked by CONNECT, or by a request that the front made itself).
type Carried = Arc<Mutex<Vec<Vec<u8>>>>;

struct Site(Carried);

impl Opener for Site {
    fn admit(&self, _who: &Asker, target: &Target) -> Result<(), Refusal> {
        let ours = &*target.host == "a.example" && target.port == 80;
        if ours { Ok(()) } else { Err(Refusal::new(ProxyError::Prohibited, "not registered")) }
    }

    fn open<'a>(&'a self, who: &'a Asker, target: &'a Target, _client: &'a mut Source) -> BoxFuture<'a, Result<Tunnel, Refusal>> {
        Box::pin(async move {
            self.admit(who, target)?;
            let (near, mut far) = duplex(1 << 20);
            let mut carried = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let index = carried.len();
            carried.push(Vec::new());
            drop(carried);
            let all = self.0.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = far.read(&mut buffer).await {
                    if let Ok(mut all) = all.lock() {
                        all[index].extend_from_slice(&buffer[..n]);
                    }
                    // Answers to everything, so that the client's next request is read too.
                    if buffer[..n].ends_with(b"\r\n\r\n") || buffer[..n].ends_with(b"x") {
                        let _ = far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                    }
                }
            });
            let (read, write) = tokio::io::split(near);
            Ok(Tunnel { source: Source::io(read), sink: Sink::io(write) })
        })
    }
}

struct Quiet;

impl Report for Quiet {
    fn refused(&self, _what: &'static str, _why: &str, _who: &str, _source: IpAddr) {}
}

fn limits() -> Limits {
    Limits {
        tunnels_per_identity: 100,
        tunnel_rate_per_identity: 1000,
        connections_per_source: 100,
        handshake_rate_per_source: 1000,
        connections: 1000,
        header_timeout_ms: 1000,
        idle_timeout_ms: 1000,
        link_window: 1 << 24,
        streams_per_link: 1000,
        keepalive_timeout_ms: 1000,
        stall_timeout_ms: 1000,
        body_rate_floor: 1,
        streams_per_client: 50,
        reset_rate_per_client: 5,
        connections_per_identity: 0,
        frame_rate_per_identity: 0,
        handshake_rate_per_identity: 0,
        ..Limits::default()
    }
}

/// Whatever a client says: the connection ends, and what reaches a site is a clean run of origin-form requests for that
/// site, or the bytes of a tunnel that the client asked for.
pub(crate) fn h1(data: &[u8]) {
    let all = carry(data, false);
    // A tunnel ends the connection's life as HTTP, so that only the last can be one.
    let asked_for_tunnel =
        data.windows(8).any(|w| w == b"CONNECT ") || data.to_ascii_lowercase().windows(8).any(|w| w == b"upgrade:");
    let clean = all.len() - usize::from(asked_for_tunnel && !all.is_empty());
    all[..clean].iter().for_each(|bytes| assert_clean(bytes));
}

/// The same in HTTP/2, where each tunnel is a stream of its own: those that begin like a request of ours are clean.
pub(crate) fn h2(data: &[u8]) {
    for bytes in carry(data, true) {
        if bytes.windows(5).any(|w| w == b"Via: ") {
            assert_clean(&bytes);
        }
    }
}

/// What reaches the site when a client says `data`, by tunnel.
fn carry(data: &[u8], h2: bool) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let carried = Carried::default();
    runtime.block_on(async {
        let (mut near, far) = duplex(1 << 20);
        let ctx = FrontContext::new(limits(), Quiet, Arc::default());
        let front = tokio::spawn(serve(far, h2, None, [127, 0, 0, 1].into(), Arc::new(Site(carried.clone())), ctx));
        let _ = near.write_all(data).await;
        // Not shut: who shuts his side counts as gone. The clock is paused, so that timeouts end what does not end itself.
        let mut heard = Vec::new();
        let _ = near.read_to_end(&mut heard).await;
        if let Err(error) = front.await {
            assert!(!error.is_panic(), "the front panicked");
        }
    });
    carried.lock().map(|all| all.clone()).unwrap_or_default()
}

fn assert_clean(bytes: &[u8]) {
    let mut buffer = bytes::BytesMut::from(bytes);
    let mut reader = RequestReader::default();
    while let Some(head) = reader.next(&mut buffer).unwrap_or_else(|e| panic!("{e} in {:?}", String::from_utf8_lossy(bytes))) {
        assert!(matches!(head.target, RequestTarget::Origin(_) | RequestTarget::Asterisk), "{head:?}");
        let host = head.host.as_ref().map(|host| (&*host.host, host.port));
        assert_eq!(host, Some(("a.example", None)));
        assert!(head.fields.iter().all(|(name, _)| !polder_wire::http1::is_identity(name)), "{head:?}");
        let mut body = BodyReader::new(head.length);
        loop {
            match body.next(&mut buffer) {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::End) => break,
                Ok(Piece::More) => return, // the client broke off
                Err(error) => panic!("{error} in {:?}", String::from_utf8_lossy(bytes)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn streams_reach_the_site() {
        let all: Vec<_> = crate::seeds("front-h2").iter().flat_map(|seed| super::carry(seed, true)).collect();
        let begins = |start: &[u8]| all.iter().any(|bytes| bytes.starts_with(start));
        assert!(
            begins(b"GET /a HTTP/1.1\r\nHost: a.example\r\n") && begins(b"POST /b HTTP/1.1\r\n") && begins(b"through the tunnel")
        );
    }

    #[test]
    fn requests_reach_the_site_and_tunnels_too() {
        let seeds = crate::seeds("front");
        let all: Vec<_> = seeds.iter().flat_map(|seed| super::carry(seed, false)).collect();
        let count = |start: &[u8]| all.iter().flat_map(|bytes| bytes.windows(start.len())).filter(|w| *w == start).count();
        assert!(count(b"GET /3 HTTP/1.1\r\nHost: a.example\r\n") >= 2);
        assert!(count(b"GET / HTTP/1.1\r\n\r\n") >= 1, "the bytes of a tunnel");
    }
}
