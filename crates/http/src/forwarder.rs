//! The forwarder's [`Opener`]: from a user's own machine to an access point, over a warm link.
//!
//! The access point that answers fastest is asked first; another is asked when it does not answer in time or cannot. What the
//! client says meanwhile is kept and said again, so that the browser notices nothing.

use crate::path::{Failed, Replay, ask_node};
use crate::plane::{Plane, World};
use crate::trace::{self, Context, Span};
use crate::tunnel::{Asker, BoxFuture, Opener, Source, Target, Tunnel};
use http::{HeaderMap, Method, Request, Uri};
use polder_types::Peer;
use polder_wire::{ProxyError, Refusal, parse_proxy_status};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Added to every estimate: a lost packet costs TCP at least 200 ms.
const FLOOR: Duration = Duration::from_millis(500);
/// Round trip assumed of an access point that has not been measured: behind all that have.
const UNMEASURED: Duration = Duration::from_secs(3600);

const NOT_READY: Refusal = Refusal::new(ProxyError::Unavailable, "The forwarder is starting. Try again in a moment.");
const ELSEWHERE: Refusal =
    Refusal::new(ProxyError::Prohibited, "Polder carries only to the sites that it protects; this is not one of them.");

/// Opens tunnels through access points.
pub struct Forwarder {
    plane: Arc<Plane>,
}

impl Forwarder {
    /// An opener over `plane`, whose snapshots carry a `forwarder` part.
    pub fn new(plane: Arc<Plane>) -> Self {
        Forwarder { plane }
    }

    async fn through(
        &self,
        peer: &Peer,
        target: &Target,
        replay: &mut Replay,
        client: &mut Source,
        trace: Option<Context>,
    ) -> Result<Tunnel, Failed> {
        let span = self.plane.span(trace, "ask", "");
        let trace = span.as_ref().map(Span::context).or(trace);
        let request = connect(target, trace).map_err(|_| Failed::Path(ProxyError::Malformed))?;
        let asked = ask_node(&self.plane, peer, &request, replay, client, error_of).await;
        if let Some(span) = span {
            span.end(trace::error_of(&asked));
        }
        asked
    }

    /// Access points, the one with the shortest measured round trip first, unmeasured ones in the operator's order.
    fn ranked(&self, world: &World) -> Vec<Arc<Peer>> {
        let names = world.plan.forwarder.iter().flat_map(|forwarder| &forwarder.access_points);
        let mut peers: Vec<_> = names.filter_map(|name| world.plan.peer(name).cloned()).collect();
        peers.sort_by_cached_key(|peer| self.plane.links.rtt(peer).unwrap_or(UNMEASURED));
        peers
    }

    async fn open(&self, target: &Target, client: &mut Source, trace: Option<Context>) -> Result<Tunnel, Refusal> {
        let world = self.plane.world().ok_or(NOT_READY)?;
        let limits = &world.plan.limits;
        let peers = self.ranked(&world);
        let per_path = Duration::from_millis(u64::from(limits.open_timeout_ms));
        // One more time than one path may take: the first may be dead without saying so.
        let began = Instant::now();
        let until = began + 2 * per_path;
        let mut replay = Replay::new(limits.replay_bytes);
        let mut last = ProxyError::Unavailable;
        for (index, peer) in peers.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            if index > 0 {
                self.plane.counters.failovers.up();
            }
            let wait = match self.plane.links.open_time(peer) {
                _ if index + 1 == peers.len() => left,
                Some(lately) => (4 * lately + FLOOR).min(left),
                None => per_path.min(left),
            };
            last = match timeout(wait, self.through(peer, target, &mut replay, client, trace)).await {
                Ok(Ok(tunnel)) => {
                    self.plane.measures.tunnel_open_seconds.took(began.elapsed());
                    return Ok(tunnel);
                }
                Ok(Err(Failed::Client)) => return Err(refusal(ProxyError::Terminated)),
                Ok(Err(Failed::Path(error))) if is_final(error) => return Err(refusal(error)),
                Ok(Err(Failed::Path(error))) => error,
                Ok(Err(Failed::Link)) => ProxyError::Terminated,
                Err(_) => ProxyError::Timeout,
            };
        }
        self.plane.counters.tunnels_failed.up();
        Err(refusal(last))
    }
}

impl Opener for Forwarder {
    fn admit(&self, _who: &Asker, target: &Target) -> Result<(), Refusal> {
        let world = self.plane.world().ok_or(NOT_READY)?;
        let hosts = world.plan.forwarder.as_ref().map(|forwarder| forwarder.hosts.as_slice()).unwrap_or_default();
        if hosts.iter().any(|pattern| matches(pattern, &target.host)) {
            return Ok(());
        }
        self.plane.counters.refused_target.up();
        Err(ELSEWHERE)
    }

    fn open<'a>(&'a self, who: &'a Asker, target: &'a Target, client: &'a mut Source) -> BoxFuture<'a, Result<Tunnel, Refusal>> {
        self.open_traced(who, target, client, None)
    }

    fn open_traced<'a>(
        &'a self,
        who: &'a Asker,
        target: &'a Target,
        client: &'a mut Source,
        brought: Option<Context>,
    ) -> BoxFuture<'a, Result<Tunnel, Refusal>> {
        Box::pin(async move {
            self.admit(who, target)?;
            let span = self.plane.root(brought, "forwarder");
            let opened = Forwarder::open(self, target, client, span.as_ref().map(Span::context).or(brought)).await;
            if let Some(span) = span {
                span.end(opened.as_ref().err().map(|refusal| refusal.error));
            }
            opened
        })
    }
}

/// Whether `host` is `pattern`, or below the suffix of a pattern `*.suffix`.
fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(suffix) => host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => pattern == host,
    }
}

fn connect(target: &Target, trace: Option<Context>) -> Result<Request<()>, http::Error> {
    let authority = polder_wire::http1::Authority { host: target.host.clone(), port: Some(target.port) };
    let mut request = Request::builder().method(Method::CONNECT).uri(authority.to_string().parse::<Uri>()?);
    if let Some(trace) = trace {
        request = request.header("traceparent", trace.traceparent());
    }
    request.body(())
}

fn error_of(headers: &HeaderMap) -> ProxyError {
    headers.get("proxy-status").and_then(|value| parse_proxy_status(value.as_bytes())).unwrap_or(ProxyError::Unavailable)
}

/// Whether no other access point will say otherwise. One that has not yet heard of a new site prohibits it; another may know.
fn is_final(error: ProxyError) -> bool {
    matches!(error, ProxyError::Denied | ProxyError::Refused | ProxyError::Malformed | ProxyError::Loop)
}

fn refusal(error: ProxyError) -> Refusal {
    let detail = match error {
        ProxyError::Denied => "The site's owner has not admitted you. A retry does not help; ask the owner.",
        ProxyError::Prohibited => "No site registered this name and port with the overlay. Check the address.",
        ProxyError::Limit => "You have too many connections open, or open them too fast. Wait a moment.",
        ProxyError::Timeout => "No access point answered in time. Check your network, then try again.",
        ProxyError::Terminated => "The connection broke before the site answered. Try again.",
        ProxyError::Malformed | ProxyError::Loop => "The access point does not understand the request. Update Polder.",
        ProxyError::Refused => "The site was reached, and takes no connections: it may be down. Try again later.",
        ProxyError::Unavailable | ProxyError::Internal => "No access point could reach the site. Try again in a moment.",
    };
    Refusal::new(error, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_labels() {
        assert!(matches("wiki.example", "wiki.example") && matches("*.example", "a.b.example"));
        for (pattern, host) in
            [("*.example", "example"), ("*.example", ".example"), ("*.example", "badexample"), ("wiki.example", "a.wiki.example")]
        {
            assert!(!matches(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn refusals_of_access_points_keep_their_meaning() {
        for error in [ProxyError::Denied, ProxyError::Prohibited, ProxyError::Limit, ProxyError::Timeout, ProxyError::Internal] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("proxy-status"),
                http::HeaderValue::from_str(&polder_wire::proxy_status(error)).expect("a token"),
            )]);
            assert_eq!(error_of(&headers), error);
        }
        assert_eq!(error_of(&HeaderMap::new()), ProxyError::Unavailable);
        assert!(is_final(ProxyError::Denied) && !is_final(ProxyError::Prohibited) && !is_final(ProxyError::Limit));
    }
}
