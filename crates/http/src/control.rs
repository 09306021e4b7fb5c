//! Control calls: small questions between control planes, on links of their own lane.
//!
//! `POST /polder/v1/<method>` with a MessagePack body, at most 1 MiB. The native side knows neither methods nor bodies: it
//! hands a call to Python through a bounded queue, and answers 503 at once when that is full and 504 when Python is late.

use crate::link::{Lane, LinkError};
use crate::plane::{Plane, unix_now};
use crate::spread::order::{AskTicket, WantTicket};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use polder_types::{CallId, Event, Identity, Kind, Peer};
use serde_bytes::ByteBuf;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Largest body either way.
pub const BODY: usize = 1 << 20;
/// Path of every method.
const PREFIX: &str = "/polder/v1/";

/// An answer: HTTP status and body.
pub type Answer = (u16, Bytes);

/// Calls that wait for Python, and the numbers of calls.
pub struct Calls {
    waiting: Mutex<HashMap<CallId, oneshot::Sender<Answer>>>,
    numbers: AtomicU64,
    most: usize,
}

impl Calls {
    pub(crate) fn new(most: usize) -> Self {
        Calls { waiting: Mutex::default(), numbers: AtomicU64::new(1), most }
    }

    /// Python's answer. A late one finds nobody and is dropped.
    pub fn answer(&self, id: CallId, status: u16, body: Bytes) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(waiting) = waiting {
            let _ = waiting.send((status, body));
        }
    }

    /// A number for a new call, inbound or outbound.
    pub fn number(&self) -> CallId {
        self.numbers.fetch_add(1, Relaxed)
    }

    /// Nodes may use every place; sites and admins leave a quarter to ring maintenance.
    fn wait(&self, kind: Kind) -> Option<(CallId, oneshot::Receiver<Answer>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let most = if kind == Kind::Node { self.most } else { self.most - self.most / 4 };
        if waiting.len() >= most {
            return None;
        }
        let id = self.number();
        let (send, receive) = oneshot::channel();
        waiting.insert(id, send);
        Some((id, receive))
    }

    fn forget(&self, id: CallId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// Forgets a call also when its stream is cut while it waits.
struct Waiting<'a>(&'a Calls, CallId);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1);
    }
}

/// Serves one call of a peer.
pub(crate) async fn serve(
    plane: Arc<Plane>,
    peer: Arc<Identity>,
    source: IpAddr,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    plane.counters.calls_in.up();
    let (status, body) = take(&plane, &peer, source, request).await;
    let Ok(response) = Response::builder().status(status).body(()) else { return };
    if let Ok(mut stream) = respond.send_response(response, body.is_empty())
        && !body.is_empty()
    {
        let _ = stream.send_data(body, true);
    }
}

async fn take(plane: &Plane, peer: &Identity, source: IpAddr, request: Request<RecvStream>) -> Answer {
    let text = |status, text: &'static str| (status, Bytes::from_static(text.as_bytes()));
    if peer.kind == Kind::User {
        return text(403, "users make no control calls");
    }
    let Some(method) = method_of(request.uri().path()).map(str::to_owned) else {
        return text(404, "no such method");
    };
    if request.method() != Method::POST {
        return text(405, "control calls are POST");
    }
    let deadline = plane.config.call_timeout;
    let body = match timeout(deadline, collect(request.into_body())).await {
        Ok(Ok(body)) => body,
        Ok(Err(why)) => return why,
        Err(_) => return text(408, "the body came too slowly; try again"),
    };
    hand(plane, peer, source, method, body).await
}

/// Asks the control plane, and waits for its answer.
async fn hand(plane: &Plane, peer: &Identity, source: IpAddr, method: String, body: Vec<u8>) -> Answer {
    let text = |status, text: &'static str| (status, Bytes::from_static(text.as_bytes()));
    let Some((id, answer)) = plane.calls.wait(peer.kind) else {
        plane.counters.calls_busy.up();
        return text(503, "this node is busy; try again shortly");
    };
    let _waiting = Waiting(&plane.calls, id);
    let source = source.to_string();
    let call = Event::Call { id, kind: peer.kind, name: peer.name.to_string(), ring_id: peer.ring_id, source, method, body };
    if !plane.offer(call) {
        plane.counters.calls_busy.up();
        return text(503, "this node is busy; try again shortly");
    }
    match timeout(plane.config.call_timeout, answer).await {
        Ok(Ok((status, body))) if (200..600).contains(&status) && body.len() <= BODY => (status, body),
        Ok(_) => text(500, "this node's control plane gave no usable answer"),
        Err(_) => {
            plane.counters.calls_late.up();
            text(504, "this node's control plane did not answer in time; try again shortly")
        }
    }
}

/// Most bytes of what a user may ask.
const USER_BODY: usize = 1024;

/// A user's request for a ticket of the spread plane: who may, and for what, is checked here; the rest is the control plane's.
pub(crate) async fn ticket(plane: &Plane, who: &Identity, source: IpAddr, body: RecvStream) -> Answer {
    let text = |status, text: &'static str| (status, Bytes::from_static(text.as_bytes()));
    let deadline = plane.config.call_timeout;
    let body = match timeout(deadline, collect(body)).await {
        Ok(Ok(body)) if body.len() <= USER_BODY => body,
        Ok(Ok(_)) => return text(413, "a request for a ticket is short"),
        Ok(Err(why)) => return why,
        Err(_) => return text(408, "the body came too slowly; try again"),
    };
    let Ok(asked) = polder_types::decode::<AskTicket>(&body) else { return text(400, "this is no request for a ticket") };
    let Some(world) = plane.world() else { return text(503, "this access point is starting; try again shortly") };
    let site = match world.plan.admit(who, &asked.host, asked.port, unix_now()) {
        Ok(site) => site,
        Err(_) => {
            plane.counters.refused_access.up();
            return text(403, "no site that admits you registered this name and port");
        }
    };
    let wanted = WantTicket {
        site: site.name.clone(),
        user: who.uri.clone(),
        key: ByteBuf::from(who.key_hash.to_vec()),
        not_after: who.not_after,
        renews: asked.renews,
        redundancy: asked.redundancy,
    };
    drop(world);
    hand(plane, who, source, "ticket".into(), polder_types::encode(&wanted)).await
}

/// The method in a path: 1 to 64 of `[a-z0-9._-]` and `/`.
fn method_of(path: &str) -> Option<&str> {
    let method = path.strip_prefix(PREFIX)?;
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-' | b'/');
    ((1..=64).contains(&method.len()) && method.bytes().all(good)).then_some(method)
}

async fn collect(mut stream: RecvStream) -> Result<Vec<u8>, Answer> {
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.map_err(|_| (400, Bytes::from_static(b"the body was cut")))?;
        let _ = stream.flow_control().release_capacity(chunk.len());
        if body.len() + chunk.len() > BODY {
            return Err((413, Bytes::from_static(b"a body has at most 1 MiB")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.to_vec())
}

/// Calls `method` at `peer`; the answer becomes an event with number `id`. Ends within `wait`.
pub async fn call(plane: Arc<Plane>, id: CallId, peer: Peer, method: String, body: Bytes, wait: Duration) {
    plane.counters.calls_out.up();
    let asked = timeout(wait, ask(&plane, &peer, &method, body)).await;
    let (status, body) = match asked {
        Ok(Ok((status, body))) => (status, body),
        Ok(Err(why)) => (0, why.0.as_bytes().to_vec()),
        Err(_) => (0, format!("{} did not answer in time", peer.name).into_bytes()),
    };
    if status == 0 {
        plane.counters.calls_failed.up();
    }
    plane.emit(Event::Answer { id, status, body });
}

async fn ask(plane: &Arc<Plane>, peer: &Peer, method: &str, body: Bytes) -> Result<(u16, Vec<u8>), LinkError> {
    if body.len() > BODY {
        return Err(LinkError::new("a body has at most 1 MiB"));
    }
    if method_of(&format!("{PREFIX}{method}")).is_none() {
        return Err(LinkError::new("a method has 1 to 64 characters of a-z, 0-9, '.', '_', '-' and '/'"));
    }
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://{}.node{PREFIX}{method}", peer.name))
        .body(())
        .map_err(LinkError::new)?;
    let (response, mut stream) = plane.links.open_stream(plane, peer, Lane::Control, request, body.is_empty()).await?;
    if !body.is_empty() {
        stream.send_data(body, true).map_err(LinkError::new)?;
    }
    let response = response.await.map_err(LinkError::new)?;
    let status = response.status().as_u16();
    let body = collect(response.into_body()).await;
    body.map(|body| (status, body)).map_err(|(_, why)| LinkError::new(String::from_utf8_lossy(&why)))
}
