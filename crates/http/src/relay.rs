//! Site role: from the inner address, or from a servlet's stream, to the origin.

use crate::carried::Held;
use crate::hop;
use crate::plane::Plane;
use crate::pump::{End, Terms, pump};
use crate::tunnel::{Sink, Source, Tunnel};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use polder_types::PeerName;
use polder_wire::ProxyError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The origin for a port that was asked for. A single origin takes every port that a listener has.
fn origin(plane: &Plane, port: u16, listener: bool) -> Option<SocketAddr> {
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

/// Carries one stream that came over a servlet, until its end or until that servlet is cut.
async fn carry(plane: &Plane, held: &Held<'_>, near: Tunnel, far: Tunnel, terms: Terms) {
    let _open = plane.counters.tunnels_open.hold();
    plane.counters.tunnels.up();
    match held.carry(pump(near, far, terms, plane.meter())).await {
        Some(End::Idle) => plane.counters.tunnels_idle.up(),
        Some(End::Finished | End::Broken) => {}
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
    let near = Tunnel::tcp(socket);
    let Some(origin) = origin(&plane, local.port(), true) else {
        plane.counters.refused_target.up();
        return;
    };
    match reach(&plane, origin).await {
        Ok((far, terms)) => carry(&plane, &held, near, far, terms).await,
        Err(_) => {
            plane.counters.tunnels_failed.up(); // dropping `near` resets it, which the servlet can tell from an empty answer
        }
    }
}

/// Serves a stream that `servlet` opened on our dial-out connection.
pub(crate) async fn serve_stream(
    plane: Arc<Plane>,
    servlet: PeerName,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    if request.method() != Method::CONNECT {
        return hop::refuse(respond, ProxyError::Malformed);
    }
    let Some(held) = plane.carried.hold(&servlet) else {
        plane.counters.tunnels_cut.up();
        return hop::refuse(respond, ProxyError::Unavailable);
    };
    let target = request.uri().authority().and_then(|a| Some((a.host().to_ascii_lowercase(), a.port_u16()?)));
    let own = |(host, port): (String, u16)| {
        // Only our own site's names, when the snapshot lists it; the port must have an origin in any case.
        let world = plane.world()?;
        let me = world.plan.site(&world.tls.me().name);
        let named = me.is_none_or(|me| world.plan.find(&host, port).is_some_and(|site| site.name == me.name));
        named.then(|| origin(&plane, port, false)).flatten()
    };
    let Some(origin) = target.and_then(own) else {
        plane.counters.refused_target.up();
        return hop::refuse(respond, ProxyError::Unavailable);
    };
    let source = Source::h2(request.into_body());
    match reach(&plane, origin).await {
        Ok((far, terms)) => {
            let Ok(sink) = respond.send_response(Response::new(()), false) else { return };
            drop(respond);
            carry(&plane, &held, Tunnel { source, sink: Sink::H2(sink) }, far, terms).await;
        }
        Err(error) => {
            plane.counters.tunnels_failed.up();
            hop::refuse(respond, error);
        }
    }
}
