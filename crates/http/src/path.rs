//! The next step of a tunnel from a node: who may carry it, and how they are asked (`race`), repeated until the site has
//! answered (`mend`).

use crate::early::Early;
use crate::hop::{HopRequest, error_of};
use crate::plane::Plane;
use crate::race::{Guide, Race};
use crate::trace::Context;
use crate::tunnel::{Source, Tunnel};
use crate::way::{Way, nearest_first};
use crate::word::Word;
use crate::{dialout, mend};
use http::{HeaderMap, Request};
use polder_plan::{Hop, Stage};
use polder_types::{Delivery, PeerName, SiteName};
use polder_wire::ProxyError;
use polder_wire::detour::Claim;
use std::sync::Arc;
use std::time::Duration;

/// For so long the answer that a path stands waits for the site's first byte, where the client has spoken already: both then
/// cross every node together. Longer than a handshake takes beside the site, far shorter than anybody waits.
const TOGETHER: Duration = Duration::from_millis(5);

/// What is wanted from here on.
pub(crate) struct Ask {
    /// The node that asks; `None` at the access point.
    pub(crate) from: Option<PeerName>,
    pub(crate) site: SiteName,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) stage: Stage,
    pub(crate) hops: u8,
    pub(crate) within: Duration,
    pub(crate) word: Word,
    pub(crate) trace: Option<Context>,
    /// Not the site is meant, but the end of a session of the spread plane.
    pub(crate) detour: Option<Claim>,
}

/// Opens the next step. Ends when a candidate has accepted, all have failed, or the client has gone. Until the site's first byte
/// the tunnel heals itself.
pub(crate) async fn open(plane: &Arc<Plane>, guide: Arc<dyn Guide>, client: &mut Source) -> Result<Tunnel, ProxyError> {
    let race = Race::new(plane, &*guide, None).ok_or(ProxyError::Unavailable)?;
    let Some(world) = plane.world() else { return Err(ProxyError::Unavailable) };
    let limits = &world.plan.limits;
    plane.paths.wanted(guide.site(), limits, plane.now());
    let mut early = Early::new(limits.replay_bytes);
    let mut accepted = race.run(&mut early, Some(client)).await?;
    if accepted.way.ends_here() && !early.kept().is_empty() {
        accepted.tunnel.source.foresee(TOGETHER).await;
        if accepted.tunnel.source.is_broken() && matches!(accepted.way, Way::Tcp(..)) {
            return Err(ProxyError::Refused); // the site itself hung up: as if it had taken no connection
        }
    }
    Ok(mend::tunnel(plane, guide, early, accepted))
}

impl Guide for Ask {
    fn ways(&self, plane: &Arc<Plane>) -> Vec<Way> {
        let Some(world) = plane.world() else { return Vec::new() };
        let Some(site) = world.plan.find(&self.host, self.port).filter(|site| site.name == self.site) else {
            return Vec::new();
        };
        let spread = usize::try_from(plane.counters.tunnels.get()).unwrap_or(0);
        let hops = site.route(self.stage, spread, self.from.as_deref());
        let ways = hops.into_iter().filter_map(|hop| match hop {
            Hop::Next(..) if self.hops <= 1 => None,
            Hop::Next(peer, stage) => Some(Way::Node(peer, stage)),
            Hop::Deliver if self.detour.is_some() => Some(Way::Session),
            Hop::Deliver => site.delivery.as_ref().map(|delivery| match delivery {
                Delivery::Tcp { .. } => Way::Tcp(delivery.clone()),
                Delivery::DialOut => Way::DialOut,
            }),
        });
        let mut ways: Vec<_> = ways.collect();
        nearest_first(&mut ways, plane, self.from.as_deref());
        ways
    }

    fn request(&self, way: &Way, within: Duration, trace: Option<Context>) -> Result<Request<()>, http::Error> {
        let Way::Node(_, stage) = way else { return dialout::request(&self.host, self.port, self.word.say()) };
        let asked = HopRequest {
            site: self.site.to_string(),
            host: self.host.clone(),
            port: self.port,
            stage: *stage,
            hops: self.hops,
            within,
            word: self.word.say(),
            trace,
            detour: self.detour,
        };
        asked.request()
    }

    fn trace(&self) -> Option<Context> {
        self.trace
    }

    fn word(&self) -> Option<Arc<str>> {
        self.word.say()
    }

    fn error_of(&self, headers: &HeaderMap) -> ProxyError {
        error_of(headers)
    }

    fn is_final(&self, error: ProxyError) -> bool {
        error == ProxyError::Refused
    }

    fn persists(&self) -> bool {
        self.stage == Stage::Entry && self.detour.is_none()
    }

    fn detour(&self) -> Option<Claim> {
        self.detour
    }

    fn site(&self) -> &SiteName {
        &self.site
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn within(&self) -> Duration {
        self.within
    }
}
