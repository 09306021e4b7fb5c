//! One CONNECT between nodes: what it says, and how a node serves it.
//!
//! ```text
//! :method CONNECT   :authority wiki.example:443
//! polder-site: wiki        polder-stage: ring;k=0 | beacon | servlet
//! polder-hops: 31          polder-within: 1800       (milliseconds that the asker will wait)
//! polder-trace: …          only in a sampled trace: trace and parent span
//! polder-user: …           only to a site that asks who its users are: the access point's word, sealed to the site
//! polder-detour: …         not to the site, but to the end of a session of the spread plane: the user's claim to it
//! ```
//!
//! The answer is 200, or an error whose only content is the token in `proxy-status`: it is the same whatever role the node
//! has (trap 10).

use crate::crowd::Crowd;
use crate::path::{self, Ask};
use crate::plane::{Plane, unix_now};
use crate::pump::{End, Terms, pump};
use crate::trace::{self, Context, Span};
use crate::tunnel::{Sink, Source, Tunnel};
use crate::word;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use polder_plan::Stage;
use polder_types::Identity;
use polder_wire::ProxyError;
use polder_wire::detour::{self, Claim};
use std::sync::Arc;
use std::time::Duration;

/// What one node asks of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HopRequest {
    pub(crate) site: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) stage: Stage,
    pub(crate) hops: u8,
    pub(crate) within: Duration,
    pub(crate) word: Option<Arc<str>>,
    pub(crate) trace: Option<Context>,
    pub(crate) detour: Option<Claim>,
}

impl HopRequest {
    /// As HTTP/2 sees it.
    pub(crate) fn request(&self) -> Result<Request<()>, http::Error> {
        let authority: Uri = format!("{}:{}", self.host, self.port).parse()?;
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(authority)
            .header("polder-site", &self.site)
            .header("polder-stage", self.stage.to_string())
            .header("polder-hops", u16::from(self.hops))
            .header("polder-within", u64::try_from(self.within.as_millis()).unwrap_or(u64::MAX));
        if let Some(word) = &self.word {
            request = request.header(word::FIELD, word::value(word)?);
        }
        if let Some(trace) = &self.trace {
            request = request.header(trace::FIELD, trace.to_string());
        }
        if let Some(claim) = &self.detour {
            request = request.header(detour::FIELD, detour_value(claim)?);
        }
        request.body(())
    }

    /// Reads a peer's request; `None` if anything is missing, repeated or malformed.
    pub(crate) fn read(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let authority = uri.authority()?;
        let within: u64 = one(headers, "polder-within")?.parse().ok()?;
        Some(HopRequest {
            site: one(headers, "polder-site")?.to_owned(),
            host: authority.host().to_owned(),
            port: authority.port_u16()?,
            stage: one(headers, "polder-stage")?.parse().ok()?,
            hops: one(headers, "polder-hops")?.parse().ok()?,
            within: Duration::from_millis(within),
            word: read_word(headers)?,
            detour: read_detour(headers)?,
            // A bad one costs the trace, not the tunnel.
            trace: one(headers, trace::FIELD).and_then(|text| Context::parse(text.as_bytes())),
        })
    }
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    if values.next().is_some() { None } else { Some(first) }
}

/// The word in a request; `None` when the field is repeated or cannot be one.
pub(crate) fn read_word(headers: &HeaderMap) -> Option<Option<Arc<str>>> {
    if !headers.contains_key(word::FIELD) {
        return Some(None);
    }
    one(headers, word::FIELD).filter(|text| word::is_word(text)).map(|text| Some(text.into()))
}

/// A claim as a field's value; marked, so that header compression neither keeps nor compares it.
pub(crate) fn detour_value(claim: &Claim) -> Result<HeaderValue, http::Error> {
    let mut value = HeaderValue::from_str(&claim.encode())?;
    value.set_sensitive(true);
    Ok(value)
}

/// The claim to a session in a request; `None` when the field is repeated or is none.
pub(crate) fn read_detour(headers: &HeaderMap) -> Option<Option<Claim>> {
    if !headers.contains_key(detour::FIELD) {
        return Some(None);
    }
    one(headers, detour::FIELD).and_then(|text| Claim::parse(text.as_bytes())).map(Some)
}

/// The error in an answer between nodes; anything unknown counts as unavailable.
pub(crate) fn error_of(headers: &HeaderMap) -> ProxyError {
    let status = headers.get("proxy-status").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = status.split_once("error=").map(|(_, token)| token).unwrap_or_default();
    [ProxyError::Refused, ProxyError::Timeout, ProxyError::Terminated, ProxyError::Loop, ProxyError::Limit]
        .into_iter()
        .find(|e| e.token() == token)
        .unwrap_or(ProxyError::Unavailable)
}

/// Answers with an error and nothing else.
pub(crate) fn refuse(mut respond: SendResponse<Bytes>, error: ProxyError) {
    let response =
        Response::builder().status(error.status()).header("proxy-status", format!("polder; error={}", error.token())).body(());
    if let Ok(response) = response {
        let _ = respond.send_response(response, true);
    }
}

/// Serves one CONNECT of a peer node to its end; `crowd`: of the connection that it came on.
pub(crate) async fn serve(
    plane: Arc<Plane>,
    peer: Arc<Identity>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    crowd: Arc<Crowd>,
) {
    let (head, body) = request.into_parts();
    let asked = HopRequest::read(&head.uri, &head.headers);
    drop(head); // not kept for the life of the tunnel
    let mut client = Source::h2(body);
    let opened = match asked {
        None => Err(ProxyError::Malformed),
        // Boxed: what opens is larger than what carries, and would stay with the tunnel for its life.
        Some(asked) => Box::pin(onward(&plane, &peer, asked, &mut client)).await,
    };
    let (far, terms) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            plane.counters.tunnels_failed.up();
            return refuse(respond, error);
        }
    };
    let Ok(sink) = respond.send_response(Response::new(()), false) else { return };
    drop(respond);
    let near = Tunnel { source: client, sink: Sink::shared(sink, crowd) };
    let _open = plane.counters.tunnels_open.hold();
    plane.counters.tunnels.up();
    let end = pump(near, far, terms, plane.meter()).await;
    if end == End::Idle {
        plane.counters.tunnels_idle.up();
    }
}

/// Checks a peer's request against the tables and opens the next step.
async fn onward(
    plane: &Arc<Plane>,
    peer: &Identity,
    asked: HopRequest,
    client: &mut Source,
) -> Result<(Tunnel, Terms), ProxyError> {
    let world = plane.world().ok_or(ProxyError::Unavailable)?;
    let limits = &world.plan.limits;
    let wrong = |why: &str, error| {
        plane.counters.refused_hop.up();
        plane.refused("hop", why, peer.name.to_string(), None);
        Err(error)
    };
    if plane.pressure.is_full() {
        plane.counters.shed_tunnels.up();
        return Err(ProxyError::Limit);
    }
    if !world.plan.is_fresh(unix_now()) {
        plane.counters.refused_stale.up();
        return Err(ProxyError::Limit);
    }
    // The access point has checked the user; that the target is a registered one every node checks for itself.
    let Some(site) = world.plan.find(&asked.host, asked.port).filter(|site| *site.name == asked.site) else {
        return wrong(
            "a peer asked for a target that no site registered here; its snapshot may be newer",
            ProxyError::Unavailable,
        );
    };
    let Some(hops) = asked.hops.min(limits.max_hops).checked_sub(1).filter(|hops| *hops > 0) else {
        return wrong("a tunnel used up its hops: the routes of some nodes form a loop; they settle", ProxyError::Loop);
    };
    if hops == 1 && site.delivery.is_none() {
        return Err(ProxyError::Loop); // it may go no farther, and does not end here
    }
    let span = plane.span(asked.trace, "hop", asked.stage);
    let ask = Ask {
        from: Some(peer.name.clone()),
        site: site.name.clone(),
        host: asked.host,
        port: asked.port,
        stage: asked.stage,
        hops,
        within: asked.within.min(site.patience(asked.stage, limits)),
        word: asked.word.into(),
        trace: span.as_ref().map(Span::context).or(asked.trace),
        detour: asked.detour,
    };
    let opened = path::open(plane, Arc::new(ask), client).await;
    if let Some(span) = span {
        span.end(opened.as_ref().err().copied());
    }
    Ok((opened?, Terms::from(limits)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good() -> HopRequest {
        HopRequest {
            site: "wiki".into(),
            host: "wiki.test".into(),
            port: 443,
            stage: Stage::Ring(2),
            hops: 31,
            within: Duration::from_millis(1800),
            word: None,
            trace: None,
            detour: None,
        }
    }

    #[test]
    fn a_trace_travels_and_a_bad_one_costs_only_itself() {
        let traced = HopRequest { trace: Some(Context { trace: 7, span: 9 }), ..good() };
        let request = traced.request().unwrap();
        assert_eq!(read(&request), Some(traced));
        let mut odd = request.clone();
        odd.headers_mut().insert(trace::FIELD, HeaderValue::from_static("nonsense"));
        assert_eq!(read(&odd), Some(good()));
        let mut twice = request.clone();
        twice.headers_mut().append(trace::FIELD, request.headers()[trace::FIELD].clone());
        assert_eq!(read(&twice), Some(good()));
    }

    /// It is most of what an idle tunnel costs a node.
    #[test]
    fn a_tunnel_keeps_little() {
        fn size<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(serve) <= 3584, "{}", size(serve));
    }

    fn read(request: &Request<()>) -> Option<HopRequest> {
        HopRequest::read(request.uri(), request.headers())
    }

    #[test]
    fn a_request_says_all_and_once() {
        let request = good().request().unwrap();
        assert_eq!(read(&request), Some(good()));
        for name in ["polder-site", "polder-stage", "polder-hops", "polder-within"] {
            let mut less = request.clone();
            less.headers_mut().remove(name);
            assert_eq!(read(&less), None, "without {name}");
            let mut twice = request.clone();
            twice.headers_mut().append(name, request.headers()[name].clone());
            assert_eq!(read(&twice), None, "two of {name}");
        }
        for (name, value) in [("polder-stage", "entry"), ("polder-hops", "256"), ("polder-hops", "-1"), ("polder-within", "x")] {
            let mut odd = request.clone();
            odd.headers_mut().insert(name, HeaderValue::from_static(value));
            assert_eq!(read(&odd), None, "{name}: {value}");
        }
        let told = HopRequest { word: Some("AQID.BAU".into()), ..good() };
        assert_eq!(read(&told.request().unwrap()), Some(told.clone()));
        let long = "A".repeat(word::MAX_WORD + 1);
        for value in ["", "a b", "a,b", "a=", &long] {
            let mut odd = told.request().unwrap();
            odd.headers_mut().insert(word::FIELD, HeaderValue::from_str(value).unwrap());
            assert_eq!(read(&odd), None, "{value}");
        }
        let mut twice = told.request().unwrap();
        twice.headers_mut().append(word::FIELD, HeaderValue::from_static("AQID.BAU"));
        assert_eq!(read(&twice), None, "two words");
        let claim = Claim { session: [1; 16], at: 7, proof: [2; 16] };
        let around = HopRequest { detour: Some(claim), ..good() };
        let request = around.request().unwrap();
        assert_eq!(read(&request), Some(around));
        let mut twice = request.clone();
        twice.headers_mut().append(detour::FIELD, request.headers()[detour::FIELD].clone());
        assert_eq!(read(&twice), None, "two claims");
        let mut odd = request.clone();
        odd.headers_mut().insert(detour::FIELD, HeaderValue::from_static("abc"));
        assert_eq!(read(&odd), None, "no claim");
        let portless = Request::builder().method(Method::CONNECT).uri("wiki.test").body(()).unwrap();
        assert_eq!(HopRequest::read(portless.uri(), request.headers()), None);
    }

    #[test]
    fn errors_between_nodes_are_tokens_and_nothing_unknown_is_believed() {
        let answer = |value: &'static str| {
            error_of(&HeaderMap::from_iter([(http::HeaderName::from_static("proxy-status"), HeaderValue::from_static(value))]))
        };
        assert_eq!(answer("polder; error=connection_timeout"), ProxyError::Timeout);
        assert_eq!(answer("polder; error=proxy_loop_detected"), ProxyError::Loop);
        for odd in ["polder; error=http_request_denied", "polder; error=", "n7; error=connection_timeout; details=x", ""] {
            assert_eq!(answer(odd), ProxyError::Unavailable, "{odd}");
        }
        assert_eq!(error_of(&HeaderMap::new()), ProxyError::Unavailable);
    }

    proptest! {
        #[test]
        fn any_request_survives_the_wire(
            site in "[a-z0-9._-]{1,63}", host in "[a-z0-9-]{1,20}(\\.[a-z0-9]{1,10}){0,3}",
            port in 1u16.., key: u8, hops: u8, within in 0u64..u64::MAX / 2, word in proptest::option::of("[A-Za-z0-9_-]{1,99}\\.[A-Za-z0-9_-]{1,99}"),
            ids in proptest::option::of((1u128.., 1u64..)), claim in proptest::option::of(any::<([u8; 16], u64, [u8; 16])>()),
        ) {
            let (within, word) = (Duration::from_millis(within), word.map(Into::into));
            let detour = claim.map(|(session, at, proof)| Claim { session, at, proof });
            let trace = ids.map(|(trace, span)| Context { trace, span });
            let asked = HopRequest { site, host, port, stage: Stage::Ring(key), hops, within, word, trace, detour };
            prop_assert_eq!(read(&asked.request().unwrap()), Some(asked));
        }

        #[test]
        fn junk_is_refused_without_harm(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 4)) {
            let mut headers = HeaderMap::new();
            for (name, value) in ["polder-site", "polder-stage", "polder-hops", "polder-within"].into_iter().zip(&values) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.append(name, value);
                }
            }
            if let Some(asked) = HopRequest::read(&Uri::from_static("wiki.test:443"), &headers) {
                prop_assert!(asked.stage != Stage::Entry);
            }
        }
    }
}
