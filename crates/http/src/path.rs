//! Opens the next step of a tunnel: one candidate after the other, until one answers.
//!
//! Early data: what the client sends meanwhile travels right behind the request. It is kept, up to `Limits::replay_bytes`,
//! to be said again to the next candidate; when the bound is reached the client waits.
//!
//! Deadlines: the asker says how long it waits. A candidate that is not the last gets four times what opening through it
//! lately took plus a floor for lost packets, and never more than leaves time for another.

use crate::hop::{HopRequest, error_of};
use crate::link::{Lane, LinkError};
use crate::plane::{Plane, World};
use crate::trace::{self, Context, Span};
use crate::tunnel::{Sink, Source, Tunnel};
use crate::word::Word;
use crate::{deliver, dialout};
use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, Request, StatusCode};
use polder_plan::{Hop, SitePlan, Stage};
use polder_types::{Delivery, Peer, PeerName};
use polder_wire::ProxyError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Added to every estimate: a lost packet costs TCP at least 200 ms (Linux's shortest retransmission time).
const FLOOR: Duration = Duration::from_millis(500);

/// What a kept chunk counts at least: each costs a frame in the queue of the link.
const SMALL: usize = 256;

/// What is wanted from here on.
pub(crate) struct Ask {
    /// The node that asks; `None` at the access point.
    pub(crate) from: Option<PeerName>,
    pub(crate) site: Arc<SitePlan>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) stage: Stage,
    pub(crate) hops: u8,
    pub(crate) within: Duration,
    pub(crate) word: Word,
    pub(crate) trace: Option<Context>,
}

/// What the client has said while no path had answered.
pub(crate) struct Replay {
    kept: Vec<Bytes>,
    size: usize,
    limit: usize,
    ended: bool,
}

impl Replay {
    pub(crate) fn new(limit: u32) -> Self {
        Replay { kept: Vec::new(), size: 0, limit: limit as usize, ended: false }
    }

    fn hungry(&self) -> bool {
        !self.ended && self.size < self.limit
    }
}

/// Opens the next step. Ends when a candidate has accepted, all have failed, or the client has gone.
pub(crate) async fn open(plane: &Arc<Plane>, world: &World, ask: &Ask, client: &mut Source) -> Result<Tunnel, ProxyError> {
    let began = Instant::now();
    let until = began + ask.within;
    let mut replay = Replay::new(world.plan.limits.replay_bytes);
    let candidates = candidates(plane, ask);
    let mut last = ProxyError::Unavailable;
    for (index, hop) in candidates.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ProxyError::Timeout);
        }
        if index > 0 {
            plane.counters.failovers.up();
        }
        let wait = patience(plane, hop, left, index + 1 == candidates.len());
        let attempt = attempt(plane, ask, hop, wait, &mut replay, client);
        match timeout(wait, attempt).await {
            Ok(Ok(tunnel)) => {
                plane.measures.tunnel_open_seconds.took(began.elapsed());
                return Ok(tunnel);
            }
            Ok(Err(Failed::Client)) => return Err(ProxyError::Terminated),
            // The site has spoken: every other path leads to the same answer, later and at everybody's cost.
            Ok(Err(Failed::Path(ProxyError::Refused))) => return Err(ProxyError::Refused),
            Ok(Err(Failed::Path(error))) => last = error,
            Ok(Err(Failed::Link)) => last = ProxyError::Terminated,
            Err(_) => last = ProxyError::Timeout,
        }
    }
    Err(last)
}

/// Candidates in order; those whose link is up first, for the others need a handshake or are down.
fn candidates(plane: &Arc<Plane>, ask: &Ask) -> Vec<Hop> {
    let spread = usize::try_from(plane.counters.tunnels.get()).unwrap_or(0);
    let mut hops = ask.site.route(ask.stage, spread, ask.from.as_deref());
    if ask.hops <= 1 {
        hops.retain(|hop| matches!(hop, Hop::Deliver));
    }
    if hops.len() > 1 {
        hops.sort_by_cached_key(|hop| match hop {
            Hop::Deliver => false,
            Hop::Next(peer, _) => {
                plane.links.wake(plane, peer);
                !plane.links.is_up(peer)
            }
        });
    }
    hops
}

fn patience(plane: &Plane, hop: &Hop, left: Duration, last: bool) -> Duration {
    // Time for the answer to travel back, so that the asker hears our verdict before it gives up on us.
    let left = left.mul_f64(0.9);
    if last {
        return left;
    }
    let measured = match hop {
        Hop::Next(peer, _) => plane.links.open_time(peer),
        Hop::Deliver => None,
    };
    match measured {
        Some(lately) => (lately * 4 + FLOOR).min(left),
        None => (left / 2).max(FLOOR).min(left),
    }
}

/// Why an attempt failed.
pub(crate) enum Failed {
    /// The client went away: no other candidate helps.
    Client,
    /// Another candidate may help.
    Path(ProxyError),
    /// The link broke before an answer.
    Link,
}

impl From<LinkError> for Failed {
    fn from(_: LinkError) -> Self {
        Failed::Path(ProxyError::Unavailable)
    }
}

async fn attempt(
    plane: &Arc<Plane>,
    ask: &Ask,
    hop: &Hop,
    wait: Duration,
    replay: &mut Replay,
    client: &mut Source,
) -> Result<Tunnel, Failed> {
    let span = plane.span(ask.trace, if matches!(hop, Hop::Deliver) { "deliver" } else { "ask" }, "");
    let attempted = match hop {
        Hop::Deliver => deliver(plane, ask, replay, client).await,
        Hop::Next(peer, stage) => {
            let asked = HopRequest {
                site: ask.site.name.to_string(),
                host: ask.host.clone(),
                port: ask.port,
                stage: *stage,
                hops: ask.hops,
                within: wait,
                word: ask.word.say(),
                trace: span.as_ref().map(Span::context).or(ask.trace),
            };
            let request = asked.request().map_err(|_| Failed::Path(ProxyError::Malformed))?;
            through(plane, peer, request, replay, client).await
        }
    };
    if let Some(span) = span {
        span.end(trace::error_of(&attempted));
    }
    attempted
}

/// Through another node.
async fn through(
    plane: &Arc<Plane>,
    peer: &Peer,
    request: Request<()>,
    replay: &mut Replay,
    client: &mut Source,
) -> Result<Tunnel, Failed> {
    ask_node(plane, peer, &request, replay, client, error_of).await
}

/// Asks one node over its bulk lane. When the link breaks under the question it is asked once more over a new one: a link
/// that has just died must not fail a tunnel that has no other candidate.
pub(crate) async fn ask_node(
    plane: &Arc<Plane>,
    peer: &Peer,
    request: &Request<()>,
    replay: &mut Replay,
    client: &mut Source,
    error_of: fn(&HeaderMap) -> ProxyError,
) -> Result<Tunnel, Failed> {
    let mut broken_before = false;
    loop {
        let (response, stream) = plane.links.open_stream(plane, peer, Lane::Bulk, request.clone(), false).await?;
        let began = Instant::now();
        match converse_with(response, stream, replay, client, error_of).await {
            Err(Failed::Link) if !broken_before => broken_before = true,
            Err(Failed::Link) => return Err(Failed::Path(ProxyError::Unavailable)),
            Err(other) => return Err(other),
            Ok(tunnel) => {
                plane.links.note_open_time(peer, began.elapsed());
                return Ok(tunnel);
            }
        }
    }
}

/// Whether the site answered "no", or nothing did.
fn refused(error: std::io::Error) -> Failed {
    let by_the_site = error.kind() == std::io::ErrorKind::ConnectionRefused;
    Failed::Path(if by_the_site { ProxyError::Refused } else { ProxyError::Unavailable })
}

/// Out of the overlay.
async fn deliver(plane: &Arc<Plane>, ask: &Ask, replay: &mut Replay, client: &mut Source) -> Result<Tunnel, Failed> {
    match &ask.site.delivery {
        Some(Delivery::Tcp { address, bind, ports, preface }) => {
            let mut tunnel = deliver::connect(*address, *bind, ports, ask.port).await.map_err(refused)?;
            if *preface {
                let said = deliver::preface(&mut tunnel, ask.word.say().as_deref()).await;
                said.map_err(|_| Failed::Path(ProxyError::Terminated))?;
            }
            for chunk in &replay.kept {
                tunnel.sink.send(chunk.clone()).await.map_err(|_| Failed::Path(ProxyError::Terminated))?;
            }
            Ok(tunnel)
        }
        Some(Delivery::DialOut) => {
            let request =
                dialout::request(&ask.host, ask.port, ask.word.say()).map_err(|_| Failed::Path(ProxyError::Malformed))?;
            let (response, stream) = plane.dialouts.open(plane, &ask.site.name, request).await?;
            converse(response, stream, replay, client).await
        }
        None => Err(Failed::Path(ProxyError::Unavailable)),
    }
}

/// Says the client's first bytes while waiting for a node's answer.
pub(crate) async fn converse(
    response: ResponseFuture,
    stream: SendStream<Bytes>,
    replay: &mut Replay,
    client: &mut Source,
) -> Result<Tunnel, Failed> {
    converse_with(response, stream, replay, client, error_of).await
}

/// As [`converse`]; `error_of` reads a refusal.
pub(crate) async fn converse_with(
    mut response: ResponseFuture,
    mut stream: SendStream<Bytes>,
    replay: &mut Replay,
    client: &mut Source,
    error_of: fn(&HeaderMap) -> ProxyError,
) -> Result<Tunnel, Failed> {
    // A reset is the peer's answer; anything else is the connection's end.
    let broken = |e: h2::Error| if e.is_reset() { Failed::Path(ProxyError::Unavailable) } else { Failed::Link };
    // Not waiting for window: h2 keeps what does not fit yet, and the amount is bounded by the replay limit.
    for chunk in &replay.kept {
        stream.send_data(chunk.clone(), false).map_err(broken)?;
    }
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut response => break answer.map_err(broken)?,
            chunk = client.next(), if replay.hungry() => match chunk {
                Some(Ok(chunk)) => {
                    replay.size += chunk.len().max(SMALL);
                    replay.kept.push(chunk.clone());
                    stream.send_data(chunk, false).map_err(broken)?;
                }
                Some(Err(_)) => return Err(Failed::Client),
                None => replay.ended = true, // the pump meets the end again and passes it on
            },
        }
    };
    if answer.status() != StatusCode::OK {
        return Err(Failed::Path(error_of(answer.headers())));
    }
    Ok(Tunnel { source: Source::h2(answer.into_body()), sink: Sink::H2(stream) })
}
