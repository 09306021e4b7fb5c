//! The proxy that browsers talk to: in an access point behind TLS with a client certificate, in a forwarder on loopback.
//!
//! ```text
//!            ┌ h1 ┐   CONNECT ────────────── Opener::open ── relay
//!   client ──┤    ├─┤ http://… ── exchange ─ Opener::open ── HTTP/1.1 with the origin, tunnels kept for the next request
//!            └ h2 ┘   /…       ── local pages, or 421
//! ```
//!
//! Nothing here knows the overlay: it asks the [`Opener`].

mod backlog;
mod client;
mod context;
mod counters;
mod effort;
mod exchange;
mod h1;
mod h2;
mod inbox;
mod local;
mod origin;
mod out;
mod paced;
mod pool;
mod request;
pub(crate) mod reverse;

pub use context::{FrontContext, Pass, Report};
pub use counters::Counters;

use crate::tunnel::{Asker, Opener};
pub use client::Client;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves one client's connection after its handshake until it ends. `h2`: ALPN chose HTTP/2.
///
/// Drop the future to cut the client and all its tunnels at once (a revoked identity).
pub async fn serve<S>(io: S, h2: bool, who: Asker, source: IpAddr, opener: Arc<dyn Opener>, ctx: Arc<FrontContext>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    ctx.counters.connections.up();
    let effort = ctx.effort(&who);
    let client = Arc::new(Client { who, source, opener, ctx: ctx.clone(), effort: effort.clone(), reverse: None });
    let served = Box::pin(async { if h2 { h2::serve(io, client).await } else { h1::serve(io, &client).await } });
    ctx.fairly(effort.as_deref(), effort::Task::Connection, served).await;
}
