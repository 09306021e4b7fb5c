//! The front as a site's agent uses it: the requests of one user to one site, each told who he is.
//!
//! Every copy of our fields that the user sent is stripped by the same rules as at an access point (`is_identity`), and the
//! message is framed anew, so that origin and agent cannot disagree where a request begins.

use super::client::{Client, malformed};
use super::request::Request;
use crate::tunnel::{Asker, Opener, Target, Tunnel};
use polder_wire::http1::{Authority, HttpError, RequestHead, RequestTarget};
use polder_wire::{ProxyError, Refusal};
use std::net::IpAddr;
use std::sync::Arc;

/// Names and values to be added to a request.
pub(crate) type Fields = dyn Fn() -> Option<Vec<(&'static str, String)>> + Send + Sync;

/// What the connection is for.
pub(crate) struct Reverse {
    pub(crate) target: Target,
    pub(crate) fields: Box<Fields>,
}

const ELSEWHERE: Refusal = Refusal::new(
    ProxyError::Malformed,
    "This tunnel leads to another site than the request names. Ask for a tunnel to that one.",
);
const UNSIGNED: Refusal = Refusal::new(ProxyError::Internal, "The site cannot be told who you are. Tell its owner.");

impl Reverse {
    /// The request that the origin gets. Errors: not for this site, or not HTTP for an origin.
    pub(crate) fn request(&self, head: &RequestHead) -> Result<Request, Refusal> {
        let own = Authority { host: self.target.host.clone(), port: Some(self.target.port) };
        let (named, path): (_, &[u8]) = match &head.target {
            RequestTarget::Origin(path) => (head.host.as_ref().unwrap_or(&own), path),
            RequestTarget::Asterisk => (head.host.as_ref().unwrap_or(&own), b"*"),
            RequestTarget::Absolute { authority, path } => (authority, path),
            RequestTarget::Authority(_) => return Err(malformed(HttpError::Method)),
        };
        if named.host != self.target.host || named.port.unwrap_or(80) != self.target.port {
            return Err(ELSEWHERE);
        }
        let fields = (self.fields)().ok_or(UNSIGNED)?;
        Ok(Request::from_h1(head, &own, path, false)?.with(&fields))
    }
}

/// Serves the requests in `near` until it ends. `opener` opens connections to the origin.
pub(crate) async fn serve(
    near: Tunnel,
    reverse: Reverse,
    who: Asker,
    source: IpAddr,
    opener: Arc<dyn Opener>,
    ctx: Arc<super::FrontContext>,
) {
    let client = Client { who, source, opener, ctx, effort: None, reverse: Some(reverse) };
    super::h1::serve_tunnel(near, &client).await;
}
