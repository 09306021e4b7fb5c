//! Site role: from the inner address, or from a servlet's stream, to the origin.

use crate::carried::Held;
use crate::crowd::Crowd;
use crate::hop;
use crate::origin::{self, Opened};
use crate::plane::{Plane, World};
use crate::pump::{End, pump};
use crate::told::{self, TunnelUser, Untold};
use crate::tunnel::{Sink, Source, Tunnel};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use polder_types::PeerName;
use polder_wire::ProxyError;
use polder_wire::proxy2::{Proxy2, WORD};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Carries one stream that came over a servlet, until its end or until that servlet is cut.
async fn carry(plane: &Plane, held: &Held<'_>, near: Tunnel, opened: Opened) {
    let _open = plane.counters.tunnels_open.hold();
    plane.counters.tunnels.up();
    let work = async {
        match opened {
            Opened::Bytes(far, terms) => pump(near, far, terms, plane.meter()).await,
            Opened::Requests(requests) => requests.serve(near).await,
        }
    };
    match held.carry(work).await {
        Some(End::Idle) => plane.counters.tunnels_idle.up(),
        Some(End::Finished | End::Broken | End::Dismissed) => {}
        None => plane.counters.tunnels_cut.up(),
    }
}

/// Relays one connection that came to the inner address. The perimeter decides who gets so far.
pub async fn serve_socket(plane: Arc<Plane>, socket: TcpStream) {
    let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr()) else { return };
    let Some(held) = plane.carried.hold(&peer.ip().to_string()) else {
        return plane.counters.tunnels_cut.up();
    };
    let _ = socket.set_nodelay(true);
    let mut near = Tunnel::tcp(socket);
    let (Some(origin), Some(world)) = (origin::at(&plane, local.port(), true), plane.world()) else {
        return plane.counters.refused_target.up();
    };
    let mut user = None;
    if world.plan.told.is_some() {
        let wait = Duration::from_millis(world.plan.limits.open_timeout_ms.into());
        let word = timeout(wait, preface(&mut near.source)).await.ok().flatten();
        // Which of its names was asked for, a connection to the inner address does not say: the word does.
        let here = |user: &TunnelUser| {
            origin::at(&plane, user.word.port, false) == Some(origin) && is_own(&world, &user.word.host, user.word.port)
        };
        match hear(&plane, &world, word.as_deref(), here) {
            Some(heard) => user = Some(heard),
            None => return,
        }
    }
    drop(world);
    match origin::open(&plane, origin, user).await {
        Ok(opened) => carry(&plane, &held, near, opened).await,
        // Dropping `near` resets it, which the servlet can tell from an empty answer.
        Err(_) => plane.counters.tunnels_failed.up(),
    }
}

/// The word in the PROXY header at the front of a stream; what comes behind it stays.
async fn preface(source: &mut Source) -> Option<String> {
    let mut front = BytesMut::new();
    let (header, length) = loop {
        if let Some(found) = Proxy2::decode(&front).ok()? {
            break found;
        }
        front.extend_from_slice(&source.next().await?.ok()?);
    };
    source.unread(front.split_off(length).freeze());
    String::from_utf8(header.only(WORD)?.to_vec()).ok()
}

/// The user of a stream, if what is said of him is good and about this very stream; else that is counted and told.
fn hear(plane: &Plane, world: &World, word: Option<&str>, here: impl Fn(&TunnelUser) -> bool) -> Option<TunnelUser> {
    let told = world.plan.told.as_ref()?;
    let heard = plane.hearing.hear(world, told, word);
    match heard.and_then(|user| if here(&user) { Ok(user) } else { Err(Untold::Elsewhere) }) {
        Ok(user) => {
            plane.counters.words_heard.up();
            Some(user)
        }
        Err(why) => {
            told::refuse(plane, why);
            None
        }
    }
}

/// Whether a name and port are our own site's, when the snapshot lists it.
fn is_own(world: &World, host: &str, port: u16) -> bool {
    let me = world.plan.site(&world.tls.me().name);
    me.is_none_or(|me| world.plan.find(host, port).is_some_and(|site| site.name == me.name))
}

/// Serves a stream that `servlet` opened on our dial-out connection, whose streams share `crowd`.
pub(crate) async fn serve_stream(
    plane: Arc<Plane>,
    servlet: PeerName,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    crowd: Arc<Crowd>,
) {
    if request.method() != Method::CONNECT {
        return hop::refuse(respond, ProxyError::Malformed);
    }
    let Some(held) = plane.carried.hold(&servlet) else {
        plane.counters.tunnels_cut.up();
        return hop::refuse(respond, ProxyError::Limit); // other servlets are asked, this one not again
    };
    let Some(world) = plane.world() else { return hop::refuse(respond, ProxyError::Unavailable) };
    let target = request.uri().authority().and_then(|a| Some((a.host().to_ascii_lowercase(), a.port_u16()?)));
    let target = target.filter(|(host, port)| is_own(&world, host, *port));
    let Some((host, port, origin)) = target.and_then(|(host, port)| Some((host, port, origin::at(&plane, port, false)?))) else {
        plane.counters.refused_target.up();
        return hop::refuse(respond, ProxyError::Refused);
    };
    let mut user = None;
    if world.plan.told.is_some() {
        let word = hop::read_word(request.headers()).flatten();
        let here = |user: &TunnelUser| user.word.host == host && user.word.port == port;
        match hear(&plane, &world, word.as_deref(), here) {
            Some(heard) => user = Some(heard),
            None => return hop::refuse(respond, ProxyError::Limit),
        }
    }
    drop(world);
    let source = Source::h2(request.into_body());
    match origin::open(&plane, origin, user).await {
        Ok(opened) => {
            let Ok(sink) = respond.send_response(Response::new(()), false) else { return };
            drop(respond);
            carry(&plane, &held, Tunnel { source, sink: Sink::shared(sink, crowd) }, opened).await;
        }
        Err(error) => {
            plane.counters.tunnels_failed.up();
            hop::refuse(respond, error);
        }
    }
}
