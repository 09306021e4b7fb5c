//! What the proxy itself answers when it is asked like a web server: almost nothing.

use super::client::Client;
use polder_wire::Problem;
use polder_wire::http1::Authority;
use polder_wire::{ProxyError, Refusal};
use std::net::IpAddr;

/// An answer of our own.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Page {
    /// No CORS: other origins may make a browser ask, but not read the answer.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("content-type", self.content_type.to_owned()),
            ("content-length", self.body.len().to_string()),
            ("cache-control", "no-store".to_owned()),
            ("x-content-type-options", "nosniff".to_owned()),
        ]
    }
}

/// Answers an origin-form request. A node says the same to everybody, whatever roles it has.
pub(crate) fn answer(client: &Client, method: &http::Method, host: Option<&Authority>, path: &str) -> Result<Page, Problem> {
    let misdirected = Refusal::new(ProxyError::Malformed, "This is a proxy: it serves no pages of its own.");
    let refuse = |status, refusal: &Refusal| Err(Problem { status, ..Problem::new(refusal, None, 0) });
    if path == "/.well-known/polder" {
        return refuse(404, &Refusal::new(ProxyError::Malformed, "Nothing is published here."));
    }
    let Some(forwarder) = client.ctx.forwarder() else { return refuse(421, &misdirected) };
    // A page elsewhere can make its own name resolve to 127.0.0.1 (DNS rebinding); it cannot make Host say `localhost`.
    if !client.source.to_canonical().is_loopback() || !host.is_some_and(is_loopback) {
        return refuse(421, &misdirected);
    }
    if !matches!(*method, http::Method::GET | http::Method::HEAD) {
        return refuse(405, &Refusal::new(ProxyError::Malformed, "Only GET and HEAD are answered here."));
    }
    match path.split('?').next() {
        Some("/proxy.pac") => {
            Ok(Page { status: 200, content_type: "application/x-ns-proxy-autoconfig", body: forwarder.pac.clone() })
        }
        Some("/") => Ok(Page { status: 200, content_type: "application/json", body: status(client, forwarder.hosts.len()) }),
        _ => refuse(404, &Refusal::new(ProxyError::Malformed, "Here are only /proxy.pac and /.")),
    }
}

fn is_loopback(host: &Authority) -> bool {
    host.host.as_ref() == "localhost" || host.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn status(client: &Client, hosts: usize) -> String {
    let counters = &client.ctx.counters;
    format!(
        "{{\"polder\":\"forwarder\",\"hosts\":{hosts},\"requests\":{},\"tunnels\":{},\"failed\":{}}}\n",
        counters.requests.get(),
        counters.tunnels.get(),
        counters.failed.get()
    )
}
