//! One client's connection, whatever HTTP it speaks.

use super::FrontContext;
use super::context::{Permit, Stalled, Waits};
use super::effort::Effort;
use super::reverse::Reverse;
use crate::trace::Context;
use crate::tunnel::{Asker, Opener, Source, Target, Tunnel};
use polder_wire::http1::HttpError;
use polder_wire::{Problem, ProxyError, Refusal};
use std::net::IpAddr;
use std::sync::Arc;

/// One client, and what serves it.
pub struct Client {
    pub(crate) who: Asker,
    pub(crate) source: IpAddr,
    pub(crate) opener: Arc<dyn Opener>,
    pub(crate) ctx: Arc<FrontContext>,
    /// What this client's identity costs; `None`: the user's own programs.
    pub(crate) effort: Option<Arc<Effort>>,
    /// Set at a site's agent.
    pub(crate) reverse: Option<Reverse>,
}

impl Client {
    /// Whether this client may be carried to `target`; asked for every request, even when a tunnel is open already.
    pub(crate) fn admit(&self, target: &Target) -> Result<(), Refusal> {
        self.opener.admit(&self.who, target)
    }

    /// Opens a tunnel within the client's limits. What `early` holds may travel along; `brought`: the trace that it asks for.
    pub(crate) async fn open(
        &self,
        target: &Target,
        early: &mut Source,
        brought: Option<Context>,
    ) -> Result<(Tunnel, Permit), Refusal> {
        self.admit(target)?;
        let permit = self.ctx.tunnel(&self.who, self.source)?;
        early.peer = Some(self.source);
        let tunnel = self.opener.open_traced(&self.who, target, early, brought).await?;
        self.ctx.counters.tunnels.up();
        Ok((tunnel, permit))
    }

    /// See [`FrontContext::spend`].
    pub(crate) fn spend(&self, count: u32) -> u64 {
        self.ctx.spend(&self.who, count)
    }

    /// See [`FrontContext::waits`].
    pub(crate) fn waits(&self) -> Waits<'_> {
        self.ctx.waits(&self.who)
    }

    /// See [`FrontContext::stalls`].
    pub(crate) fn stalls(&self) -> Option<Stalled<'_>> {
        self.ctx.stalls(&self.who)
    }

    /// Tells the operator of a client that breaks the rules of HTTP; what access rules refuse is told where they are kept.
    pub(crate) fn tell(&self, refusal: &Refusal) {
        if refusal.error == ProxyError::Malformed {
            let who = self.who.as_ref().map_or("", |identity| &identity.uri);
            self.ctx.refused("request", &refusal.detail, who, self.source);
        }
    }

    /// Words and counts a refusal.
    pub(crate) fn problem(&self, refusal: &Refusal, accept: Option<&[u8]>) -> Problem {
        self.ctx.counters.refused(refusal.error);
        Problem::new(refusal, accept, self.ctx.retry_after())
    }
}

/// The refusal for a request that breaks the rules of HTTP.
pub(crate) fn malformed(error: HttpError) -> Refusal {
    Refusal { error: ProxyError::Malformed, detail: format!("The request cannot be understood: {error}.").into() }
}
