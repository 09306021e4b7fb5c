//! The access point's [`Opener`]: from a user's request into the overlay.

use crate::control;
use crate::path::{self, Ask};
use crate::plane::{Plane, unix_now};
use crate::tell;
use crate::trace::{Context, Span};
use crate::tunnel::{Asker, BoxFuture, Opener, Source, Target, Tunnel};
use crate::word::Word;
use bytes::Bytes;
use h2::RecvStream;
use polder_plan::{Denied, Stage};
use polder_types::Identity;
use polder_wire::{ProxyError, Refusal};
use std::net::IpAddr;
use std::sync::Arc;

/// Opens tunnels through the overlay.
pub struct Overlay {
    plane: Arc<Plane>,
}

const NOT_READY: Refusal =
    Refusal::new(ProxyError::Unavailable, "This access point is starting. Try again in a moment, or use another one.");
const UNREGISTERED: Refusal =
    Refusal::new(ProxyError::Prohibited, "No site registered this name and port with the overlay. Check the address.");
const RULES: Refusal =
    Refusal::new(ProxyError::Denied, "The site's owner has not admitted you. A retry does not help; ask the owner.");
const KIND: Refusal = Refusal::new(ProxyError::Denied, "Only enrolled users are carried to sites. Enrol as a user.");
const STALE: Refusal = Refusal::new(
    ProxyError::Unavailable,
    "This access point has been cut off from the authority for too long and takes no new work. Use another one.",
);

/// The sentence for a path that failed; one per cause, whatever node it happened at.
fn failed(error: ProxyError) -> Refusal {
    match error {
        ProxyError::Timeout => Refusal::new(error, "The site did not answer in time. Try again in a moment."),
        ProxyError::Refused => {
            Refusal::new(error, "The site was reached, and takes no connections: it may be down. Try again later.")
        }
        ProxyError::Terminated => Refusal::new(error, "The connection broke before the site answered. Try again."),
        ProxyError::Malformed => Refusal::new(error, "The request names no usable host and port. Correct the address."),
        _ => Refusal::new(
            ProxyError::Unavailable,
            "No path to the site answered. Try again in a moment; if it stays so, tell the site's owner.",
        ),
    }
}

impl Overlay {
    /// An opener over `plane`.
    pub fn new(plane: Arc<Plane>) -> Self {
        Overlay { plane }
    }

    fn denied(&self, who: &Asker, target: &Target, denied: Denied) -> Refusal {
        let counters = &self.plane.counters;
        let name = who.as_ref().map(|who| who.uri.to_string()).unwrap_or_default();
        let asked = format!("{}:{}", target.host, target.port);
        match denied {
            Denied::Unregistered => {
                counters.refused_target.up();
                self.plane.refused("target", format!("asked for {asked}, which no site registered"), name, None);
                UNREGISTERED
            }
            Denied::Rules => {
                counters.refused_access.up();
                self.plane.refused("access", format!("asked for {asked}; the site's rules do not admit it"), name, None);
                RULES
            }
            Denied::Kind => {
                counters.refused_access.up();
                KIND
            }
            Denied::Stale => {
                counters.refused_stale.up();
                STALE
            }
        }
    }
}

impl Opener for Overlay {
    fn admit(&self, who: &Asker, target: &Target) -> Result<(), Refusal> {
        let world = self.plane.world().ok_or(NOT_READY)?;
        let asker = who.as_deref().ok_or(KIND)?;
        let admitted = world.plan.admit(asker, &target.host, target.port, unix_now());
        admitted.map(|_| ()).map_err(|denied| self.denied(who, target, denied))
    }

    fn ticket<'a>(&'a self, who: &'a Identity, source: IpAddr, body: RecvStream) -> Option<BoxFuture<'a, (u16, Bytes)>> {
        Some(Box::pin(control::ticket(&self.plane, who, source, body)))
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
            let world = self.plane.world().ok_or(NOT_READY)?;
            let asker = who.as_deref().ok_or(KIND)?;
            let site = world.plan.admit(asker, &target.host, target.port, unix_now());
            let site = site.map_err(|denied| self.denied(who, target, denied))?.clone();
            let limits = &world.plan.limits;
            let detour = client.detour.take().map(|claim| *claim);
            // The site hears nothing of a detour.
            let word = match detour {
                Some(_) => Word::Nothing,
                None => tell::word(&self.plane, &world, &site, asker, target, client.peer),
            };
            let span = self.plane.root(brought, "access point");
            let ask = Ask {
                from: None,
                site: site.name.clone(),
                host: target.host.to_string(),
                port: target.port,
                stage: Stage::Entry,
                hops: limits.max_hops,
                within: site.patience(Stage::Entry, limits),
                word,
                trace: span.as_ref().map(Span::context),
                detour,
            };
            let opened = path::open(&self.plane, Arc::new(ask), client).await;
            if let Some(span) = span {
                span.end(opened.as_ref().err().copied());
            }
            if opened.is_err() {
                self.plane.counters.tunnels_failed.up();
            }
            opened.map_err(failed)
        })
    }
}
