//! One attempt to make a connection to a node.

use crate::crowd::Crowd;
use crate::hearing::Hearing;
use crate::link::{Lane, LinkError, Live};
use crate::plane::{Plane, World};
use crate::{dialout, relay};
use bytes::Bytes;
use h2::{Ping, PingPong};
use polder_tls::{ALPN_DIALOUT, ALPN_H2, Connected, Corked, Expected, HandshakeError};
use polder_types::{Identity, Limits};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Largest DATA frame we take: four full TLS records with its head.
pub(crate) const FRAME: u32 = polder_tls::FRAME as u32;
/// Largest header list we take.
pub(crate) const HEADERS: u32 = 16 * 1024;
/// Bytes that one stream may have waiting to be sent.
const SEND_BUFFER: usize = 4 * polder_tls::FRAME;
/// Streams of a link that may wait for their reset to be noticed: users give up often and must not cost others their link.
const RESETS: usize = 4096;

/// What small DATA frames that wait may cost, by h2's count of 256 bytes each: a million of them before the link is closed.
const SMALL_FRAMES: usize = 256 << 20;

/// What dialling yields.
pub(crate) struct Dialled {
    pub(crate) live: Live,
    pub(crate) peer: Identity,
    pub(crate) pings: Option<PingPong>,
    pub(crate) task: JoinHandle<()>,
    pub(crate) rtt: Duration,
}

/// Dials, shakes hands, and waits for the first PING's answer.
pub(crate) async fn dial(plane: &Arc<Plane>, expected: &Expected, address: SocketAddr, lane: Lane) -> Result<Dialled, LinkError> {
    let world = plane.world().ok_or_else(|| LinkError::new("no snapshot is in force yet"))?;
    let wait = Duration::from_millis(u64::from(world.plan.limits.header_timeout_ms));
    let attempt = async {
        let alpn = if lane == Lane::DialOut { ALPN_DIALOUT } else { ALPN_H2 };
        let (stream, peer) = handshake(plane, &world, expected, address, alpn).await?;
        match lane {
            Lane::DialOut => serve(plane, &world, stream, peer).await,
            Lane::Bulk | Lane::Control => open(plane, &world, stream, peer).await,
        }
    };
    timeout(wait, attempt).await.unwrap_or_else(|_| Err(LinkError::new(format!("no answer from {address} in time"))))
}

async fn handshake(
    plane: &Plane,
    world: &World,
    expected: &Expected,
    address: SocketAddr,
    alpn: &[u8],
) -> Result<(Connected, Identity), LinkError> {
    let socket = TcpStream::connect(address).await.map_err(|e| LinkError::new(format!("{address}: {e}")))?;
    socket.set_nodelay(true).map_err(LinkError::new)?;
    world.tls.connect(socket, expected, alpn).await.map_err(|e| {
        if let HandshakeError::Rejected(rejected) = &e {
            plane.counters.identities_refused.up();
            let what = if matches!(rejected, polder_tls::Rejected::Unexpected { .. }) { "identity" } else { "certificate" };
            plane.refused(what, rejected.to_string(), expected.name.to_string(), Some(address.ip()));
        }
        LinkError::new(format!("{address}: {e}"))
    })
}

/// We open the streams.
async fn open(plane: &Arc<Plane>, world: &World, stream: Connected, peer: Identity) -> Result<Dialled, LinkError> {
    let (stream, heard) = Hearing::new(Corked::new(stream));
    let (send, mut connection) = client(&world.plan.limits).handshake::<_, Bytes>(stream).await.map_err(LinkError::new)?;
    let mut pings = connection.ping_pong();
    let task = plane.registry.spawn(Arc::new(peer.clone()), async move {
        let _ = connection.await;
    });
    still_believed(plane, &peer)?;
    let rtt = first_ping(&mut pings).await?;
    Ok(Dialled { live: Live::new(Some(send), heard, Crowd::new(plane, &world.plan.limits)), peer, pings, task, rtt })
}

/// The servlet opens the streams (dial-out): TLS client, HTTP/2 server.
async fn serve(plane: &Arc<Plane>, world: &World, stream: Connected, peer: Identity) -> Result<Dialled, LinkError> {
    let (stream, heard) = Hearing::new(Corked::new(stream));
    let mut connection = server(&world.plan.limits).handshake::<_, Bytes>(stream).await.map_err(LinkError::new)?;
    let mut pings = connection.ping_pong();
    let here = plane.clone();
    let crowd = Crowd::new(plane, &world.plan.limits);
    let servlet = peer.name.clone();
    let (wanted, mut unwanted) = oneshot::channel::<()>();
    let live = Live::serving(wanted, heard, crowd.clone());
    let used_up = live.used_up.clone();
    let task = plane.registry.spawn(Arc::new(peer.clone()), async move {
        let _open = here.counters.dialouts_open.hold();
        let (mut draining, mut leaving) = (here.draining(), false);
        loop {
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                () = async { _ = draining.wait_for(|draining| *draining).await.is_ok() }, if !leaving => {
                    leaving = true;
                    connection.graceful_shutdown();
                    continue;
                }
                // Replaced or dismissed: what is open ends in its own time, then the connection.
                _ = &mut unwanted, if !leaving => {
                    leaving = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            match accepted {
                Some(Ok((request, respond))) if dialout::is_farewell(&request) => {
                    used_up.notify_one();
                    dialout::part(respond);
                }
                Some(Ok((request, respond))) => {
                    drop(tokio::spawn(relay::serve_stream(here.clone(), servlet.clone(), request, respond, crowd.clone())));
                }
                Some(Err(_)) | None => return,
            }
        }
    });
    still_believed(plane, &peer)?;
    let rtt = first_ping(&mut pings).await?;
    Ok(Dialled { live, peer, pings, task, rtt })
}

/// The list may have changed during the handshake; the connection is in the registry now, which sees every later change.
fn still_believed(plane: &Plane, peer: &Identity) -> Result<(), LinkError> {
    match plane.world() {
        Some(world) if world.tls.is_revoked(peer) => {
            plane.cut_unworthy(&world);
            Err(LinkError::new(format!("{} is revoked", peer.uri)))
        }
        _ => Ok(()),
    }
}

async fn first_ping(pings: &mut Option<PingPong>) -> Result<Duration, LinkError> {
    let sent = Instant::now();
    match pings {
        Some(pings) => pings.ping(Ping::opaque()).await.map(|_| sent.elapsed()).map_err(LinkError::new),
        None => Ok(Duration::ZERO),
    }
}

/// HTTP/2 settings of the end that opens streams.
pub(crate) fn client(limits: &Limits) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.link_window)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(limits.streams_per_link as usize)
        .max_concurrent_reset_streams(RESETS)
        .data_frame_budget(SMALL_FRAMES)
        .enable_push(false);
    builder
}

/// HTTP/2 settings of the end that accepts streams.
pub(crate) fn server(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.link_window)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams_per_link)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .data_frame_budget(SMALL_FRAMES);
    builder
}
