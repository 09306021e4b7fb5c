//! The forwarder's [`Opener`]: from a user's own machine to an access point, over a warm link.
//!
//! The access point by which paths open fastest is asked first; another is asked when it does not answer in time or cannot. What the
//! client says meanwhile is kept and said again, so that the browser notices nothing.

use crate::hop::detour_value;
use crate::path;
use crate::plane::{Plane, World};
use crate::race::Guide;
use crate::trace::{Context, Span};
use crate::tunnel::{Asker, BoxFuture, Opener, Source, Target, Tunnel};
use crate::way::Way;
use http::{HeaderMap, Method, Request, Uri};
use polder_plan::Stage;
use polder_types::{PlaneChoice, SiteName};
use polder_wire::detour::{self, Claim};
use polder_wire::{ProxyError, Refusal, parse_proxy_status};
use std::sync::Arc;
use std::time::Duration;

/// How long a tunnel that may go over relays only waits for a session.
const SESSION: Duration = Duration::from_secs(10);

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

    async fn open(&self, target: &Target, client: &mut Source, trace: Option<Context>) -> Result<Tunnel, Refusal> {
        let world = self.plane.world().ok_or(NOT_READY)?;
        match world.plan.forwarder.as_ref().map(|forwarder| forwarder.plane).unwrap_or_default() {
            PlaneChoice::Tunnel => {}
            PlaneChoice::Spread => return self.only_spread(target, client, trace).await,
            PlaneChoice::Auto => match self.plane.users.find(target) {
                None => self.plane.users.want(&self.plane, target),
                Some((_, false)) => {}
                Some((held, true)) => match held.open(&self.plane, target, client, trace).await {
                    Ok(tunnel) => return Ok(self.spread(tunnel)),
                    Err(error) if is_final(error) => return Err(refusal(error)),
                    Err(_) => self.plane.counters.spread_fallbacks.up(),
                },
            },
        }
        self.through_access_points(&world, target, client, trace).await
    }

    fn spread(&self, tunnel: Tunnel) -> Tunnel {
        self.plane.counters.spread_tunnels.up();
        tunnel
    }

    /// Over the relays, or not at all: waits for the session to come up.
    async fn only_spread(&self, target: &Target, client: &mut Source, trace: Option<Context>) -> Result<Tunnel, Refusal> {
        let deadline = tokio::time::Instant::now() + SESSION;
        let mut stirred = self.plane.stirred();
        let mut last = ProxyError::Unavailable;
        loop {
            match self.plane.users.find(target) {
                None => self.plane.users.want(&self.plane, target),
                Some((held, _)) => match held.open(&self.plane, target, client, trace).await {
                    Ok(tunnel) => return Ok(self.spread(tunnel)),
                    Err(error) if is_final(error) => return Err(refusal(error)),
                    Err(error) => last = error,
                },
            }
            let again = tokio::time::Instant::now() + Duration::from_millis(250);
            tokio::select! {
                _ = stirred.changed() => {}
                () = tokio::time::sleep_until(again.min(deadline)) => {}
            }
            if tokio::time::Instant::now() >= deadline {
                self.plane.counters.tunnels_failed.up();
                return Err(Refusal::new(last, "The spread plane does not reach the site now. Use --plane auto, or try again."));
            }
        }
    }

    async fn through_access_points(
        &self,
        world: &World,
        target: &Target,
        client: &mut Source,
        trace: Option<Context>,
    ) -> Result<Tunnel, Refusal> {
        // Longer than an access point tries for the longest path: the first may be dead without saying so.
        let within = Duration::from_millis(u64::from(world.plan.limits.open_timeout_ms)) * 8;
        let entry = Entry { host: target.host.clone(), target: target.clone(), within, trace, detour: None };
        let opened = path::open(&self.plane, Arc::new(entry), client).await;
        opened.map_err(|error| {
            if !is_final(error) && error != ProxyError::Terminated {
                self.plane.counters.tunnels_failed.up();
            }
            refusal(error)
        })
    }
}

/// What is asked of access points.
struct Entry {
    host: Arc<str>,
    target: Target,
    within: Duration,
    trace: Option<Context>,
    detour: Option<Claim>,
}

/// A stream through an access point to the end of a session of the spread plane, for which `claim` was made.
pub(crate) async fn detour(plane: &Arc<Plane>, target: Target, claim: Claim) -> Result<Tunnel, ProxyError> {
    let world = plane.world().ok_or(ProxyError::Unavailable)?;
    let within = Duration::from_millis(u64::from(world.plan.limits.open_timeout_ms)) * 2;
    let entry = Entry { host: target.host.clone(), target, within, trace: None, detour: Some(claim) };
    path::open(plane, Arc::new(entry), &mut Source::silent()).await
}

impl Guide for Entry {
    /// The one by which paths open fastest first, unmeasured and silent ones in the operator's order.
    fn ways(&self, plane: &Arc<Plane>) -> Vec<Way> {
        let Some(world) = plane.world() else { return Vec::new() };
        let names = world.plan.forwarder.iter().flat_map(|forwarder| &forwarder.access_points);
        let known = names.filter_map(|name| world.plan.peer(name).cloned());
        let mut ways: Vec<_> = known.map(|peer| Way::Node(peer, Stage::Entry)).collect();
        ways.sort_by_cached_key(|way| way.entry_distance(plane));
        ways
    }

    fn request(&self, _way: &Way, _within: Duration, trace: Option<Context>) -> Result<Request<()>, http::Error> {
        connect(&self.target, trace, self.detour.as_ref())
    }

    fn trace(&self) -> Option<Context> {
        self.trace
    }

    fn word(&self) -> Option<Arc<str>> {
        None
    }

    fn error_of(&self, headers: &HeaderMap) -> ProxyError {
        error_of(headers)
    }

    fn is_final(&self, error: ProxyError) -> bool {
        is_final(error)
    }

    /// Access points do.
    fn persists(&self) -> bool {
        false
    }

    fn detour(&self) -> Option<Claim> {
        self.detour
    }

    fn site(&self) -> &SiteName {
        &self.host
    }

    fn port(&self) -> u16 {
        self.target.port
    }

    fn within(&self) -> Duration {
        self.within
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

fn connect(target: &Target, trace: Option<Context>, detour: Option<&Claim>) -> Result<Request<()>, http::Error> {
    let authority = polder_wire::http1::Authority { host: target.host.clone(), port: Some(target.port) };
    let mut request = Request::builder().method(Method::CONNECT).uri(authority.to_string().parse::<Uri>()?);
    if let Some(trace) = trace {
        request = request.header("traceparent", trace.traceparent());
    }
    if let Some(claim) = detour {
        request = request.header(detour::FIELD, detour_value(claim)?);
    }
    request.body(())
}

fn error_of(headers: &HeaderMap) -> ProxyError {
    headers.get("proxy-status").and_then(|value| parse_proxy_status(value.as_bytes())).unwrap_or(ProxyError::Unavailable)
}

/// Whether no other access point will say otherwise. One that has not yet heard of a new site prohibits it; another may know.
fn is_final(error: ProxyError) -> bool {
    matches!(error, ProxyError::Denied | ProxyError::Malformed | ProxyError::Loop | ProxyError::Refused)
}

fn refusal(error: ProxyError) -> Refusal {
    let detail = match error {
        ProxyError::Denied => "The site's owner has not admitted you. A retry does not help; ask the owner.",
        ProxyError::Prohibited => "No site registered this name and port with the overlay. Check the address.",
        ProxyError::Limit => "You have too many connections open, or open them too fast. Wait a moment.",
        ProxyError::Refused => "The site was reached, and takes no connections: it may be down. Try again later.",
        ProxyError::Timeout => "No access point answered in time. Check your network, then try again.",
        ProxyError::Terminated => "The connection broke before the site answered. Try again.",
        ProxyError::Malformed | ProxyError::Loop => "The access point does not understand the request. Update Polder.",
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
