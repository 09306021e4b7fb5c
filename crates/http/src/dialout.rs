//! Sites' agents that dialled this node and take streams on that connection: nothing inbound is open at the site.

use crate::dial;
use crate::link::LinkError;
use crate::plane::{Plane, World};
use crate::word;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, Uri};
use polder_tls::{Accepted, Corked};
use polder_types::{Event, Identity, SiteName};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Connections that one site may hold open to this node: one per process of its agent, with room for a restart.
const PER_SITE: usize = 8;

/// Where a servlet's farewell goes.
const FAREWELL: &str = "https://site/polder/v1/farewell";

type Agents = HashMap<SiteName, Vec<Agent>>;

#[derive(Clone)]
struct Agent {
    id: u64,
    who: Arc<Identity>,
    send: SendRequest<Bytes>,
    /// Told when a newer connection has taken its place.
    replaced: Arc<Notify>,
}

impl Agent {
    /// Whether `newer` is the same agent with a renewed certificate: this connection then ends with its last stream.
    fn is_replaced_by(&self, newer: &Identity) -> bool {
        self.who.key_hash == newer.key_hash && self.who.not_after < newer.not_after
    }
}

/// How long a stream waits for an agent that is expected: it dials again at once when a connection of it ends.
const EXPECT: Duration = Duration::from_millis(500);
/// For so long after a site lost its last agent, or after this process began, one is expected.
const RECENT: Duration = Duration::from_secs(5);

/// Agents by site.
pub(crate) struct DialOuts {
    agents: Mutex<Agents>,
    numbers: AtomicU64,
    came: Notify,
    /// When a site was last left without an agent; at first, the birth of this process.
    bereft: Mutex<Instant>,
}

impl Default for DialOuts {
    fn default() -> Self {
        let (agents, numbers, came) = Default::default();
        DialOuts { agents, numbers, came, bereft: Mutex::new(Instant::now()) }
    }
}

/// What an agent is asked: a CONNECT to one of its own host names and ports.
pub(crate) fn request(host: &str, port: u16, word: Option<Arc<str>>) -> Result<Request<()>, http::Error> {
    let mut request = Request::builder().method(Method::CONNECT).uri(format!("{host}:{port}").parse::<Uri>()?);
    if let Some(word) = word {
        request = request.header(word::FIELD, word::value(&word)?);
    }
    request.body(())
}

impl DialOuts {
    /// Opens a stream to the site's agent, the one that connected last first. Waits a moment for one that is expected.
    pub(crate) async fn open(
        &self,
        plane: &Plane,
        site: &SiteName,
        request: Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), LinkError> {
        let until = Instant::now() + EXPECT;
        loop {
            let mut came = pin!(self.came.notified());
            came.as_mut().enable();
            let agents = self.lock().get(site).cloned().unwrap_or_default();
            for agent in agents.into_iter().rev() {
                match agent.send.ready().await {
                    Ok(mut ready) => return ready.send_request(request, false).map_err(LinkError::new),
                    // It said goodbye: what is open on it ends in its time.
                    Err(_) if self.forget(site, agent.id) => plane.emit(Event::DialOut { site: site.to_string(), up: false }),
                    Err(_) => {}
                }
            }
            let expected = self.bereft.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < RECENT;
            if !expected || timeout_at(until, came).await.is_err() {
                return Err(LinkError::new("the site's agent has not dialled this node"));
            }
        }
    }

    /// Forgets one agent; says whether it was the site's last.
    fn forget(&self, site: &SiteName, id: u64) -> bool {
        let mut agents = self.lock();
        let Some(held) = agents.get_mut(site) else { return false };
        held.retain(|agent| agent.id != id);
        let last = held.is_empty();
        if last {
            agents.remove(site);
            *self.bereft.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        last
    }

    /// Sites with an agent connected now.
    pub(crate) fn sites(&self) -> Vec<SiteName> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Agents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds a site's connection until it ends.
pub(crate) async fn hold(plane: Arc<Plane>, world: Arc<World>, site: Arc<Identity>, stream: Accepted) {
    let handshake = dial::client(&world.plan.limits).handshake::<_, Bytes>(Corked::new(stream)).await;
    drop(world); // a connection must not keep an old snapshot alive
    let Ok((send, connection)) = handshake else { return };
    let id = plane.dialouts.numbers.fetch_add(1, Relaxed);
    let replaced = Arc::new(Notify::new());
    {
        let mut agents = plane.dialouts.lock();
        let held = agents.entry(site.name.clone()).or_default();
        if held.len() >= PER_SITE {
            // Those that have said goodbye count no longer. Whether they have, only asking tells.
            held.retain_mut(|agent| {
                !matches!(agent.send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
            });
        }
        if held.len() >= PER_SITE {
            plane.counters.refused_limit.up();
            return;
        }
        if held.is_empty() {
            plane.emit(Event::DialOut { site: site.name.to_string(), up: true });
        }
        held.retain(|agent| {
            let stays = !agent.is_replaced_by(&site);
            if !stays {
                agent.replaced.notify_one();
            }
            stays
        });
        held.push(Agent { id, who: site.clone(), send: send.clone(), replaced: replaced.clone() });
    }
    plane.dialouts.came.notify_waiters();
    let _gone = Gone { plane: &plane, site: &site.name, id };
    let _open = plane.counters.dialouts_open.hold();
    let (mut draining, mut connection) = (plane.draining(), pin!(connection));
    tokio::select! {
        _ = &mut connection => return,
        () = replaced.notified() => {
            drop(send); // the last handle: the connection closes when its last stream has ended
            let _ = connection.await;
            return;
        }
        () = async { _ = draining.wait_for(|draining| *draining).await.is_ok() } => {}
    }
    plane.dialouts.forget(&site.name, id);
    // With the last handle gone, the connection closes when its last stream has ended.
    let _ = tokio::join!(connection, say_farewell(send));
}

/// Tells the agent that this node is leaving, so that it dials anew. GOAWAY would say nothing: the agent opens no streams.
async fn say_farewell(agent: SendRequest<Bytes>) {
    let Ok(request) = Request::builder().method(Method::POST).uri(FAREWELL).body(()) else { return };
    let Ok(mut agent) = agent.ready().await else { return };
    if let Ok((answer, _)) = agent.send_request(request, true) {
        let _ = answer.await;
    }
}

/// Whether a servlet's request says that it is leaving.
pub(crate) fn is_farewell(request: &Request<RecvStream>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/polder/v1/farewell"
}

/// Answers a farewell.
pub(crate) fn part(mut respond: SendResponse<Bytes>) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let _ = respond.send_response(response, true);
}

/// Forgets an agent whose connection has ended, also when the task that held it is cut.
struct Gone<'a> {
    plane: &'a Plane,
    site: &'a SiteName,
    id: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if self.plane.dialouts.forget(self.site, self.id) {
            self.plane.emit(Event::DialOut { site: self.site.to_string(), up: false });
        }
    }
}
