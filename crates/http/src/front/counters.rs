//! Plain counters of the front, read by name.

use polder_flow::Over;
use polder_wire::ProxyError;

polder_meter::counts! {
    /// What the fronts of an engine have done since it began. Relaxed: each is right by itself.
    pub struct Counters, prefix "front_";
    /// Connections of clients served.
    connections,
    /// HTTP requests of any kind, CONNECT too.
    requests,
    /// Tunnels opened.
    tunnels,
    /// Tunnels that are open now.
    tunnels_open,
    /// Plain-HTTP exchanges answered by an origin.
    exchanges,
    /// Exchanges that found an open tunnel to use again.
    reused,
    /// Exchanges said again on another tunnel because the first broke before anything of an answer had left.
    retried,
    /// Bytes from clients.
    bytes_up,
    /// Bytes to clients.
    bytes_down,
    /// Directions of tunnels whose receiver takes nothing now.
    receivers_waiting,
    /// Refused by the access rules.
    refused_denied,
    /// Refused because no site registered the target.
    refused_prohibited,
    /// Failed: no path, too late, or broken.
    failed,
    /// Refused as malformed.
    refused_malformed,
    /// Our own errors.
    internal,
    /// Limit: connections in all.
    over_connections,
    /// Limit: connections per source.
    over_connections_per_source,
    /// Limit: handshakes per source.
    over_handshake_rate,
    /// Limit: open tunnels per identity.
    over_tunnels,
    /// Limit: new tunnels per identity.
    over_tunnel_rate,
    /// Limit: request heads that did not come in time.
    over_header_timeout,
    /// Limit: request bodies that came too slowly.
    over_body_rate,
    /// Limit: readers that took nothing.
    over_stall,
    /// Limit: HTTP/2 connections sent away for resetting streams.
    over_resets,
    /// Limit: tunnels closed because nothing moved.
    over_idle,
    /// Limit: connections per identity.
    over_connections_per_identity,
    /// Limit: pauses of users who sent too many frames or requests that carry little.
    over_frames,
    /// Limit: connections cut because they went on sending too many of them.
    over_flood_patience,
    /// Limit: receivers cut because too many of the same identity took nothing.
    over_stalled_per_identity,
    /// Limit: steps of users that waited for their turn, because they had taken more than their share of the thread.
    over_work,
    /// Limit: rests of users who had taken more than their share of the thread, while others were at work.
    over_work_rests,
    /// HTTP/2 connections ended for breaking its rules.
    refused_protocol,
    /// Memory above 80 %: idle tunnels to origins not kept for a next request.
    shed_idle,
    /// Memory above 95 %: new tunnels refused.
    shed_tunnels,
    /// Memory above 95 %: open tunnels closed, the idlest first.
    shed_open_tunnels,
}

impl Counters {
    pub(crate) fn over(&self, over: Over) {
        let counter = match over {
            Over::Connections => &self.over_connections,
            Over::PerSource => &self.over_connections_per_source,
            Over::HandshakeRate => &self.over_handshake_rate,
            Over::Tunnels => &self.over_tunnels,
            Over::TunnelRate(_) => &self.over_tunnel_rate,
            Over::PerIdentity => &self.over_connections_per_identity,
        };
        counter.up();
    }

    pub(crate) fn refused(&self, error: ProxyError) {
        let counter = match error {
            ProxyError::Denied => &self.refused_denied,
            ProxyError::Prohibited => &self.refused_prohibited,
            ProxyError::Unavailable | ProxyError::Refused | ProxyError::Timeout | ProxyError::Terminated => &self.failed,
            ProxyError::Malformed | ProxyError::Loop => &self.refused_malformed,
            ProxyError::Internal => &self.internal,
            ProxyError::Limit => return, // counted by the limit that was hit
        };
        counter.up();
    }
}
