//! Serves connections that nodes, sites and admins made to us.

use crate::crowd::Crowd;
use crate::plane::{Plane, World};
use crate::{control, dial, dialout, hop};
use bytes::Bytes;
use http::{Method, Response};
use polder_tls::{Accepted, Alpn, Corked};
use polder_types::{Identity, Kind};
use std::net::IpAddr;
use std::sync::Arc;

/// Serves one accepted connection of anybody but a user, until it ends. What its certificate says decides what it may do:
/// nodes open tunnels and call, sites dial out and call, admins call.
pub async fn serve(plane: Arc<Plane>, world: Arc<World>, peer: Arc<Identity>, alpn: Alpn, source: IpAddr, stream: Accepted) {
    match alpn {
        Alpn::DialOut if peer.kind == Kind::Site => dialout::hold(plane, world, peer, stream).await,
        Alpn::H2 => streams(plane, world, peer, source, stream).await,
        Alpn::DialOut | Alpn::H1 => {
            plane.counters.identities_refused.up();
            plane.refused("identity", "this kind of identity does not speak this protocol", peer.uri.to_string(), Some(source));
        }
    }
}

async fn streams(plane: Arc<Plane>, world: Arc<World>, peer: Arc<Identity>, source: IpAddr, stream: Accepted) {
    let handshake = dial::server(&world.plan.limits).handshake::<_, Bytes>(Corked::new(stream)).await;
    let crowd = Crowd::new(&plane, &world.plan.limits);
    drop(world); // a connection must not keep an old snapshot alive
    let Ok(mut connection) = handshake else { return };
    let (mut draining, mut leaving) = (plane.draining(), false);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = async { _ = draining.wait_for(|draining| *draining).await.is_ok() }, if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, mut respond))) = accepted else { return };
        let (plane, peer) = (plane.clone(), peer.clone());
        if request.method() != Method::CONNECT {
            tokio::spawn(control::serve(plane, peer, source, request, respond));
        } else if peer.kind == Kind::Node {
            tokio::spawn(hop::serve(plane, peer, request, respond, crowd.clone()));
        } else {
            let mut response = Response::new(());
            *response.status_mut() = http::StatusCode::FORBIDDEN;
            let _ = respond.send_response(response, true);
        }
    }
}
