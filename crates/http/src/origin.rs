//! Site role: connections to the web server, and how it is told who is at the other end.

use crate::front::{FrontContext, reverse};
use crate::plane::{Plane, unix_now};
use crate::pump::{End, Terms};
use crate::told::TunnelUser;
use crate::tunnel::{Asker, BoxFuture, Opener, Source, Target, Tunnel};
use bytes::Bytes;
use polder_tls::Jws;
use polder_types::{Identity, Kind, Telling, Told};
use polder_wire::{ProxyError, Refusal};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Seconds for which an assertion holds, and after which a new one is signed.
const ASSERTION: (i64, i64) = (60, 30);

/// The origin for a port that was asked for. A single origin takes every port that a listener has.
pub(crate) fn at(plane: &Plane, port: u16, listener: bool) -> Option<SocketAddr> {
    let origins = &plane.config.origins;
    let exact = origins.iter().find(|(asked, _)| *asked == port).map(|(_, origin)| *origin);
    exact.or_else(|| if listener && origins.len() == 1 { Some(origins[0].1) } else { None })
}

async fn reach(plane: &Plane, origin: SocketAddr) -> Result<(Tunnel, Terms), ProxyError> {
    let world = plane.world().ok_or(ProxyError::Unavailable)?;
    let limits = &world.plan.limits;
    let open = limits.open_timeout_ms;
    let connect = timeout(Duration::from_millis(open.into()), TcpStream::connect(origin)).await;
    let stream = connect.map_err(|_| ProxyError::Timeout)?.map_err(|_| ProxyError::Refused)?;
    stream.set_nodelay(true).map_err(|_| ProxyError::Internal)?;
    Ok((Tunnel::tcp(stream), Terms::from(limits)))
}

/// A way to the origin.
pub(crate) enum Opened {
    /// One connection for one tunnel.
    Bytes(Tunnel, Terms),
    /// Requests are read and told one by one.
    Requests(Box<Requests>),
}

/// Opens the way for one tunnel; `user` where the origin is to be told.
pub(crate) async fn open(plane: &Arc<Plane>, origin: SocketAddr, user: Option<TunnelUser>) -> Result<Opened, ProxyError> {
    let Some(user) = user else { return reach(plane, origin).await.map(|(far, terms)| Opened::Bytes(far, terms)) };
    let world = plane.world().ok_or(ProxyError::Unavailable)?;
    let told = world.plan.told.as_ref().ok_or(ProxyError::Unavailable)?;
    match told.how {
        Telling::ProxyV2 => {
            let header = user.proxy2(told).ok_or(ProxyError::Internal)?;
            let (mut far, terms) = reach(plane, origin).await?;
            far.sink.send(Bytes::from(header)).await.map_err(|_| ProxyError::Refused)?;
            far.source = far.source.gated(user.spend());
            Ok(Opened::Bytes(far, terms))
        }
        Telling::Header => {
            let ctx = plane.front.get().ok_or(ProxyError::Unavailable)?.clone();
            let asserter = Asserter::new(told, world.tls.me(), &user).ok_or(ProxyError::Internal)?;
            Ok(Opened::Requests(Box::new(Requests { plane: plane.clone(), origin, user, asserter, ctx })))
        }
    }
}

/// One user's requests to a plain-HTTP origin.
pub(crate) struct Requests {
    plane: Arc<Plane>,
    origin: SocketAddr,
    user: TunnelUser,
    asserter: Asserter,
    ctx: Arc<FrontContext>,
}

impl Requests {
    /// Reads requests from `near` until it ends.
    pub(crate) async fn serve(self, near: Tunnel) -> End {
        let word = &self.user.word;
        let target = Target { host: word.host.as_str().into(), port: word.port };
        let source = word.address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let who = Arc::new(Identity {
            kind: Kind::User,
            name: self.user.name.as_str().into(),
            uri: word.user.as_str().into(),
            ring_id: None,
            groups: word.groups.iter().map(|group| group.as_str().into()).collect(),
            key_hash: [0; 32],
            issuer: None,
            not_after: i64::MAX,
        });
        let asserter = self.asserter;
        let fields = Box::new(move || asserter.fields(unix_now()));
        let opener = Arc::new(ToOrigin { plane: self.plane, origin: self.origin, user: self.user });
        reverse::serve(near, reverse::Reverse { target, fields }, Some(who), source, opener, self.ctx).await;
        End::Finished
    }
}

/// Opens connections to one origin for one user.
struct ToOrigin {
    plane: Arc<Plane>,
    origin: SocketAddr,
    user: TunnelUser,
}

impl Opener for ToOrigin {
    fn admit(&self, _who: &Asker, _target: &Target) -> Result<(), Refusal> {
        Ok(()) // the access point has; that requests stay with this tunnel's target the front sees to
    }

    fn open<'a>(&'a self, _: &'a Asker, _: &'a Target, _: &'a mut Source) -> BoxFuture<'a, Result<Tunnel, Refusal>> {
        Box::pin(async move {
            let reached = reach(&self.plane, self.origin).await;
            let (mut far, _) =
                reached.map_err(|error| Refusal::new(error, "The site's own server takes no connection. Tell its owner."))?;
            far.source = far.source.gated(self.user.spend());
            Ok(far)
        })
    }
}

/// Makes the fields by which an origin is told who asks.
struct Asserter {
    jws: Jws,
    /// The payload without its times.
    claims: String,
    user: String,
    groups: String,
    last: Mutex<Option<(i64, String)>>,
}

impl Asserter {
    fn new(told: &Told, me: &Identity, user: &TunnelUser) -> Option<Asserter> {
        let word = &user.word;
        let groups: Vec<_> = word.groups.iter().map(|group| json(group)).collect();
        let claims = format!(
            r#""iss":{},"sub":{},"aud":{},"groups":[{}]"#,
            json(&me.uri),
            json(&word.user),
            json(&word.host),
            groups.join(",")
        );
        let groups: Vec<_> = word.groups.iter().map(|group| plain(group)).collect();
        let (user, groups) = (plain(&user.name), groups.join(","));
        Some(Asserter { jws: Jws::new(&told.sign_key, &told.sign_id)?, claims, user, groups, last: Mutex::new(None) })
    }

    /// `Polder-User`, `Polder-Groups`, `Polder-Assertion`. `now` in Unix seconds.
    fn fields(&self, now: i64) -> Option<Vec<(&'static str, String)>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = last.as_ref().filter(|(at, _)| (0..ASSERTION.1).contains(&(now - at))).map(|(_, jws)| jws.clone());
        let assertion = match fresh {
            Some(jws) => jws,
            None => {
                let jws = self.jws.sign(&format!(r#"{{{},"iat":{now},"exp":{}}}"#, self.claims, now + ASSERTION.0))?;
                *last = Some((now, jws.clone()));
                jws
            }
        };
        Some(vec![("Polder-User", self.user.clone()), ("Polder-Groups", self.groups.clone()), ("Polder-Assertion", assertion)])
    }
}

/// A JSON string (RFC 8259 §7).
fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 0x20 => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A name as a field's value: whatever is not visible ASCII, and commas, percent-encoded.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e if !matches!(byte, b',' | b'%') => out.push(byte.into()),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place() {
        assert_eq!(json("a\"b\\c\nd\u{e9}"), "\"a\\\"b\\\\c\\u000ad\u{e9}\"");
        assert_eq!(plain("staff"), "staff");
        assert_eq!(plain("a,b\r\nPolder-User: root %\u{e9}"), "a%2Cb%0D%0APolder-User:%20root%20%25%C3%A9");
    }
}
