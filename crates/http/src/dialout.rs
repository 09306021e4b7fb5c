//! Sites' agents that dialled this node and take streams on that connection: nothing inbound is open at the site.

use crate::dial;
use crate::link::LinkError;
use crate::plane::{Plane, World};
use crate::word;
use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request, Uri};
use polder_tls::Accepted;
use polder_types::{Event, Identity, SiteName};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that one site may hold open to this node: one per process of its agent, with room for a restart.
const PER_SITE: usize = 8;

type Agents = HashMap<SiteName, Vec<(u64, SendRequest<Bytes>)>>;

/// Agents by site.
#[derive(Default)]
pub(crate) struct DialOuts {
    agents: Mutex<Agents>,
    numbers: AtomicU64,
}

/// What an agent is asked: a CONNECT to one of its own host names and ports.
pub(crate) fn request(host: &str, port: u16, word: Option<Arc<str>>) -> Result<Request<()>, http::Error> {
    let mut request = Request::builder().method(Method::CONNECT).uri(format!("{host}:{port}").parse::<Uri>()?);
    if let Some(word) = word {
        request = request.header(word::FIELD, &*word);
    }
    request.body(())
}

impl DialOuts {
    /// Opens a stream to the site's agent, the one that connected last first.
    pub(crate) async fn open(
        &self,
        site: &SiteName,
        request: Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), LinkError> {
        let agents = self.lock().get(site).cloned().unwrap_or_default();
        for (_, agent) in agents.into_iter().rev() {
            if let Ok(mut agent) = agent.ready().await {
                return agent.send_request(request, false).map_err(LinkError::new);
            }
        }
        Err(LinkError::new("the site's agent has not dialled this node"))
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
    let handshake = dial::client(&world.plan.limits).handshake::<_, Bytes>(stream).await;
    drop(world); // a connection must not keep an old snapshot alive
    let Ok((send, connection)) = handshake else { return };
    let id = plane.dialouts.numbers.fetch_add(1, Relaxed);
    {
        let mut agents = plane.dialouts.lock();
        let held = agents.entry(site.name.clone()).or_default();
        if held.len() >= PER_SITE {
            plane.counters.refused_limit.up();
            return;
        }
        held.push((id, send));
        if held.len() == 1 {
            plane.emit(Event::DialOut { site: site.name.to_string(), up: true });
        }
    }
    let _gone = Gone { plane: &plane, site: &site.name, id };
    let _open = plane.counters.dialouts_open.hold();
    let _ = connection.await;
}

/// Forgets an agent whose connection has ended, also when the task that held it is cut.
struct Gone<'a> {
    plane: &'a Plane,
    site: &'a SiteName,
    id: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let mut agents = self.plane.dialouts.lock();
        if let Some(held) = agents.get_mut(self.site) {
            held.retain(|(id, _)| *id != self.id);
            if held.is_empty() {
                agents.remove(self.site);
                self.plane.emit(Event::DialOut { site: self.site.to_string(), up: false });
            }
        }
    }
}
